"""What it changes that some test renderings are also in a face to learn from: students tested with and without them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from examples.glyphs.rate_table import GAP

TESTS = ("accuracy", "unseen")  # of all renderings, and of those that are in the test alone
Runs = dict[int, dict[str, Any]]  # students by seed


def table(results: dict[str, Any], classes: int) -> Iterator[str]:
    """Markdown, line by line, of all labels whose students were tested in both ways."""
    found = _students(results, classes)
    if not found:
        return
    which = f"Of {classes:,} classes, without test renderings that a face to learn from has too"
    yield f"**{which}**: accuracy (seeds) and retention, per cent\n"
    yield "| images | a class | labels | T | all renderings | without them |"
    yield "|---|---|---|---|---|---|"
    for (method, ipc, name, temperature), runs in found.items():
        full = found.get((method, ipc, "fp16", temperature), {})
        sides = " | ".join(_told(runs, full, test) for test in TESTS)
        yield f"| {method} | {ipc} | {name} | {temperature:g} | {sides} |"
    yield ""


def _students(results: dict[str, Any], classes: int) -> dict[tuple[str, int, str, float], Runs]:
    found: dict[tuple[str, int, str, float], Runs] = {}
    for cell in results["cells"].values():
        settings = cell["settings"]
        if (settings["classes"], settings["mixing"]) == (classes, 0.5) and all(test in cell for test in TESTS):
            key = settings.get("method", "random"), settings["ipc"], cell["name"], cell["temperature"]
            found.setdefault(key, {})[cell["seed"]] = cell
    return found


def _told(runs: Runs, full: Runs, test: str) -> str:
    """Accuracy, and what that is of the accuracy that fp16 labels teach with the same seeds."""
    told = f"{_mean(runs, test):.2f} ({len(runs)})"
    if not (common := runs.keys() & full.keys()):
        return f"{told}; {GAP}"
    own, whole = (_mean({seed: each[seed] for seed in common}, test) for each in (runs, full))
    return f"{told}; {100 * own / whole:.1f}"


def _mean(runs: Runs, test: str) -> float:
    return float(np.mean([cell[test] for cell in runs.values()]))


def easier(results: dict[str, Any], classes: int) -> Iterator[str]:
    """How much the renderings that faces to learn from have too add to the accuracy."""
    for name in ("fp16", "hard"):
        cells = [c for c in results["cells"].values() if c["settings"]["classes"] == classes and c["name"] == name]
        more = [c["accuracy"] - c["unseen"] for c in cells if all(test in c for test in TESTS)]
        if more:
            yield f"of {name} labels {min(more):.1f} to {max(more):.1f} points"
