"""Figures of IMAGES.md: accuracy against all bytes, and against labels that are left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from examples.glyphs import why_table
from examples.glyphs.data import SIDE
from examples.glyphs.main_sources import PRUNED, WARM, Grid, middle
from examples.glyphs.main_table import every_set, found_sets, runs_of
from examples.glyphs.retention_sources import Source

COLOURS = {"random": "0.2", "rded": "#b8560f", "rded1": "#d9a441", "sre2l": "#1f5fa8", "cda": "#3f9fb5",
           "lpld": "#8a3f8f", "noise": "0.7"}  # fmt: skip
MARKS = {"fp16": ">", "hard": "_", "ours": "o", "our ": "D", "LPQL": "v", "one ": "*"}


def plot(results: dict[str, Any], grid: Grid, path: Path) -> None:
    """Draw what is there; the same results give the same bytes."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    found = why_table.points(found_sets(results, grid), grid)
    if not found:
        raise ValueError("there are no students to draw yet: python -m examples.glyphs.main run")
    with mpl.rc_context({"svg.hashsalt": "main"}):
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 5), layout="constrained", width_ratios=(2, 1))
        _bytes(left, found, grid.settings.classes)
        _front(left, results, grid)
        _pruned(right, results, grid)
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)


def _bytes(axes: Any, found: dict[str, list[tuple[int, float, float, str]]], classes: int) -> None:
    for method, each in found.items():
        for ipc, size, accuracy, name in each:
            whole = ipc * classes * (SIDE**2 + size) / 1e6
            look = {"marker": MARKS.get(name[:4], "."), "color": COLOURS.get(method, "0.5"), "linestyle": "none"}
            axes.plot(whole, accuracy, markersize=5, **look)
        axes.plot([], [], "s", color=COLOURS.get(method, "0.5"), label=method)
    axes.set(xscale="log", xlabel="MB of images and labels, all-in", ylabel=f"accuracy, %, T = {WARM:g}")
    axes.set_title("> fp16, o ours, D VQAE, v LPQLD, * one label an image, _ hard", fontsize=8)
    axes.grid(alpha=0.3)


def _front(axes: Any, results: dict[str, Any], grid: Grid) -> None:
    best = why_table.pareto(results, grid)
    axes.plot([size / 1e6 for size, *_ in best], [point[1] for point in best], ":", color="0.3", label="not beaten")
    axes.legend(fontsize=7)


def _pruned(axes: Any, results: dict[str, Any], grid: Grid) -> None:
    for (method, ipc), each in every_set(results, grid).items():
        if ipc != middle(grid):
            continue
        runs = {keep: found for keep in PRUNED if (found := runs_of(each, Source("fp16", keep=keep)))}
        seeds = set.intersection(*map(set, runs.values())) if runs else set()  # lucky seeds differ by more
        known = {keep: float(np.mean([found[seed] for seed in seeds])) for keep, found in runs.items() if seeds}
        if len(known) > 1:
            axes.plot([*known], [*known.values()], "o-", color=COLOURS.get(method, "0.5"), label=method)
    axes.set(xscale="log", xlabel="one epoch of fp16 labels in so many", ylabel="accuracy, %")
    axes.set_xticks(PRUNED, [str(keep) for keep in PRUNED])
    axes.grid(alpha=0.3)
