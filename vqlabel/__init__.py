"""vqlabel: soft labels in a few bytes each.

See README.md for what it does and FORMAT.md for what it writes. The names here are public, and so are those of
vqlabel.data, losses, replay, side and views that README.md uses; nothing else is promised to stay.
"""

from typing import TYPE_CHECKING, Any

from vqlabel._version import __version__
from vqlabel.errors import Corrupt, FormatError, NewerVersion, NotALabelFile, Truncated, Unfinished
from vqlabel.file import LabelFile

if TYPE_CHECKING:
    from vqlabel.decoder import LabelDecoder
    from vqlabel.encoder import LabelEncoder

__all__ = [
    "Corrupt",
    "FormatError",
    "LabelDecoder",
    "LabelEncoder",
    "LabelFile",
    "NewerVersion",
    "NotALabelFile",
    "Truncated",
    "Unfinished",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """What needs torch, imported when it is asked for."""
    if name == "LabelDecoder":
        from vqlabel.decoder import LabelDecoder

        return LabelDecoder
    if name == "LabelEncoder":
        from vqlabel.encoder import LabelEncoder

        return LabelEncoder
    raise AttributeError(f"module 'vqlabel' has no attribute {name!r}")
