"""The tables of IMAGES.md, from results/main.json."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from examples.glyphs import unseen_table
from examples.glyphs.data import SIDE
from examples.glyphs.main_sources import LESS, WARM, Grid, sources
from examples.glyphs.rate_table import GAP
from examples.glyphs.retention_sources import Source
from examples.glyphs.retention_table import Entry, entries, shares, size_text

COMMAND = "python -m examples.glyphs.main"
BEGIN = f"<!-- begin: made by `{COMMAND} table` from results/main.json; do not edit -->"
MUST_HOLD = {("vq", 16): 98.0, ("vq", 8): 96.0}  # least retention, per cent, by scheme and bytes
MUST_HOLD_VQAE = 90.0  # at 30 to 40 times less than fp16
MUST_FALL = 5.0  # times, the distance of batch-norm statistics
PUBLISHED = ("rded", "sre2l", "cda", "lpld")  # the methods that it is asked of

Sets = dict[tuple[str, int], list[Entry]]  # students by method and images a class


def every_set(results: dict[str, Any], grid: Grid) -> Sets:
    """All students of the images, also of labels that are pruned, broken, or of another prior."""
    found: Sets = {}
    for ipc, method in itertools.product(grid.ipcs, grid.methods):
        if each := _students(results, grid, method, ipc):
            found[method, ipc] = each
    return found


def _students(results: dict[str, Any], grid: Grid, method: str, ipc: int) -> list[Entry]:
    efforts = sorted({1.0, grid.effort})
    return [e for effort in efforts for e in entries(results, grid.of(method, ipc), effort, grid.test)]


def found_sets(results: dict[str, Any], grid: Grid) -> Sets:
    """Those of the labels of the main table."""
    wanted = sources(grid.settings.classes)
    kept = {key: [e for e in each if e.source in wanted] for key, each in every_set(results, grid).items()}
    return {key: each for key, each in kept.items() if each}


def tables(results: dict[str, Any], grid: Grid) -> Iterator[str]:
    """All tables of these settings, line by line."""
    sets = found_sets(results, grid)
    if not sets:
        return
    classes = grid.settings.classes
    yield f"## {classes:,} classes, {grid.settings.epochs} epochs of labels\n"
    yield from _test(results, grid)
    yield from _must(sets, classes)
    for ipc in grid.ipcs:
        if any(number == ipc for _, number in sets):
            yield from _sources(sets, ipc, grid)
    yield from _order(sets, grid)
    yield from _losses(results, grid)


def _test(results: dict[str, Any], grid: Grid) -> Iterator[str]:
    """What students are tested on, where that is not everything."""
    if grid.test != unseen_table.TESTS[0]:
        easier = ", ".join(unseen_table.easier(results, grid.settings.classes))
        yield "Tested on renderings that no face to learn from has. With all of them accuracies are higher:"
        yield f"{easier}.\n"


def _must(sets: Sets, classes: int) -> Iterator[str]:
    """Whether every method keeps what it has to."""
    wanted = {Source("vq", "replay", size): least for (_, size), least in MUST_HOLD.items()}
    wanted |= {Source("vqae", bytes=round(2 * classes / times)): MUST_HOLD_VQAE for times in LESS}
    lines = []
    for ipc in sorted({number for _, number in sets}):
        for source, least in wanted.items():
            kept = [_retention(sets.get((method, ipc), []), source) for method in PUBLISHED]
            known = [value for value in kept if value is not None]
            if known:
                met = "**no**" if min(known) < least else "yes" if len(known) == len(kept) else "so far"
                words = [GAP if value is None else f"{value:.1f}" for value in kept]
                lines.append(f"| {ipc} | {source.name} | {least:g} | " + " | ".join(words) + f" | {met} |")
    if lines:
        yield f"**What was to be kept** (`{COMMAND} run --classes {classes}`): retention, per cent; {GAP}: not run\n"
        yield "| images a class | labels | asked for | " + " | ".join(PUBLISHED) + " | met |"
        yield "|---" * (4 + len(PUBLISHED)) + "|"
        yield from lines
        yield ""


def _retention(each: list[Entry], source: Source) -> float | None:
    known = [shares(entry, WARM, each) for entry in each if entry.source == source]
    return known[0][0] if known and known[0] else None


def _sources(sets: Sets, ipc: int, grid: Grid) -> Iterator[str]:
    """Labels down, methods across."""
    methods = [method for method in grid.methods if (method, ipc) in sets]
    classes, epochs = grid.settings.classes, grid.settings.epochs
    images = ipc * classes
    yield f"**{ipc} images a class**, {images * SIDE**2 / 1e6:.2f} MB of images (uint8): accuracy and its deviation,"
    yield "seeds in brackets; retention of what fp16 teaches; share of the gap from hard to fp16, per cent\n"
    yield "| labels | B a label | MB | " + " | ".join(methods) + " |"
    yield "|---" * (3 + len(methods)) + "|"
    for source in sources(classes):
        rows = {m: next((e for e in sets[m, ipc] if e.source == source), None) for m in methods}
        sizes = [entry.bytes["all"] for entry in rows.values() if entry]
        if sizes:
            size = f"{size_text(max(sizes))} | {size_text(max(sizes) * images * epochs / 1e6)}"
            words = [_cell(entry, sets[method, ipc]) for method, entry in rows.items()]
            yield f"| {source.name} | {size} | " + " | ".join(words) + " |"
    yield ""


def _cell(entry: Entry | None, each: list[Entry]) -> str:
    runs = list(entry.at(WARM).values()) if entry else []
    if not entry or not runs:
        return GAP
    spread = f" +- {np.std(runs):.1f}" if len(runs) > 1 else ""
    known = shares(entry, WARM, each)
    kept = f"; {known[0]:.1f}; {known[1]:.0f}" if known else ""
    return f"{np.mean(runs):.1f}{spread} ({len(runs)}){kept}"


def _order(sets: Sets, grid: Grid) -> Iterator[str]:
    """Each method against real images and against noise, seed against seed."""
    methods = [method for method in grid.methods if method != "noise"]
    lines = []
    for ipc in sorted({number for _, number in sets}):
        for other in ("random", "noise"):
            words = [_above(sets, (method, ipc), (other, ipc)) for method in methods]
            if any(word.strip("-/ ") for word in words):
                lines.append(f"| {ipc} | {other} | " + " | ".join(words) + " |")
    if lines:
        yield "**The methods against real images and against noise**: points above them, fp16 / hard labels\n"
        yield "| images a class | above | " + " | ".join(methods) + " |"
        yield "|---" * (2 + len(methods)) + "|"
        yield from lines
        yield ""


def _above(sets: Sets, mine: tuple[str, int], other: tuple[str, int]) -> str:
    words = []
    for scheme in ("fp16", "hard"):
        runs = [runs_of(sets.get(key, []), Source(scheme)) for key in (mine, other)]
        common = sorted(set(runs[0]) & set(runs[1]))
        words.append(f"{np.mean([runs[0][s] - runs[1][s] for s in common]):+.1f}" if common else GAP)
    return GAP if mine == other else " / ".join(words)


def runs_of(each: list[Entry], source: Source) -> dict[int, float]:
    """Accuracies of a source's students by seed."""
    found = [entry.at(WARM) for entry in each if entry.source == source]
    return found[0] if found else {}


def _losses(results: dict[str, Any], grid: Grid) -> Iterator[str]:
    """What the optimised images were brought to."""
    known = {(m, i): results.get("images", {}).get(repr(grid.of(m, i))) for i in grid.ipcs for m in grid.methods}
    found = {key: each for key, each in known.items() if each and each.get("bn")}
    if not found:
        return
    yield f"**How far images followed**: means at the first step and the last; BN has to fall {MUST_FALL:g} times\n"
    yield "| images a class | method | steps | cross-entropy | BN | times less |"
    yield "|---" * 6 + "|"
    for (method, ipc), each in found.items():
        (ce, ce_last), (bn, bn_last) = each["ce"], each["bn"]
        less = f"{bn / bn_last:.1f}" if bn >= MUST_FALL * bn_last else f"**{bn / bn_last:.1f}**"
        words = f"{each['steps']} | {ce:.2f} to {ce_last:.3f} | {bn:.1f} to {bn_last:.2f} | {less}"
        yield f"| {ipc} | {method} | {words} |"
    yield ""
