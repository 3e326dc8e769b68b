"""Random decoders for the tests of decoding and losses, and what torch itself makes of them at a given dtype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from vqlabel.kernels.tables import Tables, make_tables

from vqlabel import reference
from vqlabel.codecs.layout import Layout


@dataclass(frozen=True)
class Case:
    """Sizes of a decoder and a batch."""

    form: str = "product"
    G: int = 3
    nbits: int = 3
    C: int = 7
    B: int = 3
    R: int = 5
    hidden: int = 0
    linear: bool = True
    owner: tuple[int, ...] = ()
    prior: bool = True

    @property
    def layout(self) -> Layout:
        """As a file says it; books own dimensions of any number, in any order, unless `owner` says which."""
        random = np.random.default_rng(self.R).integers(0, max(self.G, 1), self.R - min(self.G, self.R)).tolist()
        owner = self.owner or (*random, *range(self.G))
        product = self.form == "product" and self.G
        return Layout(self.form, self.G, self.nbits, self.R, self.hidden, self.linear, owner if product else ())

    def __str__(self) -> str:
        extra = f"-H{self.hidden}{'' if self.linear else ' alone'}" if self.hidden else ""
        return (
            f"{self.form}-{self.G}x{self.nbits}-C{self.C}-B{self.B}-R{self.R}{extra}{'' if self.prior else '-no prior'}"
        )


class Drawn:
    """Weights, which fp16 holds exactly; rows; and what a prior gives."""

    def __init__(self, case: Case, device: str) -> None:
        self.case, self.layout, self.device = case, case.layout, device
        generator = torch.Generator().manual_seed(case.C + 31 * case.G)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator).half().double()

        layout = self.layout
        self.weights = {"weight": normal(case.C, layout.inputs), "bias": normal(case.C)}
        if layout.G:
            self.weights["books"] = normal(*layout.book_shape)
        if layout.hidden:
            self.weights |= {"inner": normal(layout.hidden, layout.width) / 4, "inner_bias": normal(layout.hidden)}
        size = (case.B, (layout.G * layout.nbits + 7) // 8)
        self.rows = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator).to(device)
        self.given: dict[str, Any] = {}
        if case.prior:
            self.given = {"h0": normal(case.B, layout.width), "spread": normal(case.B).abs()}
            self.given = {name: value.float().to(device) for name, value in self.given.items()}
        self.student = (3 * normal(case.B, case.C) + 1).float().to(device)

    def tables(self, dtype: torch.dtype) -> Tables:
        """For the kernels, or in float64 for plain.py."""
        weights = {name: weight.to(self.device) for name, weight in self.weights.items()}
        return make_tables(weights, self.layout, dtype=dtype)

    def truth(self) -> torch.Tensor:
        """Logits float64 [B, C]."""
        guess = [value.cpu().double().numpy() for value in self.given.values()]
        if guess:
            guess[1] = guess[1][:, None]
        arrays = {name: weight.numpy() for name, weight in self.weights.items()}
        return torch.from_numpy(reference.decode(self.rows.cpu().numpy(), self.layout.to_json(), arrays, *guess))

    def of_torch(self, dtype: torch.dtype) -> torch.Tensor:
        """Logits as plain modules make them, every tensor of this dtype."""
        layout, w = self.layout, {name: weight.to(dtype) for name, weight in self.weights.items()}
        codes = torch.from_numpy(reference.unpack(self.rows.cpu().numpy(), layout.nbits, layout.G).astype(np.int64))
        h = torch.zeros(len(codes), layout.width, dtype=dtype)
        for g in range(layout.G):
            if layout.form == "residual":
                h = h + w["books"][g * layout.K + codes[:, g]]
            else:
                own = torch.tensor(layout.owner) == g
                h[:, own] = w["books"][own][:, codes[:, g]].T
        if self.given:
            h = self.given["h0"].cpu().to(dtype) + self.given["spread"].cpu().to(dtype)[:, None] * h
        parts = [h] if layout.linear else []
        if layout.hidden:
            parts.append(torch.nn.functional.gelu(torch.nn.functional.linear(h, w["inner"], w["inner_bias"])))
        return torch.nn.functional.linear(torch.cat(parts, 1), w["weight"], w["bias"])


def budget(own: torch.Tensor, truth: torch.Tensor, dtype: torch.dtype, logits: float = 0.0) -> float:
    """Twice torch's own largest error, and what luck may have spared it.

    That is a rounding of the largest number to this dtype, and one of the largest of the logits that it is a softmax
    of, which moves it by as large a part.
    """
    if not truth.numel():
        return 0.0
    spared = torch.finfo(dtype).eps + torch.finfo(torch.float32).eps * logits
    return 2 * float((own.double() - truth).abs().max()) + spared * float(truth.abs().max())


def error(found: torch.Tensor, truth: torch.Tensor) -> float:
    """Largest difference."""
    return float((found.detach().cpu().double() - truth).abs().max()) if truth.numel() else 0.0
