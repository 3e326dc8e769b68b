"""Logits that are made when they are asked for: by a teacher, or batch after batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vqlabel.sources import Source, as_logits


class TeacherSource(Source):
    """A function from row numbers int64 [n] to their logits [n, C]: they need never be stored."""

    def __init__(self, teacher: Callable[[NDArray[np.int64]], Any], rows: int) -> None:
        self._teacher = teacher
        first = as_logits(self._take(np.arange(min(rows, 1))))
        super().__init__(rows, first.shape[1], first.dtype)

    def _read(self, rows: range) -> Any:
        return self._take(np.arange(rows.start, rows.stop))

    def _take(self, indices: NDArray[np.int64]) -> Any:
        with torch.no_grad():
            return self._teacher(indices)


class BatchSource(Source):
    """Batches [n, C] of consecutive rows, from an object that may be iterated again and again, or only once.

    Rows are passed over to reach later ones; earlier ones take another iteration.
    """

    def __init__(self, batches: Iterable[Any], rows: int) -> None:
        self._batches = batches
        self.any_order = iter(batches) is not batches
        self._start_over()
        super().__init__(rows, self._left.shape[1], self._left.dtype)
        self._check_end()

    def _start_over(self) -> None:
        self._iterator = iter(self._batches)
        self._position = 0  # row at which _left begins
        first = next(self._iterator, None)
        if first is None:
            raise ValueError("the iterator gives no batch at all, so not even the number of classes is known")
        self._left = as_logits(first)

    def _read(self, rows: range) -> torch.Tensor:
        if rows.start < self._position:
            if not self.any_order:
                raise ValueError(
                    f"row {rows.start} was asked for, but the iterator is at row {self._position} and gives each row "
                    "once; give an array, a function, or an object that can be iterated again"
                )
            self._start_over()
        parts = [self._next_rows(rows.start - self._position, keep=False)]
        parts.append(self._next_rows(rows.stop - self._position, keep=True))
        self._check_end()
        return parts[1]

    def _take(self, indices: NDArray[np.int64]) -> torch.Tensor:
        parts = [self._read(range(index, index + 1)) for index in indices.tolist()]
        return torch.cat(parts) if parts else torch.empty(0, self.classes, dtype=self.dtype)

    def _next_rows(self, count: int, *, keep: bool) -> torch.Tensor:
        parts = [self._left[:0]]
        while count > 0:
            if len(self._left) == 0:
                self._left = self._next_batch()
            part, self._left = self._left[:count], self._left[count:]
            self._position += len(part)
            count -= len(part)
            parts += [part] if keep else []
        return torch.cat(parts)

    def _next_batch(self) -> torch.Tensor:
        batch = next(self._iterator, None)
        if batch is None:
            raise ValueError(f"the iterator ended after {self._position} rows, but {self.rows} were promised")
        logits = as_logits(batch)
        return self._checked(logits, len(logits))

    def _check_end(self) -> None:
        if self._position < self.rows:
            return
        more = len(self._left) or any(len(batch) for batch in self._iterator)
        if more:
            raise ValueError(f"the iterator goes on after the {self.rows} rows that were promised")
