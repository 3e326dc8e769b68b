"""Where logits come from: arrays, files, a teacher, batches, all read a part at a time."""

from __future__ import annotations

import mmap
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

LEAST = -104.0  # the logarithm of what float32 calls 0
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Source(ABC):
    """N rows of C logits.

    read and take give one of DTYPES on the CPU, and complain where the rows are not what was said of them.
    """

    missing: NDArray[np.bool_] | None = None  # rows that nobody has; they read as zeros
    any_order = True  # whether rows can be read twice, and before others

    def __init__(self, rows: int, classes: int, dtype: torch.dtype) -> None:
        if classes < 2:
            raise ValueError(f"the logits have {classes} classes, but a label has at least 2")
        self.rows, self.classes, self.dtype = rows, classes, dtype

    def __len__(self) -> int:
        return self.rows

    def read(self, rows: range) -> torch.Tensor:
        """Logits [n, C] of rows that follow each other."""
        if not 0 <= rows.start <= rows.stop <= self.rows or rows.step != 1:
            raise ValueError(f"rows {rows.start} to {rows.stop - 1} were asked for, but the source has {self.rows}")
        return self._checked(self._read(rows), len(rows))

    def take(self, indices: NDArray[np.int64]) -> torch.Tensor:
        """Logits [n, C] of rows in rising order."""
        if len(indices) and not 0 <= indices[0] <= indices[-1] < self.rows:
            raise ValueError(f"rows {indices[0]} to {indices[-1]} were asked for, but the source has {self.rows}")
        return self._checked(self._take(indices), len(indices))

    def choose(self, count: int, parts: tuple[int, int], random: np.random.Generator) -> NDArray[np.int64]:
        """Rows to fit on, then rows to judge by: so many of each, all different, among the `count` that are there."""
        return random.choice(count, sum(parts), replace=False)

    @abstractmethod
    def _read(self, rows: range) -> Any: ...

    @abstractmethod
    def _take(self, indices: NDArray[np.int64]) -> Any: ...

    def _checked(self, part: Any, count: int) -> torch.Tensor:
        logits = as_logits(part)
        if tuple(logits.shape) != (count, self.classes):
            raise ValueError(
                f"the source gave logits of shape {list(logits.shape)} where [{count}, {self.classes}] was due: "
                "it must not change while it is read"
            )
        return logits


class SparseSource(Source):
    """N rows of which k classes are told.

    `probabilities` says what is told of them: probabilities, or logits. `tail` says what is known of the other classes:
    with "drop" they have no probability at all, with "uniform" they share evenly what is missing to 1, with "typical"
    as a distribution says that the source has.
    """

    def __init__(self, rows: int, classes: int, k: int, *, tail: str, probabilities: bool) -> None:
        super().__init__(rows, classes, torch.float32)
        self.k, self.tail, self.probabilities = k, tail, probabilities

    @property
    def tells_all(self) -> bool:
        """Whether the probabilities of all classes follow from what is told."""
        return self.probabilities and (self.tail != "drop" or self.k == self.classes)

    def kept(self, rows: range | NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """Classes int64 [n, k] of rows in rising order, each once, and what is told of them, [n, k]."""
        return self._sound(np.arange(rows.start, rows.stop) if isinstance(rows, range) else rows)

    def check_dense(self) -> None:
        """ValueError where nobody knows the logits of all classes."""
        if not self.tells_all:
            raise ValueError(
                f"these labels tell of {self.k} of {self.classes} classes, and nothing of the others: they can be "
                f"stored as topk only, of {self.k} or fewer"
            )

    @abstractmethod
    def _kept(self, indices: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]: ...

    def _sound(self, indices: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        ids, values = self._kept(indices)
        ordered = ids.sort(dim=1).values
        wrong = (ordered[:, :1] < 0).any(1) | (ordered[:, -1:] >= self.classes).any(1)
        wrong |= (ordered[:, 1:] == ordered[:, :-1]).any(1)
        if bool(wrong.any()):
            bad = int(wrong.nonzero()[0])
            raise ValueError(
                f"row {indices[bad]} tells of classes {ordered[bad].tolist()!s:.80}, but they must be {self.k} "
                f"different ones of {self.classes}: the file is damaged, or of another number of classes"
            )
        return ids, values

    def _read(self, rows: range) -> torch.Tensor:
        return self._dense(*self.kept(rows))

    def _take(self, indices: NDArray[np.int64]) -> torch.Tensor:
        return self._dense(*self._sound(indices))

    def _dense(self, ids: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Logits [n, C]; ValueError where nobody knows those of the other classes."""
        self.check_dense()
        told = values.float()
        rest = (1 - told.sum(1, keepdim=True)).clamp(min=0) / max(self.classes - self.k, 1)
        return rest.log().clamp(min=LEAST).repeat(1, self.classes).scatter_(1, ids, told.log().clamp(min=LEAST))


def as_logits(part: Any) -> torch.Tensor:
    """A batch as a tensor [n, C] of one of DTYPES, not to be written to; TypeError or ValueError for anything else."""
    if isinstance(part, np.ndarray) and part.dtype.kind == "f" and part.dtype.itemsize <= 8:
        part = np.ascontiguousarray(part, part.dtype.newbyteorder("="))
        part = torch.from_numpy(part if part.flags.writeable else part.copy())
    if not isinstance(part, torch.Tensor) or part.dtype not in DTYPES:
        found = getattr(part, "dtype", type(part).__name__)
        raise TypeError(f"logits must be float16, bfloat16, float32 or float64 arrays or tensors, got {found}")
    if part.ndim != 2:
        raise ValueError(f"logits must have shape [rows, classes], got {list(part.shape)}")
    return part.detach().cpu()


class ArraySource(Source):
    """A NumPy array, a memory map or a torch tensor."""

    def __init__(self, array: Any) -> None:
        if array.ndim != 2:
            raise ValueError(f"logits must have shape [rows, classes], got {list(array.shape)}")
        super().__init__(len(array), array.shape[1], as_logits(array[:1]).dtype)
        self._array = array

    def _read(self, rows: range) -> Any:
        self._check_length()
        return self._copied(slice(rows.start, rows.stop))

    def _take(self, indices: NDArray[np.int64]) -> Any:
        self._check_length()
        return self._copied(indices if isinstance(self._array, np.ndarray) else torch.from_numpy(indices))

    def _copied(self, index: Any) -> Any:
        if not isinstance(self._array, np.memmap):
            return self._array[index]
        part = np.array(self._array[index])
        # What was read of a map stays in memory, and counts as ours, until it is let go. A private map ("c") may have
        # been written to, and would forget that.
        pages = getattr(self._array, "_mmap", None)
        if pages is not None and self._array.mode != "c" and hasattr(mmap, "MADV_DONTNEED"):
            pages.madvise(mmap.MADV_DONTNEED)
        return part

    def _check_length(self) -> None:
        if len(self._array) != self.rows:
            raise ValueError(f"the array had {self.rows} rows when it was opened and has {len(self._array)} now")


def open_source(thing: Any, *, rows: int | None = None, classes: int | None = None) -> Source:
    """Source of an array, a tensor, a path, a function of row numbers, or an iterable of batches [n, C].

    A path is a .npy or .safetensors file, a label file, a dump of the k likeliest tokens, or a folder of shards.
    Functions and iterables need rows=, dumps need classes=; rows and classes that are found must be those given.
    """
    source = _source(thing, rows, classes)
    for name, found, wanted in (("rows", source.rows, rows), ("classes", source.classes, classes)):
        if wanted is not None and wanted != found:
            raise ValueError(f"the source has {found} {name}, not {wanted}")
    return source


def _source(thing: Any, rows: int | None, classes: int | None) -> Source:
    if isinstance(thing, Source):
        return thing
    if isinstance(thing, (np.ndarray, torch.Tensor)):
        return ArraySource(thing)
    if isinstance(thing, (str, os.PathLike)):
        from vqlabel.source_files import open_path

        return open_path(os.fspath(thing), classes)
    if not callable(thing) and not isinstance(thing, Iterable):
        raise TypeError(f"logits come from an array, a path, a function or batches, not from {type(thing).__name__}")
    if rows is None or rows < 0:
        raise ValueError("a function or an iterable does not tell how many rows there are: open_source(it, rows=...)")
    from vqlabel.streams import BatchSource, TeacherSource

    return TeacherSource(thing, rows) if callable(thing) else BatchSource(thing, rows)
