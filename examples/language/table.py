"""The tables of RESULTS.md, from results/language.json."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from examples.language.settings import Settings
from examples.language.sources import Source, decoders, sources
from examples.language.student import RECIPES
from examples.language.teacher import SHARPNESS

COMMAND = "python -m examples.language.run"
GAP = "--"  # nothing to tell
MOST_BYTES, LEAST_SHARE = 16, 90.0  # what was to be reached: at so many bytes of codes so much of both gaps
TAILS = ("unigram", "ghost", "drop")
GAPS = {"cross_entropy": "CE", "kl": "KL"}


@dataclass
class Entry:
    """The students of one source, one condition and one recipe."""

    source: Source
    bytes: dict[str, float]
    decoded: dict[str, float | None]
    runs: dict[int, dict[str, float]]  # by seed: cross_entropy, kl, agreement

    def mean(self, what: str) -> float:
        """Over the seeds."""
        return float(np.mean([run[what] for run in self.runs.values()]))


Entries = dict[str, Entry]  # by name of the source, in the order of `sources`


def entries(results: dict[str, Any], settings: Settings, condition: str, recipe: str) -> Entries:
    """Students of these settings; hard labels are the same for all recipes."""
    found: Entries = {}
    facts = {fits: settings.facts(fits=fits) for fits in (True, False)}
    cells = list(results["cells"].values())
    for source in sources():
        taught = "kd" if source.scheme == "hard" else recipe
        own = asdict(source), condition, taught, facts[source.fits]
        wanted = [c for c in cells if (c["source"], c["condition"], c["recipe"], c["settings"]) == own]
        if wanted:
            runs = {cell["seed"]: {name: cell[name] for name in (*GAPS, "agreement")} for cell in wanted}
            found[source.name] = Entry(source, wanted[0]["bytes"], wanted[0]["decoded"], dict(sorted(runs.items())))
    return found


def share(entry: Entry, found: Entries, what: str) -> float | None:
    """Per cent of the way from hard labels to full ones, over the seeds that all three have; None if it is no way."""
    ends = [found.get(name) for name in ("hard labels", "fp16")]
    seeds = set(entry.runs).intersection(*(set(end.runs) if end else set() for end in ends))
    if not seeds:
        return None
    hard, full, own = (float(np.mean([e.runs[seed][what] for seed in seeds])) for e in (*ends, entry) if e is not None)
    return 100 * (hard - own) / (hard - full) if hard > full else None


def tables(results: dict[str, Any], settings: Settings) -> Iterator[str]:
    """All tables, line by line; those without a student are left out."""
    for name, words in _teachers(results):
        yield f"Teacher `{name}`, on held-out text: {words}.\n"
    for condition in SHARPNESS:
        for recipe in RECIPES:
            found = entries(results, settings, condition, recipe)
            if len(found) > 1:  # more than hard labels, which all recipes share
                yield f"## Teacher {condition}, students of {recipe.upper()}\n"
                yield from _students(found)
                yield from _must(found)
    yield from _decoders(results, settings)


def write(lines: list[str], page: Path) -> None:
    """The page of all tables."""
    head = (
        f"# Language: what a label of a token is worth\n\nMade by `{COMMAND} table`; README.md says how to read it.\n"
    )
    page.write_text("\n".join([head, *lines]).rstrip() + "\n")


def _teachers(results: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, facts in sorted(results["teachers"].items()):
        words = f"entropy {facts['entropy']:.2f} nats, largest chance {facts['top1']:.2f}, "
        words += f"the 8 largest {facts['top8']:.3f}, the 50 largest {facts['top50']:.3f}, "
        yield name, words + f"cross-entropy {facts['cross_entropy']:.3f}"


def _students(found: Entries) -> Iterator[str]:
    yield (
        "| labels | B of codes | B all-in here | B at 10^9 tokens | KL(teacher, decoded) | CE | CE gap, % "
        "| KL(teacher, student) | KL gap, % | same first token, % | seeds |"
    )
    yield "|---" * 11 + "|"
    for entry in sorted(found.values(), key=lambda e: -e.bytes["codes"]):
        size = [size_text(entry.bytes[name]) for name in ("codes", "here", "many")]
        decoded = GAP if entry.decoded["kl"] is None else f"{entry.decoded['kl']:.4f}"
        parts = [entry.source.name, *size, decoded]
        for what in GAPS:
            parts += [_spread(entry, what), _text(share(entry, found, what))]
        yield "| " + " | ".join([*parts, f"{100 * entry.mean('agreement'):.1f}", str(len(entry.runs))]) + " |"
    yield ""


def _spread(entry: Entry, what: str) -> str:
    values = [run[what] for run in entry.runs.values()]
    return f"{np.mean(values):.4f}" + (f" +- {np.std(values):.4f}" if len(values) > 1 else "")


def _must(found: Entries) -> Iterator[str]:
    """What was to be reached: a codec of few bytes, against rivals of more."""
    ours = [e for e in found.values() if e.source.scheme == "vq" and 0 < e.bytes["codes"] <= MOST_BYTES]
    lines = [line for entry in ours for line in _against(entry, found)]
    if lines:
        yield f"What was to be reached with at most {MOST_BYTES} bytes of codes: {LEAST_SHARE:g} % of both gaps, and no"
        yield "less than random sampling at twice the bytes and every top-k up to 50 with its best tail:\n"
        yield "| labels | gap | found, % | rivals that are better | met |"
        yield "|---|---|---|---|---|"
        yield from lines
        yield ""


def _against(entry: Entry, found: Entries) -> Iterator[str]:
    for what, word in GAPS.items():
        own = share(entry, found, what)
        if own is None:
            continue
        better = [f"{rival.source.name} ({value:.1f})" for rival, value in _rivals(entry, found, what) if value > own]
        met = "yes" if own >= LEAST_SHARE and not better else "**no**"
        yield f"| {entry.source.name} | {word} | {own:.1f} | {', '.join(better) or 'none'} | {met} |"


def _rivals(entry: Entry, found: Entries, what: str) -> Iterator[tuple[Entry, float]]:
    for rival in found.values():
        twice = rival.source.scheme == "draws" and rival.bytes["codes"] <= 2 * entry.bytes["codes"]
        value = share(rival, found, what)
        if value is not None and (twice or rival.source.scheme == "top"):
            yield rival, value


def _decoders(results: dict[str, Any], settings: Settings) -> Iterator[str]:
    cells = [c for c in results["codecs"].values() if c["settings"] == settings.facts(fits=True)]
    order = [asdict(source) for source in decoders()]
    if not cells:
        return
    yield f"## Smaller decoders (`{COMMAND} codecs`)\n"
    yield "| teacher | labels | R | tables | MB of them | B of code | B all-in here | KL(teacher, decoded) | first, % |"
    yield "|---" * 9 + "|"
    for cell in sorted(cells, key=lambda c: (c["condition"], order.index(c["source"]))):
        source, size, decoded = cell["source"], cell["bytes"], cell["decoded"]
        tables = (size["here"] - size["many"]) * settings.rows / 1e6
        yield (
            f"| {cell['condition']} | ours, prior {source['prior']}, {source['bytes']} B | {source['width']} "
            f"| {source['stored']} | {tables:.2f} | {size['codes']:g} | {size['here']:.1f} | {decoded['kl']:.4f} "
            f"| {100 * decoded['top1']:.1f} |"
        )
    yield ""


def _text(value: float | None) -> str:
    return GAP if value is None else f"{value:.1f}"


def size_text(value: float) -> str:
    """Bytes in three digits."""
    return "0" if value == 0 else f"{value:.3g}" if value < 1000 else f"{value:.0f}"
