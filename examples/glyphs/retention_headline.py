"""The few rows of RETENTION.md that the README shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from examples.glyphs.retention_sources import MADE_AT, Source
from examples.glyphs.retention_table import COMMAND, WARM, Entry, at_its_own, entries, shares, size_text
from examples.glyphs.settings import Settings

BEGIN = f"<!-- begin: made by `{COMMAND} table` from examples/glyphs/results/retention.json; do not edit -->"

SHOWN = [
    Source("hard"), Source("fp16"), Source("teacher"), *(Source("vq", "replay", size) for size in (16, 8, 4, 2)),
    Source("vq", "replay", 8, keep=10), Source("vq", "image", 2), Source("vq", "image", 0),
    Source("lpqld", k=50, keep=10, schedule="step", alignment="grid"), Source("lpld", keep=10),
    Source("faiss", index="PCA64,RQ8x8"), Source("vqae", bytes=8), *(Source("tinyvit", k=k) for k in (100, 10)),
]  # fmt: skip


def headline(results: dict[str, Any], settings: Settings) -> Iterator[str]:
    """Markdown, line by line: those that were run, by bytes."""
    found = entries(results, settings)
    shown = sorted((entry for entry in found if entry.source in SHOWN), key=lambda entry: -entry.bytes["all"])
    if not shown:
        return
    machines = sorted({cell["machine"].split(" of ", 1)[1] for cell in results["cells"].values()})
    seeds = sorted({len(entry.runs.get(WARM, [])) for entry in shown} - {0})
    many = f"{seeds[0]}" if seeds[0] == seeds[-1] else f"{seeds[0]} to {seeds[-1]}"
    yield f"{settings.classes:,} glyph classes, {settings.ipc} images each, {settings.epochs} epochs of labels."
    yield f"Students at T = {WARM:g} unless the row says another, seeds: {many}, on {' and '.join(machines)}.\n"
    yield "| labels | B a label, all-in, here | at 15 M rows | student, % | retention, % | gap to hard closed, % |"
    yield "|---|---|---|---|---|---|"
    yield from (row for row in (_row(entry, found) for entry in shown) if row)


def _row(entry: Entry, found: list[Entry]) -> str:
    own = at_its_own(entry)
    name = entry.source.name if own is entry else f"{entry.source.name}, T = {MADE_AT[entry.source.scheme]:g}"
    accuracy, known = own.mean(WARM), shares(own, WARM, found)
    if accuracy is None or known is None:
        return ""
    size = f"{size_text(entry.bytes['all'])} | {size_text(entry.bytes['many'])}"
    return f"| {name} | {size} | {accuracy:.2f} | {known[0]:.1f} | {known[1]:.0f} |"
