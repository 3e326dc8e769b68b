"""How rows of `vq` find their codes: what only encoding needs, so it is kept beside a fit and never in a label file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vqlabel import _native
from vqlabel.codecs.additive import search_additive
from vqlabel.codecs.base import Read
from vqlabel.codecs.layout import Layout, PriorShape
from vqlabel.codecs.priors import make_prior
from vqlabel.codecs.stored import restore
from vqlabel.side import REGIMES, Side

BEAM = 16


@dataclass
class Search:
    """Latent targets and the books to search, as they were when the codes were settled."""

    layout: Layout
    mean: torch.Tensor  # [C]
    basis: torch.Tensor  # [C, R]
    books: torch.Tensor  # product [R, K], residual [G * K, R]
    spread: torch.Tensor  # [REGIMES]
    prior: nn.Module | None

    def points(self, logits: torch.Tensor, side: Side | None) -> torch.Tensor:
        """What the books have to say [B, R]: the latent vector less the prior's guess, over the spread."""
        h = (logits - self.mean) @ self.basis
        if self.prior is None:
            return h
        if side is None:
            raise ValueError("this codec leans on side information (images, classes, replay): pass side=")
        with torch.no_grad():
            guess = self.prior(side)
        h[:, : guess.shape[1]] -= guess
        return h / self.spread[side.regime, None]

    def codes(self, points: torch.Tensor) -> torch.Tensor:
        """Codes int64 [B, G] of points [B, R]."""
        layout = self.layout
        if layout.G == 0:
            return torch.zeros(len(points), 0, dtype=torch.int64, device=points.device)
        if layout.form == "residual":
            return search_additive(points, self.books.view(layout.G, layout.K, layout.width), BEAM)
        return search_product(points, self.books, layout)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Everything, in float32, under names that begin with "search."."""
        named = {"mean": self.mean, "basis": self.basis, "books": self.books, "spread": self.spread}
        if self.prior is not None:
            named |= {f"prior.{name}": weight for name, weight in self.prior.state_dict().items()}
        return {f"search.{name}": tensor.detach().cpu().numpy() for name, tensor in named.items()}

    @classmethod
    def load(cls, classes: int, layout: Layout, shape: PriorShape | None, read: Read) -> Search:
        """What `tensors` kept."""
        rows = layout.G * layout.K if layout.form == "residual" else layout.width if layout.G else 0
        columns = layout.width if layout.form == "residual" else layout.K
        sizes: dict[str, tuple[int, ...]] = {
            "mean": (classes,), "basis": (classes, layout.width), "books": (rows, columns), "spread": (REGIMES,)
        }  # fmt: skip
        prior = make_prior(shape) if shape else None
        if prior is not None:
            sizes |= {f"prior.{name}": tuple(weight.shape) for name, weight in prior.named_parameters()}
        found = restore({f"search.{name}": size for name, size in sizes.items()}, "fp32", read)
        weights = {name.removeprefix("search."): weight for name, weight in found.items()}
        if prior is not None:
            own = {name.removeprefix("prior."): w for name, w in weights.items() if name.startswith("prior.")}
            prior.load_state_dict(own)
            prior.requires_grad_(False)
        return cls(layout, weights["mean"], weights["basis"], weights["books"], weights["spread"], prior)


def search_product(points: torch.Tensor, books: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Codes [n, G] of points [n, R] for books [R, K]: the nearest codeword of each book in its own dimensions."""
    order = torch.argsort(torch.tensor(layout.owner), stable=True)
    sizes = np.bincount(layout.owner, minlength=layout.G)
    ordered = points.cpu()[:, order].contiguous().numpy()
    words = books.cpu()[order].T.contiguous().numpy()
    found = _native.nearest(ordered, words, sizes, threads=torch.get_num_threads())
    return torch.from_numpy(found.astype(np.int64)).to(points.device)
