"""Principal directions of a sample of logits, over all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vqlabel.codecs.sample import Sample

if TYPE_CHECKING:
    import torch

SPARE = 16  # directions beyond those asked for, which make the last of them right
ROUNDS = 4
EVEN = 0.1  # of the weight of a class: what it has if it is never likely


@dataclass(frozen=True)
class Spectrum:
    """Mean [C], directions [C, R] and the variances [R] along them, largest first.

    h = (logits - mean) @ look finds the latent vector, and mean + basis @ h the logits again: the same matrix, unless
    classes count by their weight.
    """

    mean: torch.Tensor
    basis: torch.Tensor
    look: torch.Tensor
    variances: torch.Tensor
    total: float  # variance in all directions

    @property
    def sizes(self) -> torch.Tensor:
        """Root mean square along each direction [R], never quite 0."""
        return self.variances.clamp_min(1e-6 * float(self.variances.max()) + 1e-6).sqrt()


def principal(sample: Sample, width: int, seed: int, weights: torch.Tensor | None = None) -> Spectrum:
    """The leading `width` directions, by subspace iteration: no C x C matrix is ever made, so C may be large.

    With weights [C], whose sum is 1, errors count by them, once each row is moved to the weighted mean 0: what the KL
    sees of small errors where p is like the weights.
    """
    import torch

    C = sample.classes
    # Zeros to begin with keep a rank without rows, and a sample of one row, in shape.
    sums = torch.zeros(C, dtype=torch.float64, device=sample.logits.device)
    for block, _ in sample.blocks():
        sums += block.double().sum(0)
    mean = (sample.ranks.sum(sums) / sample.total).float()
    spare = min(width + SPARE, C)
    basis = torch.randn(C, spare, generator=torch.Generator().manual_seed(seed)).to(mean.device)
    for _ in range(ROUNDS):
        basis = torch.linalg.qr(basis)[0]
        spread = torch.zeros_like(basis)
        power = torch.zeros(1, dtype=torch.float64, device=mean.device)
        for block, _ in sample.blocks():
            centred = _weighted(block - mean, weights)
            spread += centred.T @ (centred @ basis)
            power += centred.double().square().sum()
        sample.ranks.sum(spread)
        sample.ranks.sum(power)
        inner = basis.T @ spread  # covariance inside the subspace
        values, turn = torch.linalg.eigh((inner + inner.T) / 2)
        ordered, basis = basis @ turn.flip(1), spread
    kept = min(width, C)
    variances = values.flip(0)[:kept].clamp_min(0) / sample.total
    directions = _signed(ordered[:, :kept].contiguous())
    return Spectrum(mean, *_both_ways(directions, weights), variances, float(power) / sample.total)


def _weighted(rows: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Rows [B, C] of weighted mean 0, each class stretched by the root of its weight."""
    return rows if weights is None else (rows - rows @ weights[:, None]) * (weights * len(weights)).sqrt()


def _both_ways(directions: torch.Tensor, weights: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Basis and look of directions [C, R] among weighted rows."""
    if weights is None:
        return directions, directions
    scale = (weights * len(weights)).sqrt()[:, None]
    look = scale * directions
    return directions / scale, look - weights[:, None] * look.sum(0)


def typical(sample: Sample, temperatures: Sequence[float]) -> torch.Tensor:
    """Mean probability of each class [C] at these temperatures, evened out a little."""
    import torch

    sums = torch.zeros(sample.classes, dtype=torch.float64, device=sample.logits.device)
    for block, _ in sample.blocks():
        for t in temperatures:
            sums += torch.softmax(block / t, 1).sum(0)
    mean = sample.ranks.sum(sums) / (len(temperatures) * sample.total)
    return (mean * (1 - EVEN) + EVEN / sample.classes).float()


def _signed(basis: torch.Tensor) -> torch.Tensor:
    """Each direction turned so that its largest entry is positive: the same on every machine."""
    largest = basis.abs().argmax(0)
    return basis * basis.gather(0, largest[None]).sign()


def waterfilling(variances: torch.Tensor, rest: float, bits: float) -> float:
    """Mean squared error of the best code of a Gaussian with these variances at this rate; `rest` is never coded."""
    low, high = 0.0, float(variances.max())
    for _ in range(100):
        level = (low + high) / 2
        rate = 0.5 * (variances.clamp_min(1e-30) / max(level, 1e-30)).log2().clamp_min(0).sum().item()
        low, high = (level, high) if rate > bits else (low, level)
    return float(variances.clamp_max(high).sum()) + rest
