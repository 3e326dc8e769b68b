"""Dumps of the k likeliest classes of each row: arrays `ids` and `log_probs` in a .npz or .safetensors file.

`typical`, probabilities or counts of all classes, may lie beside them.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqlabel.censored import TopKSource
from vqlabel.stored_rows import StoredRows

IDS, LOG_PROBS, TYPICAL = "ids", "log_probs", "typical"
WHOLE = {"U8": "<u1", "I8": "<i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "I64": "<i8"}
FLOATS = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}


class Matrix:
    """A tensor of a safetensors file, of which rows are read when they are asked for."""

    def __init__(self, path: str, begin: int, name: str, entry: dict[str, Any]) -> None:
        dtypes = WHOLE if name == IDS else FLOATS
        if entry["dtype"] not in dtypes:
            raise ValueError(f"{path}: {name} is {entry['dtype']!s:.40}, not {', '.join(dtypes)}")
        self.shape, (first, stop) = tuple(entry["shape"]), entry["data_offsets"]
        wanted = "[classes]" if name == TYPICAL else "[rows, k]"
        if len(self.shape) != wanted.count(",") + 1 or not all(type(n) is int and n >= 0 for n in self.shape):
            raise ValueError(f"{path}: {name} has the shape {list(self.shape)!s:.80}, not {wanted}")
        self._dtype, self._bfloat = np.dtype(dtypes[entry["dtype"]]), entry["dtype"] == "BF16"
        size = math.prod(self.shape[1:]) * self._dtype.itemsize
        if not type(first) is type(stop) is int or first < 0 or stop - first != size * self.shape[0]:
            raise ValueError(f"{path}: the size of tensor {name!r} contradicts its shape; fetch the file again")
        self._rows = StoredRows(path, begin + first, self.shape[0], size)

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Some rows, in rising order."""
        found = self._rows.take(indices).view(self._dtype).reshape(len(indices), *self.shape[1:])
        return (found.astype(np.uint32) << np.uint32(16)).view(np.float32) if self._bfloat else found


def is_dump(names: Collection[str]) -> bool:
    """Whether arrays of these names are one."""
    return {IDS, LOG_PROBS} <= set(names) and "logits" not in names


def arrays_of(path: str, wanted: Collection[str]) -> tuple[dict[str, NDArray[Any]], str]:
    """The wanted arrays of a .npz file, loaded whole, and the names of all that it holds."""
    with open(path, "rb") as file:
        if file.read(2) != b"PK":
            raise ValueError(f"{path}: not a .npz file of numbers, as np.savez writes it")
        file.seek(0)
        try:
            arrays = np.load(file, allow_pickle=False)
            found = {name: arrays[name] for name in wanted if name in arrays.files}
        except (ValueError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path}: not a .npz file of numbers, or a damaged one: {error}") from None
        for name, array in found.items():
            if not isinstance(array, np.ndarray):
                raise ValueError(f"{path}: {name} is no array")
        return found, ", ".join(arrays.files) or "nothing"


def open_npz(path: str, classes: int | None) -> TopKSource:
    """Source of a .npz file, whose arrays are loaded whole."""
    found, names = arrays_of(path, (IDS, LOG_PROBS, TYPICAL))
    if not is_dump(found):
        raise ValueError(
            f"{path} holds {names:.80}, but what is read of .npz files are ids and log_probs [rows, k]; "
            "save logits as .npy or .safetensors"
        )
    for name, kinds in ((IDS, "iu"), (LOG_PROBS, "f")):
        if found[name].dtype.kind not in kinds:
            raise ValueError(
                f"{path}: {name} is {found[name].dtype}, not {'floats' if kinds == 'f' else 'whole numbers'}"
            )
    return _source(path, found, classes)


def open_dump(path: str, begin: int, entries: dict[str, Any], classes: int | None) -> TopKSource:
    """Source of a .safetensors file whose data begin there; rows are read when they are asked for."""
    found = {name: Matrix(path, begin, name, entries[name]) for name in (IDS, LOG_PROBS, TYPICAL) if name in entries}
    return _source(path, found, classes)


def _source(path: str, found: dict[str, Any], classes: int | None) -> TopKSource:
    typical = found[TYPICAL][np.arange(found[TYPICAL].shape[0])] if TYPICAL in found else None
    C = len(typical) if classes is None and typical is not None else classes
    if C is None:
        raise ValueError(f"{path} does not tell how many classes there are: say --classes, or classes=")
    tail = "uniform" if typical is None else "typical"
    try:
        return TopKSource(found[IDS], found[LOG_PROBS], C, tail=tail, typical=typical)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
