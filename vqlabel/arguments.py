"""Checks of plain arguments, whoever gives them: a user, or the metadata of a file."""

from __future__ import annotations

import operator
from collections.abc import Collection
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def check_whole(name: str, value: Any, least: int, most: int) -> int:
    """It as an int; ValueError unless it is a whole number of this range. True and 2.0 are none."""
    try:
        found = operator.index(value)
    except TypeError:
        found = least - 1
    if isinstance(value, bool) or not least <= found <= most:
        raise ValueError(f"{name} must be a whole number from {least} to {most}, got {value!r:.80}")
    return found


def keep_whole(record: object, name: str, least: int, most: int) -> None:
    """Keep a field of a dataclass as an int, whoever's integer it is; ValueError unless it is one of this range."""
    object.__setattr__(record, name, check_whole(name, getattr(record, name), least, most))


def check_number(name: str, value: Any, least: float, most: float) -> float:
    """It as an int or float; ValueError unless it is a number of this range."""
    real = isinstance(value, Real) and not isinstance(value, bool)
    if not real or not least <= value <= most:
        raise ValueError(f"{name} must be {least:g} to {most:g}, got {value!r:.80}")
    return value if isinstance(value, (int, float)) else float(value)


def whole_numbers(name: str, values: ArrayLike, limit: int) -> NDArray[np.int64]:
    """One number or several [B] as int64; TypeError or ValueError unless they are whole, and below the limit."""
    found = np.asarray(values)
    if found.ndim > 1 or (found.size and found.dtype.kind not in "iu"):
        raise TypeError(f"{name} must be whole numbers, got {found.dtype} {list(found.shape)}")
    if found.size and not 0 <= found.min() <= found.max() < limit:
        raise ValueError(f"{name} must be 0 to {limit - 1}, got {found.min()} to {found.max()}")
    return np.asarray(found, np.int64)


def check_word(name: str, value: Any, allowed: Collection[str]) -> None:
    """ValueError unless this is one of these words."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r:.80}")
