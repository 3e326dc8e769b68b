"""The kernels of search.py, which says what they compute and with what shapes."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _alpha(x):
    """Powers of two [BM] that keep |alpha (x.c - |c|^2 / 2)| below 0.45 for all |c| <= 1, with room for rounding."""
    bound = 0.44 * tl.math.rsqrt(2 * tl.sum(x * x, 1) + 0.5)  # (|x| + 0.5)^2 <= 2 |x|^2 + 0.5
    return (bound.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)


@triton.jit
def _slots(x, alpha, slot, D: tl.constexpr):
    """What multiplies the words [BM, slots]: alpha x, then alpha twice for the norm, then 1 for the 1.5, then zeros."""
    extra = tl.where(slot < D + 2, alpha[:, None], tl.where(slot == D + 2, 1.0, 0.0))
    return tl.where(slot < D, x * alpha[:, None], extra).to(tl.float16)


@triton.jit
def _best(y, BK: tl.constexpr):
    """Of scores [BM, BK] in [1, 2) the largest of each row, as its 23 mantissa bits and 255 - its place below them."""
    packed = (y.to(tl.int32, bitcast=True) << 8) + (255 - tl.arange(0, BK))[None, :]
    return tl.max(packed, 1)


@triton.jit
def one_tile(
    z, words, mean, scale, codes, N, G, K, steps,
    D: tl.constexpr, S: tl.constexpr, A: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Books of one tile: the book of a group stays, and `steps` blocks of BM rows pass."""
    g = tl.program_id(0) % G
    first = (tl.program_id(0) // G).to(tl.int64) * (BM * steps)
    row, slot = tl.arange(0, BM), tl.arange(0, S)
    word = words + (g * BK + tl.arange(0, BK)[None, :]) * (S + A)
    main = tl.load(word + slot[:, None])
    if A:
        aux = tl.load(word + S + tl.arange(0, A)[:, None])
    centre = tl.load(mean + g * D + slot, mask=slot < D, other=0.0)
    factor = tl.load(scale + g)
    for step in range(steps):
        start = first + step * BM
        inside = row < tl.minimum(N - start, BM).to(tl.int32)
        at = z + (start * G + g) * D + (row[:, None] * (G * D) + slot[None, :])
        x = tl.load(at, mask=inside[:, None] & (slot < D)[None, :], other=0.0).to(tl.float32) * factor - centre[None, :]
        alpha = _alpha(x)
        y = tl.dot(_slots(x, alpha, slot[None, :], D), main)
        if A:
            y = tl.dot(_slots(0.0, alpha, S + tl.arange(0, A)[None, :], D), aux, y)
        code = tl.minimum(255 - (_best(y, BK) & 255), K - 1)
        tl.store(codes + start * G + g + row * G, code.to(codes.dtype.element_ty), mask=inside)


@triton.jit
def _distance(z, books, code, inside, D: tl.constexpr):
    """Squared distances [BM] in float32 from rows at z [BM] to their words of books [K, D]."""
    total = tl.zeros(code.shape, tl.float32)
    for first in range(0, D, 16):
        d = first + tl.arange(0, 16)[None, :]
        there = inside[:, None] & (d < D)
        apart = tl.load(z[:, None] + d, mask=there, other=0.0).to(tl.float32)
        apart -= tl.load(books + code[:, None] * D + d, mask=there, other=0.0)
        total += tl.sum(apart * apart, 1)
    return total


@triton.jit
def many_tiles(
    z, books, words, mean, scale, codes, N, G, K, P,
    D: tl.constexpr, S: tl.constexpr, A: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Books of many tiles: BM rows stay, and the tiles of the book pass."""
    blocks = tl.num_programs(0) // G
    g = (tl.program_id(0) // blocks).to(tl.int64)
    start = (tl.program_id(0) % blocks).to(tl.int64) * BM
    row, slot, place = tl.arange(0, BM), tl.arange(0, S), tl.arange(0, BK)
    inside = row < tl.minimum(N - start, BM).to(tl.int32)
    at = z + (start * G + g) * D + row * (G * D)
    centre = tl.load(mean + g * D + slot, mask=slot < D, other=0.0)
    x = tl.load(at[:, None] + slot[None, :], mask=inside[:, None] & (slot < D)[None, :], other=0.0).to(tl.float32)
    x = x * tl.load(scale + g) - centre[None, :]
    alpha = _alpha(x)
    main = _slots(x, alpha, slot[None, :], D)
    if A:
        aux = _slots(0.0, alpha, S + tl.arange(0, A)[None, :], D)
    word = words + g * P * (S + A) + place[None, :] * (S + A)
    best, second = tl.full((BM,), -(2**31), tl.int32), tl.full((BM,), -(2**31), tl.int32)
    code, other = tl.zeros((BM,), tl.int32), tl.zeros((BM,), tl.int32)
    for first in range(0, P, BK):
        y = tl.dot(main, tl.load(word + slot[:, None]))
        if A:
            y = tl.dot(aux, tl.load(word + S + tl.arange(0, A)[:, None]), y)
        found = _best(y, BK)
        score, here = found >> 8, first + 255 - (found & 255)
        better = score > best
        other = tl.where(better, code, tl.where(score > second, here, other))
        second = tl.where(better, best, tl.maximum(score, second))
        code, best = tl.where(better, here, code), tl.maximum(score, best)
        word += BK * (S + A)
    code, other = tl.minimum(code, K - 1), tl.minimum(other, K - 1)
    gap = _distance(at, books + g * K * D, code, inside, D) - _distance(at, books + g * K * D, other, inside, D)
    code = tl.where((gap > 0) | ((gap == 0) & (other < code)), other, code)
    tl.store(codes + (start + row) * G + g, code.to(codes.dtype.element_ty), mask=inside)
