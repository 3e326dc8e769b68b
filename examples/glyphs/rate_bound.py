"""The reverse-water-filling bound: the least squared error that any code of a rate can leave on a Gaussian source.

The source is what a prior leaves of a label, all C dimensions of it, with its covariance in each regime of lambda,
which the reader knows. Of all sources with these covariances the Gaussian is the hardest, so a code that comes below
the curve has found structure that covariances do not show.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from vqlabel.codecs.foundation import Foundation
from vqlabel.codecs.sample import BLOCK, Sample
from vqlabel.codecs.spectrum import waterfilling

LEAST_ROWS = 500  # of a regime with a covariance of its own; rarer ones share one
BYTES = range(33)

Groups = Sequence[tuple[float, torch.Tensor]]  # share of the rows, variances along the principal axes


def curve(foundation: Foundation, held_out: Sample) -> dict[str, Any]:
    """The bound for each number of bytes, on the scale of rows that the prior was not fitted on.

    `shared` lets a hard row have more bits than another: one water level for all regimes. `fixed` gives each row the
    same, as every codec here does: a level for each regime.
    """
    source = groups(foundation)
    scale = _power(foundation, held_out) / sum(share * float(values.sum()) for share, values in source)
    source = [(share, values * scale) for share, values in source]
    return {
        "held_out": held_out.total,
        "regimes": len(source),
        "shared": {str(size): shared_level(source, 8 * size) for size in BYTES},
        "fixed": {str(size): fixed_rate(source, 8 * size) for size in BYTES},
    }


def groups(foundation: Foundation) -> Groups:
    """Spectra of what the prior leaves of the rows that it was fitted on, regime by regime."""
    total, classes = len(foundation.sample), foundation.sample.classes
    found = []
    for rows in _regimes(foundation):
        covariance = torch.zeros(classes, classes, dtype=torch.float64)
        for part in torch.split(rows, BLOCK):
            left = residual(foundation, foundation.sample, part)
            covariance += (left.T @ left).double()
        variances = torch.linalg.eigvalsh(covariance / len(rows)).flip(0).clamp_min(0)
        found.append((len(rows) / total, variances))
    return found


def residual(foundation: Foundation, sample: Sample, rows: torch.Tensor) -> torch.Tensor:
    """What the prior leaves of these rows [b, C]."""
    left = sample.logits[rows].float() - foundation.spectrum.mean
    if foundation.prior is not None and sample.side is not None:
        with torch.no_grad():
            guess = foundation.prior(sample.side[rows])
        left -= guess @ foundation.basis[:, : guess.shape[1]].T
    return left - left.mean(1, keepdim=True)


def shared_level(source: Groups, bits: float) -> float:
    """Squared error of the best code of `bits` a row on average."""
    low, high = 0.0, max(float(values.max()) for _, values in source)
    for _ in range(60):
        level = (low + high) / 2
        rate = sum(share * float((values / level).clamp_min(1).log2().sum()) / 2 for share, values in source)
        low, high = (level, high) if rate > bits else (low, level)
    return sum(share * float(values.clamp_max(high).sum()) for share, values in source)


def fixed_rate(source: Groups, bits: float) -> float:
    """Squared error of the best code that gives each regime, so each row, `bits`."""
    return sum(share * waterfilling(values, 0.0, bits) for share, values in source)


def decibels(measured: float, bound: float) -> float:
    """How far a squared error is above another one."""
    return 10 * math.log10(measured / bound) if measured > 0 and bound > 0 else math.nan


def _regimes(foundation: Foundation) -> Iterator[torch.Tensor]:
    """Row numbers of each regime that has enough of them, then those of all others."""
    sample = foundation.sample
    if foundation.prior is None or sample.side is None:
        yield torch.arange(len(sample))  # whoever has no prior knows of no regime
        return
    regimes, rare = sample.side.regime, []
    for regime in torch.unique(regimes):
        rows = (regimes == regime).nonzero()[:, 0]
        if len(rows) >= LEAST_ROWS:
            yield rows
        else:
            rare.append(rows)
    if rare:
        yield torch.cat(rare)


def _power(foundation: Foundation, sample: Sample) -> float:
    parts = torch.split(torch.arange(len(sample)), BLOCK)
    return sum(float(residual(foundation, sample, part).double().square().sum()) for part in parts) / len(sample)
