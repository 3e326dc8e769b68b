"""Shards as one source."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from vqlabel.sources import Source, SparseSource


def joined(shards: list[Source], names: list[str]) -> Source:
    """One shard after the other; ValueError if they do not go together.

    Where all tell of the same number of classes in the same way, the whole does too.
    """
    _check(shards, names)
    whole = JoinedSource(shards)
    kinds = {_kind(shard) for shard in shards}
    first = shards[0]
    return JoinedSparse(whole, first) if len(kinds) == 1 and isinstance(first, SparseSource) else whole


def _check(shards: list[Source], names: list[str]) -> None:
    first = shards[0]
    for shard, name in zip(shards, names, strict=True):
        if shard.classes != first.classes:
            raise ValueError(f"{names[0]} has {first.classes} classes, but {name} has {shard.classes}")
    bare = [isinstance(shard, SparseSource) and not shard.tells_all for shard in shards]
    if any(bare) and len({_kind(shard) for shard in shards}) > 1:
        raise ValueError(
            f"{names[bare.index(True)]} says nothing of some classes, and others of these files do, or leave out more "
            "or fewer: encode them apart"
        )


def _kind(shard: Source) -> tuple[int, str, bool] | None:
    """What is told of a row; None: all its logits."""
    return (shard.k, shard.tail, shard.probabilities) if isinstance(shard, SparseSource) else None


class JoinedSource(Source):
    """Shards of full logits, one after the other."""

    def __init__(self, shards: list[Source]) -> None:
        self._shards = shards
        self._starts = [0, *itertools.accumulate(len(shard) for shard in shards)]
        widest = max((shard.dtype for shard in shards), key=lambda dtype: dtype.itemsize)
        super().__init__(self._starts[-1], shards[0].classes, widest)

    def spread(self, indices: NDArray[np.int64]) -> Iterator[tuple[Source, NDArray[np.int64]]]:
        """Which rows [n] of which shards these are, in rising order."""
        edges = [bisect.bisect_left(indices, start) for start in self._starts]
        for shard, start, (low, high) in zip(self._shards, self._starts, itertools.pairwise(edges), strict=False):
            if high > low:
                yield shard, indices[low:high] - start

    def _read(self, rows: range) -> torch.Tensor:
        parts = [torch.empty(0, self.classes, dtype=self.dtype)]
        for shard, start in zip(self._shards, self._starts, strict=False):
            part = range(max(rows.start - start, 0), min(rows.stop - start, len(shard)))
            parts += [shard.read(part)] if part else []
        return torch.cat(parts)

    def _take(self, indices: NDArray[np.int64]) -> torch.Tensor:
        parts = [shard.take(own) for shard, own in self.spread(indices)]
        return torch.cat([torch.empty(0, self.classes, dtype=self.dtype), *parts])


class JoinedSparse(SparseSource):
    """Shards that all tell of k classes of a row."""

    def __init__(self, whole: JoinedSource, first: SparseSource) -> None:
        super().__init__(whole.rows, whole.classes, first.k, tail=first.tail, probabilities=first.probabilities)
        self._whole = whole

    def _read(self, rows: range) -> torch.Tensor:
        return self._whole.read(rows)

    def _take(self, indices: NDArray[np.int64]) -> torch.Tensor:
        return self._whole.take(indices)

    def _kept(self, indices: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        parts = [shard.kept(own) for shard, own in self._whole.spread(indices) if isinstance(shard, SparseSource)]
        if not parts:
            return torch.zeros(0, self.k, dtype=torch.int64), torch.zeros(0, self.k)
        ids, told = (torch.cat(each) for each in zip(*parts, strict=True))
        return ids, told
