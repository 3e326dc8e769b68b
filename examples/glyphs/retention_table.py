"""The tables of RETENTION.md, from results/retention.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from examples.glyphs import models, unseen_table
from examples.glyphs.rate_measure import MANY_ROWS
from examples.glyphs.rate_table import GAP
from examples.glyphs.retention_sources import FIT, MADE_AT, TEMPERATURES, Source
from examples.glyphs.settings import Settings

COMMAND = "python -m examples.glyphs.retention"
BEGIN = f"<!-- begin: made by `{COMMAND} table` from results/retention.json; do not edit -->"
WARM = TEMPERATURES[0]  # what the numbers that have to be reached are said of

# Least retention and share of the gap between hard and fp16 labels, per cent, by prior, bytes and pruning.
MUST_REACH = {
    ("replay", 16, 1): (99.5, 97), ("replay", 8, 1): (99.2, 96), ("replay", 4, 1): (98.2, 90),
    ("replay", 2, 1): (96.5, 81), ("replay", 8, 10): (96.5, 81),
    ("image", 2, 1): (98.3, 91), ("image", 0, 1): (97.0, 85),
}  # fmt: skip


@dataclasses.dataclass
class Entry:
    """All students of one source."""

    source: Source
    bytes: dict[str, float]
    by_seed: dict[float, dict[int, float]]  # accuracies by temperature and seed

    @property
    def runs(self) -> dict[float, list[float]]:
        """Accuracies by temperature."""
        return {temperature: list(found.values()) for temperature, found in self.by_seed.items()}

    def at(self, temperature: float) -> dict[int, float]:
        """Accuracies by seed at a temperature; those of a source that sets it itself stand for all."""
        return self.by_seed.get(WARM if self.source.temperatures == (WARM,) else temperature, {})

    def mean(self, temperature: float) -> float | None:
        """Accuracy at a temperature."""
        found = list(self.at(temperature).values())
        return float(np.mean(found)) if found else None

    def best(self) -> float:
        """The temperature with the highest mean accuracy."""
        return max(self.runs, key=lambda temperature: float(np.mean(self.runs[temperature])))


def at_its_own(entry: Entry) -> Entry:
    """Labels that are of one temperature alone, as if their students at it were those of WARM; others as they are."""
    own = MADE_AT.get(entry.source.scheme)
    return dataclasses.replace(entry, by_seed={WARM: entry.by_seed[own]}) if own in entry.by_seed else entry


def entries(
    results: dict[str, Any], settings: Settings, effort: float = 1.0, test: str = unseen_table.TESTS[0]
) -> list[Entry]:
    """Students of these settings by source, in the order in which they were run, and of the teacher itself."""
    found: dict[Source, Entry] = {}
    wanted = settings.facts(), effort
    for cell in results["cells"].values():
        if (cell["settings"], cell["effort"]) != wanted or test not in cell:
            continue
        source = Source(**cell["source"])
        entry = found.setdefault(source, Entry(source, cell["bytes"], {}))
        entry.by_seed.setdefault(cell["temperature"], {})[cell["seed"]] = cell[test]
    if full := found.get(Source("fp16")):
        found[Source("teacher")] = _teacher(full, settings)
    return list(found.values())


def _teacher(full: Entry, settings: Settings) -> Entry:
    """Who has the teacher in fp16 needs no labels: what fp16 labels teach, for the bytes of its weights."""
    whole = 2.0 * models.parameters(models.teacher(settings.classes))
    size = {"labels": 0.0, "augmentation": 0.0, "many": whole / MANY_ROWS}
    size["all"] = whole / (settings.epochs * settings.distilled_recipe.images)
    return Entry(Source("teacher"), size, full.by_seed)


def shares(entry: Entry, temperature: float | None, all_of_them: list[Entry]) -> tuple[float, float] | None:
    """Retention, and the share of the gap from hard to fp16 labels that is closed, per cent.

    At one temperature, or each at its own best; of the seeds that all three have, or two students of luck would count
    as better labels.
    """

    def reached(e: Entry) -> dict[int, float]:
        return e.at(e.best() if temperature is None else temperature)

    ends = {e.source.scheme: reached(e) for e in all_of_them if e.source in (Source("hard"), Source("fp16"))}
    runs = reached(entry), ends.get("hard", {}), ends.get("fp16", {})
    common = sorted(set.intersection(*(set(found) for found in runs)))
    if not common:
        return None
    accuracy, hard, full = (float(np.mean([found[seed] for seed in common])) for found in runs)
    if full == hard:
        return None
    return 100 * accuracy / full, 100 * (accuracy - hard) / (full - hard)


def tables(results: dict[str, Any], settings: Settings, effort: float = 1.0) -> Iterator[str]:
    """All tables of these settings, line by line."""
    found = entries(results, settings, effort)
    if not found:
        return
    always = "always on" if settings.mixing == 1 else f"with p = {settings.mixing:g}"
    kind = "images" if settings.method == "random" else f"{settings.method} images"
    yield f"## {settings.classes} classes, {settings.ipc} {kind} a class, {settings.epochs} epochs, CutMix {always}\n"
    yield from _must(found)
    yield from _sources(found)
    yield from _ahead(found)
    if results.get("costs", {}).get("classes") == settings.classes:
        yield from _costs(results["costs"])


def _must(found: list[Entry]) -> Iterator[str]:
    lines = [line for temperature in TEMPERATURES[:2] for line in _must_at(temperature, found)]
    if lines:
        yield f"**What was to be reached** (`{COMMAND} run`): retention / share of the gap, per cent\n"
        yield "| T | labels | asked for | found | seeds | met |"
        yield "|---|---|---|---|---|---|"
        yield from lines
        yield ""


def _must_at(temperature: float, found: list[Entry]) -> Iterator[str]:
    for (prior, size, keep), (retention, gap) in MUST_REACH.items():
        wanted = [Source("vq", prior, size, keep=keep, fit=fit) for fit in dict.fromkeys((FIT, temperature))]
        for entry in (e for source in wanted for e in found if e.source == source):
            known = shares(entry, temperature, found)
            if known:
                met = "yes" if known[0] >= retention and known[1] >= gap else "**no**"
                seeds = len(entry.runs[temperature])
                words = f"{retention:g} / {gap:g} | {known[0]:.2f} / {known[1]:.1f} | {seeds} | {met}"
                yield f"| {temperature:g} | {entry.source.name} | {words} |"


def _sources(found: list[Entry]) -> Iterator[str]:
    yield f"**Every source** (`{COMMAND} run`)\n"
    yield (
        f"| labels | B of labels | B of augmentation | B all-in | B all-in, 15 M rows | % at T = {WARM:g} | retention "
        "| gap closed | % at its best T | of fp16 at its best | gap closed |"
    )
    yield "|---" * 11 + "|"
    for entry in sorted(found, key=lambda e: -e.bytes["all"]):
        size = [size_text(entry.bytes[name]) for name in ("labels", "augmentation", "all", "many")]
        words = [*_judged(entry, WARM, found), *(_judged(entry, None, found) if len(entry.runs) > 1 else [GAP] * 3)]
        yield "| " + " | ".join([entry.source.name, *size, *words]) + " |"
    yield ""


def _judged(entry: Entry, temperature: float | None, found: list[Entry]) -> list[str]:
    best = entry.best() if temperature is None else temperature
    runs, known = entry.runs.get(best), shares(entry, temperature, found)
    spread = f" +- {np.std(runs):.2f}" if runs and len(runs) > 1 else ""
    accuracy = f"{np.mean(runs):.2f}{spread} ({len(runs)})" if runs else GAP
    where = f", T = {best:g}" if temperature is None and runs else ""
    return [accuracy + where, *([f"{known[0]:.1f}", f"{known[1]:.1f}"] if known else [GAP, GAP])]


def _ahead(found: list[Entry]) -> Iterator[str]:
    """Where a rival is as good with no more bytes."""
    ours = [e for e in found if e.source.scheme == "vq" and e.mean(WARM)]
    rivals = [e for e in found if e.source.scheme not in ("vq", "hard") and e.mean(WARM)]
    lines = []
    for column, what in (("all", "here"), ("many", "at 15 M rows")):
        pairs = [(mine, other) for mine in ours for other in rivals if other.bytes[column] <= mine.bytes[column]]
        better = [(mine, other) for mine, other in pairs if _as_good(other, mine)]
        lines += [f"- {what}: {_told(other, column)} against {_told(mine, column)}" for mine, other in better]
    yield f"**Rivals that are as good with no more bytes**, T = {WARM:g}, of {len(rivals)}:\n"
    yield from lines or ["- none"]
    yield ""


def _as_good(other: Entry, mine: Entry) -> bool:
    """Whether students of the other are as good as mine, seed against seed."""
    theirs, own = other.at(WARM), mine.at(WARM)
    common = set(theirs) & set(own)
    return bool(common) and sum(theirs[seed] - own[seed] for seed in common) >= 0


def _costs(costs: dict[str, Any]) -> Iterator[str]:
    batch = costs["batch"]
    yield f"**What decoding takes** (`{COMMAND} cost`), one thread of {costs['processor']}, steps of {batch}\n"
    yield "| labels | parameters of the prior | ms a step | us a label |"
    yield "|---|---|---|---|"
    for name, each in costs["cells"].items():
        yield f"| {name} | {each['parameters']:,} | {each['us'] * batch / 1000:.2f} | {each['us']:.2f} |"
    yield ""


def _told(entry: Entry, column: str) -> str:
    return f"{entry.source.name} ({size_text(entry.bytes[column])} B, {entry.mean(WARM):.2f} %)"


def size_text(value: float) -> str:
    """Bytes in three digits."""
    return "0" if value == 0 else f"{value:.3g}" if value < 1000 else f"{value:.0f}"
