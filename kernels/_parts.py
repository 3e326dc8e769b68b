"""What decoding and the losses share on the device: packed rows in, a block of logits out.

B rows, of which a program takes BM; C classes, BN at a time; K codewords of each of G books; R latent dimensions, in
XA + XB columns. Offsets that grow with B or C are 64-bit.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl


class Model(NamedTuple):
    """What makes the logits of a row. Sizes in capitals are constants of a compiled kernel."""

    rows: Any  # u8 [B, ROW_BYTES], packed codes
    books: Any  # product [XA + XB / D, K, D], residual [G K, XA + XB]
    groups: Any  # i32, the book of each slice
    places: Any  # i32 [XA + XB], columns of h0, -1 for padding
    h0: Any  # [B, R] or None
    spread: Any  # [B] or None
    x: Any  # [B, XA + XB], for FORM "read" instead of all above
    weight: Any  # [C', XA + XB]
    bias: Any  # f32 [C']
    FORM: Any  # "product", "residual", "prior" (no books) or "read"
    G: Any
    K: Any
    NBITS: Any
    SPAN: Any  # bytes that a code lies in, at most
    ROW_BYTES: Any
    D: Any  # columns of a slice
    R: Any  # columns of h0
    XA: Any  # columns of the first block, a power of two
    XB: Any  # of the second, or 0


@triton.jit
def rows_of(tile, B, BM: tl.constexpr):
    """Rows of a tile, int64 [BM]; beyond the end the last one again, so that loads need no mask."""
    return tl.minimum(tile.to(tl.int64) * BM + tl.arange(0, BM), B - 1)


@triton.jit
def inside(tile, B, BM: tl.constexpr):
    """Which of these rows are to be stored."""
    return tile.to(tl.int64) * BM + tl.arange(0, BM) < B


@triton.jit
def codes_of(m, row, book):
    """Codes int32 of these rows [BM, 1] and books [1, n]."""
    bit = book * m.NBITS
    first = bit // 8
    start = m.rows + row * m.ROW_BYTES + first
    word = tl.load(start).to(tl.int32)
    for i in tl.static_range(1, m.SPAN):
        word |= tl.load(start + i, mask=first + i < m.ROW_BYTES, other=0).to(tl.int32) << (8 * i)
    return (word >> (bit % 8)) & (m.K - 1)


@triton.jit
def latent_block(m, row, first, BX: tl.constexpr):
    """Columns first to first + BX of h, float32 [BM, BX]."""
    col = first + tl.arange(0, BX)
    h = tl.zeros((row.shape[0], BX), tl.float32)
    if m.FORM == "product":
        piece = first // m.D + tl.arange(0, BX // m.D)
        code = codes_of(m, row[:, None], tl.load(m.groups + piece)[None, :])
        word = (piece[None, :] * m.K + code) * m.D
        parts = tl.load(m.books + word[:, :, None] + tl.arange(0, m.D)[None, None, :])
        h = tl.reshape(parts, (row.shape[0], BX)).to(tl.float32)
    if m.FORM == "residual":
        for g in range(m.G):
            word = g * m.K + codes_of(m, row[:, None], tl.full((1, 1), g, tl.int32))
            h += tl.load(m.books + word.to(tl.int64) * (m.XA + m.XB) + col[None, :]).to(tl.float32)
    if m.spread is not None:
        h *= tl.load(m.spread + row).to(tl.float32)[:, None]
    if m.h0 is not None:
        place = tl.load(m.places + col)[None, :]
        h += tl.load(m.h0 + row[:, None] * m.R + place, mask=place >= 0, other=0).to(tl.float32)
    return h


@triton.jit
def input_block(m, row, first, BX: tl.constexpr):
    """Columns first to first + BX of x, [BM, BX] in the type of W."""
    if m.FORM == "read":
        x = tl.load(m.x + row[:, None] * (m.XA + m.XB) + first + tl.arange(0, BX)[None, :])
    else:
        x = latent_block(m, row, first, BX).to(m.weight.dtype.element_ty)
    return x


@triton.jit
def inputs(m, row):
    """Both blocks of x; without a second one the first again."""
    xa = input_block(m, row, 0, m.XA)
    xb = xa
    if m.XB > 0:
        xb = input_block(m, row, m.XA, m.XB)
    return xa, xb


@triton.jit
def logits_block(m, xa, xb, tile, BN: tl.constexpr):
    """Logits float32 [BM, BN] of a tile of classes; -1e20 beyond C."""
    weight = m.weight + tl.cast(tile, tl.int64) * (BN * (m.XA + m.XB)) + tl.arange(0, BN)[None, :] * (m.XA + m.XB)
    found = tl.dot(xa, tl.load(weight + tl.arange(0, m.XA)[:, None]), input_precision="tf32x3")
    if m.XB > 0:
        w = tl.load(weight + m.XA + tl.arange(0, m.XB)[:, None])
        found = tl.dot(xb, w, found, input_precision="tf32x3")
    return found + tl.load(m.bias + tile * BN + tl.arange(0, BN))[None, :]
