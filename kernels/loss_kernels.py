"""The device's side of loss.py: running numbers of two softmaxes, or of a difference, and what is made of them."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
from __future__ import annotations

import triton
import triton.language as tl

from ._parts import inputs, inside, logits_block, rows_of


@triton.jit
def student_block(student, row, t, tile, scale, C: tl.constexpr, STRIDE: tl.constexpr, BN: tl.constexpr):
    """Scaled logits float32 [BM, BN] of a tile of classes; beyond C the teacher's t, so that nothing differs."""
    cols = (tile * BN + tl.arange(0, BN))[None, :]
    s = tl.load(student + row[:, None] * STRIDE + cols, mask=cols < C, other=0).to(tl.float32) * scale
    return tl.where(cols < C, s, t)


@triton.jit
def add_softmax(t, s, mt, zt, ms, zs, a, KL: tl.constexpr):
    """Running numbers of two softmaxes, and the sum a of e^t (t - s), or of -e^t s, with a further block."""
    ht, hs = tl.maximum(mt, tl.max(t, 1)), tl.maximum(ms, tl.max(s, 1))
    down_t, down_s = mt - ht, ms - hs
    t, s = t - ht[:, None], s - hs[:, None]
    powers = tl.exp(t)
    # t and s are measured from their largest, so what was summed before moves with these.
    a = tl.exp(down_t) * (a + zt * ((down_t if KL else 0.0) - down_s))
    # A class without probability adds nothing, though s may be infinite: 0 times infinity is no number.
    a += tl.sum(powers * tl.where(powers > 0, (t if KL else 0.0) - s, 0.0), 1)
    zt = tl.exp(down_t) * zt + tl.sum(powers, 1)
    zs = tl.exp(down_s) * zs + tl.sum(tl.exp(s), 1)
    return ht, zt, hs, zs, a


@triton.jit
def add_moments(n, mean, m2, more, other, other_m2):
    """Count, mean and sum of squares about it of two parts together."""
    total = n + more
    step = other - mean
    return total, mean + step * more / total, m2 + other_m2 + step * step * n * more / total


@triton.jit(do_not_specialize=["B", "per", "splits"])
def forward_kernel(
    parts,  # f32 [splits, 5, B]
    student,  # [B, STRIDE]
    m,
    B,
    scale,  # 1 / T
    scale_s,  # 1 / T_s
    per,
    splits,
    KIND: tl.constexpr,
    TILES: tl.constexpr,
    C: tl.constexpr,
    STRIDE: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """Running numbers of one split of a tile of rows."""
    tile, split = tl.program_id(0) // splits, tl.program_id(0) % splits
    row = rows_of(tile, B, BM)
    xa, xb = inputs(m, row)
    zero = tl.zeros((BM,), tl.float32)
    mt, zt, ms, zs, a = zero - 1e30, zero, zero - 1e30, zero, zero
    for n in range(split * per, tl.minimum(split * per + per, TILES)):
        t = logits_block(m, xa, xb, n, BN) * scale
        s = student_block(student, row, t, n, scale_s, C, STRIDE, BN)
        if KIND == "mse_logits":  # a count, a mean and a sum of squares in place of the first three
            more = tl.minimum(C - n * BN, BN).to(tl.float32)
            mean = tl.sum(s - t, 1) / more
            off = tl.where((n * BN + tl.arange(0, BN) < C)[None, :], s - t - mean[:, None], 0.0)
            a, zt, zs = add_moments(a, zt, zs, more, mean, tl.sum(off * off, 1))
        else:
            mt, zt, ms, zs, a = add_softmax(t, s, mt, zt, ms, zs, a, KIND == "kl")
    to = parts + split.to(tl.int64) * 5 * B + row
    mask = inside(tile, B, BM)
    tl.store(to, mt, mask=mask)
    tl.store(to + B, zt, mask=mask)
    tl.store(to + 2 * B, ms, mask=mask)
    tl.store(to + 3 * B, zs, mask=mask)
    tl.store(to + 4 * B, a, mask=mask)


@triton.jit(do_not_specialize=["B", "splits"])
def finish_kernel(loss, stats, parts, B, splits, KIND: tl.constexpr, C: tl.constexpr, BM: tl.constexpr):
    """Losses [B] and stats [4, B] of all splits together."""
    tile = tl.program_id(0)
    row, mask = rows_of(tile, B, BM), inside(tile, B, BM)
    zero = tl.zeros((BM,), tl.float32)
    mt, zt, ms, zs, a = zero - 1e30, zero, zero - 1e30, zero, zero
    for split in range(splits):
        at = parts + tl.cast(split, tl.int64) * 5 * B + row
        zt2, zs2, a2 = tl.load(at + B), tl.load(at + 3 * B), tl.load(at + 4 * B)
        if KIND == "mse_logits":
            a, zt, zs = add_moments(a, zt, zs, a2, zt2, zs2)
        else:
            mt2, ms2 = tl.load(at), tl.load(at + 2 * B)
            ht, hs = tl.maximum(mt, mt2), tl.maximum(ms, ms2)
            down, down2 = mt - ht, mt2 - ht
            move = (down if KIND == "kl" else 0.0) - (ms - hs)
            move2 = (down2 if KIND == "kl" else 0.0) - (ms2 - hs)
            a = tl.exp(down) * (a + zt * move) + tl.exp(down2) * (a2 + zt2 * move2)
            zt = tl.exp(down) * zt + tl.exp(down2) * zt2
            zs = tl.exp(ms - hs) * zs + tl.exp(ms2 - hs) * zs2
            mt, ms = ht, hs
    if KIND == "mse_logits":
        tl.store(loss + row, zs / C, mask=mask)
        tl.store(stats + row, zt, mask=mask)
    else:
        found = a / zt + tl.log(zs)
        tl.store(loss + row, found - tl.log(zt) if KIND == "kl" else found, mask=mask)
        tl.store(stats + row, mt, mask=mask)
        tl.store(stats + B + row, tl.log(zt), mask=mask)
        tl.store(stats + 2 * B + row, ms, mask=mask)
        tl.store(stats + 3 * B + row, tl.log(zs), mask=mask)


@triton.jit(do_not_specialize=["B", "per", "splits"])
def backward_kernel(
    to,  # [B, C], gradient in the student's logits
    incoming,  # f32 [B]
    student,
    stats,
    m,
    B,
    scale,
    scale_s,
    per,
    splits,
    KIND: tl.constexpr,
    TILES: tl.constexpr,
    C: tl.constexpr,
    STRIDE: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """Gradient of one split of a tile of rows."""
    tile, split = tl.program_id(0) // splits, tl.program_id(0) % splits
    row = rows_of(tile, B, BM)
    xa, xb = inputs(m, row)
    factor = tl.load(incoming + row) * scale_s
    zero = tl.zeros((BM,), tl.float32)
    level, rest, level_s, rest_s = tl.load(stats + row), zero, zero, zero
    if KIND == "mse_logits":
        factor *= 2.0 / C
    else:
        rest = tl.load(stats + B + row)
        level_s, rest_s = tl.load(stats + 2 * B + row), tl.load(stats + 3 * B + row)
    for n in range(split * per, tl.minimum(split * per + per, TILES)):
        t = logits_block(m, xa, xb, n, BN) * scale
        s = student_block(student, row, t, n, scale_s, C, STRIDE, BN)
        if KIND == "mse_logits":
            found = s - t - level[:, None]
        else:
            q = tl.exp(s - level_s[:, None] - rest_s[:, None])
            found = q - tl.exp(t - level[:, None] - rest[:, None])
        found = (found * factor[:, None]).to(to.dtype.element_ty)
        cols = n * BN + tl.arange(0, BN)
        mask = inside(tile, B, BM)[:, None] & (cols < C)[None, :]
        tl.store(to + row[:, None] * C + cols[None, :], found, mask=mask)
