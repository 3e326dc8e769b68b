"""The search for the nearest word: on a GPU the kernel against three ways of torch, else the C++ against two."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.gpu import needs_gpu, no_gpu, race_on_gpu
from benchmarks.race import race
from vqlabel import _native

SHAPES = [(1_000_000, 16, 256, 8), (262_144, 1, 65_536, 32), (1_000_000, 1, 256, 64), (262_144, 1, 256, 192)]
CHUNK = 2**28  # numbers of a piece of the N x K matrix of distances: 1 GiB
EXCESS = 1e-5  # distortion above the least possible that the kernel may have, as its tests say

Search = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def data(N: int, G: int, K: int, D: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [N, G, D] and books [G, K, D]."""
    draw = functools.partial(torch.randn, generator=torch.Generator(device).manual_seed(0), device=device)
    return draw(N, G, D), draw(G, K, D)


def chunked(search: Search, z: torch.Tensor, books: torch.Tensor) -> torch.Tensor:
    """Codes [N, G] by a search of z [G, n, D] that makes a matrix [G, n, K] of distances, in pieces that fit."""
    rows = max(1, CHUNK // (books.shape[0] * books.shape[1]))
    return torch.cat([search(part.transpose(0, 1), books).T for part in torch.split(z, rows)])


def cdist_argmin(z: torch.Tensor, books: torch.Tensor) -> torch.Tensor:
    """Codes [G, n]."""
    return torch.cdist(z, books).argmin(2)


def matmul_argmin(z: torch.Tensor, books: torch.Tensor) -> torch.Tensor:
    """Codes [G, n]."""
    norms = books.square().sum(2)
    return torch.baddbmm(norms[:, None], z, books.transpose(1, 2), alpha=-2).argmin(2)


def excess(codes: torch.Tensor, z: torch.Tensor, books: torch.Tensor) -> float:
    """Distortion of the first rows above the least possible, in float64."""
    distances = torch.cdist(z[:256].transpose(0, 1).double(), books.double()).square()
    least = distances.amin(2).sum()
    return float((distances.gather(2, codes[:256].T.long()[:, :, None]).sum() - least) / least)


def spelled(N: int, G: int, K: int, D: int) -> str:
    return f"{N:,} x {G} of {D} numbers, {K:,} words"


@needs_gpu
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_search_on_gpu(benchmark: Any, shape: tuple[int, int, int, int]) -> None:
    from vqlabel.kernels.search import nearest, prepare

    N, G, K, D = shape
    z, books = data(*shape, "cuda")
    prepared = prepare(books)
    compiled = torch.compile(matmul_argmin, dynamic=False)
    runners = {
        "vqlabel": lambda: nearest(z, prepared),
        "vqlabel, books unprepared": lambda: nearest(z, books),
        "vqlabel, exact": lambda: nearest(z, prepared, exact=True),
        "cdist + argmin": lambda: chunked(cdist_argmin, z, books),
        "matmul + argmin": lambda: chunked(matmul_argmin, z, books),
        "torch.compile of matmul + argmin": lambda: chunked(compiled, z, books),
    }
    assert excess(nearest(z, prepared), z, books) < EXCESS
    pairs, moved = N * G * K, z.nbytes + books.nbytes + N * G * (1 if K <= 256 else 4)
    case = {"op": "search on the GPU", "per": "pair", "case": spelled(*shape)}
    work = {"units": float(pairs), "bytes": float(moved), "flops": 2.0 * pairs * D}
    race_on_gpu(benchmark, case, runners, work, rounds=10)


@no_gpu
@pytest.mark.parametrize(
    "shape", [(4096, 16, 256, 8), (1024, 1, 4096, 32)], ids=lambda shape: "x".join(map(str, shape))
)
def test_search_on_cpu(benchmark: Any, shape: tuple[int, int, int, int]) -> None:
    N, G, K, D = shape
    z, books = data(*shape, "cpu")
    rows, words, sizes = z.reshape(N, G * D).numpy(), books.transpose(0, 1).reshape(K, G * D).numpy(), [D] * G
    runners: dict[str, Callable[[], object]] = {
        "vqlabel": lambda: _native.nearest(rows, words, sizes),
        "cdist + argmin": lambda: chunked(cdist_argmin, z, books),
        "matmul + argmin": lambda: chunked(matmul_argmin, z, books),
    }
    assert excess(torch.from_numpy(_native.nearest(rows, words, sizes).astype(np.int64)), z, books) < EXCESS
    pairs, threads = N * G * K, torch.get_num_threads()
    case = {"op": "search on the CPU", "per": "pair", "case": spelled(*shape)}
    torch.set_num_threads(1)  # as the C++ has
    race(benchmark, case, runners, dict.fromkeys(runners, pairs))
    torch.set_num_threads(threads)
