"""The decoder of `vq` as a torch module: h = h0 + spread * (sum of codewords); logits = W [h, gelu(V h + c)] + b."""

from __future__ import annotations

import torch
from torch import nn

from vqlabel import _native
from vqlabel.codecs.layout import Layout, PriorShape
from vqlabel.codecs.priors import ClassPrior, make_prior
from vqlabel.codecs.stored import rounded
from vqlabel.known import REGIMES, Side
from vqlabel.side import ImageSide


class Decoder(nn.Module):
    """Codes [B, G] and side information to logits [B, C]."""

    def __init__(self, classes: int, layout: Layout, prior: PriorShape | None) -> None:
        super().__init__()
        self.layout, self.shape = layout, prior
        self._owned: list[list[int]] = [[] for _ in range(layout.G)]
        for r, book in enumerate(layout.owner):
            self._owned[book].append(r)
        ordered = [r for own in self._owned for r in own]
        self._places = sorted(range(len(ordered)), key=ordered.__getitem__)
        if layout.G:
            self.books = nn.Parameter(torch.zeros(layout.book_shape))
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
        if self.prior is None or side is None:
            return h0, h0.new_ones(rows, 1)
        if (
            isinstance(self.prior, ClassPrior)
            and isinstance(side, ImageSide)
            and self.bias.is_cpu
            and not torch.is_grad_enabled()
        ):
            found = _native_guess(self.prior, side)
        else:
            found = self.prior(side)
        # The prior speaks of the leading dimensions; nothing is known of the others.
        return nn.functional.pad(found, (0, h0.shape[1] - found.shape[1])), self.spread[side.regime, None]

    def inputs(self, h: torch.Tensor) -> torch.Tensor:
        """What W is applied to [B, R + H], or without its linear part [B, H]."""
        parts = [h] if self.layout.linear else []
        if self.layout.hidden:
            parts.append(nn.functional.gelu(torch.addmm(self.inner_bias, h, self.inner.T)))
        return torch.cat(parts, 1)

    def expand(self, h: torch.Tensor) -> torch.Tensor:
        """Logits [B, C] of latent vectors [B, R]."""
        return torch.addmm(self.bias, self.inputs(h), self.weight.T)

    def forward(self, codes: torch.Tensor, side: Side | None = None) -> torch.Tensor:
        """Logits [B, C] of codes [B, G], int64."""
        h0, spread = self.guess(side, len(codes))
        return self.expand(h0 + spread * self.latent(codes))

    def as_stored(self) -> dict[str, torch.Tensor]:
        """Every weight as it will be read back, still open to gradients."""
        return {name: rounded(weight, self.layout.stored) for name, weight in self.named_parameters()}


def _native_guess(prior: ClassPrior, side: ImageSide) -> torch.Tensor:
    """The same as prior(side), in one pass over the tables."""
    own, other, regime = (numbers.contiguous().numpy() for numbers in (side.own, side.other, side.regime))
    A, ga, gb, g0 = (w.detach().numpy() for w in (prior.table, prior.own_gate, prior.other_gate, prior.level))
    return torch.from_numpy(_native.class_prior(own, other, regime, (A, A, ga, gb, g0)))
