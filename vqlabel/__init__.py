"""vqlabel: soft labels in a few bytes each.

See README.md for what it does and FORMAT.md for what it writes. The names here are the public ones; nothing else is
promised to stay.
"""

from vqlabel._version import __version__
from vqlabel.errors import Corrupt, FormatError, NewerVersion, NotALabelFile, Truncated, Unfinished
from vqlabel.file import LabelFile

__all__ = [
    "Corrupt",
    "FormatError",
    "LabelFile",
    "NewerVersion",
    "NotALabelFile",
    "Truncated",
    "Unfinished",
    "__version__",
]
