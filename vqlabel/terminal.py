"""What is written to a terminal; a file's own words must not steer it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

UNREAD = 141  # the status of a process that SIGPIPE ended


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


@contextmanager
def piped() -> Iterator[None]:
    """Ends the process, without a word as other tools do, when nobody reads what it prints any more."""
    try:
        try:
            yield
        finally:
            print(end="", flush=True)  # what is still held back
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
        sys.exit(UNREAD)
