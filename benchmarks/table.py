"""`python -m benchmarks.table`: the tables of benchmarks/README.md, from the newest results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
MARK = "<!-- made by `python -m benchmarks.table`; do not edit below -->"
SCALES = ((1e-9, "ns"), (1e-6, "us"), (1e-3, "ms"))


def spelled(seconds: float) -> str:
    """Three digits and a unit."""
    scale, unit = next((pair for pair in reversed(SCALES) if seconds >= pair[0]), (1e-12, "ps"))
    return f"{seconds / scale:.3g} {unit}"


def lines(records: Iterable[dict[str, Any]]) -> Iterator[str]:
    """A Markdown table for each operation: a row a case; our time, then each rival's and how often ours fits in."""
    tables: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for record in records:
        cases_of_op = tables.setdefault((record["op"], record["per"]), {})
        cases_of_op.setdefault(record["case"], []).append(record)
    for (op, per), cases in tables.items():
        names = [record["name"] for record in next(iter(cases.values()))]
        yield ""
        yield f"**{op}**, median seconds per {per}; in brackets how many times as long as ours"
        yield ""
        yield "| case | " + " | ".join(names) + " |"
        yield "|---" * (1 + len(names)) + "|"
        for case, (ours, *rivals) in cases.items():
            cells = [spelled(ours["p50"])]
            cells += [f"{spelled(rival['p50'])} ({rival['ratio']:.2f}x)" for rival in rivals]
            yield f"| {case} | " + " | ".join(cells) + " |"


def main() -> None:
    """Rewrite the tables."""
    newest = max((FOLDER / "results").glob("*-cpu.json"))
    result = json.loads(newest.read_text())
    machine = ", ".join(f"{key} {value}" for key, value in result["machine"].items())
    readme = FOLDER / "README.md"
    head = readme.read_text().split(MARK)[0]
    body = "\n".join(lines(result["records"]))
    readme.write_text(f"{head}{MARK}\n\nFrom [results/{newest.name}](results/{newest.name}): {machine}.\n{body}\n")
    print(f"{readme} from {newest.name}")


if __name__ == "__main__":
    main()
