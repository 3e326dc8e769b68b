"""Images of every method under labels of every kind: python -m examples.glyphs.main COMMAND; see IMAGES.md."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from examples.glyphs import (
    main_figures,
    main_table,
    rate,
    rate_measure,
    rate_table,
    retention,
    run,
    teacher,
    unseen_table,
    why_images,
    why_table,
)
from examples.glyphs.main_sources import GRIDS, QUICK, Grid, cells, middle, why_cells
from examples.glyphs.retention import Cell
from examples.glyphs.settings import Settings
from examples.glyphs.synthesis import sets

PAGE = Path(__file__).with_name("IMAGES.md")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exit 1 with what failed."""
    parser = argparse.ArgumentParser("python -m examples.glyphs.main", description=__doc__)
    commands: dict[str, Callable[[Grid, argparse.Namespace], None]] = {
        "run": _run, "list": _list, "table": _table, "plot": _plot, "why": _why,
    }  # fmt: skip
    parser.add_argument("command", choices=commands)
    parser.add_argument("--quick", action="store_true", help="20 classes; results are kept in the cache")
    parser.add_argument("--classes", type=int, default=100, choices=GRIDS, help="how many classes")
    parser.add_argument("--method", action="append", help="of the images; may be repeated")
    parser.add_argument("--ipc", type=int, action="append", help="images a class; may be repeated")
    parser.add_argument("--only", action="append", default=[], help="labels with this in their name; may be repeated")
    parser.add_argument("--seeds", type=int, default=3, help="students of each kind")
    parser.add_argument("--results", type=Path, help="results/main.json")
    options = parser.parse_args(arguments)
    grid = QUICK if options.quick else GRIDS[options.classes]
    try:
        grid = dataclasses.replace(grid, methods=options.method or grid.methods, ipcs=options.ipc or grid.ipcs)
        for method, ipc in itertools.product(grid.methods, grid.ipcs):
            grid.of(method, ipc)  # refuses what there is not before anything is made
        folder = grid.settings.folder() if options.quick else run.RESULTS
        options.results = options.results or folder / "main.json"
        commands[options.command](grid, options)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def _run(grid: Grid, options: argparse.Namespace) -> None:
    _train(cells(grid, options.seeds), grid, options)


def _train(every: Iterable[tuple[Settings, list[Cell]]], grid: Grid, options: argparse.Namespace) -> None:
    failed = []
    name = teacher.fingerprint(teacher.train(grid.settings)[0])
    for settings, wanted in _chosen(every, options):
        done = rate.read(options.results)["cells"]
        missing = [cell for cell in wanted if cell.key(name) not in done]
        if missing:
            print(f"{settings.method}, {settings.ipc} images a class", flush=True)
            failed += retention.work(rate_measure.load(settings), missing, options.results)
        _keep_losses(settings, options.results)
    if failed:
        sys.exit("error: these students failed, and are tried again by the same command:\n" + "\n".join(failed))


def _keep_losses(settings: Settings, path: Path) -> None:
    """How the images were made, for the table."""
    if settings.method == "random" or repr(settings) in rate.read(path).get("images", {}):
        return
    told = sets.provenance(settings.images_path())
    with retention.locked(path) as results:
        results.setdefault("images", {})[repr(settings)] = {**told["synthesis"], **told.get("losses", {})}


def _chosen(
    every: Iterable[tuple[Settings, list[Cell]]], options: argparse.Namespace
) -> Iterator[tuple[Settings, list[Cell]]]:
    for settings, each in every:
        yield settings, [cell for cell in each if any(part in cell.source.name for part in options.only or [""])]


def _list(grid: Grid, options: argparse.Namespace) -> None:
    done = rate.read(options.results)["cells"]
    name = teacher.fingerprint(teacher.train(grid.settings)[0])
    for settings, wanted in _chosen(cells(grid, options.seeds), options):
        for cell in wanted:
            state = "done     " if cell.key(name) in done else "missing  "
            print(f"{state}{settings.method}, {settings.ipc} images a class, {cell}")


def _table(grid: Grid, options: argparse.Namespace) -> None:
    """The tables of IMAGES.md, or of quick students on the screen."""
    results = rate.read(options.results)
    if options.quick:
        print("\n".join([*main_table.tables(results, grid), *why_table.tables(results, grid)]))
        return
    kinds = itertools.product((main_table, why_table), GRIDS.values())
    lines = [line for kind, each in kinds for line in kind.tables(results, each)]
    lines += unseen_table.table(results, 100)
    rate_table.write("\n".join(lines), PAGE, main_table.BEGIN)


def _plot(grid: Grid, options: argparse.Namespace) -> None:
    main_figures.plot(rate.read(options.results), grid, options.results.with_suffix(".svg"))


def _why(grid: Grid, options: argparse.Namespace) -> None:
    """Measures of images and labels, and the students that are asked about them."""
    for method in grid.methods:
        settings = grid.of(method, middle(grid))
        if repr(settings) not in rate.read(options.results).get("why", {}):
            found = why_images.measure(settings, rate_measure.load(settings))
            with retention.locked(options.results) as results:
                results.setdefault("why", {})[repr(settings)] = found
    _train(why_cells(grid, options.seeds), grid, options)


if __name__ == "__main__":
    main()
