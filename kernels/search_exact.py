"""The exact search: float32 distances summed in order of D, without fused multiply-add, as the CPU search sums them.

Six instructions for each number of each (row, word) pair: far slower than search.py, and the same codes to the
last one as `reference.nearest`, whatever the numbers are.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

ROWS, WORDS, OPTIONS = 16, 256, {"num_warps": 4, "num_stages": 2, "enable_fp_fusion": False}


@triton.jit
def _exact(z, books, codes, N, G, K, D: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr):
    """A block of rows against a book [D, K], in tiles of BK words."""
    blocks = tl.num_programs(0) // G
    g = (tl.program_id(0) // blocks).to(tl.int64)
    start = (tl.program_id(0) % blocks).to(tl.int64) * BM
    row = tl.arange(0, BM)
    inside = row < tl.minimum(N - start, BM).to(tl.int32)
    at, book = z + (start * G + g) * D, books + g * D * K
    best, code = tl.full((BM,), float("inf"), tl.float32), tl.zeros((BM,), tl.int32)
    for first in range(0, K, BK):
        k = first + tl.arange(0, BK)
        distance = tl.zeros((BM, BK), tl.float32)
        for d in range(D):
            x = tl.load(at + d + row * (G * D), mask=inside, other=0.0).to(tl.float32)
            c = tl.load(book + d * K + k, mask=k < K, other=0.0)
            apart = x[:, None] - c[None, :]
            distance += apart * apart
        usable = (distance < float("inf")) & (k < K)[None, :]
        distance = tl.where(usable, distance, float("inf"))
        least = tl.min(distance, 1)
        here = first + tl.argmin(distance, 1)
        code = tl.where(least < best, here, code)
        best = tl.minimum(least, best)
    tl.store(codes + start * G + g + row * G, code.to(codes.dtype.element_ty), mask=inside)


def search_exact(z: torch.Tensor, books: torch.Tensor, codes: torch.Tensor) -> None:
    """Fill codes [N, G] with the nearest words of books [G, K, D] to z [N, G, D]."""
    N, G, D = z.shape
    turned = books.float().transpose(1, 2).contiguous()
    grid = (-(-N // ROWS) * G,)
    _exact[grid](z, turned, codes, N, G, books.shape[1], D, ROWS, WORDS, **OPTIONS)


def exact_cases() -> list[dict[str, Any]]:
    """What tests/compiled.py compiles."""
    signature = {"z": "*fp32", "books": "*fp32", "codes": "*u8", "N": "i32", "G": "i32", "K": "i32"}
    sizes = {"BM": ROWS, "BK": WORDS}
    case = {"kernel": _exact, "options": OPTIONS}
    many = [
        {**case, "name": f"exact D={D}", "signature": signature, "constants": {"D": D, **sizes}} for D in (3, 8, 256)
    ]
    signature = {name: kind for name, kind in signature.items() if kind != "i32"}
    one = {"name": "exact alone", "signature": signature, "constants": {"D": 1, "N": 1, "G": 1, "K": 1, **sizes}}
    return [*many, {**case, **one}]
