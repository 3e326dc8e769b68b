"""The device's side of decode.py: the hidden layer, whole rows, statistics of rows, and tiles of labels."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
from __future__ import annotations

import triton
import triton.language as tl

from ._parts import input_block, inputs, inside, logits_block, rows_of


@triton.jit(do_not_specialize=["B"])
def latent_kernel(
    x,  # [B, START + UNITS]
    m,  # Model of h, with the inner matrix [UNITS, XA + XB] for its weight
    B,
    START: tl.constexpr,  # columns of x that hold h itself: XA + XB, or 0
    UNITS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """First product of a decoder with a hidden layer: x = [h; gelu(V h + c)]."""
    tile = tl.program_id(0)
    row = rows_of(tile, B, BM)
    mask = inside(tile, B, BM)[:, None]
    to = x + row[:, None] * (START + UNITS)
    ha, hb = inputs(m, row)
    if START > 0:
        tl.store(to + tl.arange(0, m.XA)[None, :], ha, mask=mask)
        if m.XB > 0:
            tl.store(to + m.XA + tl.arange(0, m.XB)[None, :], hb, mask=mask)
    for n in range(UNITS // BN):
        v = logits_block(m, ha, hb, n, BN)
        v = v * 0.5 * (1 + tl.erf(v * 0.7071067811865476))
        tl.store(to + START + n * BN + tl.arange(0, BN)[None, :], v.to(x.dtype.element_ty), mask=mask)


@triton.jit
def store_labels(
    out, found, row, here, cols, OUTPUT: tl.constexpr, C: tl.constexpr, COLS: tl.constexpr, STRIDE: tl.constexpr
):
    """Store a block; padding beyond C becomes 0."""
    if COLS > C and OUTPUT != "probs":
        found = tl.where((cols < C)[None, :], found, 0.0)
    mask = here[:, None] & (cols < COLS)[None, :]
    tl.store(out + row[:, None] * STRIDE + cols[None, :], found.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["B"])
def row_kernel(
    out,  # [B, STRIDE]
    m,
    B,
    scale,  # 1 / T
    OUTPUT: tl.constexpr,  # "probs" or "log_probs"
    C: tl.constexpr,
    COLS: tl.constexpr,  # columns to write: C, and padding if it is ours
    STRIDE: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,  # C', all classes
    BX: tl.constexpr,  # columns of x at a time
):
    """Whole rows at once."""
    tile = tl.program_id(0)
    row = rows_of(tile, B, BM)
    cols = tl.arange(0, BN)
    logits = tl.zeros((BM, BN), tl.float32)
    for first in range(0, m.XA + m.XB, BX):
        weight = m.weight + cols[None, :] * (m.XA + m.XB) + first + tl.arange(0, BX)[:, None]
        logits = tl.dot(input_block(m, row, first, BX), tl.load(weight), logits, input_precision="tf32x3")
    logits = (logits + tl.load(m.bias + cols)[None, :]) * scale
    logits -= tl.max(logits, 1)[:, None]
    powers = tl.exp(logits)
    total = tl.sum(powers, 1)[:, None]
    found = powers / total if OUTPUT == "probs" else logits - tl.log(total)
    store_labels(out, found, row, inside(tile, B, BM), cols, OUTPUT, C, COLS, STRIDE)


@triton.jit(do_not_specialize=["B", "per", "splits"])
def stats_kernel(
    stats,  # f32 [splits, 2, B]
    m,
    B,
    scale,
    per,  # tiles of classes of a split
    splits,
    TILES: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """Statistics of one split of a tile of rows."""
    tile, split = tl.program_id(0) // splits, tl.program_id(0) % splits
    row = rows_of(tile, B, BM)
    xa, xb = inputs(m, row)
    most = tl.full((BM,), -1e30, tl.float32)
    total = tl.zeros((BM,), tl.float32)
    for n in range(split * per, tl.minimum(split * per + per, TILES)):
        logits = logits_block(m, xa, xb, n, BN) * scale
        higher = tl.maximum(most, tl.max(logits, 1))
        total = total * tl.exp(most - higher) + tl.sum(tl.exp(logits - higher[:, None]), 1)
        most = higher
    to = stats + split.to(tl.int64) * 2 * B + row
    mask = inside(tile, B, BM)
    tl.store(to, most, mask=mask)
    tl.store(to + B, total, mask=mask)


@triton.jit
def lse_of(stats, row, B, splits):
    """Logsumexp of rows whose statistics are there, as its two parts [BM]: their sum would be less exact."""
    most = tl.load(stats + row)
    total = tl.load(stats + B + row)
    for split in range(1, splits):
        at = stats + tl.cast(split, tl.int64) * 2 * B + row
        other = tl.load(at)
        higher = tl.maximum(most, other)
        total = total * tl.exp(most - higher) + tl.load(at + B) * tl.exp(other - higher)
        most = higher
    return most, tl.log(total)


@triton.jit(do_not_specialize=["B", "per", "splits"])
def write_kernel(
    out,  # [B, STRIDE]
    m,
    lse,  # f32 [B], or
    stats,  # f32 [splits, 2, B], or neither for logits
    B,
    scale,
    per,
    splits,
    OUTPUT: tl.constexpr,
    TILES: tl.constexpr,
    C: tl.constexpr,
    COLS: tl.constexpr,
    STRIDE: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """Labels of one split of a tile of rows."""
    tile, split = tl.program_id(0) // splits, tl.program_id(0) % splits
    row = rows_of(tile, B, BM)
    xa, xb = inputs(m, row)
    if lse is not None:
        level, rest = tl.load(lse + row).to(tl.float32), tl.zeros((BM,), tl.float32)
    elif stats is not None:
        level, rest = lse_of(stats, row, B, splits)
    for n in range(split * per, tl.minimum(split * per + per, TILES)):
        found = logits_block(m, xa, xb, n, BN)
        if OUTPUT != "logits":
            found = found * scale - level[:, None] - rest[:, None]
        if OUTPUT == "probs":
            found = tl.exp(found)
        cols = n * BN + tl.arange(0, BN)
        store_labels(out, found, row, inside(tile, B, BM), cols, OUTPUT, C, COLS, STRIDE)
