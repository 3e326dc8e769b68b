"""Rate against distortion: python -m examples.glyphs.rate measure|list|table|plot. RATE.md tells what comes of it."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from examples import shared
from examples.glyphs import rate_figures, rate_measure, rate_table, run
from examples.glyphs.rate_bench import Bench
from examples.glyphs.rate_cells import Cell, cells
from examples.glyphs.settings import Settings

EMPTY: dict[str, Any] = {"labels": {}, "cells": {}}


def measure(bench: Bench, chosen: Iterable[Cell], path: Path) -> None:
    """Measure the cells that are not in the results yet; each is kept as soon as it is done."""
    labels = bench.labels
    for cell in chosen:
        results = read(path)
        key = cell.key(labels.classes, labels.mixing, bench.effort)
        name = f"C = {labels.classes}, p = {labels.mixing:g}"
        if results["labels"].get(name, labels.teacher) != labels.teacher:
            raise ValueError(f"{path} holds what was found on labels of another teacher; move it away to begin again")
        if key in results["cells"]:
            continue
        print(key, flush=True)
        found = bench.measure(cell)
        if found is None:
            print("    left out: the program is not here", flush=True)
            continue
        results = read(path)  # again: another part may have been measured beside this one
        results["labels"][name] = labels.teacher
        results["cells"][key] = found
        shared.write(path, results)
        if found.get("kl"):
            print(f"    KL at T = 20: {found['kl']['20']:.3e}", flush=True)


def read(path: Path) -> dict[str, Any]:
    """Results so far."""
    return shared.read(path, EMPTY)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exit 1 with one line if it cannot be done."""
    parser = argparse.ArgumentParser("python -m examples.glyphs.rate", description=__doc__)
    commands: dict[str, Callable[..., None]] = {"measure": _measure, "list": _list, "table": _table, "plot": _plot}
    parser.add_argument("command", choices=commands)
    parser.add_argument("--quick", action="store_true", help="100 classes; results are kept in the cache")
    parser.add_argument("--mixing", type=float, default=0.5, help="share of rows with CutMix: 0.5 or 1.0")
    parser.add_argument("--only", action="append", default=[], help="cells whose key has this in it; may be repeated")
    parser.add_argument("--effort", type=float, default=1.0, help="of a fit; less is quicker and worse")
    parser.add_argument("--results", type=Path, help="results/rate.json")
    options = parser.parse_args(arguments)
    settings = dataclasses.replace(Settings.quick() if options.quick else Settings(), mixing=options.mixing)
    options.results = options.results or (settings.folder() if options.quick else run.RESULTS) / "rate.json"
    try:
        commands[options.command](settings, options)
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")


def _chosen(settings: Settings, options: argparse.Namespace, done: Collection[str] = ()) -> list[Cell]:
    keys = {cell.key(settings.classes, settings.mixing, options.effort): cell for cell in cells()}
    wanted = [key for key in keys if any(part in key for part in options.only or [""]) and key not in done]
    return [keys[key] for key in wanted]


def _measure(settings: Settings, options: argparse.Namespace) -> None:
    missing = _chosen(settings, options, read(options.results)["cells"])
    if missing:
        measure(Bench(rate_measure.load(settings), options.effort), missing, options.results)


def _list(settings: Settings, options: argparse.Namespace) -> None:
    done = read(options.results)["cells"]
    for cell in _chosen(settings, options):
        key = cell.key(settings.classes, settings.mixing, options.effort)
        print(("done     " if key in done else "missing  ") + key)


def _table(settings: Settings, options: argparse.Namespace) -> None:
    """The tables of RATE.md, or of quick labels on the screen."""
    text = "\n".join(rate_table.tables(read(options.results), settings.classes, options.effort))
    if options.quick or options.effort != 1:
        print(text)
    else:
        rate_table.write(text, Path(__file__).with_name("RATE.md"))


def _plot(settings: Settings, options: argparse.Namespace) -> None:
    path = options.results.with_suffix(".svg")
    rate_figures.plot(read(options.results), path, classes=settings.classes, effort=options.effort)


if __name__ == "__main__":
    main()
