"""The tables of RATE.md, from results/rate.json."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from examples.glyphs.rate_bound import decibels
from examples.glyphs.rate_cells import (
    EQUAL_BYTES,
    MOST_BYTES,
    MUST_CLASSES,
    MUST_MIXING,
    MUST_REACH,
    MUST_TEMPERATURE,
    RATES,
    RIVALS,
)
from examples.glyphs.rate_measure import MANY_ROWS

COMMAND = "python -m examples.glyphs.rate"
BEGIN = f"<!-- begin: made by `{COMMAND} table` from results/rate.json; do not edit -->"
END = "<!-- end -->"
GAP = "--"  # nothing to tell
FAISS = re.compile(r"[PR]Q\d+x\d+$")  # names of its indices
CLOSEST = "closest of faiss that was run"
PHASES = {
    "rows and side information": "rows", "principal directions": "directions", "prior": "prior", "books": "books",
    "codes": "codes", "refit": "refit by KL", "closer codes": "closer codes", "refit to them": "refit to them",
}  # fmt: skip

Entry = dict[str, Any]


def write(text: str, page: Path, begin: str = BEGIN) -> None:
    """Put the tables between the marks of a page."""
    head, rest = page.read_text().split(begin)
    tail = rest.split(END, 1)[1]  # a page may have more tables
    page.write_text(f"{head}{begin}\n\n{text}\n{END}{tail}")


def tables(results: dict[str, Any], classes: int, effort: float = 1.0) -> Iterator[str]:
    """All tables, line by line; those without a cell are left out."""
    entries = [e for e in results["cells"].values() if e["classes"] == classes and e["effort"] == effort]
    mixings = sorted({entry["mixing"] for entry in entries})
    for mixing in mixings:
        here = [entry for entry in entries if entry["mixing"] == mixing]
        quick = ("" if classes == MUST_CLASSES else " --quick") + ("" if effort == 1 else f" --effort {effort:g}")
        command = f"`{COMMAND} measure --mixing {mixing:g}{quick}`"
        always = "always on" if mixing == 1 else f"with p = {mixing:g}"
        yield f"## CutMix {always}\n"
        if (classes, mixing) == (MUST_CLASSES, MUST_MIXING):
            yield from _must(here, command)
        for kind in (_grids, _distortion, _bytes, _int8, _rivals, _seconds):
            yield from kind(here, command)


def codecs(entries: list[Entry], **wanted: Any) -> list[Entry]:
    """Cells of our own codec that have these values, in the order of `cells`, not in that in which they were run."""
    found = [e for e in entries if e["kind"] == "codec" and all(e[name] == value for name, value in wanted.items())]
    return sorted(found, key=lambda e: ([*RATES].index(e["prior"]), e["form"], -e["temperature"], e["bytes"]))


def bound_of(entries: list[Entry], entry: Entry, kind: str = "shared") -> float | None:
    """The least squared error at the rate of a cell."""
    bounds = [e for e in entries if e["kind"] == "bound" and e["prior"] == entry["prior"]]
    return bounds[0][kind].get(f"{entry['row_bytes']:g}") if bounds else None


def closest_faiss(entries: list[Entry], size: int, temperature: str) -> Entry | None:
    """The index of faiss with the least KL, of those of this many bytes that were run."""
    found = [e for e in entries if e["kind"] == "rival" and FAISS.search(e["name"]) and e["row_bytes"] == size]
    return min(found, key=lambda e: e["kl"][temperature], default=None)


def _table(title: str, command: str, names: str, rows: list[list[str]]) -> Iterator[str]:
    if rows:
        yield f"**{title}** ({command})\n"
        yield f"| {names.replace('|', ' | ')} |"
        yield "|---" * (names.count("|") + 1) + "|"
        yield from ("| " + " | ".join(row) + " |" for row in rows)
        yield ""


def _kl(value: float | None) -> str:
    return GAP if value is None else "0" if value == 0 else f"{value:.2e}"


def _beside(found: float | None, rival: float | None) -> str:
    """A cell of the grid: bold where the rival is not worse."""
    if found is None:
        return ""
    return f"**{_kl(found)}**" if rival is not None and found >= rival else _kl(found)


def _must(entries: list[Entry], command: str) -> Iterator[str]:
    at, rows = f"{MUST_TEMPERATURE:g}", []
    for (prior, size), most in MUST_REACH.items():
        for e in codecs(entries, prior=prior, bytes=size, temperature=MUST_TEMPERATURE, stored="int8", form="auto"):
            found, rival = e["kl"][at], closest_faiss(entries, size, at)
            verdict = "met" if found <= most else "**missed**"
            below = "below" if rival and found < rival["kl"][at] else "**not below**"
            faiss = f"{rival['name']}: {_kl(rival['kl'][at])}, {below}" if rival else GAP
            rows.append([prior, str(size), _kl(most), _kl(found), verdict, f"{found / most:.2f}", faiss])
    names = f"prior|bytes|must reach|KL at T = 20||found / must|{CLOSEST}, equal bytes"
    yield from _table("What was asked for, and what was found", command, names, rows)


def _grids(entries: list[Entry], command: str) -> Iterator[str]:
    sizes = sorted({size for rates in RATES.values() for size in rates})
    for at, fits in (("20", (20.0,)), ("4", (20.0, 4.0)), ("1", (20.0, 4.0))):
        rows, rivals = [], [closest_faiss(entries, size, at) for size in sizes]
        faiss = [e["kl"][at] if e else None for e in rivals]
        for prior in RATES:
            for fit in fits:
                cells = {
                    e["bytes"]: e for e in codecs(entries, prior=prior, temperature=fit, stored="int8", form="auto")
                }
                if cells:
                    found = [cells[size]["kl"][at] if size in cells else None for size in sizes]
                    rows.append([prior, f"{fit:g}", *map(_beside, found, faiss)])
        if rows and any(rivals):
            rows.append([CLOSEST, GAP, *("" if value is None else _kl(value) for value in faiss)])
        names = "|".join(["prior", "fitted at T", *(f"{size} B" for size in sizes)])
        yield from _table(f"KL at T = {at}, by bytes of codes", command, names, rows)


def _distortion(entries: list[Entry], command: str) -> Iterator[str]:
    rows = []
    for e in codecs(entries, stored="int8"):
        bound, fixed = bound_of(entries, e), bound_of(entries, e, "fixed")
        about = [GAP] * 3
        if bound and fixed:
            squared = e["squared_error"]
            about = [_kl(e["kl"]["20"] * bound / squared), f"{decibels(squared, bound):.2f}"]
            about.append(f"{abs(decibels(fixed, bound)):.2f}")
        divergences = [_kl(e["kl"][t]) for t in ("1", "4", "20")]
        used = [f"{e['entropy']:.2f} of {e['nbits']}", f"{100 * e['used']:.1f}"] if "used" in e else [GAP] * 2
        name = [e["prior"], str(e["bytes"]), f"{e['temperature']:g}", _books(e)]
        rows.append([*name, *divergences, f"{100 * e['top1']:.2f}", *about, *used])
    names = "prior|bytes|fitted at T|books|KL, T = 1|T = 4|T = 20|top-1 %"
    names += "|bound, T = 20|dB above it|of them: equal bits for all rows|entropy of a code, bits|codewords used %"
    yield from _table("Distortion and its bound", command, names, rows)


def _bytes(entries: list[Entry], command: str) -> Iterator[str]:
    rows = []
    for e in codecs(entries):
        most = MOST_BYTES[e["prior"]]
        verdict = "met" if e["overhead"] <= most else "**missed**"
        if e["stored"] != "int8" or e["classes"] != MUST_CLASSES:
            verdict = GAP  # nothing was asked for
        name = [e["prior"], str(e["bytes"]), f"{e['temperature']:g}", _books(e), e["stored"], str(e["hidden"])]
        rows.append([*name, f"{e['overhead']:,}", f"{most:,}", verdict, *_all_in(e)])
    here = f"all in, {entries[0]['rows']:,} rows" if entries else ""
    names = "prior|codes|fitted at T|books|tables|hidden units|bytes beside the codes|at most|"
    yield from _table("Bytes", command, f"{names}|{here}|all in, {MANY_ROWS // 10**6} M rows", rows)


def _books(entry: Entry) -> str:
    """The form of the books, how many, and bits of a code."""
    form = entry["layout"] if entry["form"] == "auto" else entry["form"]
    return f"{form} {entry['books']}x{entry['nbits']}" if entry["books"] else "none"


def _all_in(entry: Entry) -> list[str]:
    """Bytes a label of everything, at this run's rows and at many."""
    sizes = (entry["overhead"], entry["rows"]), (entry["overhead_many"], MANY_ROWS)
    return [f"{entry['row_bytes'] + overhead / rows:,.2f}" for overhead, rows in sizes]


def _int8(entries: list[Entry], command: str) -> Iterator[str]:
    rows = []
    for e in codecs(entries, stored="fp16"):
        same = {name: e[name] for name in ("prior", "bytes", "temperature")}
        for small in codecs(entries, **same, stored="int8", form="auto"):
            found, whole = small["kl"]["20"], e["kl"]["20"]
            cost = f"{100 * (found / whole - 1):+.1f} %"
            sizes = [f"{small['overhead']:,}", f"{e['overhead']:,}"]
            rows.append([e["prior"], str(e["bytes"]), _kl(whole), _kl(found), cost, *sizes])
    names = "prior|bytes|KL at T = 20, fp16|int8|int8 costs|bytes beside the codes, int8|fp16"
    yield from _table("Tables in int8 and in fp16", command, names, rows)


def _rivals(entries: list[Entry], command: str) -> Iterator[str]:
    rows = []
    for e in sorted((e for e in entries if e["kind"] == "rival"), key=lambda e: e["row_bytes"]):
        kl, squared = e["kl"] or {}, e.get("squared_error")
        bound = bound_of(entries, e) if e["row_bytes"] in EQUAL_BYTES else None
        above = f"{decibels(squared, bound):.2f}" if squared and bound else GAP
        divergences = [_kl(kl.get(t)) for t in ("1", "4", "20")]
        sizes = [f"{e['row_bytes']:,.6g}", f"{e['overhead']:,}", *_all_in(e)]
        rows.append([e["name"], *sizes, *divergences, f"{100 * e['top1']:.2f}", above])
    here = f"all in, {entries[0]['rows']:,} rows" if entries else ""
    names = f"rival|bytes|beside them|{here}|{MANY_ROWS // 10**6} M rows|KL, T = 1|T = 4|T = 20"
    yield from _table("Rivals", command, f"{names}|top-1 %|dB above the bound without a prior", rows)
    missing = [f"`{name}`" for name in RIVALS if name not in {row[0] for row in rows}]
    if rows and missing:
        yield f"Not run: {', '.join(missing)}.\n"


def _seconds(entries: list[Entry], command: str) -> Iterator[str]:
    rows = []
    for e in codecs(entries, stored="int8", temperature=20.0, form="auto"):
        spent = {phase: seconds for phase, seconds in e["seconds"].items() if phase != "measure"}
        each = [spent.get(phase, 0) for phase in PHASES] + [sum(spent.values()), e["encode_us"]]
        rows.append([e["prior"], str(e["bytes"]), e["machine"].split()[0], *(f"{number:.0f}" for number in each)])
    names = f"prior|bytes|threads|{'|'.join(PHASES.values())}|all of the fit|encode, us a row"
    machines = ", ".join(sorted({e["machine"].split(" on ", 1)[1] for e in codecs(entries)}))
    yield from _table(f"Seconds of a fit on {machines}", command, names, rows)
