"""Labels of which only the likeliest classes are told, as an API of a language model tells them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from vqlabel.arguments import check_word
from vqlabel.sources import LEAST, SparseSource

UNTOLD = -1  # in place of a class, where a row tells of fewer
TAILS = ("uniform", "typical")
SMOOTHED = 0.01  # of the typical distribution is even: no class is impossible for never having been counted
MOST = 1.01  # that told probabilities may sum to: log-probabilities come rounded, often to float16
SMALLEST = 1e-12  # share of the classes that were not told: rounding must not leave them less than nothing


class TopKSource(SparseSource):
    """N rows of the k likeliest of C classes and their log-probabilities.

    ids are whole numbers [N, k] in any order, -1 where a row has fewer; log_probs [N, k] are those of a softmax over
    all classes at T = 1. What is missing to 1 belongs to the classes that are not told: with tail "uniform" all have
    the same, with "typical" it is shared out as among them in `typical`, probabilities or counts [C], say how often
    each token is in the text. Rows are checked when they are read.

    >>> source = TopKSource(np.array([[3, 1], [0, -1]]), np.log([[0.5, 0.3], [0.7, 1]]), 4)
    >>> source.read(range(2)).softmax(1)
    tensor([[0.1000, 0.3000, 0.1000, 0.5000],
            [0.7000, 0.1000, 0.1000, 0.1000]])
    """

    def __init__(
        self, ids: Any, log_probs: Any, classes: int, *, tail: str = "uniform", typical: ArrayLike | None = None
    ) -> None:
        check_word("tail", tail, TAILS)
        if (tail == "typical") != (typical is not None):
            raise ValueError(f"typical= [{classes}] goes with tail='typical', and only with it")
        if len(ids.shape) != 2 or tuple(ids.shape) != tuple(log_probs.shape):
            raise ValueError(
                f"ids and log_probs must both have shape [rows, k], got {list(ids.shape)} and {list(log_probs.shape)}"
            )
        rows, k = ids.shape
        if not 1 <= k <= classes:
            raise ValueError(f"ids has {k} columns, but a row tells of 1 to {classes} classes")
        super().__init__(rows, classes, k, tail=tail, probabilities=True)
        self._ids, self._log_probs = ids, log_probs
        self._typical = smoothed(np.ones(classes) if typical is None else typical, classes)

    def _kept(self, indices: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        ids, told = _part(self._ids, indices, torch.int64), _part(self._log_probs, indices, torch.float64)
        told = told.masked_fill(ids == UNTOLD, -torch.inf)
        check_told(ids, told, indices, self.classes)
        told = told.clamp(max=0).exp()
        few = (ids == UNTOLD).any(1).nonzero()[:, 0]
        if len(few):
            ids[few], told[few] = self._filled(ids[few], told[few])
        return ids, told.float()

    def _filled(self, ids: torch.Tensor, told: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same with classes that are not told in place of -1, each with its share of the tail."""
        share = self._typical * self._scale(ids, told)
        order = ids.argsort(dim=1, descending=True)  # those without a class come last
        ids, told = ids.gather(1, order), told.gather(1, order)
        # Of the first k classes, as many are not told as there are gaps, or more.
        named = torch.zeros(len(ids), self.classes + 1, dtype=torch.bool).scatter_(1, ids + 1, True)
        free = named[:, 1 : self.k + 1].int().argsort(dim=1, stable=True)
        gaps = ids == UNTOLD
        number = (gaps.cumsum(1) - 1).clamp(min=0)
        ids = torch.where(gaps, free.gather(1, number), ids)
        return ids, torch.where(gaps, share.gather(1, ids), told)

    def _scale(self, ids: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        """What is missing to 1, against the typical probability of all classes that are not told [n, 1]."""
        typical = self._typical[ids.clamp(min=0)].masked_fill(ids == UNTOLD, 0)
        rest = (1 - told.double().sum(1, keepdim=True)).clamp(min=0)
        return rest / (1 - typical.sum(1, keepdim=True)).clamp(min=SMALLEST)

    def _dense(self, ids: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Logits [n, C]."""
        tail = self._scale(ids, values).log().float() + self._typical.log().float()
        return tail.clamp(min=LEAST).scatter_(1, ids, values.log().clamp(min=LEAST))


def smoothed(typical: ArrayLike, classes: int) -> torch.Tensor:
    """Probabilities float64 [C] of counts or probabilities [C], none of them 0."""
    weights = torch.from_numpy(np.array(typical, np.float64))
    if tuple(weights.shape) != (classes,) or not (weights >= 0).all() or not 0 < weights.sum() < torch.inf:
        raise ValueError(
            f"typical must be probabilities or counts [{classes}], none negative and not all 0, got "
            f"{list(weights.shape)}"
        )
    return (1 - SMOOTHED) * weights / weights.sum() + SMOOTHED / classes


def check_told(ids: torch.Tensor, told: torch.Tensor, rows: NDArray[np.int64], classes: int) -> None:
    """ValueError that names the first of these rows that is no such label: ids [n, k], log-probabilities [n, k]."""

    def refuse(wrong: torch.Tensor, words: str, shown: torch.Tensor) -> None:
        if bool(wrong.any()):
            bad = int(wrong.nonzero()[0])
            raise ValueError(f"row {rows[bad]} {words}: {shown[bad].tolist()!s:.80}")

    beyond = ((ids < UNTOLD) | (ids >= classes)).any(1)
    refuse(beyond, f"tells of classes that are not 0 to {classes - 1}, nor -1 where it tells of fewer", ids)
    ordered = ids.sort(dim=1).values
    twice = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != UNTOLD)).any(1)
    refuse(twice, "tells of a class twice", ids)
    positive = ~(told <= MOST - 1).all(1)  # NaN too
    refuse(positive, "has log-probabilities above 0 (log_softmax over all classes makes them of logits)", told)
    sums = told.exp().sum(1)
    refuse(sums > MOST, "has probabilities that sum to more than 1 (they must be of all classes, at T = 1)", sums)


def _part(rows: Any, indices: NDArray[np.int64], dtype: torch.dtype) -> torch.Tensor:
    if isinstance(rows, torch.Tensor):
        return rows[torch.from_numpy(indices).to(rows.device)].detach().cpu().to(dtype)
    kind = np.int64 if dtype == torch.int64 else np.float64
    return torch.from_numpy(np.array(rows[indices], kind))
