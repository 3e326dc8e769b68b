"""Side information of rows, drawn where they are decoded: the law of csrc/replay.hpp, and the features of CODECS.md.

    counter = (image, epoch, stream, block)         row = epoch * images + image
    draws   = Philox4x32-10(counter, key = seed)    four words of 32 bits

Its float64 is that of the CPU, operation for operation, so that every number is the same: no multiplication is fused
with an addition, and quotients and roots are rounded as IEEE 754 says. A program takes BM rows, one a thread.

    rows      i32 or i64 [B]
    whole     i64 [9 + 2 n]       seed; images; height, width of a source image; side of a view; the crop (top, left,
                                  height, width) where no random one fits; stream and block of each of n own draws
    real      f64 [5 + 3 * 4097]  least scale, span of scales; chances of a flip, of CutMix, of any mix; tables of
                                  quantiles of crop ratio, CutMix lambda and MixUp lambda
    classes   i64 [images]
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from ._launch import on

Law = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

GEOMETRY = tl.constexpr(17)  # features before those of own draws
BM, OPTIONS = 32, {"num_warps": 1, "enable_fp_fusion": False}

CROP, FLIP, MIX = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)  # streams
TRIES = tl.constexpr(10)
STEPS = tl.constexpr(4096)  # of a table
RATIO = tl.constexpr(5)  # where the tables begin
SHARES = tl.constexpr(5 + 4097)
OWN = tl.constexpr(9)  # where the own draws are named


@triton.jit
def _draw(whole, image, epoch, stream, block):
    """Four draws uint32 [BM]."""
    counter = image.to(tl.uint32)
    same = counter * 0
    return tl.philox(tl.load(whole), counter, epoch.to(tl.uint32), same + stream, same + block)


@triton.jit
def _unit(draw):
    """A draw as a number in [0, 1), exactly."""
    return draw.to(tl.float64) * (1.0 / 4294967296.0)


@triton.jit
def _below(draw, n):
    """A draw as a whole number in [0, n)."""
    return (draw.to(tl.uint64) * n.to(tl.uint64) >> 32).to(tl.int64)


@triton.jit
def _quantile(table, draw):
    """The quantile at a draw, straight lines between those of the table."""
    position = _unit(draw) * STEPS
    step = position.to(tl.int32)
    low = tl.load(table + step)
    return low + (position - step.to(tl.float64)) * (tl.load(table + step + 1) - low)


@triton.jit
def _crop(whole, real, image, epoch, wanted):
    """Top, left, height and width of a view in its source, int64 [BM]."""
    height, width = tl.load(whole + 2), tl.load(whole + 3)
    area = height.to(tl.float64) * width.to(tl.float64)
    none = image * 0
    top, left = none + tl.load(whole + 5), none + tl.load(whole + 6)
    tall, wide = none + tl.load(whole + 7), none + tl.load(whole + 8)
    attempt = 0
    while (attempt < TRIES) & (tl.max(wanted.to(tl.int32), 0) > 0):
        a, b, c, d = _draw(whole, image, epoch, CROP, attempt)
        target = area * (tl.load(real) + _unit(a) * tl.load(real + 1))
        ratio = _quantile(real + RATIO, b)
        w = tl.floor(tl.sqrt(target * ratio) + 0.5).to(tl.int64)
        h = tl.floor(tl.sqrt(target / ratio) + 0.5).to(tl.int64)
        fits = wanted & (w >= 1) & (h >= 1) & (w <= width) & (h <= height)
        top = tl.where(fits, _below(c, height - h + 1), top)
        left = tl.where(fits, _below(d, width - w + 1), left)
        tall, wide = tl.where(fits, h, tall), tl.where(fits, w, wide)
        wanted = wanted & (fits == 0)
        attempt += 1
    return top, left, tall, wide


@triton.jit
def _flip(whole, real, image, epoch):
    """1 where a view is flipped, else 0."""
    draw, _, _, _ = _draw(whole, image, epoch, FLIP, 0)
    return tl.where(_unit(draw) < tl.load(real + 2), 1.0, 0.0)


@triton.jit
def _mix(whole, real, image, epoch):
    """Kind, partner (the image itself where nothing is mixed), lambda, and the cut: int64 [BM], lambda f64."""
    kind_draw, partner_draw, share_draw, _ = _draw(whole, image, epoch, MIX, 0)
    u = _unit(kind_draw)
    cutmix, mixed = u < tl.load(real + 3), u < tl.load(real + 4)
    partner = tl.where(mixed, _below(partner_draw, tl.load(whole + 1)), image)
    size = tl.load(whole + 4)
    drawn = _quantile(real + SHARES, share_draw)
    half = (size.to(tl.float64) * tl.sqrt(1 - drawn)).to(tl.int64) // 2
    y_draw, x_draw, _, _ = _draw(whole, image, epoch, MIX, 1)
    y, x = _below(y_draw, size), _below(x_draw, size)
    top, left = tl.maximum(y - half, 0), tl.maximum(x - half, 0)
    tall, wide = tl.minimum(y + half, size) - top, tl.minimum(x + half, size) - left
    covered = tall.to(tl.float64) * wide.to(tl.float64) / (size.to(tl.float64) * size.to(tl.float64))
    share = tl.where(cutmix, 1 - covered, tl.where(mixed, _quantile(real + SHARES + STEPS + 1, share_draw), 1.0))
    return cutmix, mixed, partner, share, top, left, tall, wide


@triton.jit
def _put(to, here, start, length, extent, shown):
    """Store one direction of a box, its centre and two columns on its length, as fractions from -1 to 1."""
    extent = extent.to(tl.float64)
    start, length = start.to(tl.float64) / extent, length.to(tl.float64) / extent
    tl.store(to, tl.where(shown, 2 * start + length - 1, 0.0).to(tl.float32), mask=here)
    tl.store(to + 2, tl.where(shown, 2 * length - 1, 0.0).to(tl.float32), mask=here)


@triton.jit
def _put_crop(to, here, whole, real, image, epoch, shown):
    """Store the crop of a view, four columns."""
    top, left, tall, wide = _crop(whole, real, image, epoch, here & shown)
    _put(to, here, top, tall, tl.load(whole + 2), shown)
    _put(to + 1, here, left, wide, tl.load(whole + 3), shown)


@triton.jit(do_not_specialize=["B"])
def _side(
    rows,
    whole,
    real,
    classes,
    numbers,  # i64 [4, B]: images, partners, their classes
    share_to,  # f32 [B]
    features,  # f32 [B, FEATURES]
    B,
    FEATURES: tl.constexpr,
    BM: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    here = at < B
    row, images = tl.load(rows + at, mask=here, other=0).to(tl.int64), tl.load(whole + 1)
    epoch, image = row // images, row % images
    cutmix, mixed, partner, share, top, left, tall, wide = _mix(whole, real, image, epoch)
    tl.store(numbers + at, image, mask=here)
    tl.store(numbers + B + at, partner, mask=here)
    tl.store(numbers + 2 * B + at, tl.load(classes + image), mask=here)
    tl.store(numbers + 3 * B + at, tl.load(classes + partner), mask=here)
    tl.store(share_to + at, share.to(tl.float32), mask=here)
    if FEATURES > 0:
        to, size = features + at * FEATURES, tl.load(whole + 4)
        _put_crop(to, here, whole, real, image, epoch, here)
        tl.store(to + 4, _flip(whole, real, image, epoch), mask=here)
        tl.store(to + 5, tl.where(cutmix, 1.0, 0.0), mask=here)
        tl.store(to + 6, tl.where(mixed & (cutmix == 0), 1.0, 0.0), mask=here)
        tl.store(to + 7, tl.where(mixed, share, 0.0).to(tl.float32), mask=here)
        _put(to + 8, here, top, tall, size, cutmix)
        _put(to + 9, here, left, wide, size, cutmix)
        _put_crop(to + 12, here, whole, real, partner, epoch, mixed)
        tl.store(to + 16, tl.where(mixed, _flip(whole, real, partner, epoch), 0.0), mask=here)
        for n in range((FEATURES - GEOMETRY) // 4):
            stream, block = tl.load(whole + OWN + 2 * n), tl.load(whole + OWN + 2 * n + 1)
            a, b, c, d = _draw(whole, image, epoch, stream.to(tl.uint32), block.to(tl.uint32))
            own = to + GEOMETRY + 4 * n
            tl.store(own, (_unit(a) * 2 - 1).to(tl.float32), mask=here)
            tl.store(own + 1, (_unit(b) * 2 - 1).to(tl.float32), mask=here)
            tl.store(own + 2, (_unit(c) * 2 - 1).to(tl.float32), mask=here)
            tl.store(own + 3, (_unit(d) * 2 - 1).to(tl.float32), mask=here)


@torch.compiler.disable  # which would compile it anew, and may fuse
def side(rows: torch.Tensor, law: Law, features: int) -> tuple[torch.Tensor, ...]:
    """Images, partners, classes of both, int64 [B], lambda [B] and features [B, features], float32, of rows [B].

    law is (whole, real, classes) as above; features are 0, if nobody looks at them, or 17 + 4 n.
    """
    B = len(rows)
    numbers = rows.new_empty((4, B), dtype=torch.int64)
    share, found = (rows.new_empty(shape, dtype=torch.float32) for shape in ((B,), (B, features)))
    if B:
        with on(rows.device):
            _side[(-(-B // BM),)](rows, *law, numbers, share, found, B, features, BM, **OPTIONS)
    return (*numbers, share, found)


def compile_cases() -> list[dict[str, Any]]:
    """Every configuration there is, for tests/compiled.py."""
    signature = {"whole": "*i64", "real": "*fp64", "classes": "*i64", "numbers": "*i64", "share_to": "*fp32"}
    case = {"kernel": _side, "options": OPTIONS}
    return [
        {
            **case,
            "name": f"F={F} {kind}",
            "signature": {**signature, "rows": f"*{kind}", "features": "*fp32", "B": "i32"},
            "constants": {"FEATURES": F, "BM": BM},
        }
        for F, kind in ((0, "i32"), (17, "i32"), (29, "i32"), (29, "i64"))
    ]
