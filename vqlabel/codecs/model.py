"""The decoder of `vq` as a torch module: h = h0 + spread * (sum of codewords); logits = W [h, gelu(V h + c)] + b."""

from __future__ import annotations

import torch
from torch import nn

from vqlabel.codecs.layout import Layout, PriorShape
from vqlabel.codecs.priors import make_prior
from vqlabel.codecs.stored import rounded
from vqlabel.side import REGIMES, Side


class Decoder(nn.Module):
    """Codes [B, G] and side information to logits [B, C]."""

    def __init__(self, classes: int, layout: Layout, prior: PriorShape | None) -> None:
        super().__init__()
        self.layout = layout
        dimensions = range(len(layout.owner))
        self._owned = [[r for r in dimensions if layout.owner[r] == g] for g in range(layout.G)]
        ordered = [r for own in self._owned for r in own]
        self._places = sorted(dimensions, key=ordered.__getitem__)
        rows = layout.G * layout.K if layout.form == "residual" else layout.width
        columns = layout.width if layout.form == "residual" else layout.K
        if layout.G:
            self.books = nn.Parameter(torch.zeros(rows, columns))  # product: [R, K], a row for each dimension
        self.weight = nn.Parameter(torch.zeros(classes, layout.inputs))
        self.bias = nn.Parameter(torch.zeros(classes))
        if layout.hidden:
            self.inner = nn.Parameter(torch.zeros(layout.hidden, layout.width))
            self.inner_bias = nn.Parameter(torch.zeros(layout.hidden))
        self.prior = make_prior(prior) if prior else None
        if self.prior:
            self.spread = nn.Parameter(torch.ones(REGIMES))

    def latent(self, codes: torch.Tensor) -> torch.Tensor:
        """Sum of the codewords [B, R]."""
        layout = self.layout
        if layout.G == 0:
            return self.weight.new_zeros(len(codes), layout.width)
        if layout.form == "residual":
            offsets = torch.arange(layout.G, device=codes.device) * layout.K
            return nn.functional.embedding_bag(codes + offsets, self.books, mode="sum")
        parts = [nn.functional.embedding(codes[:, g], self.books[own].T) for g, own in enumerate(self._owned)]
        return torch.cat(parts, 1)[:, self._places]

    def guess(self, side: Side | None, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """h0 [B, R] and spread [B, 1]; zeros and ones without a prior."""
        h0 = self.weight.new_zeros(rows, self.layout.width)
        if self.prior is None:
            return h0, h0.new_ones(rows, 1)
        if side is None:
            raise ValueError("these labels lean on side information (images, classes, replay): pass side=")
        found = self.prior(side)
        # The prior speaks of the leading dimensions; nothing is known of the others.
        return nn.functional.pad(found, (0, h0.shape[1] - found.shape[1])), self.spread[side.regime, None]

    def expand(self, h: torch.Tensor) -> torch.Tensor:
        """Logits [B, C] of latent vectors [B, R]."""
        parts = [h] if self.layout.linear else []
        if self.layout.hidden:
            parts.append(nn.functional.gelu(torch.addmm(self.inner_bias, h, self.inner.T)))
        return torch.addmm(self.bias, torch.cat(parts, 1), self.weight.T)

    def forward(self, codes: torch.Tensor, side: Side | None = None) -> torch.Tensor:
        """Logits [B, C] of codes [B, G], int64."""
        h0, spread = self.guess(side, len(codes))
        return self.expand(h0 + spread * self.latent(codes))

    def as_stored(self) -> dict[str, torch.Tensor]:
        """Every weight as it will be read back, still open to gradients."""
        return {name: rounded(weight, self.layout.stored) for name, weight in self.named_parameters()}
