"""Tables and figures of the baseline."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from examples.glyphs import distill
from vqlabel import LabelFile

MARK = "<!-- made by `python -m examples.glyphs.run table`; do not edit below -->"
RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SAMPLE = 20_000  # rows that the spectrum is estimated from


def spectrum(file: LabelFile, folder: Path) -> dict[str, float]:
    """Share of the variance of centred logits that their first r principal components hold; a figure in the folder."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    rows = np.sort(np.random.default_rng(0).choice(len(file), min(SAMPLE, len(file)), replace=False))
    logits = distill.logits(file, rows).numpy().astype(np.float64)
    logits -= logits.mean(0)
    variance = np.linalg.eigvalsh(logits.T @ logits)[::-1]
    share = np.cumsum(variance) / variance.sum()
    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    axes.semilogx(np.arange(1, len(share) + 1), 100 * share, color="#1f5fa8")
    axes.set(xlabel="principal components", ylabel="variance of the logits, %", ylim=(0, 101))
    axes.grid(alpha=0.3)
    figure.savefig(folder / "spectrum.svg", metadata={"Date": None})
    pyplot.close(figure)
    return {str(rank): round(float(share[rank - 1]), 4) for rank in RANKS if rank <= len(share)}


def write_table(results: dict[str, Any], readme: Path) -> None:
    """Put the table at the end of a README that has the mark."""
    head = readme.read_text().split(MARK)[0]
    readme.write_text(f"{head}{MARK}\n\n" + "\n".join(table(results)) + "\n")


def table(results: dict[str, Any]) -> Iterator[str]:
    """Markdown: a row for each IPC and source, mean and spread over seeds."""
    runs: dict[tuple[int, str], list[float]] = {}
    for key, found in results["cells"].items():
        match = re.match(r"IPC (\d+), (.*), \w+, seed \d+$", key)
        assert match is not None, key
        runs.setdefault((int(match[1]), match[2]), []).append(found)
    names = list(dict.fromkeys(name for _, name in runs))
    machines = " and ".join(
        f"{m['processor']}, {m['cores']} cores (teacher: {m['teacher']:.2f} %)" for m in results["machines"]
    )
    yield f"On {machines}."
    yield "Students, mean and deviation over the seeds in brackets:"
    yield ""
    yield "| images per class | " + " | ".join(names) + " |"
    yield "|---" * (1 + len(names)) + "|"
    for ipc in sorted({ipc for ipc, _ in runs}):
        cells = [runs.get((ipc, name), []) for name in names]
        spreads = (f" +- {np.std(c):.2f}" if len(c) > 1 else "" for c in cells)
        texts = (f"{np.mean(c):.2f}{s} ({len(c)})" if c else "" for c, s in zip(cells, spreads, strict=True))
        yield f"| {ipc} | " + " | ".join(texts) + " |"
    if results["seconds"]:
        yield ""
        yield "Seconds, the first time each: " + "; ".join(f"{k}: {v:.0f}" for k, v in results["seconds"].items()) + "."
    if "spectrum" in results:
        yield ""
        shares = ", ".join(f"{rank}: {100 * share:.1f} %" for rank, share in results["spectrum"].items())
        yield f"Variance of the logits in the first r principal components: {shares}."
