"""The figure: what students learn against the bytes of a label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from examples.language.settings import Settings
from examples.language.sources import Source
from examples.language.table import GAPS, Entries, entries, share
from examples.language.teacher import SHARPNESS

LOOKS: dict[str, dict[str, Any]] = {
    "ours, prior tokens": {"marker": "o", "color": "#1f5fa8", "linestyle": "-"},
    "ours, prior none": {"marker": "o", "color": "#7fb0dd", "linestyle": "-"},
    "ours, with exact classes": {"marker": "D", "color": "#3b8f4b", "linestyle": "none"},
    "random sampling": {"marker": "s", "color": "#b8560f", "linestyle": "-"},
    "top-k, unigram tail": {"marker": "^", "color": "0.3", "linestyle": "-"},
    "top-k, ghost token": {"marker": "v", "color": "0.5", "linestyle": "-"},
    "DistillKit": {"marker": "P", "color": "#7b3fa0", "linestyle": "none"},
    "fp16": {"marker": ">", "color": "0.1", "linestyle": "none"},
}
LOWEST = -50  # per cent of a gap that is still drawn


def plot(results: dict[str, Any], settings: Settings, folder: Path) -> None:
    """Draw what is there; the same results give the same bytes."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    found = {condition: entries(results, settings, condition, "kd") for condition in SHARPNESS}
    shown = [(condition, what) for condition, each in found.items() for what in GAPS if _drawn(each, what)]
    if not shown:
        raise ValueError("there are no students to draw yet: python -m examples.language.run all")
    with mpl.rc_context({"svg.hashsalt": "language"}):
        figure, axes = pyplot.subplots(
            1, len(shown), figsize=(4.6 * len(shown), 4.2), squeeze=False, layout="constrained"
        )
        for place, (condition, what) in zip(axes[0], shown, strict=True):
            _gaps(place, found[condition], what)
            place.set_title(f"teacher {condition}: {GAPS[what]}", fontsize=10)
        axes[0][0].legend(fontsize=7, loc="lower right")
        figure.savefig(folder / "language.svg", metadata={"Date": None})
        pyplot.close(figure)


def _drawn(found: Entries, what: str) -> bool:
    return sum(share(entry, found, what) is not None for entry in found.values()) > 2


def kind_of(source: Source) -> str | None:
    """Which line of the figure a source belongs to."""
    if source.scheme == "vq":
        return "ours, with exact classes" if source.top else f"ours, prior {source.prior}"
    words = {"draws": "random sampling", "distillkit": "DistillKit", "full": "fp16"}
    tails = {"unigram": "top-k, unigram tail", "ghost": "top-k, ghost token"}
    return tails.get(source.tail) if source.scheme == "top" else words.get(source.scheme)


def _gaps(axes: Any, found: Entries, what: str) -> None:
    for kind, look in LOOKS.items():
        some = [e for e in found.values() if kind_of(e.source) == kind]
        points = [(e.bytes["codes"], value) for e in some if (value := share(e, found, what)) is not None]
        points = [(size, max(value, LOWEST)) for size, value in sorted(points)]
        if points:
            axes.plot(*np.array(points).T, label=kind, markersize=5, linewidth=1, **look)
    for level in (0, 100):
        axes.axhline(level, color="0.6", linewidth=0.8, linestyle="--")
    axes.set(xscale="log", xlabel="bytes a token of codes", ylabel="share of the gap from hard to full labels, %")
    axes.set_ylim(LOWEST - 5, 110)
    axes.grid(alpha=0.3)
