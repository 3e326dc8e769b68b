"""Logits on disk as sources: .npy, .safetensors, label files, folders of these."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vqlabel.dumps import is_dump, open_dump, open_npz
from vqlabel.file import COPY_BYTES, LabelFile
from vqlabel.joined import joined
from vqlabel.label_source import KeptLabels, LabelSource, open_labels
from vqlabel.remote import local_path
from vqlabel.sources import Source
from vqlabel.storage import PARTIAL, opened, read_exactly
from vqlabel.stored_rows import StoredRows

FLOATS = {"F16": "<f2", "BF16": "<i2", "F32": "<f4", "F64": "<f8"}  # as safetensors calls them; NumPy has no bfloat16
READ = (".npy", ".safetensors", ".npz")
PICKLES = (".pt", ".pth", ".tar", ".pkl", ".pickle", ".ckpt", ".bin")
MAX_HEADER_BYTES = 10**8  # what safetensors itself allows


class StoredArray(Source):
    """A matrix in a file, row after row from `offset` on."""

    def __init__(self, path: str, offset: int, shape: tuple[int, ...], dtype: str | np.dtype[Any]) -> None:
        if len(shape) != 2:
            raise ValueError(f"{path}: logits must have shape [rows, classes], got {list(shape)}")
        self._bfloat = dtype == "BF16"
        self._stored = np.dtype(FLOATS.get(dtype, dtype) if isinstance(dtype, str) else dtype)
        if not self._bfloat and (self._stored.kind != "f" or self._stored.itemsize > 8):
            raise ValueError(f"{path}: logits must be float16, bfloat16, float32 or float64, got {self._stored}")
        super().__init__(shape[0], shape[1], self._tensor(np.empty((0, self._stored.itemsize), np.uint8)).dtype)
        self._rows = StoredRows(path, offset, self.rows, self.classes * self._stored.itemsize)

    def _tensor(self, data: NDArray[np.uint8]) -> torch.Tensor:
        array = data.view(self._stored)
        if self._bfloat:
            return torch.from_numpy(array).view(torch.bfloat16)
        return torch.from_numpy(array.astype(self._stored.newbyteorder("="), copy=False))

    def _read(self, rows: range) -> torch.Tensor:
        return self._tensor(self._rows.read(rows))

    def _take(self, indices: NDArray[np.int64]) -> torch.Tensor:
        return self._tensor(self._rows.take(indices))


def open_path(path: str, classes: int | None = None, load: str = "auto") -> Source:
    """Source of a .npy or .safetensors file, a label file, a dump, or a folder of them in the order of their names.

    load is for label files, which may be a URL too.
    """
    if os.path.isdir(path):
        return _open_folder(path, classes)
    name = path.lower()
    if name.endswith(".npy"):
        return _open_npy(path)
    if name.endswith(".safetensors"):
        return _open_safetensors(local_path(path), classes, load)
    if name.endswith(".npz"):
        return open_npz(path, classes)
    if name.endswith(PICKLES):
        raise ValueError(
            f"{path}: pickles and archives of them can run code when they are loaded; "
            "save the logits as .npy or .safetensors"
        )
    raise ValueError(f"{path}: logits are read from .npy and .safetensors files and from folders of them")


def _open_folder(path: str, classes: int | None) -> Source:
    names = sorted(name for name in os.listdir(path) if name.lower().endswith((*READ, *PICKLES)))
    unfinished = sorted(name for name in os.listdir(path) if name.endswith(tuple(end + PARTIAL for end in READ)))
    if unfinished:
        raise ValueError(f"{path}: {unfinished[0]} is unfinished: wait until it is whole, or move it away")
    if not names:
        raise ValueError(f"{path}: the folder holds no .npy or .safetensors file")
    for before, after in itertools.pairwise(names):
        if _counted(after) < _counted(before):
            raise ValueError(
                f"{path}: {before} comes before {after} by name; write the numbers with leading zeros, so that there "
                "is one order"
            )
    paths = [os.path.join(path, name) for name in names]
    few = sum(os.path.getsize(shard) for shard in paths) <= COPY_BYTES  # each alone may be, and all of them not
    shards = [open_path(shard, classes, "auto" if few else "map") for shard in paths]
    labels = [isinstance(shard, (LabelSource, KeptLabels)) for shard in shards]
    if any(labels) and not all(labels):
        raise ValueError(
            f"{path}: {names[labels.index(True)]} is a label file, but {names[labels.index(False)]} is none: keep "
            "labels apart from the logits that they were made of"
        )
    return joined(shards, names)


def _counted(name: str) -> list[Any]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _open_npy(path: str) -> Source:
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: not a .npy file of numbers: {error}") from None
    if array.ndim == 2 and not array.flags.c_contiguous:
        raise ValueError(f"{path}: the array is stored column by column; save np.ascontiguousarray of it")
    return StoredArray(path, array.offset, array.shape, array.dtype)


def _open_safetensors(path: str, classes: int | None, load: str) -> Source:
    with opened(path) as fd:
        size = os.fstat(fd).st_size
        length = int.from_bytes(read_exactly(fd, 0, 8), "little") if size >= 8 else size
        if 8 + length > min(size, MAX_HEADER_BYTES):
            raise ValueError(f"{path}: not a safetensors file, or one that was cut off")
        try:
            entries = json.loads(read_exactly(fd, 8, length))
            metadata = entries.pop("__metadata__", {})
            if metadata.get("format") == "vqlabel":
                return open_labels(LabelFile(path, load=load))
            if is_dump(entries):
                return open_dump(path, 8 + length, entries, classes)
            name, entry = _logits_entry(entries, path)
            (begin, end), shape = entry["data_offsets"], tuple(entry["shape"])
            sound = all(type(number) is int and number >= 0 for number in (begin, end, *shape))
            sound = sound and end - begin == math.prod(shape) * np.dtype(FLOATS[entry["dtype"]]).itemsize
        except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path}: the header of the safetensors file makes no sense: {error!r}") from None
        except RecursionError:
            raise ValueError(f"{path}: the header of the safetensors file is too deeply nested") from None
    if not sound:
        raise ValueError(f"{path}: the size of tensor {name!r} contradicts its shape; fetch the file again")
    return StoredArray(path, 8 + length + begin, shape, entry["dtype"])


def _logits_entry(entries: dict[str, Any], path: str) -> tuple[str, dict[str, Any]]:
    floats = [name for name, entry in entries.items() if len(entry["shape"]) == 2 and entry["dtype"] in FLOATS]
    if "logits" in entries and "logits" not in floats:
        found = entries["logits"]
        raise ValueError(
            f"{path}: tensor 'logits' is {found['dtype']!s:.40} {found['shape']!s:.40}, but logits are [rows, classes] "
            f"of {', '.join(FLOATS)}"
        )
    wanted = ["logits"] if "logits" in floats else floats
    if len(wanted) != 1:
        raise ValueError(
            f"{path}: tensors [rows, classes] of floats are {', '.join(floats) or 'none'}; "
            "keep one, or name the one to use 'logits'"
        )
    return wanted[0], entries[wanted[0]]
