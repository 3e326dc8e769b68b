"""Logits on disk as sources: .npy, .safetensors, label files, folders of these."""

from __future__ import annotations

import bisect
import itertools
import json
import math
import os
import re
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from vqlabel.dumps import is_dump, open_dump, open_npz
from vqlabel.file import COPY_BYTES, LabelFile
from vqlabel.remote import local_path
from vqlabel.side import Views
from vqlabel.sources import Source
from vqlabel.storage import opened, read_exactly
from vqlabel.stored_rows import StoredRows
from vqlabel.text import given_text, information_of, sequences_of, text_of

FLOATS = {"F16": "<f2", "BF16": "<i2", "F32": "<f4", "F64": "<f8"}  # as safetensors calls them; NumPy has no bfloat16
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


class LabelSource(Source):
    """Labels of a label file, decoded; tokens are those of its text, if the file does not hold it."""

    def __init__(self, file: LabelFile, views: Views | None = None, *, tokens: ArrayLike | None = None) -> None:
        from vqlabel.codecs import load_codec

        self._file, self._codec = file, load_codec(file)
        given = None if tokens is None else given_text(file, sequences_of(file), tokens)
        self._side = None
        if self._codec.tier != "none":
            self._side = information_of(file, views) if given is None else text_of(file, given)
        half = file.metadata["codec"].get("dtype") == "F16"  # of raw: decoded to float32, but no finer than float16
        super().__init__(len(file), self._codec.classes, torch.float16 if half else torch.float32)

    @property
    def drops(self) -> bool:
        """Whether classes of these labels have no probability, whatever the teacher gave them."""
        return self._codec.drops

    def _read(self, rows: range) -> torch.Tensor:
        return self._take(np.arange(rows.start, rows.stop))

    def _take(self, indices: NDArray[np.int64]) -> torch.Tensor:
        side = None if self._side is None else self._side.of(indices, tier=self._codec.tier)
        return self._codec.decode(self._file.gather(indices), side)


class JoinedSource(Source):
    """Shards, one after the other."""

    def __init__(self, shards: list[Source], names: list[str]) -> None:
        first = shards[0]
        for shard, name in zip(shards, names, strict=True):
            if shard.classes != first.classes:
                raise ValueError(f"{names[0]} has {first.classes} classes, but {name} has {shard.classes}")
        self._shards = shards
        self._starts = [0, *itertools.accumulate(len(shard) for shard in shards)]
        widest = max((shard.dtype for shard in shards), key=lambda dtype: dtype.itemsize)
        super().__init__(self._starts[-1], first.classes, widest)

    def _read(self, rows: range) -> torch.Tensor:
        parts = [torch.empty(0, self.classes, dtype=self.dtype)]
        for shard, start in zip(self._shards, self._starts, strict=False):
            part = range(max(rows.start - start, 0), min(rows.stop - start, len(shard)))
            parts += [shard.read(part)] if part else []
        return torch.cat(parts)

    def _take(self, indices: NDArray[np.int64]) -> torch.Tensor:
        parts = [torch.empty(0, self.classes, dtype=self.dtype)]
        edges = [bisect.bisect_left(indices, start) for start in self._starts]
        for shard, start, (low, high) in zip(self._shards, self._starts, itertools.pairwise(edges), strict=False):
            parts += [shard.take(indices[low:high] - start)] if high > low else []
        return torch.cat(parts)


def open_path(path: str, classes: int | None = None, load: str = "auto") -> Source:
    """Source of a .npy or .safetensors file, a label file, a dump, or a folder of them in the order of their names.

    load is for label files, which may be a URL too.
    """
    if os.path.isdir(path):
        return _open_folder(path, classes)
    if path.endswith(".npy"):
        return _open_npy(path)
    if path.endswith(".safetensors"):
        return _open_safetensors(local_path(path), classes, load)
    if path.endswith(".npz"):
        return open_npz(path, classes)
    if path.endswith(PICKLES):
        raise ValueError(
            f"{path}: pickles and archives of them can run code when they are loaded; "
            "save the logits as .npy or .safetensors"
        )
    raise ValueError(f"{path}: logits are read from .npy and .safetensors files and from folders of them")


def _open_folder(path: str, classes: int | None) -> Source:
    names = sorted(name for name in os.listdir(path) if name.endswith((".npy", ".safetensors", ".npz", *PICKLES)))
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
    return JoinedSource([open_path(shard, classes, "auto" if few else "map") for shard in paths], names)


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
                return LabelSource(LabelFile(path, load=load))
            if is_dump(entries):
                return open_dump(path, 8 + length, entries, classes)
            name, entry = _logits_entry(entries, path)
            (begin, end), shape = entry["data_offsets"], tuple(entry["shape"])
            sound = end - begin == math.prod(shape) * np.dtype(FLOATS[entry["dtype"]]).itemsize and begin >= 0
        except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path}: the header of the safetensors file makes no sense: {error!r}") from None
        except RecursionError:
            raise ValueError(f"{path}: the header of the safetensors file is too deeply nested") from None
    if not sound:
        raise ValueError(f"{path}: the size of tensor {name!r} contradicts its shape; fetch the file again")
    return StoredArray(path, 8 + length + begin, shape, entry["dtype"])


def _logits_entry(entries: dict[str, Any], path: str) -> tuple[str, dict[str, Any]]:
    floats = [name for name, entry in entries.items() if len(entry["shape"]) == 2 and entry["dtype"] in FLOATS]
    wanted = ["logits"] if "logits" in floats else floats
    if len(wanted) != 1:
        raise ValueError(
            f"{path}: tensors [rows, classes] of floats are {', '.join(floats) or 'none'}; "
            "keep one, or name the one to use 'logits'"
        )
    return wanted[0], entries[wanted[0]]
