"""Arrays in files, larger than memory, and the labels that a reader has put into them."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vqlabel.sources import SparseSource


def let_go(array: NDArray[Any]) -> None:
    """Let the pages of a mapped file go that were read or written: they count as this process's memory until then.

    What was written stays in the file.
    """
    pages = getattr(array, "_mmap", None)
    if pages is not None and hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED)


class SpooledLabels(SparseSource):
    """Classes [N, k] and their probabilities [N, k], row by row."""

    def __init__(self, classes: int, ids: NDArray[Any], values: NDArray[Any], *, tail: str) -> None:
        super().__init__(*(len(ids), classes, ids.shape[1]), tail=tail, probabilities=True)
        self._ids, self._values = ids, values

    def _kept(self, indices: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        ids, values = (np.array(part[indices]) for part in (self._ids, self._values))
        let_go(self._ids)
        let_go(self._values)
        return torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(values)
