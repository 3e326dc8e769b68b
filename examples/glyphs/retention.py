"""What labels are worth to students: python -m examples.glyphs.retention run|list|cost|table|plot; see RETENTION.md."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from examples import shared
from examples.glyphs import (
    rate,
    rate_measure,
    rate_table,
    retention_cost,
    retention_figures,
    retention_headline,
    retention_labels,
    retention_table,
    run,
    student,
    training,
    unseen_table,
)
from examples.glyphs.rate_bench import machine
from examples.glyphs.rate_measure import Labels
from examples.glyphs.retention_sources import TEMPERATURES, Source, sources
from examples.glyphs.retention_student import lesson
from examples.glyphs.settings import Settings

PRECISION = torch.bfloat16  # of the student's convolutions
TAUGHT = 1  # counts changes of students and their test after which older results do not compare


@dataclasses.dataclass(frozen=True)
class Cell:
    """One student: its labels, the temperature, its first weights, and everything else that shapes it."""

    source: Source
    temperature: float
    seed: int
    settings: Settings
    effort: float = 1.0

    def facts(self) -> dict[str, Any]:
        """What the result depends on."""
        return {
            **asdict(self),
            "settings": self.settings.facts(),
            "precision": str(PRECISION),
            "taught": TAUGHT,
            "name": self.source.name,
        }

    def key(self, teacher: str) -> str:
        """Name of the cell in the results: what was found with another setting is never taken for it."""
        facts = {**self.facts(), "teacher": teacher, "fitted": retention_labels.FITTED}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return f"{self.source.name}, T = {self.temperature:g}, seed {self.seed}"


def cells(settings: Settings, options: argparse.Namespace) -> Iterator[Cell]:
    """Those that are asked for, students of one source one after the other."""
    chosen = [source for source in sources() if any(part in source.name for part in options.only or [""])]
    part, parts = shared.part_of(options.part)
    for source in chosen[part::parts]:
        for temperature in source.temperatures:
            if options.temperature and temperature not in options.temperature:
                continue
            for seed in range(options.seeds):
                yield Cell(source, temperature, seed, settings, options.effort)


def work(labels: Labels, wanted: Sequence[Cell], path: Path) -> list[str]:
    """Train the students that are not in the results yet; each is kept when it is done. Returns what failed."""
    failed: list[str] = []
    stored, made_for = None, None
    done = rate.read(path)["cells"]
    todo = [cell for cell in wanted if cell.key(labels.teacher) not in done]
    if any(
        cell["teacher"] != labels.teacher and cell["settings"] == wanted[0].settings.facts() for cell in done.values()
    ):
        raise ValueError(f"{path} holds students of another teacher's labels; move it away to begin again")
    for number, cell in enumerate(todo):
        begin = time.perf_counter()
        try:
            if stored is None or made_for != cell.source:
                stored = None  # two at a time would take twice the memory
                stored, made_for = retention_labels.make(cell.source, cell.settings, labels, cell.effort), cell.source
            accuracy = taught(cell, stored)
        except Exception as error:  # one that fails must not take the others with it
            traceback.print_exc()
            failed.append(f"{cell}: {error}")
            continue
        size = stored.bytes.each(cell.settings.epochs * cell.settings.distilled_recipe.images)
        found = {**cell.facts(), "teacher": labels.teacher, "bytes": size, "machine": machine()}
        found |= {"accuracy": accuracy.whole, "unseen": accuracy.unseen}
        with locked(path) as results:
            results["cells"][cell.key(labels.teacher)] = {**found, "seconds": round(time.perf_counter() - begin, 1)}
        told = f"{accuracy.whole:.2f} %, of what is new {accuracy.unseen:.2f} %"
        print(f"{number + 1} of {len(todo)}: {cell}: {told}", flush=True)
    return failed


def taught(cell: Cell, stored: retention_labels.Stored) -> training.Accuracy:
    """Accuracy of the student of a cell."""
    loss = lesson(cell.source, stored, cell.settings, cell.temperature)
    return student.train(cell.settings, loss, seed=cell.seed, epochs=stored.epochs, precision=PRECISION)


def locked(path: Path) -> contextlib.AbstractContextManager[dict[str, Any]]:
    """The results, to be changed and written; several programs may do so, one after the other."""
    return shared.locked(path, rate.EMPTY)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exit 1 with what failed."""
    parser = argparse.ArgumentParser("python -m examples.glyphs.retention", description=__doc__)
    commands: dict[str, Callable[..., None]] = {
        "run": _run, "list": _list, "cost": _cost, "table": _table, "plot": _plot,
    }  # fmt: skip
    parser.add_argument("command", choices=commands)
    parser.add_argument("--quick", action="store_true", help="100 classes; results are kept in the cache")
    parser.add_argument("--mixing", type=float, default=0.5, help="share of rows with CutMix")
    parser.add_argument("--ipc", type=int, default=5, help="images a class")
    parser.add_argument("--method", default="random", help="how the images are made, as synthesize says")
    parser.add_argument("--seeds", type=int, default=3, help="students of each source and temperature")
    parser.add_argument("--temperature", type=float, action="append", help=f"may be repeated; {TEMPERATURES}")
    parser.add_argument("--only", action="append", default=[], help="sources with this in their name; may be repeated")
    parser.add_argument("--part", default="0/1", help="of several programs that share the work: 0/2 and 1/2")
    parser.add_argument("--effort", type=float, default=1.0, help="of fits; less is quicker and worse")
    parser.add_argument("--results", type=Path, help="results/retention.json")
    options = parser.parse_args(arguments)
    try:
        settings = Settings.quick() if options.quick else Settings(ipc=options.ipc)
        settings = dataclasses.replace(settings, mixing=options.mixing, method=options.method)
        options.results = options.results or (settings.folder() if options.quick else run.RESULTS) / "retention.json"
        commands[options.command](settings, options)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def _run(settings: Settings, options: argparse.Namespace) -> None:
    failed = work(rate_measure.load(settings), list(cells(settings, options)), options.results)
    if failed:
        sys.exit("error: these students failed, and are tried again by the same command:\n" + "\n".join(failed))


def _list(settings: Settings, options: argparse.Namespace) -> None:
    done, teacher = rate.read(options.results)["cells"], rate_measure.load(settings).teacher
    for cell in cells(settings, options):
        print(("done     " if cell.key(teacher) in done else "missing  ") + str(cell))


def _cost(settings: Settings, options: argparse.Namespace) -> None:
    found = retention_cost.measure(settings, rate_measure.load(settings), options.effort)
    with locked(options.results) as results:
        results["costs"] = found


def _table(settings: Settings, options: argparse.Namespace) -> None:
    """The tables of RETENTION.md and the few rows of README.md, or of quick labels on the screen."""
    results = rate.read(options.results)
    if options.quick:
        print("\n".join(retention_table.tables(results, settings, options.effort)))
        return
    mixings = (dataclasses.replace(Settings(), mixing=mixing) for mixing in (0.5, 1.0))
    lines = [line for each in mixings for line in retention_table.tables(results, each)]
    lines += unseen_table.table(results, settings.classes)
    rate_table.write("\n".join(lines), Path(__file__).with_name("RETENTION.md"), retention_table.BEGIN)
    shown = "\n".join(retention_headline.headline(results, Settings()))
    rate_table.write(shown, Path(__file__).parents[2] / "README.md", retention_headline.BEGIN)


def _plot(settings: Settings, options: argparse.Namespace) -> None:
    retention_figures.plot(rate.read(options.results), settings, options.results.parent)


if __name__ == "__main__":
    main()
