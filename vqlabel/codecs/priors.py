"""Priors: a guess of the latent vector from side information alone, h0 = prior(side)."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from vqlabel.codecs.layout import PriorShape
from vqlabel.known import REGIMES
from vqlabel.side import ImageSide
from vqlabel.tokens import OUTSIDE, TokenSide


def make_prior(shape: PriorShape) -> nn.Module:
    """The untrained prior of this shape, without a random choice: every weight is set by `start`."""
    with torch.random.fork_rng(devices=[]):  # torch draws weights that nobody asked for
        kinds: dict[str, type[nn.Module]] = {"classes": ClassPrior, "tokens": TokenPrior}
        return kinds.get(shape.tier, ImagePrior)(shape)


class ClassPrior(nn.Module):
    """ga[l] * A[own] + gb[l] * A[other] + g0[l], l lambda's regime: tables only.

    One table serves image and partner: a second one of the partner's own made the guess no better, and costs as much.
    """

    def __init__(self, shape: PriorShape) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(shape.classes, shape.width))
        self.own_gate = nn.Parameter(torch.zeros(REGIMES))
        self.other_gate = nn.Parameter(torch.zeros(REGIMES))
        self.level = nn.Parameter(torch.zeros(REGIMES, shape.width))

    def start(self, generator: torch.Generator) -> None:
        """Weights to begin training with."""
        lam = (torch.arange(REGIMES) - 0.5) / (REGIMES - 1)
        lam[0] = 1
        self.own_gate.data.copy_(lam)
        self.other_gate.data.copy_(1 - lam)
        self.table.data.normal_(0, 0.1, generator=generator)

    @torch.no_grad()
    def turn(self, matrix: torch.Tensor) -> None:
        """From now on give h0 @ matrix."""
        for table in (self.table, self.level):
            table.copy_(table @ matrix)

    def forward(self, side: ImageSide) -> torch.Tensor:
        """h0 [B, width]."""
        regime = side.regime
        own = self.own_gate[regime, None] * self.table[side.own]
        return own + self.other_gate[regime, None] * self.table[side.other] + self.level[regime]


class NetPrior(nn.Module):
    """Two hidden layers, and a linear one beside them, on what a subclass puts together of the side information."""

    def _join(self, shape: PriorShape, inputs: int, mixed: int) -> None:
        """The layers; a file names their weights by number, so they come after what the subclass has."""
        self.first = nn.Linear(inputs, shape.hidden)
        self.second = nn.Linear(shape.hidden, shape.hidden)
        self.last = nn.Linear(shape.hidden, shape.width)
        self.mix = nn.Linear(mixed, shape.width, bias=False)

    def start(self, generator: torch.Generator) -> None:
        """Weights to begin training with."""
        for table in self.parameters(recurse=False):
            table.data.normal_(0, 0.3, generator=generator)
        for layer in (layer for layer in self.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))):
            fan_in = layer.weight[0].numel()
            layer.weight.data.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
            if layer.bias is not None:
                layer.bias.data.zero_()

    @torch.no_grad()
    def turn(self, matrix: torch.Tensor) -> None:
        """From now on give h0 @ matrix."""
        self.last.weight.copy_(matrix.T @ self.last.weight)
        self.mix.weight.copy_(matrix.T @ self.mix.weight)
        self.last.bias.copy_(self.last.bias @ matrix)

    def _guess(self, inputs: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        x = nn.functional.gelu(self.first(inputs))
        x = x + nn.functional.gelu(self.second(x))
        h0: torch.Tensor = self.last(x) + self.mix(mixed)
        return h0


class ImagePrior(NetPrior):
    """On embeddings of classes and images, lambda, the replayed boxes and, maybe, pixels."""

    def __init__(self, shape: PriorShape) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(shape.classes, shape.embedding))
        self.image = nn.Parameter(torch.zeros(shape.images, shape.identity))
        self.sight = Sight(shape.channels, shape.pixels) if shape.tier == "image" else None
        seen = shape.pixels if self.sight else 0
        inputs = 2 * shape.embedding + 2 * shape.identity + 2 + shape.features + seen
        self._join(shape, inputs, shape.embedding)

    def forward(self, side: ImageSide) -> torch.Tensor:
        """h0 [B, width]."""
        mixed = (side.share < 1).float()[:, None]
        share = side.share[:, None]
        own, other = self.table[side.own] * share, self.table[side.other] * (1 - share)
        parts = [
            own,
            other,
            self.image[side.images],
            self.image[side.partners] * mixed,
            mixed,
            share * mixed,
            side.features,
        ]
        if self.sight:
            parts.append(self.sight(side.views))
        return self._guess(torch.cat(parts, 1), own + other)


class TokenPrior(NetPrior):
    """On the embeddings of the tokens around a position of text."""

    def __init__(self, shape: PriorShape) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(shape.classes + 1, shape.embedding))  # the first row: no token
        inputs = shape.features * shape.embedding
        self._join(shape, inputs, inputs)

    def forward(self, side: TokenSide) -> torch.Tensor:
        """h0 [B, width]."""
        seen = nn.functional.embedding(side.tokens - OUTSIDE, self.table).flatten(1)
        return self._guess(seen, seen)


class Sight(nn.Module):
    """Three small convolutions: views [B, c, H, W] to features [B, pixels]."""

    def __init__(self, channels: int, pixels: int) -> None:
        super().__init__()
        widths = (channels, 16, 32, 64)
        pairs = list(itertools.pairwise(widths))
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairs)
        self.norms = nn.ModuleList(nn.GroupNorm(1, b) for _, b in pairs)
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.join = nn.Linear(16 * widths[-1], pixels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features [B, pixels]."""
        x = x.float()
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = nn.functional.gelu(norm(convolution(x)))
        return nn.functional.gelu(self.join(self.pool(x).flatten(1)))
