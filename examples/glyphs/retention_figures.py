"""Figures of RETENTION.md: accuracy against bytes, and where the bytes are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from examples.glyphs import retention_law
from examples.glyphs.rate_figures import COLOURS
from examples.glyphs.retention_table import WARM, Entry, at_its_own, entries
from examples.glyphs.settings import Settings

RIVALS = {
    "lpld": ("^", "LPLD"), "lpqld": ("v", "LPQLD"), "tinyvit": ("P", "TinyViT"), "faiss": ("s", "faiss"),
    "vqae": ("D", "VQAE"), "one": ("*", "one label per image"), "int8": ("<", "int8"), "fp16": (">", "fp16"),
}  # fmt: skip
PARTS = (
    ("labels", "labels", "#1f5fa8"),
    ("augmentation", "augmentation", "#b8560f"),
    ("rest", "codec, container", "0.6"),
)


def plot(results: dict[str, Any], settings: Settings, folder: Path) -> None:
    """Draw what is there; the same results give the same bytes."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    found = [at_its_own(entry) for entry in entries(results, settings) if WARM in entry.runs]
    if not found:
        raise ValueError("there are no students to draw yet: python -m examples.glyphs.retention run")
    with mpl.rc_context({"svg.hashsalt": "retention"}):
        for name, draw, size in (("retention", _accuracies, (8, 5)), ("bytes", _bytes, (8, 7))):
            figure, axes = pyplot.subplots(figsize=size, layout="constrained")
            draw(axes, found)
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
            pyplot.close(figure)
        points = retention_law.points(results, settings)
        if len({ipc for ipc, *_ in points}) > 2:  # fewer sizes tell nothing of how the error falls
            figure, axes = pyplot.subplots(figsize=(7, 5), layout="constrained")
            retention_law.draw(axes, points, settings)
            figure.savefig(folder / "tradeoff.svg", metadata={"Date": None})
            pyplot.close(figure)


def front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those points (bytes, accuracy) that no other one beats in both."""
    best, kept = -np.inf, []
    for size, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if accuracy > best:
            best = accuracy
            kept.append((size, accuracy))
    return kept


def _accuracies(axes: Any, found: list[Entry]) -> None:
    for prior, colour in COLOURS.items():
        ours = [e for e in found if e.source.scheme == "vq" and e.source.prior == prior]
        for pruned, marker in ((False, "o"), (True, "x")):
            some = [e for e in ours if (e.source.keep > 1) == pruned]
            label = f"ours, prior {prior}" + (", pruned" if pruned else "")
            _points(axes, some, marker, label, color=colour, linestyle="none" if pruned else "-")
    for scheme, (marker, label) in RIVALS.items():
        _points(axes, [e for e in found if e.source.scheme == scheme], marker, label, color="0.4", linestyle="none")
    points = [(e.bytes["all"], float(np.mean(e.runs[WARM]))) for e in found if e.bytes["all"] > 0]
    axes.plot(*zip(*front(points), strict=True), color="0.2", linewidth=0.8, linestyle=":", label="Pareto front")
    for entry in found:
        if entry.source.scheme == "hard":
            axes.axhline(np.mean(entry.runs[WARM]), color="0.6", linewidth=0.8, linestyle="--", label="hard labels")
    axes.set(
        xscale="log",
        xlabel=f"bytes a label, all-in; students at T = {WARM:g}, or at the temperature of their labels",
        ylabel="accuracy of the student, %",
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, ncols=2)


def _points(axes: Any, some: list[Entry], marker: str, label: str, **look: Any) -> None:
    some = sorted(some, key=lambda entry: entry.bytes["all"])
    if some:
        sizes, runs = [e.bytes["all"] for e in some], [e.runs[WARM] for e in some]
        middle, spread = [np.mean(r) for r in runs], [np.std(r) for r in runs]
        axes.errorbar(sizes, middle, yerr=spread, marker=marker, label=label, markersize=5, linewidth=1, **look)


def _bytes(axes: Any, found: list[Entry]) -> None:
    some = sorted((e for e in found if e.bytes["all"] > 0), key=lambda entry: -entry.bytes["all"])
    places, left = np.arange(len(some)), np.zeros(len(some))
    for name, label, colour in PARTS:
        width = np.array([_part(entry, name) for entry in some])
        axes.barh(places, 100 * width, left=100 * left, color=colour, label=label)
        left += width
    axes.set_yticks(places, [f"{e.source.name}: {e.bytes['all']:.3g} B" for e in some], fontsize=6)
    axes.set(xlabel="share of all bytes of the label set here, %", xlim=(0, 100))
    axes.legend(fontsize=7, loc="lower right")


def _part(entry: Entry, name: str) -> float:
    size = entry.bytes
    rest = size["all"] - size["labels"] - size["augmentation"]
    return (rest if name == "rest" else size[name]) / size["all"]
