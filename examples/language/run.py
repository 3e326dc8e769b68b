"""From text to a table: python -m examples.language.run all|list|codecs|table|plot; see README.md."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from examples import shared
from examples.glyphs.rate_bench import machine
from examples.language import figure, labels, student, table, teacher, tokens
from examples.language.labels import Bench
from examples.language.settings import Settings, cache_folder, key
from examples.language.sources import Source, decoders, sources

TELLING = 10  # sources that a quick run has
QUICK: dict[str, Any] = {"seeds": 1, "condition": ["sharp"], "recipe": ["kd"]}  # unless told
EMPTY: dict[str, Any] = {"text": {}, "teachers": {}, "cells": {}, "codecs": {}}
RESULTS = Path(__file__).parent / "results" / "language.json"


@dataclass(frozen=True)
class Cell:
    """One student: its labels, how it learns from them, its first weights, and everything else that shapes it."""

    source: Source
    condition: str
    recipe: str
    seed: int
    settings: Settings

    def facts(self) -> dict[str, Any]:
        """What the result follows from, but for the teacher."""
        return {**asdict(self), "settings": self.settings.facts(fits=self.source.fits)}

    def key(self, teacher_name: str) -> str:
        """Name of the cell in the results: what was found with another setting is never taken for it."""
        return key([self.facts(), student.TAUGHT, teacher_name])

    def __str__(self) -> str:
        return f"{self.condition}, {self.recipe}, {self.source.name}, seed {self.seed}"


def cells(settings: Settings, options: argparse.Namespace) -> Iterator[Cell]:
    """Those that are asked for, the students of one source and condition one after the other."""
    every = list(sources())[:TELLING] if options.quick and not options.only else sources()
    chosen = [source for source in every if any(part in source.name for part in options.only or [""])]
    part, parts = shared.part_of(options.part)
    for condition in options.condition or teacher.SHARPNESS:
        for recipe in options.recipe or student.RECIPES:
            for source in chosen[part::parts]:
                if source.scheme == "hard" and recipe != "kd":
                    continue  # the same cross-entropy twice
                for seed in options.seed or range(options.seeds):
                    yield Cell(source, condition, recipe, seed, settings)


def work(wanted: Sequence[Cell], path: Path) -> list[str]:
    """Train the students that are not in the results yet; each is kept when it is done. Returns what failed."""
    failed: list[str] = []
    bench, made, made_for = None, None, None
    for number, cell in enumerate(wanted):
        try:
            if bench is None or bench.own.name.partition("-")[0] != cell.condition:
                bench, made_for = Bench.of(cell.settings, cell.condition), None
            if cell.key(bench.own.name) in shared.read(path, EMPTY)["cells"]:
                continue
            begin = time.perf_counter()
            if made is None or made_for != cell.source:
                made = None  # two at a time would take twice the memory
                made, made_for = labels.make(cell.source, bench), cell.source
            found = taught(cell, made, bench) | {"seconds": round(time.perf_counter() - begin, 1)}
        except Exception as error:  # one that fails must not take the others with it
            traceback.print_exc()
            failed.append(f"{cell}: {error}")
            continue
        with shared.locked(path, EMPTY) as results:
            if bench.own.name not in results["teachers"]:
                results["teachers"][bench.own.name] = teacher.described(bench.held)
            results["text"] = provenance(cell.settings)
            results["cells"][cell.key(bench.own.name)] = found
        said = f"CE {found['cross_entropy']:.4f}, KL {found['kl']:.4f}, {found['seconds']:.0f} s"
        print(f"{number + 1} of {len(wanted)}: {cell}: {said}", flush=True)
    return failed


def taught(cell: Cell, made: labels.Labels, bench: Bench) -> dict[str, Any]:
    """What is found of the student of a cell."""
    net = student.train(cell.settings, bench.own.windows, made.loss, seed=cell.seed, recipe=cell.recipe)
    about = {**cell.facts(), "name": cell.source.name, "teacher": bench.own.name, "machine": machine()}
    return {**about, "bytes": made.bytes, "decoded": made.judged, **student.judge(net, bench.held)}


def provenance(settings: Settings) -> dict[str, Any]:
    """Where text and vocabulary come from."""
    text = tokens.load(settings)
    sizes = {"tokens": len(text.train), "tokens_held_out": len(text.held_out)}
    return {**text.provenance, **sizes, "vocabulary": text.fingerprint}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exit 1 with what failed."""
    parser = argparse.ArgumentParser("python -m examples.language.run", description=__doc__)
    commands: dict[str, Callable[..., None]] = {
        "all": _all, "list": _list, "codecs": _codecs, "table": _table, "plot": _plot,
    }  # fmt: skip
    parser.add_argument("command", choices=commands)
    parser.add_argument("--quick", action="store_true", help="all stages, small; results are kept in the cache")
    parser.add_argument("--seeds", type=int, help="students of each source: 3")
    parser.add_argument("--seed", type=int, action="append", help="this one alone; may be repeated")
    parser.add_argument("--condition", action="append", choices=teacher.SHARPNESS, help="may be repeated")
    parser.add_argument("--recipe", action="append", choices=student.RECIPES, help="may be repeated")
    parser.add_argument("--only", action="append", default=[], help="sources with this in their name; may be repeated")
    parser.add_argument("--part", default="0/1", help="of several programs that share the work: 0/2 and 1/2")
    parser.add_argument("--results", type=Path, help="results/language.json")
    options = parser.parse_args(arguments)
    try:
        settings = Settings.quick() if options.quick else Settings()
        for name, value in (QUICK if options.quick else {"seeds": 3}).items():
            setattr(options, name, getattr(options, name) or value)
        options.results = options.results or (cache_folder() / "quick.json" if options.quick else RESULTS)
        commands[options.command](settings, options)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def _all(settings: Settings, options: argparse.Namespace) -> None:
    failed = work(list(cells(settings, options)), options.results)
    if options.quick:
        print("\n".join(table.tables(shared.read(options.results, EMPTY), settings)))
    if failed:
        sys.exit("error: these students failed, and are tried again by the same command:\n" + "\n".join(failed))


def _list(settings: Settings, options: argparse.Namespace) -> None:
    done = shared.read(options.results, EMPTY)["cells"].values()
    known = {(tuple(c["source"].items()), c["condition"], c["recipe"], c["seed"]) for c in done}
    for cell in cells(settings, options):
        here = (tuple(asdict(cell.source).items()), cell.condition, cell.recipe, cell.seed) in known
        print(("done     " if here else "missing  ") + str(cell))


def _codecs(settings: Settings, options: argparse.Namespace) -> None:
    """Codecs that teach nobody: what a smaller decoder costs."""
    for condition in options.condition or teacher.SHARPNESS:
        bench = Bench.of(settings, condition)
        for source in decoders():
            facts = {"source": asdict(source), "settings": settings.facts(fits=True)}
            name = key([facts, bench.own.name])
            if name not in shared.read(options.results, EMPTY)["codecs"]:
                made = labels.make(source, bench)
                found = {**facts, "condition": condition, "bytes": made.bytes, "decoded": made.judged}
                with shared.locked(options.results, EMPTY) as results:
                    results["codecs"][name] = found
                print(f"{condition}, {source.name}: KL {made.judged['kl']:.4f}", flush=True)


def _table(settings: Settings, options: argparse.Namespace) -> None:
    """RESULTS.md beside the results, or the tables of quick ones on the screen."""
    lines = list(table.tables(shared.read(options.results, EMPTY), settings))
    if options.quick:
        print("\n".join(lines))
    else:
        table.write(lines, Path(__file__).with_name("RESULTS.md"))


def _plot(settings: Settings, options: argparse.Namespace) -> None:
    figure.plot(shared.read(options.results, EMPTY), settings, options.results.parent)


if __name__ == "__main__":
    main()
