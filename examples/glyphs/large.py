"""As many classes as one family of faces has: python -m examples.glyphs.large run|table; the table of IMAGES.md."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from examples.glyphs import main, rate, rate_measure, rate_table, retention, retention_labels, run, teacher
from examples.glyphs.main_sources import QUICK, WARM
from examples.glyphs.rate_bench import machine
from examples.glyphs.rate_measure import Labels
from examples.glyphs.retention import Cell
from examples.glyphs.retention_sources import Source
from examples.glyphs.settings import Settings
from vqlabel import LabelEncoder

LARGE = Settings(classes=4471, family="sans", ipc=10, epochs=4, batch=500, teacher_steps=900)
STEPS = 20  # of lpld's images: 45,000 of them are many
SOURCES = (Source("fp16"), Source("hard"), *(Source("vq", "replay", size) for size in (8, 4, 2)))
EFFORT = 0.1
BEGIN = "<!-- begin: made by `python -m examples.glyphs.large table` from results/large.json; do not edit -->"


def measure(cell: Cell, labels: Labels) -> dict[str, Any]:
    """Seconds of fitting and encoding, bytes, and the accuracy of a student."""
    source, settings = cell.source, cell.settings
    seconds: dict[str, float] = {}
    path = retention_labels.file_path(source, settings, labels, cell.effort)
    if source.fits:
        sizes: dict[str, Any] = {"prior": source.prior, "bytes_per_label": float(source.bytes), "effort": cell.effort}
        begin = time.perf_counter()
        encoder = LabelEncoder.fit(labels.logits, side=labels.info, temperatures=(WARM,), **sizes)
        seconds["fit"] = time.perf_counter() - begin
        begin = time.perf_counter()
        encoder.encode(labels.logits, path, metadata={"teacher": labels.teacher})
        seconds["encode"] = time.perf_counter() - begin
    stored = retention_labels.make(source, settings, labels, cell.effort)
    size = stored.bytes.each(len(labels.logits))
    begin = time.perf_counter()
    accuracy = retention.taught(cell, stored)
    seconds["student"] = time.perf_counter() - begin
    told = {**cell.facts(), "teacher": labels.teacher, "rows": len(labels.logits), "machine": machine()}
    reached = {"accuracy": accuracy.whole, "unseen": accuracy.unseen}
    return {**told, **reached, "bytes": size, "seconds": seconds}


def table(results: dict[str, Any]) -> Iterator[str]:
    """Markdown, line by line."""
    cells = list(results["cells"].values())
    if not cells:
        return
    first = cells[0]["settings"]
    rows, told = cells[0]["rows"], f"{first['ipc']} images a class, {first['epochs']} epochs of labels"
    yield f"{first['classes']:,} classes, {told}, {rows:,} rows, one student each; effort {EFFORT:g} of fits;"
    yield f"on {cells[0]['machine']}.\n"
    yield "| images | labels | B a label, all-in | MB | fit, s | encode, s | accuracy, % |"
    yield "|---" * 7 + "|"
    for cell in cells:
        each, spent = cell["bytes"]["all"], cell["seconds"]
        times = [f"{spent[name]:.0f}" if name in spent else rate_table.GAP for name in ("fit", "encode")]
        words = [
            cell["settings"].get("method", "random"),
            cell["name"],
            f"{each:.4g}",
            f"{each * cell['rows'] / 1e6:.4g}",
        ]
        yield "| " + " | ".join([*words, *times, f"{cell['unseen']:.2f}"]) + " |"


def cells(settings: Settings, effort: float, methods: Sequence[str]) -> Iterator[Cell]:
    """One student for each source of labels, images of one method after the other."""
    for method in methods:
        steps = STEPS if method == "lpld" else 0
        own = dataclasses.replace(settings, method=method, steps=steps)
        yield from (Cell(source, WARM, 0, own, effort) for source in SOURCES)


def command(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, or put the table into the page."""
    parser = argparse.ArgumentParser("python -m examples.glyphs.large", description=__doc__)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--quick", action="store_true", help="20 classes; results are kept in the cache")
    parser.add_argument("--method", action="append", help="of the images; may be repeated; random and lpld")
    options = parser.parse_args(arguments)
    settings, effort = (QUICK.settings, 0.0) if options.quick else (LARGE, EFFORT)
    path = (settings.folder() if options.quick else run.RESULTS) / "large.json"
    try:
        if options.what == "run":
            _run(list(cells(settings, effort, options.method or ("random", "lpld"))), path)
        elif options.quick:
            print("\n".join(table(rate.read(path))))
        else:
            rate_table.write("\n".join(table(rate.read(path))) + "\n", main.PAGE, BEGIN)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def _run(wanted: list[Cell], path: Path) -> None:
    name, labels = teacher.fingerprint(teacher.train(wanted[0].settings)[0]), None
    for number, cell in enumerate(wanted):
        if cell.key(name) in rate.read(path)["cells"]:
            continue
        if labels is None or cell.settings != wanted[number - 1].settings:
            labels = None  # two at a time would take twice the memory
            labels = rate_measure.load(cell.settings)
        found = measure(cell, labels)
        with retention.locked(path) as results:
            results["cells"][cell.key(name)] = found
        print(f"{cell.settings.method}, {cell}: {found['unseen']:.2f} %", flush=True)


if __name__ == "__main__":
    command()
