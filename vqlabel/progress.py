"""A bar for a person at a terminal: how far, how fast, how long still."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def bar(what: str, total: int, *, shown: bool) -> Iterator[Callable[[int], object]]:
    """Get advance(rows). Nothing is drawn unless it is to be shown and errors go to a terminal."""
    if not shown or not sys.stderr.isatty():
        yield lambda rows: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

    class Speed(ProgressColumn):
        def render(self, task: Any) -> str:
            return f"{task.speed or 0:,.0f} rows/s"

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Speed(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda rows: progress.advance(task, rows)
