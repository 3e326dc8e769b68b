"""What it changes that some test renderings are also in a face to learn from: students tested with and without them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from examples.glyphs.rate_table import GAP

Pair = dict[bool, dict[int, float]]  # accuracies by seed, of all renderings and of those that are in the test alone


def table(results: dict[str, Any], classes: int, command: str) -> Iterator[str]:
    """Markdown, line by line, of all labels that have students of both kinds."""
    found = {key: pair for key, pair in _pairs(results, classes).items() if set(pair[False]) & set(pair[True])}
    if not found:
        return
    yield f"**Without test renderings that a face to learn from has too** (`{command} --unseen`): accuracy (seeds) and"
    yield "retention, per cent\n"
    yield "| images | a class | labels | T | all renderings | without them |"
    yield "|---|---|---|---|---|---|"
    for (method, ipc, name, temperature), pair in found.items():
        full = found.get((method, ipc, "fp16", temperature))
        sides = " | ".join(_told(pair, full, unseen) for unseen in (False, True))
        yield f"| {method} | {ipc} | {name} | {temperature:g} | {sides} |"
    yield ""


def _pairs(results: dict[str, Any], classes: int) -> dict[tuple[str, int, str, float], Pair]:
    pairs: dict[tuple[str, int, str, float], Pair] = {}
    for cell in results["cells"].values():
        settings = cell["settings"]
        if settings["classes"] == classes and settings["mixing"] == 0.5:
            key = settings.get("method", "random"), settings["ipc"], cell["name"], cell["temperature"]
            side = pairs.setdefault(key, {False: {}, True: {}})[settings.get("unseen", False)]
            side[cell["seed"]] = cell["accuracy"]
    return pairs


def _told(pair: Pair, full: Pair | None, unseen: bool) -> str:
    """Accuracy of the seeds that both sides have, and what that is of fp16 labels."""
    seeds = sorted(set(pair[False]) & set(pair[True]))
    accuracy = float(np.mean([pair[unseen][seed] for seed in seeds]))
    common = [seed for seed in seeds if full and seed in full[False] and seed in full[True]]
    if full is None or not common:
        return f"{accuracy:.2f} ({len(seeds)}); {GAP}"
    own, whole = (float(np.mean([each[unseen][seed] for seed in common])) for each in (pair, full))
    return f"{accuracy:.2f} ({len(seeds)}); {100 * own / whole:.1f}"
