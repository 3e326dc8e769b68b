"""Priors: a guess of the latent vector from side information alone, h0 = prior(side), in three tiers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vqlabel.codecs.layout import PriorShape
from vqlabel.side import REGIMES, Side


def make_prior(shape: PriorShape) -> nn.Module:
    """The untrained prior of this shape, without a random choice: every weight is set by `start`."""
    return ClassPrior(shape) if shape.tier == "classes" else NetPrior(shape)


class ClassPrior(nn.Module):
    """ga[l] * A[own] + gb[l] * B[other] + g0[l]: tables only; l is lambda's regime."""

    def __init__(self, shape: PriorShape) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.zeros(shape.classes, shape.width))
        self.other = nn.Parameter(torch.zeros(shape.classes, shape.width))
        self.own_gate = nn.Parameter(torch.zeros(REGIMES))
        self.other_gate = nn.Parameter(torch.zeros(REGIMES))
        self.level = nn.Parameter(torch.zeros(REGIMES, shape.width))

    def start(self, generator: torch.Generator) -> None:
        """Weights to begin training with."""
        lam = (torch.arange(REGIMES) - 0.5) / (REGIMES - 1)
        lam[0] = 1
        self.own_gate.data.copy_(lam)
        self.other_gate.data.copy_(1 - lam)
        for table in (self.own, self.other):
            table.data.normal_(0, 0.1, generator=generator)

    @torch.no_grad()
    def turn(self, matrix: torch.Tensor) -> None:
        """From now on give h0 @ matrix."""
        for table in (self.own, self.other, self.level):
            table.copy_(table @ matrix)

    def forward(self, side: Side) -> torch.Tensor:
        """h0 [B, width]."""
        regime = side.regime
        own = self.own_gate[regime, None] * self.own[side.own]
        return own + self.other_gate[regime, None] * self.other[side.other] + self.level[regime]


class NetPrior(nn.Module):
    """Two hidden layers on embeddings of both classes and both images, lambda, the replayed boxes and, maybe, pixels."""

    def __init__(self, shape: PriorShape) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.zeros(shape.classes, shape.embedding))
        self.other = nn.Parameter(torch.zeros(shape.classes, shape.embedding))
        self.image = nn.Parameter(torch.zeros(shape.images, shape.identity))
        self.sight = Sight(shape.channels, shape.pixels) if shape.tier == "image" else None
        seen = shape.pixels if self.sight else 0
        inputs = 2 * shape.embedding + 2 * shape.identity + 2 + shape.features + seen
        self.first = nn.Linear(inputs, shape.hidden)
        self.second = nn.Linear(shape.hidden, shape.hidden)
        self.last = nn.Linear(shape.hidden, shape.width)

    def start(self, generator: torch.Generator) -> None:
        """Weights to begin training with."""
        for table in (self.own, self.other, self.image):
            table.data.normal_(0, 0.3, generator=generator)
        layers = [self.first, self.second, self.last]
        if self.sight:
            layers += list(self.sight.layers())
        for layer in layers:
            fan_in = layer.weight[0].numel()
            layer.weight.data.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
            layer.bias.data.zero_()

    @torch.no_grad()
    def turn(self, matrix: torch.Tensor) -> None:
        """From now on give h0 @ matrix."""
        self.last.weight.copy_(matrix.T @ self.last.weight)
        self.last.bias.copy_(self.last.bias @ matrix)

    def forward(self, side: Side) -> torch.Tensor:
        """h0 [B, width]."""
        mixed = (side.share < 1).float()[:, None]
        share = side.share[:, None]
        parts = [
            self.own[side.own] * share,
            self.other[side.other] * (1 - share),
            self.image[side.images],
            self.image[side.partners] * mixed,
            mixed,
            share * mixed,
            side.features,
        ]
        if self.sight:
            parts.append(self.sight(side.views))
        x = nn.functional.gelu(self.first(torch.cat(parts, 1)))
        x = x + nn.functional.gelu(self.second(x))
        return self.last(x)


class Sight(nn.Module):
    """Four small convolutions: views [B, c, H, W] to features [B, pixels]."""

    def __init__(self, channels: int, pixels: int) -> None:
        super().__init__()
        widths = (channels, 16, 32, 64)
        pairs = list(zip(widths, widths[1:], strict=False))
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairs)
        self.norms = nn.ModuleList(nn.GroupNorm(1, b) for _, b in pairs)
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.join = nn.Linear(16 * widths[-1], pixels)

    def layers(self) -> list[Any]:
        """Those with weights."""
        return [*self.convolutions, self.join]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features [B, pixels]."""
        x = x.float()
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = nn.functional.gelu(norm(convolution(x)))
        return nn.functional.gelu(self.join(self.pool(x).flatten(1)))
