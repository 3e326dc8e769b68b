"""Calibrated alignment: the student's temperature, fitted to how sharp its logits are beside its targets.

With targets p [B, C] and student logits s [B, C], both ways look for the tau with the least mean of
KL(p || softmax(s / tau)): `GridAlignment` as LPQLD does, on the last batch of an epoch for the whole next one;
`SmoothAlignment` a little with every batch. tau is the `student_temperature` of the losses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from vqlabel.ranks import Ranks
from vqlabel.wanted import check_temperature

GRID = tuple(np.linspace(0.01, 1, 100).tolist())  # LPQLD's
AT_ONCE = 2**24  # numbers that a grid search has in memory together
STEPS = 24  # of the search for the best temperature: Newton's settle in 5 or so, halving needs them all


class Alignment:
    """A student temperature that follows the student; what its two kinds share."""

    def __init__(self, start: float = 1.0) -> None:
        check_temperature(start)
        self.temperature = float(start)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(temperature={self.temperature:.4g})"

    def state_dict(self) -> dict[str, float]:
        """The temperature; grid, range and momentum are the script's."""
        return {"temperature": self.temperature}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the temperature of a `state_dict`."""
        found = state.get("temperature")
        if not isinstance(found, float):
            raise ValueError(f"the state of an alignment is a temperature, got {found!r:.80}")
        check_temperature(found)
        self.temperature = found


class GridAlignment(Alignment):
    """The temperature of a grid whose KL is the least on the batch that `update` was last given.

    >>> align = GridAlignment()
    >>> student, target = torch.tensor([[1.0, 0.0, -1.0]]), torch.softmax(torch.tensor([[4.0, 0.0, -4.0]]), 1)
    >>> align.update(student, target)  # until then it is 1
    0.25
    """

    def __init__(self, start: float = 1.0, *, grid: Sequence[float] = GRID) -> None:
        super().__init__(start)
        if not len(grid):
            raise ValueError("grid must have temperatures to choose from, got none")
        for value in grid:
            check_temperature(value)
        self.grid = tuple(float(value) for value in grid)

    @torch.no_grad()
    def update(self, student_logits: torch.Tensor, target: torch.Tensor) -> float:
        """Fit to student logits [B, C] and target probabilities [B, C], such as labels.probs(T).

        Under torch.distributed all ranks call this, and fit to the batches of all. A batch whose losses are not finite
        changes nothing.
        """
        losses = Ranks.here().sum(grid_losses(student_logits, target, self.grid)).cpu().numpy()
        if np.isfinite(losses).all():
            self.temperature = self.grid[int(losses.argmin())]
        return self.temperature


class SmoothAlignment(Alignment):
    """A moving average, of logarithms, of the temperatures that are the best for each batch that `update` is given.

    momentum is the weight of what was before; least and most bound a batch's temperature. An update waits for the
    device, as `.item()` does: if that costs too much, give it every tenth batch and less momentum.

    >>> align = SmoothAlignment(momentum=0.5)
    >>> student, target = torch.tensor([[1.0, 0.0, -1.0]]), torch.softmax(torch.tensor([[4.0, 0.0, -4.0]]), 1)
    >>> [round(align.update(student, target), 4) for _ in range(3)]  # from 1 towards 0.25
    [0.5, 0.3536, 0.2973]
    """

    def __init__(self, start: float = 1.0, *, momentum: float = 0.9, least: float = 0.01, most: float = 1.0) -> None:
        super().__init__(start)
        for bound in (least, most):
            check_temperature(bound)
        if not least < most:
            raise ValueError(f"least must be below most, got {least} and {most}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be from 0 to below 1, got {momentum!r:.80}")
        self.momentum, self.least, self.most = momentum, least, most

    @torch.no_grad()
    def update(self, student_logits: torch.Tensor, target: torch.Tensor) -> float:
        """Move towards the best for student logits [B, C] and target probabilities [B, C], such as labels.probs(T).

        Under torch.distributed all ranks call this, and move alike. A batch whose best is not finite changes nothing.
        """
        best = best_temperature(student_logits, target, least=self.least, most=self.most).log()
        log, rows = Ranks.here().sum(torch.stack([best * len(target), torch.full_like(best, len(target))])).tolist()
        if math.isfinite(log):
            self.temperature = self.temperature**self.momentum * math.exp(log / rows * (1 - self.momentum))
        return self.temperature


def grid_losses(student_logits: torch.Tensor, target: torch.Tensor, grid: Sequence[float]) -> torch.Tensor:
    """Sums over the rows of KL(target || softmax(student_logits / tau)), but for a constant, for each tau: float64."""
    logits, target, products = _centred(student_logits, target)
    together = max(1, AT_ONCE // logits.numel())
    sums = []
    for taus in torch.split(logits.new_tensor(grid)[:, None], together):
        normalisers = torch.logsumexp(logits / taus[:, :, None], 2)  # [grid, B]
        sums.append((target.sum(1) * normalisers - products / taus).double().sum(1))
    return torch.cat(sums)


def best_temperature(student_logits: torch.Tensor, target: torch.Tensor, *, least: float, most: float) -> torch.Tensor:
    """The tau between these two with the least mean KL(target || softmax(student_logits / tau)): float64 [].

    The KL is convex in 1 / tau, so Newton's steps find it; one that leaves the bracket halves it instead.
    """
    logits, target, products = _centred(student_logits, target)
    low, high = torch.tensor([1 / most, 1 / least], dtype=torch.float64, device=logits.device)
    slope, rate = torch.zeros_like(low), (low * high).sqrt()
    for _ in range(STEPS):
        shares = torch.softmax(logits * rate.to(logits.dtype), 1)
        means = (shares * logits).sum(1)
        slope = (target.sum(1) * means - products).double().mean()
        curve = (shares * (logits - means[:, None]).square()).sum(1).double().mean()
        low, high = torch.where(slope < 0, rate, low), torch.where(slope < 0, high, rate)
        newton = rate - slope / curve
        rate = torch.where((newton > low) & (newton < high), newton, (low * high).sqrt())
    return torch.where(slope.isfinite(), 1 / rate, math.nan)


def _centred(student: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits [B, C] with their maximum at 0, which keeps digits at low temperatures; targets; sums of products [B]."""
    for what, found in (("student logits", student), ("target", target)):
        if not isinstance(found, torch.Tensor) or found.ndim != 2 or not found.is_floating_point():
            raise ValueError(f"{what} must be floats [B, C], as labels.probs(T) are, got {found!r:.80}")
        if not found.numel():
            raise ValueError(f"{what} must have rows to look at, got {list(found.shape)}")
    if student.shape != target.shape or student.device != target.device:
        ours, theirs = (f"{list(found.shape)} on {found.device}" for found in (student, target))
        raise ValueError(f"student logits are {ours}, but the target is {theirs}")
    dtype = torch.promote_types(student.dtype, torch.float32)
    logits, target = student.detach().to(dtype), target.detach().to(dtype)
    if ((target.sum(1) - 1).abs() > 0.01).any() or (target < 0).any():
        raise ValueError("a row of the target is no distribution: give probabilities, such as labels.probs(T)")
    logits = logits - logits.amax(1, keepdim=True)
    return logits, target, (target * logits).sum(1)
