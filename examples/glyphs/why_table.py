"""The tables of why images matter, in IMAGES.md, from results/main.json."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from examples.glyphs import retention_law, structure
from examples.glyphs.data import SIDE
from examples.glyphs.main_sources import PRUNED, WARM, Grid, middle
from examples.glyphs.main_table import COMMAND, Sets, every_set, found_sets, runs_of
from examples.glyphs.rate_table import GAP
from examples.glyphs.retention_figures import front
from examples.glyphs.retention_sources import Source

KINDS = {
    "lpqld": "the top k alone, renormalised",
    "tinyvit": "the top k, the others flat",
    "shuffled": "all but the top k shuffled",
    "swapped": "all but the top k of another row of the class",
}
Point = tuple[float, float, str]  # bytes of images and labels, accuracy, what it is


def tables(results: dict[str, Any], grid: Grid) -> Iterator[str]:
    """All of them, line by line; those of which nothing is known are left out."""
    classes = grid.settings.classes
    kinds = (_measured, _pruned, _broken, _laws, _front)
    if parts := [line for kind in kinds for line in kind(results, grid)]:
        yield f"## Why the images matter, {classes:,} classes (`{COMMAND} why --classes {classes}`)\n"
        yield from parts


def _table(title: str, head: list[str], rows: list[list[str]]) -> Iterator[str]:
    if rows:
        yield f"**{title}**\n"
        yield "| " + " | ".join(head) + " |"
        yield "|---" * len(head) + "|"
        yield from ("| " + " | ".join(row) + " |" for row in rows)
        yield ""


def _measured(results: dict[str, Any], grid: Grid) -> Iterator[str]:
    why = results.get("why", {})
    ipc = middle(grid)
    found = {m: why[repr(grid.of(m, ipc))] for m in grid.methods if repr(grid.of(m, ipc)) in why}
    names = list(next(iter(found.values()), {}))
    rows = [[method, *(f"{each[name]:.3g}" for name in names)] for method, each in found.items()]
    yield from _table(f"Images and their labels, {ipc} images a class", ["images", *names], rows)


def _pruned(results: dict[str, Any], grid: Grid) -> Iterator[str]:
    rows, sets = [], every_set(results, grid)
    for method in grid.methods:
        each = sets.get((method, middle(grid)), [])
        found = [runs_of(each, Source("fp16", keep=keep)) for keep in PRUNED]
        if found[0] and any(found[1:]):
            seeds = [sorted(set(found[0]) & set(runs)) for runs in found]
            lost = [[runs[s] - found[0][s] for s in own] for runs, own in zip(found, seeds, strict=True)]
            words = [f"{np.mean(each):+.1f} ({len(each)})" if each else GAP for each in lost[1:]]
            rows.append([method, f"{np.mean(list(found[0].values())):.1f}", *words])
    title = f"Fewer fp16 labels, {middle(grid)} images a class: accuracy with all, and points lost (seeds)"
    yield from _table(title, ["images", "all", *(f"one epoch in {keep}" for keep in PRUNED[1:])], rows)


def _broken(results: dict[str, Any], grid: Grid) -> Iterator[str]:
    rows, ipc, sets = [], middle(grid), every_set(results, grid)
    for method in ("random", "lpld"):
        each = sets.get((method, ipc), [])
        for scheme, words in KINDS.items():
            found = [runs_of(each, Source(scheme, k=k)) for k in structure.KEPT]
            if any(found):
                accuracies = [f"{np.mean(list(runs.values())):.1f} ({len(runs)})" if runs else GAP for runs in found]
                rows.append([method, words, *accuracies])
    title = f"Broken fp16 labels, {ipc} images a class: accuracy at T = {WARM:g} (seeds)"
    yield from _table(title, ["images", "what is left", *(f"k = {k}" for k in structure.KEPT)], rows)


def points(sets: Sets, grid: Grid) -> dict[str, list[tuple[int, float, float, str]]]:
    """Students by method: images a class, bytes of labels an image, accuracy, and the labels' name.

    Of the first seed, which all of them have: lucky seeds differ by more than labels do.
    """
    found: dict[str, list[tuple[int, float, float, str]]] = {}
    for (method, ipc), each in sets.items():
        for entry in each:
            if 0 in (runs := entry.at(WARM)):
                label_bytes = grid.settings.epochs * entry.bytes["all"]
                found.setdefault(method, []).append((ipc, label_bytes, runs[0], entry.source.name))
    return found


def pareto(results: dict[str, Any], grid: Grid) -> list[Point]:
    """Those sets of images and labels that no other one beats in both bytes and accuracy."""
    every = [
        (ipc * grid.settings.classes * (SIDE**2 + size), accuracy, f"{method}, {ipc} a class, {name}")
        for method, each in points(every_set(results, grid), grid).items()
        for ipc, size, accuracy, name in each
    ]
    best = set(front([(size, accuracy) for size, accuracy, _ in every]))
    return sorted({point[:2]: point for point in reversed(every) if point[:2] in best}.values())


def _laws(results: dict[str, Any], grid: Grid) -> Iterator[str]:
    rows, found = [], found_sets(results, grid).items()
    still = {key: [e for e in each if e.source.schedule == "constant"] for key, each in found}
    for method, each in points(still, grid).items():
        ours = [point for point in each if point[3].startswith(("ours", "hard", "fp16"))]
        if len({ipc for ipc, *_ in ours}) > 2:  # fewer sizes tell nothing of how the error falls
            columns = [np.array(column, np.float64) for column in list(zip(*ours, strict=True))[:3]]
            rows.append([method, str(len(ours)), str(retention_law.fit(*columns))])
    title = "Images or labels, first seed: I images a class, L bytes of labels an image; of hard, fp16 and our labels"
    title += f" at T = {WARM:g}"
    yield from _table(title, ["images", "sets", "law, in points of accuracy"], rows)


def _front(results: dict[str, Any], grid: Grid) -> Iterator[str]:
    rows = [[f"{size / 1e6:.2f}", f"{accuracy:.1f}", name] for size, accuracy, name in pareto(results, grid)]
    title = f"Sets that no other one beats, of all students at T = {WARM:g} or DKR, first seed"
    yield from _table(title, ["MB of images and labels", "accuracy, %", "set"], rows)
