"""`python -m benchmarks.table`: the tables of benchmarks/README.md, from the newest results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
MARK = "<!-- made by `python -m benchmarks.table`; do not edit below -->"
SCALES = {
    "seconds": ((1e-12, "ps"), (1e-9, "ns"), (1e-6, "us"), (1e-3, "ms")),
    "bytes": ((1, "B"), (1e3, "kB"), (1e6, "MB")),
}


def spelled(amount: float, what: str) -> str:
    """Three digits and a unit."""
    scale, unit = next((pair for pair in reversed(SCALES[what]) if amount >= pair[0]), SCALES[what][0])
    return f"{amount / scale:.3g} {unit}"


def lines(records: Iterable[dict[str, Any]]) -> Iterator[str]:
    """A Markdown table for each operation: a row a case; our time, then each rival's and how often ours fits in."""
    tables: dict[tuple[str, str, str], dict[str, list[dict[str, Any]]]] = {}
    for record in records:
        cases_of_op = tables.setdefault((record["op"], record["per"], record.get("unit", "seconds")), {})
        cases_of_op.setdefault(record["case"], []).append(record)
    for (op, per, unit), cases in tables.items():
        names = [record["name"] for record in next(iter(cases.values()))]
        yield ""
        what = "median seconds" if unit == "seconds" else unit
        yield f"**{op}**, {what} per {per}; in brackets how many times as much as ours"
        yield ""
        yield "| case | " + " | ".join(names) + " |"
        yield "|---" * (1 + len(names)) + "|"
        for case, (ours, *rivals) in cases.items():
            cells = [spelled(ours["p50"], unit)]
            cells += [f"{spelled(rival['p50'], unit)} ({rival['ratio']:.2f}x)" for rival in rivals]
            yield f"| {case} | " + " | ".join(cells) + " |"


def main() -> None:
    """Rewrite the tables."""
    readme = FOLDER / "README.md"
    text = readme.read_text().split(MARK)[0] + MARK + "\n"
    for path in newest():
        result = json.loads(path.read_text())
        machine = ", ".join(f"{key} {value}" for key, value in result["machine"].items())
        body = "\n".join(lines(result["records"]))
        text += f"\nFrom [results/{path.name}](results/{path.name}): {machine}.\n{body}\n"
    readme.write_text(text)
    print(f"{readme} from {', '.join(path.name for path in newest())}")


def newest() -> list[Path]:
    """The last results of each kind of machine; names are DATE-KIND.json."""
    found = {path.stem[11:]: path for path in sorted((FOLDER / "results").glob("*.json"))}
    return [found[kind] for kind in sorted(found)]


if __name__ == "__main__":
    main()
