"""What is written to a terminal; a file's own words must not steer it."""

from __future__ import annotations

import sys
from typing import Any


def one_line(value: object) -> str:
    """Text of a value with everything that does not print spelled out."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(value))


def safe(value: str) -> Any:
    """The same for rich: no markup, no emoji."""
    from rich.text import Text

    return Text(one_line(value))


def say(message: str) -> None:
    """A line on standard error."""
    print(message, file=sys.stderr)
