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
INTEGERS = {torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32, torch.uint64, torch.int64}
DTYPES = INTEGERS | {torch.bool, torch.float16, torch.bfloat16, torch.float32, torch.float64}
NESTING = 3  # lists in lists in the list: what was told of each step of each view of a batch
ROUNDING = {np.dtype(np.float16): 2.0**-8, np.dtype(np.float32): 2.0**-14}  # how far out of its image a crop may end


class UnreadableFile(ValueError):  # noqa: N818 - the name is the sentence
    """A file of a foreign set that is damaged, or holds something else than it should."""


class Contradiction(UnreadableFile):
    """A file that is not what the user says of the set: one may be damaged, of many it is the user who is wrong."""


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
    """The list in a file of torch.save, of so many items: tensors, arrays, numbers, words, None, lists of them.

    Tensors are dense, contiguous and mapped, not read, unless they had to be made contiguous. UnreadableFile for
    whatever is wrong with the file, a harmful pickle too; FileNotFoundError if there is none.
    """
    plain = _Plain(_checked_size(path))
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
    return [plain(item) for item in found]


def check_crops(crops: NDArray[Any]) -> None:
    """UnreadableFile unless crops [n, 4] (top, left, height, width; fp16 or fp32) lie in their image, but for rounding.

    Parts of the image; NaN and infinity lie nowhere.
    """
    with np.errstate(invalid="ignore"):  # NaN and infinity are met below
        start, extent = np.array(crops.T, np.float64, order="C").reshape(2, 2, -1)
        inside = (start >= 0) & (extent > 0) & (start + extent <= 1 + ROUNDING[crops.dtype])
    if np.count_nonzero(inside) < inside.size:
        bad = int(np.flatnonzero(~inside.all(0))[0])
        raise UnreadableFile(f"crop {bad} is {crops[bad].tolist()!s:.80}, which does not lie in its image")


def _checked_size(path: str) -> int:
    """Bytes of a file; UnreadableFile for an archive that says it holds more than it has: it would fill the memory."""
    try:
        with open(path, "rb") as file:
            entries, size = zipfile.ZipFile(file).infolist(), file.seek(0, os.SEEK_END)
    except FileNotFoundError:
        raise
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, OSError) as error:
        raise UnreadableFile(_why(path, error)) from None
    packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if packed or sum(entry.file_size for entry in entries) > size:
        raise UnreadableFile("it is a compressed archive, which torch.save never makes")
    return size


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


class _Plain:
    """Makes plain things of what was in a pickle.

    A pickle may name a thing many times, in lists that hold each other, or let one number stand for a tensor of
    billions: all items and all bytes that are copied are counted, and may be as many as the file has bytes.
    """

    def __init__(self, size: int) -> None:
        self._size = self._left = size

    def __call__(self, item: Any, depth: int = 0) -> Any:
        if isinstance(item, torch.Tensor):
            return self._dense(torch.detach(item))  # not item.detach(): a pickle can put anything in its place
        if isinstance(item, _Array):
            if item.array is None:
                raise UnreadableFile("an array has no content")
            return item.array
        if isinstance(item, (list, tuple)):
            if depth == NESTING:
                raise UnreadableFile(f"its lists lie in each other, more than {NESTING} deep")
            self._spend(len(item))
            return [self(part, depth + 1) for part in item]
        if item is None or isinstance(item, (bool, int, float, str)):
            return item
        raise UnreadableFile(f"it holds a {type(item).__name__}, where only tensors and numbers belong")

    def _dense(self, tensor: torch.Tensor) -> torch.Tensor:
        plain = tensor.is_cpu and tensor.layout == torch.strided and not (tensor.is_nested or tensor.is_neg())
        if not plain or tensor.dtype not in DTYPES:
            way = "nested" if tensor.is_nested else "negated" if tensor.is_neg() else str(tensor.layout)
            raise UnreadableFile(
                f"it holds a tensor of {tensor.dtype} on {tensor.device} ({way}), but only dense ones of real numbers "
                "on the CPU (torch.strided) are read"
            )
        if tensor.is_contiguous():
            return tensor
        self._spend(tensor.numel() * tensor.element_size())
        return tensor.contiguous()

    def _spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise UnreadableFile(f"its lists and tensors claim to hold more than the {self._size:,} bytes of the file")
