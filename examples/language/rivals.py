"""What people store instead: the k largest chances, draws from the teacher, and DistillKit's curve over the ranks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from examples.language.teacher import Teacher
from vqlabel.arguments import check_word
from vqlabel.convert.distillkit_bytes import Layout
from vqlabel.convert.distillkit_config import Config

BLOCK = 4096  # rows at a time
TAILS = ("drop", "ghost", "unigram")
VALUE_BITS = 16  # of a stored chance
PRESETS = {
    "budget": (50, 1, (0, 1, "sqrt")),
    "recommended": (128, 16, (0, 1, 2, 3, 4, "sqrt")),
}  # of DistillKit: k, those that are exact in bfloat16, terms of the curve over the others in float32
LEAST = 1e-6  # chance that is left to those that are not kept


@dataclass
class Sparse:
    """Some classes int32 [N, k] with their chances float32 [N, k], and what is made of the mass of the others.

    "drop": there is none, and the chances are scaled up to 1. "ghost": it is one more class, to the student too.
    "unigram": the other classes share it as often as they come in the text, `common` [C].
    """

    ids: torch.Tensor
    chances: torch.Tensor
    tail: str
    common: torch.Tensor

    def __post_init__(self) -> None:
        check_word("tail", self.tail, TAILS)
        if self.tail == "drop":
            self.chances = self.chances / self.chances.sum(1, keepdim=True)

    def loss(self, found: torch.Tensor, rows: NDArray[np.int64]) -> torch.Tensor:
        """Mean cross-entropy of student logits [B, C] to these labels."""
        chosen = torch.from_numpy(rows)
        ids, chances = self.ids[chosen].long(), self.chances[chosen]
        rest, scale = (1 - chances.sum(1)).clamp_min(0), found.logsumexp(1)
        own = found.gather(1, ids)
        told = (chances * (scale[:, None] - own)).sum(1)
        if self.tail == "ghost":
            left = 1 - (own - scale[:, None]).exp().sum(1)
            return (told - rest * left.clamp_min(LEAST).log()).mean()
        if self.tail == "unigram":
            known = self.common[ids]
            others = found @ self.common - (known * own).sum(1)
            told = told + rest * (scale - others / (1 - known.sum(1)))
        return told.mean()

    def probabilities(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Chances [B, C] of all classes; where a ghost has the rest, it is shared as in "unigram", LEAST of it."""
        chosen = torch.from_numpy(rows)
        ids, chances = self.ids[chosen].long(), self.chances[chosen]
        if self.tail == "drop":
            return torch.zeros(len(ids), len(self.common)).scatter_add_(1, ids, chances)
        rest = (1 - chances.sum(1, keepdim=True)).clamp_min(LEAST) / (1 - self.common[ids].sum(1, keepdim=True))
        dense = (rest * self.common).scatter_(1, ids, chances)
        return dense / dense.sum(1, keepdim=True)


def top(teacher: Teacher, k: int, tail: str, common: torch.Tensor) -> Sparse:
    """The k largest chances of every row."""
    ids, chances = _leading(teacher, k)
    return Sparse(ids, chances, tail, common)


def top_bytes(classes: int, k: int) -> float:
    """Bytes of k classes, packed, with 16 bits for each chance."""
    return k * (id_bits(classes) + VALUE_BITS) / 8


def id_bits(classes: int) -> int:
    """Bits that name a class."""
    return (classes - 1).bit_length()


def draws(teacher: Teacher, count: int, common: torch.Tensor, *, seed: int = 0) -> Sparse:
    """Random sampling: `count` draws with replacement from every row, each worth the same. Unbiased."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for rows in _blocks(len(teacher)):
        steps = torch.softmax(teacher(rows).float(), 1).cumsum(1)
        points = torch.rand(len(rows), count, generator=generator) * steps[:, -1:]
        parts.append(torch.searchsorted(steps, points, right=True).clamp_max(teacher.classes - 1).int())
    ids = torch.cat(parts)
    return Sparse(ids, torch.full(ids.shape, 1 / count), "drop", common)


def draw_bytes(classes: int, found: Sparse) -> tuple[float, float]:
    """Bytes of the different classes of a row, packed, with how often each was drawn; and their mean number."""
    ordered = found.ids.sort(1).values
    unique = 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(1).double().mean().item()
    count_bits = max(1, math.ceil(math.log2(found.ids.shape[1])))
    return unique * (id_bits(classes) + count_bits) / 8, unique


def distillkit(teacher: Teacher, preset: str, common: torch.Tensor) -> tuple[Sparse, int]:
    """Labels as a DistillKit set gives them back, and the bytes of one; what is missing to 1 is spread as unigrams."""
    config = distillkit_config(teacher.classes, preset)
    ids, chances = _leading(teacher, config.k)
    layout = Layout(config, legacy=False)
    values = [
        layout.values(records(config, ids[rows].numpy(), chances[rows].log().numpy())) for rows in _blocks(len(teacher))
    ]
    read = torch.from_numpy(np.concatenate(values)).exp()
    read = read / read.sum(1, keepdim=True).clamp_min(1)  # a curve may say more than all
    return Sparse(ids, read, "unigram", common), layout.record_bytes


def distillkit_config(classes: int, preset: str) -> Config:
    """The preset for so many classes, with at most half of them."""
    check_word("preset", preset, PRESETS)
    k, exact, terms = PRESETS[preset]
    return Config(classes, min(k, classes // 2), exact, "bfloat16", terms, "float32")


def records(config: Config, ids: NDArray[np.int32], logs: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Bytes of rows with these classes and log-probabilities [n, k], largest first: exact ones, curve, classes."""
    ranks = np.arange(config.fitted, dtype=np.float64)
    basis = np.stack([np.sqrt(ranks) if term == "sqrt" else ranks ** int(term) for term in config.polynomial_terms])
    exact, curve = logs[:, : config.exact_k], logs[:, config.exact_k :]
    terms = (curve @ np.linalg.pinv(basis)).astype("<f4")
    halves = torch.from_numpy(np.ascontiguousarray(exact)).bfloat16().view(torch.int16).numpy().astype("<i2")
    wide = (ids[:, :, None] >> np.arange(id_bits(config.d))[::-1] & 1).astype(np.uint8)
    packed = np.packbits(wide.reshape(len(ids), -1), axis=1)
    return np.concatenate([halves.view(np.uint8), terms.view(np.uint8), packed], axis=1)


def _blocks(count: int) -> Iterator[NDArray[np.int64]]:
    return (np.arange(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK))


@lru_cache(maxsize=4)
def _kept(teacher: Teacher, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids, chances = [], []
    for rows in _blocks(len(teacher)):
        logits = teacher(rows).float()
        found = logits.topk(k, dim=1)
        ids.append(found.indices.int())
        chances.append((found.values - logits.logsumexp(1, keepdim=True)).exp())
    return torch.cat(ids), torch.cat(chances)


def _leading(teacher: Teacher, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k classes of each row with the largest chances, and these [N, k], largest first."""
    most = next(kept for kept in (50, 128, teacher.classes) if kept >= min(k, teacher.classes))
    ids, chances = _kept(teacher, min(most, teacher.classes))
    return ids[:, :k], chances[:, :k]
