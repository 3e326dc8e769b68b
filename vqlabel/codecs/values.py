"""Values of a row as bytes: fp16, or 8 bits and a scale. CODECS.md, "Values", is the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

LARGEST_HALF = 65504.0
SCALE_BYTES = 4  # fp16 low, fp16 step


def half_bytes(values: torch.Tensor) -> NDArray[np.uint8]:
    """Values [B, n] as fp16, [B, 2 n]; ValueError for one that fp16 cannot hold."""
    _check_range(values)
    return _bytes(values.half())


def halves(rows: NDArray[np.uint8]) -> torch.Tensor:
    """Values float32 [B, n] of fp16 [B, 2 n]."""
    little = rows.copy().view("<f2")  # a copy, because torch takes no strides that are half a number
    return torch.from_numpy(little.astype(np.float16, copy=False)).float()


def scaled_bytes(values: torch.Tensor) -> NDArray[np.uint8]:
    """Values [B, n] as low, step and one byte each, [B, 4 + n]: off by at most half a step.

    That needs low to be no further from 0 than the values are apart, or 2**-13: rows that are centred on their mean or
    measured from their largest.
    """
    _check_range(values)
    lowest, highest = values.aminmax(dim=1, keepdim=True)
    low = lowest.half()
    span = (highest - low.float()).clamp(min=0)
    step = half_step(span, 255)
    codes = ((values - low.float()) / step.float()).nan_to_num(0.0).round().clamp(0, 255)  # n / 0: a constant row
    return np.concatenate([_bytes(torch.cat([low, step], dim=1)), codes.to(torch.uint8).cpu().numpy()], axis=1)


def half_step(span: torch.Tensor, count: int) -> torch.Tensor:
    """The smallest fp16 of which `count` steps reach across each span, where there is one; spans are not negative."""
    step = (span / torch.full_like(span, count)).half()  # by a tensor, as in check_logits
    # The next fp16 where rounding made the step too small; positive halves sort as integers.
    return torch.where(step.float() * count < span, (step.view(torch.int16) + 1).view(torch.float16), step)


def scaled(rows: NDArray[np.uint8]) -> torch.Tensor:
    """Values float32 [B, n] of low, step and one byte each."""
    scale = halves(rows[:, :SCALE_BYTES])
    codes = torch.from_numpy(rows[:, SCALE_BYTES:].astype(np.float32))
    return scale[:, :1] + scale[:, 1:] * codes


def _bytes(halves: torch.Tensor) -> NDArray[np.uint8]:
    little: NDArray[Any] = np.ascontiguousarray(halves.cpu().numpy(), "<f2")
    return little.view(np.uint8)


def _check_range(values: torch.Tensor) -> None:
    lowest, highest = values.aminmax(dim=1)
    magnitude = torch.maximum(-lowest, highest)
    beyond = (magnitude > LARGEST_HALF).nonzero()
    if len(beyond):
        row = int(beyond[0])
        raise ValueError(
            f"row {row} has a logit of magnitude {float(magnitude[row]):g} after centring, but fp16 ends at "
            f"{LARGEST_HALF:g}; divide all logits by a constant, and the temperatures with them, or clip what the "
            "teacher says"
        )
