"""The codecs: what a file calls them, and the one that a file was written with."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from vqlabel.codecs.base import Codec
from vqlabel.errors import Corrupt, NewerVersion, about
from vqlabel.torch_state import as_torch_starts

if TYPE_CHECKING:
    from vqlabel.file import LabelFile

__all__ = ["CODECS", "Codec", "load_codec"]

# By name, so that torch is imported with the codec that is used and not before.
CODECS = {
    "raw": ("vqlabel.codecs.raw", "Raw"),
    "int8": ("vqlabel.codecs.raw", "Int8"),
    "topk": ("vqlabel.codecs.topk", "TopK"),
    "vq": ("vqlabel.codecs.vq", "VQ"),
    "vq+top": ("vqlabel.codecs.hybrid", "Hybrid"),
}
MAX_CLASSES = 2**24


@as_torch_starts()
def load_codec(file: LabelFile) -> Codec:
    """Codec that this file's rows decode with; a FormatError if the file does not describe one."""
    with about(file.path):
        config = file.metadata["codec"]
        if config["id"] not in CODECS:
            known = ", ".join(CODECS)
            raise NewerVersion(
                f"codec {config['id']!r:.80} is not one that this vqlabel knows ({known}); upgrade vqlabel"
            )
        module, name = CODECS[config["id"]]
        kind: type[Codec] = getattr(import_module(module), name)
        codec = kind.load(_classes(file), config, file.tensor, file.tensor_names)
        if codec.row_bytes != file.row_bytes:
            raise Corrupt(f"rows have {file.row_bytes} bytes, but those of codec {config} have {codec.row_bytes}")
        return codec


def _classes(file: LabelFile) -> int:
    classes = file.metadata.get("classes")
    if classes is None:
        raise Corrupt("metadata key 'classes' is missing: the rows can be gathered, but not decoded")
    if not 2 <= classes <= MAX_CLASSES:
        raise Corrupt(f"classes is {classes}, but a label has 2 to {MAX_CLASSES}")
    return int(classes)
