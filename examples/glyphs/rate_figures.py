"""results/rate.svg: KL against bytes with the bounds, and how full the codes are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from examples.glyphs.rate_cells import RATES
from examples.glyphs.rate_table import Entry, bound_of, codecs

COLOURS = dict(zip(RATES, ("#1f5fa8", "#b8560f", "#2e7d32", "#8e2a8b"), strict=True))
RIVALS = (("OPQ", "^", "OPQ of faiss"), ("PQ", "v", "PQ of faiss"), ("PCA64,RQ", "s", "RQ of faiss"),
          ("PCA64,PQ", "<", "PCA and PQ of faiss"), ("TinyViT", "P", "TinyViT"))  # fmt: skip


def plot(results: dict[str, Any], path: Path, *, classes: int, effort: float = 1.0) -> None:
    """Draw what is there; the same results give the same bytes."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    entries = [e for e in results["cells"].values() if e["classes"] == classes and e["effort"] == effort]
    mixings = sorted({entry["mixing"] for entry in entries})
    if not mixings:
        raise ValueError("there are no cells to draw yet: python -m examples.glyphs.rate measure")
    panels = len(mixings) + 1
    with mpl.rc_context({"svg.hashsalt": "rate"}):
        figure, axes = pyplot.subplots(1, panels, figsize=(5.2 * panels, 4.6), layout="constrained")
        for mixing, place in zip(mixings, axes, strict=False):
            _divergences(place, [entry for entry in entries if entry["mixing"] == mixing])
            place.set_title("CutMix always on" if mixing == 1 else f"CutMix with p = {mixing:g}")
        _entropies(axes[-1], [entry for entry in entries if entry["mixing"] == mixings[0]])
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)


def _divergences(axes: Any, entries: list[Entry]) -> None:
    for prior, colour in COLOURS.items():
        cells = sorted(
            codecs(entries, prior=prior, temperature=20.0, stored="int8", form="auto"), key=lambda e: e["bytes"]
        )
        axes.plot([e["bytes"] for e in cells], [e["kl"]["20"] for e in cells], "o-", color=colour, label=prior)
        under = [(e, bound_of(entries, e)) for e in cells]
        points = [(e["bytes"], e["kl"]["20"] * bound / e["squared_error"]) for e, bound in under if bound]
        if points:
            axes.plot(*zip(*points, strict=True), "--", color=colour, linewidth=1)
    for start, marker, label in RIVALS:
        found = [e for e in entries if e["kind"] == "rival" and e["name"].startswith(start)]
        found.sort(key=lambda e: e["row_bytes"])
        places = [e["row_bytes"] for e in found], [e["kl"]["20"] for e in found]
        axes.plot(*places, marker, color="0.45", markersize=5, label=label)
    axes.plot([], [], "--", color="0.3", linewidth=1, label="Gaussian bound of each prior")
    axes.set_xscale("symlog", linthresh=2, base=2)
    axes.set(yscale="log", xlim=(-0.1, 600), xlabel="bytes of codes a label", ylabel="mean KL at T = 20, nats")
    ticks = [0, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def _entropies(axes: Any, entries: list[Entry]) -> None:
    for prior, colour in COLOURS.items():
        cells = [
            e for e in codecs(entries, prior=prior, temperature=20.0, stored="int8", form="auto") if "entropy" in e
        ]
        cells.sort(key=lambda e: e["bytes"])
        axes.plot([e["bytes"] for e in cells], [e["entropy"] for e in cells], "o-", color=colour, label=prior)
    axes.axhline(8, color="0.3", linewidth=1, linestyle="--", label="bits of a code")
    axes.set(
        xlabel="bytes of codes a label", ylabel="zero-order entropy of a code, bits", title="How full the codes are"
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
