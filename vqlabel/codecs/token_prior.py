"""The prior of text: a guess of the latent vector from the tokens before and after a position."""

from __future__ import annotations

import torch
from torch import nn

from vqlabel.codecs.layout import PriorShape
from vqlabel.tokens import OUTSIDE, TokenSide


class TokenPrior(nn.Module):
    """Two hidden layers, and a linear one beside them, on the embeddings of the tokens around a position."""

    def __init__(self, shape: PriorShape) -> None:
        super().__init__()
        inputs = shape.features * shape.embedding
        self.table = nn.Parameter(torch.zeros(shape.classes + 1, shape.embedding))  # the first row: no token
        self.first = nn.Linear(inputs, shape.hidden)
        self.second = nn.Linear(shape.hidden, shape.hidden)
        self.last = nn.Linear(shape.hidden, shape.width)
        self.mix = nn.Linear(inputs, shape.width, bias=False)

    def start(self, generator: torch.Generator) -> None:
        """Weights to begin training with."""
        self.table.data.normal_(0, 0.3, generator=generator)
        for layer in (layer for layer in self.modules() if isinstance(layer, nn.Linear)):
            layer.weight.data.normal_(0, (2 / layer.in_features) ** 0.5, generator=generator)
            if layer.bias is not None:
                layer.bias.data.zero_()

    @torch.no_grad()
    def turn(self, matrix: torch.Tensor) -> None:
        """From now on give h0 @ matrix."""
        self.last.weight.copy_(matrix.T @ self.last.weight)
        self.mix.weight.copy_(matrix.T @ self.mix.weight)
        self.last.bias.copy_(self.last.bias @ matrix)

    def forward(self, side: TokenSide) -> torch.Tensor:
        """h0 [B, width]."""
        seen = nn.functional.embedding(side.tokens - OUTSIDE, self.table).flatten(1)
        x = nn.functional.gelu(self.first(seen))
        x = x + nn.functional.gelu(self.second(x))
        h0: torch.Tensor = self.last(x) + self.mix(seen)
        return h0
