"""Books whose codewords are added up, each over the whole latent vector: a greedy start, then search and refit."""

from __future__ import annotations

import numpy as np
import torch

from vqlabel import _native
from vqlabel.codecs.kmeans import assign, kmeans
from vqlabel.codecs.sample import BLOCK
from vqlabel.ranks import Ranks

ROUNDS = 6
FIT_BEAM = 8
RIDGE = 1e-3  # rows' worth of pull towards zero: a codeword that nobody uses has no other
MAX_WORDS = 2**13  # of all books: the search keeps a table of every pair of them
MAX_THREADS = 256


def fit_additive(
    points: torch.Tensor, G: int, K: int, ranks: Ranks, *, seed: int, rounds: int = ROUNDS
) -> torch.Tensor:
    """Books [G, K, R] for this rank's points [n, R]."""
    rest, books = points.clone(), []
    for g in range(G):
        book = kmeans(rest, K, ranks, seed=seed + g, rounds=10)
        rest -= book[assign(rest, book)[0]]
        books.append(book)
    found = torch.stack(books)
    for _ in range(rounds if G > 1 else 0):
        found = _solved(points, AdditiveSearch(found).codes(points, FIT_BEAM), found, ranks)
    return found


class AdditiveSearch:
    """Codes of points by beam search, book after book; what it needs of all pairs of codewords is worked out once."""

    def __init__(self, books: torch.Tensor) -> None:
        self.shape = G, K, R = books.shape
        check_words(G, K)
        self._flat = books.reshape(G * K, R).cpu().contiguous()
        self._norms = self._flat.square().sum(1)
        if G > 1:
            pairs = (2 * (self._flat @ self._flat.T)).view(G, K, G, K)
            self._gram = pairs.permute(0, 2, 1, 3).contiguous().numpy()

    def codes(self, points: torch.Tensor, beam: int) -> torch.Tensor:
        """Codes int64 [n, G] of points [n, R]: the best that a beam finds."""
        return torch.cat([self.choices(block, beam)[:, 0] for block in torch.split(points, BLOCK)])

    def choices(self, points: torch.Tensor, beam: int) -> torch.Tensor:
        """All that a beam finds for points [n, R]: int64 [n, beam, G], best first. Of a single book, the best alone."""
        G, K, R = self.shape
        here = points.cpu().contiguous()
        if G == 1:
            found = _native.nearest(here.numpy(), self._flat.numpy(), [R], threads=threads())[:, None]
        else:
            dots = torch.addmm(-self._norms, here, self._flat.T, alpha=2).view(-1, G, K)
            found = _native.additive_search(dots.numpy(), self._gram, beam, threads=threads())
        return torch.from_numpy(found.astype(np.int64)).to(points.device)


def check_words(G: int, K: int) -> None:
    """ValueError for residual books whose search would need too much memory."""
    if G > 1 and G * K > MAX_WORDS:
        raise ValueError(
            f"{G} residual books of {K} have {G * K} codewords, but at most {MAX_WORDS} can be searched together; "
            "take form='product', or smaller books"
        )


def threads() -> int:
    """As many as torch uses."""
    return min(torch.get_num_threads(), MAX_THREADS)


def _solved(points: torch.Tensor, codes: torch.Tensor, books: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    """The books with the least squared error for these codes, all of them together."""
    G, K, R = books.shape
    flat = codes + torch.arange(G, device=codes.device) * K
    pairs = torch.zeros(G * K * G * K, dtype=torch.float64, device=points.device)
    sums = torch.zeros(G * K, R, dtype=torch.float64, device=points.device)
    for g in range(G):
        sums.index_add_(0, flat[:, g], points.double())
        for other in range(G):
            pairs += torch.bincount(flat[:, g] * (G * K) + flat[:, other], minlength=len(pairs))
    matrix, wanted = ranks.sum(pairs.view(G * K, G * K)), ranks.sum(sums)
    matrix.diagonal().add_(RIDGE)
    start = books.reshape(G * K, R).double()
    # Solved for the change: a codeword without rows stays where it is.
    change = torch.linalg.solve(matrix, wanted - (matrix @ start - RIDGE * start))
    solved: torch.Tensor = (start + change).float().view(G, K, R)
    return solved
