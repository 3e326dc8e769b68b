"""Checks of plain arguments, whoever gives them: a user, or the metadata of a file."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any


def check_whole(name: str, value: Any, least: int, most: int) -> None:
    """ValueError unless this is a whole number of this range; True and 2.0 are none."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{name} must be a whole number from {least} to {most}, got {value!r:.80}")


def check_word(name: str, value: Any, allowed: Collection[str]) -> None:
    """ValueError unless this is one of these words."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r:.80}")
