"""What codecs of one prior share, whatever their rate: the spectrum, the prior, and what is left to code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from vqlabel.codecs.descend import BATCH, batches, bounded, descend
from vqlabel.codecs.layout import PriorShape
from vqlabel.codecs.options import FitOptions
from vqlabel.codecs.priors import make_prior
from vqlabel.codecs.sample import BLOCK, Sample
from vqlabel.codecs.spectrum import Spectrum, principal, typical
from vqlabel.known import REGIMES, Side
from vqlabel.ranks import Ranks
from vqlabel.side import ImageSide
from vqlabel.tokens import TokenSide

Say = Callable[[str], None]

# Up to this temperature classes count by how likely they are: most of a vocabulary never is. Above, they are alike.
WEIGHED = 2.0
PRIOR_PASSES = 16
PRIOR_RATE, PRIOR_DECAY = 0.1, 0.1
PRIOR_STEPS = {"classes": 800, "replay": 3000, "image": 3000, "tokens": 3000}
PRIOR_WIDTH = {"classes": 40, "replay": 64, "image": 64, "tokens": 64}


@dataclass
class Foundation:
    """The first stages of a fit."""

    sample: Sample
    spectrum: Spectrum
    look: torch.Tensor  # [C, R] from logits to latent vectors
    basis: torch.Tensor  # [C, R] and back
    shape: PriorShape | None
    prior: nn.Module | None
    spread: torch.Tensor  # [REGIMES] size of what is left, for each regime of lambda
    points: torch.Tensor  # [n, R] what is left to code, over its spread

    @property
    def width(self) -> int:
        """R."""
        return self.basis.shape[1]


def build(sample: Sample, options: FitOptions, say: Say) -> Foundation:
    """Spectrum, prior and the rest of the sample."""
    width = min(options.width, sample.classes - 1)
    say("principal directions")
    weights = typical(sample, options.temperatures) if max(options.temperatures) <= WEIGHED else None
    spectrum = principal(sample, width, options.seed, weights)
    latent = [(block - spectrum.mean) @ spectrum.look for block, _ in sample.blocks()]
    points = torch.cat(latent) if latent else spectrum.basis.new_zeros(0, width)
    spread = torch.ones(REGIMES, device=points.device)
    if options.prior == "none":
        return Foundation(sample, spectrum, spectrum.look, spectrum.basis, None, None, spread, points)
    if sample.side is None:
        raise ValueError(f"prior {options.prior!r} needs side information: give side=, or prior='none'")
    shape = _shape(sample, sample.side, options, width)
    say(f"prior of tier {options.prior}")
    prior = _fit_prior(sample, points, shape, options)
    points -= _guessed(prior, sample, width)
    regimes = sample.side.regime
    spread = _spread(points, regimes, sample.ranks)
    points /= spread[regimes, None]
    turn = _rotation(points, shape.width, sample.ranks)
    inner = turn[: shape.width, : shape.width]
    prior.turn(inner)  # type: ignore[operator]
    look, basis = spectrum.look @ turn, spectrum.basis @ turn
    return Foundation(sample, spectrum, look, basis, shape, prior, spread, points @ turn)


def _shape(sample: Sample, side: Side, options: FitOptions, width: int) -> PriorShape:
    sizes = {"classes": sample.classes, "images": sample.images, "width": min(PRIOR_WIDTH[options.prior], width)}
    if isinstance(side, TokenSide):
        return PriorShape(tier=options.prior, features=side.tokens.shape[1], **sizes)
    assert isinstance(side, ImageSide)
    if options.prior == "classes":
        return PriorShape(tier=options.prior, **sizes)
    views = side.views if options.prior == "image" else None
    if options.prior == "image" and views is None:
        raise ValueError("prior 'image' needs the views: give SideInformation a function views=")
    channels = 0 if views is None else views.shape[1]
    return PriorShape(tier=options.prior, features=side.features.shape[1], channels=channels, **sizes)


def _fit_prior(sample: Sample, points: torch.Tensor, shape: PriorShape, options: FitOptions) -> nn.Module:
    """Least squares in the leading directions, in units of their common size."""
    generator = torch.Generator().manual_seed(options.seed)
    prior = make_prior(shape)
    prior.start(generator)  # type: ignore[operator]
    prior.to(points.device)
    power = sample.ranks.sum(points[:, : shape.width].double().square().sum()) / max(sample.total * shape.width, 1)
    unit = max(float(power) ** 0.5, 1e-6)
    wanted = points[:, : shape.width] / unit
    side, size = sample.side, min(BATCH, sample.total)
    assert side is not None

    def loss(own: torch.Tensor) -> torch.Tensor:
        off: torch.Tensor = prior(side[own]) - wanted[own]
        return off.square().sum() / size

    steps = bounded(max(1, round(PRIOR_STEPS[shape.tier] * options.effort)), PRIOR_PASSES, sample.total)
    rows = batches(sample.total, steps, sample.ranks, options.seed)
    descend(list(prior.parameters()), loss, rows, steps=steps, rate=PRIOR_RATE, ranks=sample.ranks, decay=PRIOR_DECAY)
    prior.turn(unit * torch.eye(shape.width, device=points.device))  # type: ignore[operator]
    return prior


@torch.no_grad()
def _guessed(prior: nn.Module, sample: Sample, width: int) -> torch.Tensor:
    assert sample.side is not None
    rows = range(0, len(sample), BLOCK)
    parts = [prior(sample.side[slice(start, start + BLOCK)]) for start in rows]
    guess = torch.cat(parts) if parts else torch.zeros(0, width)
    return nn.functional.pad(guess, (0, width - guess.shape[1]))


def _spread(points: torch.Tensor, regimes: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    """Root mean square of what is left in each regime, over that of all; 1 where there are too few rows to tell."""
    powers = ranks.sum(torch.bincount(regimes, points.square().mean(1).double(), minlength=REGIMES))
    counts = ranks.sum(torch.bincount(regimes, minlength=REGIMES).double())
    overall = (powers.sum() / counts.sum().clamp_min(1)).clamp_min(1e-12)
    spread = (powers / counts.clamp_min(1) / overall).sqrt().clamp(0.05, 20)
    return torch.where(counts >= 10, spread, 1.0).float()


def _rotation(points: torch.Tensor, leading: int, ranks: Ranks) -> torch.Tensor:
    """Principal axes of what is left; the leading dimensions, of which the prior speaks, stay among themselves."""
    covariance = ranks.sum(points.double().T @ points.double())
    turn = torch.zeros_like(covariance)
    for part in (slice(0, leading), slice(leading, None)):
        block = covariance[part, part]
        if len(block):
            axes = torch.linalg.eigh(block)[1].flip(1)
            turn[part, part] = axes
    return turn.float()
