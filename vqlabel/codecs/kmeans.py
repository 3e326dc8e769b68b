"""k-means over all ranks: k-means++ on a sample of the sample, then Lloyd; a codeword without rows gets a new place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vqlabel.codecs.sample import BLOCK
from vqlabel.ranks import Ranks

if TYPE_CHECKING:
    import torch

SEED_ROWS = 32  # rows a codeword for k-means++


def kmeans(points: torch.Tensor, K: int, ranks: Ranks, *, seed: int, rounds: int = 16) -> torch.Tensor:
    """Codewords [K, d] for this rank's points [n, d], the same on all ranks.

    With fewer distinct points than codewords some of them coincide.
    """
    import torch

    books = _seeded(points, K, ranks, seed)
    generator = np.random.default_rng(seed)
    for turn in range(rounds):
        codes, errors = assign(points, books)
        counts = ranks.sum(torch.bincount(codes, minlength=K).to(points.dtype))
        sums = ranks.sum(torch.zeros_like(books).index_add_(0, codes, points))
        books = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], books)
        empty = (counts == 0).nonzero()[:, 0]
        if len(empty) and turn + 1 < rounds:
            worst = _worst(points, errors, len(empty), ranks)
            books[empty[: len(worst)]] = worst[generator.permutation(len(worst))].to(books)
    return books


def assign(points: torch.Tensor, books: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Nearest codeword [n] of each point [n, d] and the squared distance to it [n]."""
    import torch

    norms = books.square().sum(1)
    codes, errors = [], []
    for block in torch.split(points, BLOCK):
        scores = torch.addmm(norms, block, books.T, alpha=-2)
        least, nearest = scores.min(1)
        codes.append(nearest)
        errors.append(least + block.square().sum(1))
    return torch.cat(codes), torch.cat(errors)


def _seeded(points: torch.Tensor, K: int, ranks: Ranks, seed: int) -> torch.Tensor:
    """k-means++ on the leading rows of all ranks' points."""
    import torch

    pool = gathered(points, min(SEED_ROWS * K, 2**16), ranks)
    generator = torch.Generator().manual_seed(seed)
    chosen = pool[torch.randint(len(pool), (1,), generator=generator)]
    books, distance = [chosen], torch.full((len(pool),), float("inf"), device=pool.device)
    norms = pool.square().sum(1)
    for _ in range(1, K):
        last = books[-1]
        distance = torch.minimum(distance, norms - 2 * (pool @ last[0]) + last.square().sum()).clamp_min_(0)
        # One random number against the running total: the same choice whatever the number of threads.
        total = distance.double().cumsum(0)
        target = torch.rand(1, generator=generator, dtype=torch.float64) * total[-1].cpu()
        index = torch.searchsorted(total, target.to(total)).clamp_max(len(pool) - 1)
        books.append(pool[index])
    return torch.cat(books).clone()


def gathered(points: torch.Tensor, count: int, ranks: Ranks) -> torch.Tensor:
    """The leading `count` points of all ranks in their common order; on every rank."""
    import torch

    if ranks.world == 1:
        return points[:count]
    per_rank = -(-count // ranks.world)
    sizes = ranks.sum(torch.nn.functional.one_hot(torch.tensor(ranks.rank), ranks.world) * min(len(points), per_rank))
    whole = points.new_zeros(ranks.world * per_rank, points.shape[1])
    own = points[:per_rank]
    whole[ranks.rank : ranks.rank + ranks.world * len(own) : ranks.world] = own
    there = torch.zeros(len(whole), dtype=torch.bool)
    for rank, size in enumerate(sizes.tolist()):
        there[rank : rank + ranks.world * size : ranks.world] = True
    return ranks.sum(whole)[there.to(whole.device)][:count]


def _worst(points: torch.Tensor, errors: torch.Tensor, count: int, ranks: Ranks) -> torch.Tensor:
    """The points of all ranks that are farthest from their codeword, where the empty ones may be of use."""
    import torch

    own = torch.topk(errors, min(count, len(points))).indices
    all_ranks = gathered(torch.cat([points[own], errors[own, None]], 1), count * ranks.world, ranks)
    return all_ranks[torch.topk(all_ranks[:, -1], min(count, len(all_ranks))).indices, :-1]
