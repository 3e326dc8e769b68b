"""What every codec checks before it works: logits, side information, rows and the settings that a file claims."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vqlabel.codecs.layout import PriorShape
from vqlabel.errors import Corrupt
from vqlabel.known import Side
from vqlabel.logits import remedy
from vqlabel.side import ImageSide
from vqlabel.tokens import OUTSIDE, TokenSide

GRID = 4096  # the mean is taken of logits rounded to 1 / GRID


def check_logits(logits: torch.Tensor, classes: int) -> torch.Tensor:
    """Logits [B, C] as float32 with the mean of each row taken away, finite; ValueError names the first that is not.

    A row comes out the same whatever stands beside it, on every device: logits rounded to the grid are whole numbers,
    their float64 sum is exact below 2**53 (2**24 classes up to 2**17 each), so its order does not matter. What the mean
    is off by, half a grid step or its rounding to float32, is a constant of the row, and so nothing.
    """
    check_shape(logits, classes)
    values = logits.detach().float()
    sums = (values * GRID).round_().sum(1, dtype=torch.float64)
    # A NaN or an infinity anywhere in a row is one in its sum: no second pass over the logits.
    if not bool(sums.isfinite().all()):
        raise ValueError(_first_bad(values))
    # By a tensor: a GPU divides by a plain number through its reciprocal, and rounds once more.
    means = sums / torch.full_like(sums, GRID * classes)
    return values - means.float()[:, None]


def check_shape(logits: torch.Tensor, classes: int) -> None:
    """TypeError or ValueError unless these are floats [B, C]."""
    if not isinstance(logits, torch.Tensor) or not logits.is_floating_point():
        found = logits.dtype if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise TypeError(f"logits must be a torch tensor of floats [B, {classes}], got {found}")
    if logits.ndim != 2 or logits.shape[1] != classes:
        raise ValueError(f"logits must be [B, {classes}], got {list(logits.shape)}")


def _first_bad(values: torch.Tensor) -> str:
    row, number = (~(values * GRID).isfinite()).nonzero()[0].tolist()
    value = float(values[row, number])
    allowed, advice = "below 8e34", "look at what the teacher made of that row"
    if not np.isfinite(value):
        allowed, advice = "finite", remedy(f"{value:g}")
    return f"logits[{row}, {number}] is {value:g}, but logits must be {allowed}: {advice}"


def check_side(side: Side | None, shape: PriorShape | None, rows: int) -> None:
    """ValueError unless this tells a prior of this shape what it wants to know of so many rows."""
    if shape is None:
        return
    if side is None:
        raise ValueError("these labels lean on side information (images, classes, replay): pass side=")
    if len(side) != rows:
        raise ValueError(f"side information of {len(side)} rows was given for {rows}")
    if (shape.tier == "tokens") != isinstance(side, TokenSide):
        raise ValueError(f"this prior is of tier {shape.tier!r}, but the side information is a {type(side).__name__}")
    if isinstance(side, TokenSide):
        _check_tokens(side, shape)
    elif isinstance(side, ImageSide):
        _check_images(side, shape)


def _check_tokens(side: TokenSide, shape: PriorShape) -> None:
    if side.tokens.shape[1] != shape.features:
        raise ValueError(f"this prior looks at {shape.features} tokens of a row, but {side.tokens.shape[1]} are given")
    if len(side) and not OUTSIDE <= int(side.tokens.min()) <= int(side.tokens.max()) < shape.classes:
        bad = int(side.tokens.max() if side.tokens.max() >= shape.classes else side.tokens.min())
        raise ValueError(f"a token is {bad}, but this prior knows 0 to {shape.classes - 1}")


def _check_images(side: ImageSide, shape: PriorShape) -> None:
    _check_numbers("class", (side.own, side.other), shape.classes)
    if shape.tier == "classes":
        return
    _check_numbers("image", (side.images, side.partners), shape.images)
    if side.features.shape[1] != shape.features:
        raise ValueError(
            f"this prior looks at {shape.features} features of a row, but the side information has "
            f"{side.features.shape[1]}: it is of another tier, or of other draws"
        )
    if shape.tier == "image" and (side.views is None or side.views.ndim != 4 or side.views.shape[1] != shape.channels):
        found = "none" if side.views is None else f"views of shape {list(side.views.shape)}"
        raise ValueError(f"this prior looks at views [B, {shape.channels}, height, width], but there are {found}")


def _check_numbers(what: str, tensors: tuple[torch.Tensor, torch.Tensor], count: int) -> None:
    for numbers in tensors:
        if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < count:
            bad = int(((numbers < 0) | (numbers >= count)).nonzero()[0])
            raise ValueError(f"row {bad} is of {what} {int(numbers[bad])}, but this prior knows 0 to {count - 1}")


def check_rows(rows: NDArray[np.uint8], row_bytes: int) -> NDArray[np.uint8]:
    """Packed rows [B, row_bytes], contiguous."""
    rows = np.asarray(rows)
    if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != row_bytes:
        raise ValueError(f"rows must be uint8 [B, {row_bytes}], got {rows.dtype} {list(rows.shape)}")
    return np.ascontiguousarray(rows)


@contextmanager
def claimed(config: Mapping[str, Any]) -> Iterator[None]:
    """Turn a ValueError of the block into Corrupt: what a user may not ask for, a file may not claim."""
    try:
        yield
    except ValueError as error:
        raise Corrupt(f"codec {config['id']!r}: {error}") from None


def check_settings(config: Mapping[str, Any], names: Iterable[str]) -> None:
    """Corrupt unless the config of a file holds the id and these settings, and nothing else."""
    name, known = config["id"], {"id", *names}
    missing, unknown = sorted(known - set(config)), sorted(set(config) - known)
    if missing:
        raise Corrupt(f"codec {name!r} has no setting {missing[0]!r}")
    if unknown:
        raise Corrupt(f"codec {name!r} has a setting {unknown[0]!r:.80}, which it does not know")


def check_setting(config: Mapping[str, Any], name: str, allowed: tuple[str, ...]) -> str:
    """A setting that is one of these words, or Corrupt."""
    value = config[name]
    if not isinstance(value, str) or value not in allowed:
        raise Corrupt(f"codec {config['id']!r}: {name} is {value!r:.40}, not one of {', '.join(allowed)}")
    return value
