"""How rows of `vq` find their codes: what only encoding needs, so it is kept beside a fit and never in a label file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vqlabel import _native
from vqlabel.codecs.additive import AdditiveSearch, threads
from vqlabel.codecs.base import Read
from vqlabel.codecs.layout import Layout, PriorShape
from vqlabel.codecs.priors import make_prior
from vqlabel.codecs.stored import restore
from vqlabel.errors import Corrupt
from vqlabel.known import REGIMES, Side

MAX_BEAM = 64
FIRST_BEAM = 16  # of the codes that the decoder is first fitted to


class Encoder(nn.Module):
    """What a hidden layer adds to the projection [B, R] of logits [B, C]: U gelu(V x + c), in units of `sizes`."""

    sizes: torch.Tensor

    def __init__(self, classes: int, hidden: int, width: int) -> None:
        super().__init__()
        self.inner = nn.Parameter(torch.zeros(hidden, classes))
        self.inner_bias = nn.Parameter(torch.zeros(hidden))
        self.outer = nn.Parameter(torch.zeros(width, hidden))
        self.register_buffer("sizes", torch.ones(width))

    def forward(self, centred: torch.Tensor) -> torch.Tensor:
        """Latent vectors [B, R]."""
        hidden = nn.functional.gelu(torch.addmm(self.inner_bias, centred, self.inner.T))
        added: torch.Tensor = self.sizes * (hidden @ self.outer.T)
        return added


@dataclass
class Search:
    """Latent targets and the books to search, as they were when the codes were settled."""

    layout: Layout
    mean: torch.Tensor  # [C]
    basis: torch.Tensor  # [C, R] from logits to latent vectors
    books: torch.Tensor  # product [R, K], residual [G * K, R]
    spread: torch.Tensor  # [REGIMES]
    prior: nn.Module | None
    encoder: Encoder | None = None
    beam: int = 64  # rows of codes of which the decoder then takes the closest
    weighed: tuple[float, ...] = ()  # temperatures at which classes then count by how likely they are

    def points(self, logits: torch.Tensor, side: Side | None) -> torch.Tensor:
        """What the books have to say [B, R]: the latent vector less the prior's guess, over the spread."""
        centred = logits - self.mean
        h = centred @ self.basis
        if self.encoder is not None:
            h = h + self.encoder(centred)
        if self.prior is None or side is None:
            return h
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
            return self._additive.codes(points, FIRST_BEAM)
        return search_product(points, self.books, layout)

    @property
    def chooses(self) -> bool:
        """Whether `choices` has several for a row."""
        return self.layout.G > 1 and self.layout.form == "residual"

    def choices(self, points: torch.Tensor) -> torch.Tensor:
        """The best rows of codes int64 [B, n, G] of points [B, R], best first: many of additive books, else one."""
        if self.chooses:
            return self._additive.choices(points, self.beam)
        return self.codes(points)[:, None]

    @cached_property
    def _additive(self) -> AdditiveSearch:
        return AdditiveSearch(self.books.view(self.layout.G, self.layout.K, self.layout.width))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Everything, in float32, under names that begin with "search."."""
        named = {"mean": self.mean, "basis": self.basis, "books": self.books, "spread": self.spread}
        named["beam"] = torch.tensor([float(self.beam)])
        if self.weighed:
            named["temperatures"] = torch.tensor(self.weighed)
        if self.prior is not None:
            named |= {f"prior.{name}": weight for name, weight in self.prior.state_dict().items()}
        if self.encoder is not None:
            named |= {f"encoder.{name}": weight for name, weight in self.encoder.state_dict().items()}
        return {f"search.{name}": tensor.detach().cpu().numpy() for name, tensor in named.items()}

    @classmethod
    def load(cls, classes: int, layout: Layout, shape: PriorShape | None, read: Read) -> Search:
        """What `tensors` kept."""
        hidden, temperatures = (_size(read, name) for name in ("search.encoder.inner_bias", "search.temperatures"))
        sizes: dict[str, tuple[int, ...]] = {
            "mean": (classes,), "basis": (classes, layout.width), "books": layout.book_shape, "spread": (REGIMES,),
            "beam": (1,), **({"temperatures": (temperatures,)} if temperatures else {}),
        }  # fmt: skip
        with torch.device("meta"):  # sizes that a file claims take no memory before its tensors bear them out
            prior = make_prior(shape) if shape else None
            encoder = Encoder(classes, hidden, layout.width) if hidden else None
        parts = {"prior.": prior, "encoder.": encoder}
        for name, part in parts.items():
            if part is not None:
                sizes |= {name + key: tuple(weight.shape) for key, weight in part.state_dict().items()}
        found = restore({f"search.{name}": size for name, size in sizes.items()}, "fp32", read)
        weights = {name.removeprefix("search."): weight for name, weight in found.items()}
        for name, part in parts.items():
            if part is not None:
                own = {key.removeprefix(name): weight for key, weight in weights.items() if key.startswith(name)}
                part.load_state_dict(own, assign=True)
                part.requires_grad_(False)
        beam = min(max(int(weights.pop("beam")), 1), MAX_BEAM)
        named = {name: weights[name] for name in ("mean", "basis", "books", "spread")}
        weighed = tuple(weights["temperatures"].tolist()) if temperatures else ()
        if not all(0 < temperature <= 1000 for temperature in weighed):
            raise Corrupt(f"tensor 'search.temperatures' holds {weighed!s:.80}, but temperatures are above 0")
        return cls(layout, **named, prior=prior, encoder=encoder, beam=beam, weighed=weighed)


def _size(read: Read, name: str) -> int:
    """How many numbers a tensor has; 0 if there is none."""
    try:
        return read(name).size
    except KeyError:
        return 0


def search_product(points: torch.Tensor, books: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Codes [n, G] of points [n, R] for books [R, K]: the nearest codeword of each book in its own dimensions."""
    order = torch.argsort(torch.tensor(layout.owner), stable=True)
    sizes = np.bincount(layout.owner, minlength=layout.G)
    if points.is_cuda and sizes.max() <= 256 and find_spec("triton"):
        from vqlabel.kernels.search import nearest

        codes: torch.Tensor = nearest(*padded(points, books, layout))
        return codes.long()
    ordered = points.cpu()[:, order].contiguous().numpy()
    words = books.cpu()[order].T.contiguous().numpy()
    found = _native.nearest(ordered, words, sizes, threads=threads())
    return torch.from_numpy(found.astype(np.int64)).to(points.device)


def padded(points: torch.Tensor, books: torch.Tensor, layout: Layout) -> tuple[torch.Tensor, torch.Tensor]:
    """Points [n, G, D] and books [G, K, D]: where a book owns fewer than D dimensions, both are 0 in the others."""
    owner = torch.tensor(layout.owner)
    owned = torch.split(torch.argsort(owner, stable=True), torch.bincount(owner).tolist())
    columns = nn.utils.rnn.pad_sequence(list(owned), batch_first=True, padding_value=layout.width).to(points.device)
    points, words = nn.functional.pad(points, (0, 1)), nn.functional.pad(books.to(points.device).T, (0, 1))
    return points[:, columns], words[:, columns].transpose(0, 1).contiguous()
