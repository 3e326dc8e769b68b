"""Files of torch.save, read without running anything that is in them.

torch's own restricted unpickler does the work. What these files hold besides tensors are a few NumPy scalars and
arrays; their pickled names are answered by stand-ins below, which make plain numbers and arrays and nothing else.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

KINDS = "?biuf"  # of the numbers that are let in


class UnreadableFile(ValueError):  # noqa: N818 - the name is the sentence
    """A file of a foreign set that is damaged, or holds something else than it should."""


class _Kind:
    """Stands in for numpy.dtype, of plain numbers only."""

    def __init__(self, code: Any = "", align: Any = False, copy: Any = False) -> None:
        dtype = np.dtype(code if isinstance(code, str) and code[:1] in KINDS and code[1:].isdigit() else "V")
        if dtype.kind not in "biuf" or dtype.itemsize > 8:
            raise UnreadableFile(f"numbers of type {code!r:.40} have no place in a label file")
        self.dtype = dtype

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] == ">":
            self.dtype = self.dtype.newbyteorder(">")


class _Array:
    """Stands in for numpy.ndarray: one of plain numbers, once its state is there."""

    def __init__(self, *unused: Any) -> None:
        self.array: NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        _version, shape, kind, fortran, data = state
        if not isinstance(kind, _Kind) or not isinstance(data, bytes):
            raise UnreadableFile("an array does not say what its numbers are")
        array = np.frombuffer(data, kind.dtype)
        self.array = array.reshape(shape, order="F" if fortran else "C")


def _scalar(kind: Any, data: Any) -> Any:
    if not isinstance(kind, _Kind) or not isinstance(data, bytes) or len(data) != kind.dtype.itemsize:
        raise UnreadableFile("a number does not have the bytes of its type")
    return np.frombuffer(data, kind.dtype)[0].item()


def _reconstruct(*unused: Any) -> _Array:
    return _Array()


def _no_bytes() -> bytes:
    return b""  # how an array without numbers is pickled


def _encode(text: Any, codec: Any = "latin1") -> bytes:
    if not isinstance(text, str) or codec != "latin1":
        raise UnreadableFile("bytes are spelled in an unknown way")
    return text.encode("latin1")


# What these pickles call NumPy's functions, before NumPy 2 and since, and who answers to it.
_ALLOWED: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    (_Kind, "numpy.dtype"),
    (_Array, "numpy.ndarray"),
    (_encode, "_codecs.encode"),
    *((_no_bytes, f"{module}.bytes") for module in ("builtins", "__builtin__")),
]


def load_list(path: str, slots: tuple[int, ...]) -> list[Any]:
    """The list in a file of torch.save, of so many items: tensors (mapped, not read), arrays, numbers, None, lists.

    UnreadableFile for whatever is wrong with the file, a harmful pickle too; FileNotFoundError if there is none.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(path)
    _check_sizes(path)
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UnreadableFile:
        raise
    except Exception as error:  # torch raises what it likes: RuntimeError, UnpicklingError, EOFError, KeyError...
        raise UnreadableFile(_why(path, error)) from None
    if not isinstance(found, (list, tuple)) or len(found) not in slots:
        size = f" of {len(found)}" if isinstance(found, (list, tuple)) else ""
        allowed = " or ".join(map(str, slots))
        raise UnreadableFile(f"it holds a {type(found).__name__}{size}, not a list of {allowed} items")
    return [_plain(item) for item in found]


def _check_sizes(path: str) -> None:
    """UnreadableFile for an archive that says it holds more than it has: it would fill the memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, OSError) as error:
        raise UnreadableFile(_why(path, error)) from None
    packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if packed or sum(entry.file_size for entry in entries) > os.path.getsize(path):
        raise UnreadableFile("it is a compressed archive, which torch.save never makes")


def _why(path: str, error: Exception) -> str:
    if os.path.getsize(path) == 0:
        return "the file is empty"
    words = str(error)
    asked = re.search(r"[Uu]nsupported (?:global: )?GLOBAL (\S{1,80})", words)
    if asked:
        return f"its pickle asks for {asked[1]}, and more than tensors and numbers is never made for it"
    if "weights_only" in words.lower():
        return "its pickle asks for more than tensors and numbers, which is never done for it"
    return f"it is cut off or damaged, or was not made by torch.save: {words.split('. ')[0]:.160}"


def _plain(item: Any) -> Any:
    if isinstance(item, _Array):
        if item.array is None:
            raise UnreadableFile("an array has no content")
        return item.array
    return [_plain(part) for part in item] if isinstance(item, (list, tuple)) else item
