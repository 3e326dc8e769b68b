"""`vqlabel compare`: label files of one teacher side by side, bytes against KL."""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vqlabel import told
from vqlabel.codecs.topk import DROPPED
from vqlabel.file import LabelFile
from vqlabel.inspection import in_words
from vqlabel.logits import check_finite
from vqlabel.measure import TEMPERATURES, kl
from vqlabel.outputs import check_picture
from vqlabel.sources import Source
from vqlabel.terminal import one_line, safe
from vqlabel.tokens import TEXT

AT_ONCE = 2**22  # logits
NAME = 40  # characters of a path that a picture has room for


def compare(options: argparse.Namespace) -> int:
    """Print, and draw, what each file costs and how far it is from the teacher."""
    if options.rows < 1:
        raise ValueError(f"--rows must be at least 1, got {options.rows}")
    if options.plot:
        _pyplot()  # better missing now than after the work
        check_picture(options.plot)
    teacher = told.source(options, options.teacher)
    rows = np.random.default_rng(0).choice(len(teacher), min(options.rows, len(teacher)), replace=False)
    for path in options.files:
        file = LabelFile(path)
        _check_same(path, "rows", len(file), len(teacher))
        rows = rows[~file.missing(rows)]  # those that all of them have
    text = told.tokens(options)
    found = [rate(path, teacher, np.sort(rows), text) for path in options.files]
    found.sort(key=lambda entry: entry["all_in"])
    if options.json:
        print(json.dumps({"rows": len(rows), "files": found}, indent=2))
    else:
        _print(found, f"on {len(rows):,} of {len(teacher):,} rows")
    if options.plot:
        _draw(found, options.plot)
    return 0


def rate(path: str, teacher: Source, rows: NDArray[np.int64], text: NDArray[Any] | None = None) -> dict[str, Any]:
    """Bytes a label, mean KL at each temperature (None: infinite), and how often the first class is the teacher's.

    text is the tokens of all positions, for files that are of a text and do not hold it.
    """
    file = LabelFile(path)
    labels = told.labels(file, text if TEXT in file.metadata else None)
    _check_same(path, "classes", labels.classes, teacher.classes)
    if len(rows) == 0:
        raise ValueError(f"{path} has no rows to compare")
    sums, agree = np.zeros(len(TEMPERATURES)), 0
    step = max(1, AT_ONCE // labels.classes)
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        wanted, decoded = (source.take(part).double() for source in (teacher, labels))
        if labels.drops:  # a class with no probability at all is infinitely far from a teacher that gives it some
            decoded = decoded.masked_fill(decoded <= DROPPED, -torch.inf)
        sums += _divergences(path, wanted, decoded, part).sum(1).numpy()
        agree += int((wanted.argmax(1) == decoded.argmax(1)).sum())
    means = [None if total == np.inf else total / len(rows) for total in sums.tolist()]
    all_in = file.header.file_bytes / len(file)
    return {
        "file": path,
        "codec": in_words(file.metadata["codec"]),
        "codes": file.row_bytes,
        "all_in": all_in,
        "ratio": 2 * labels.classes / all_in,
        "kl": {f"{t:g}": mean for t, mean in zip(TEMPERATURES, means, strict=True)},
        "top1": agree / len(rows),
    }


def _check_same(path: str, what: str, here: int, there: int) -> None:
    if here != there:
        raise ValueError(f"{path} has {here} {what}, but the teacher's logits have {there}")


def _divergences(path: str, wanted: torch.Tensor, decoded: torch.Tensor, rows: NDArray[np.int64]) -> torch.Tensor:
    """KL at each temperature, of each of these rows [T, B], from logits [B, C]; ValueError for a row that has none."""
    try:
        check_finite(wanted, rows)
    except ValueError as error:
        raise ValueError(f"the teacher's {error}") from None
    found = torch.stack([kl(wanted, decoded, t) for t in TEMPERATURES])
    broken = found.isnan().any(0).nonzero()[:, 0].tolist()
    if broken:
        raise ValueError(f"{path}: row {rows[broken[0]]} decodes to NaN or inf: make its label again")
    return found


def _print(found: list[dict[str, Any]], caption: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    numbers = ("codes", "all in", "fp16 /", *(f"KL, T={t:g}" for t in TEMPERATURES), "top-1")
    table = Table(title=f"bytes a label and mean KL {caption}", title_justify="left", box=box.SIMPLE, padding=0)
    table.add_column("file", overflow="fold")
    for name in numbers:
        table.add_column(f" {name}", justify="right", no_wrap=True)
    for entry in found:
        divergences = ("infinite" if value is None else f"{value:.2e}" for value in entry["kl"].values())
        costs = (f"{entry['codes']:,}", f"{entry['all_in']:.2f}", f"{entry['ratio']:,.1f}")
        table.add_row(safe(entry["file"]), *costs, *divergences, f"{entry['top1']:.2%}")
    console = Console()
    console.print(table)
    for entry in found:
        console.print(safe(f"{entry['file']}: {entry['codec']}"))
    console.print("Rows that a codec was fitted on flatter it a little; inspect shows what it was measured on.")


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise ValueError("--plot needs matplotlib: pip install 'vqlabel[plots]'") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _draw(found: list[dict[str, Any]], path: str) -> None:
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
    finite = [entry for entry in found if None not in entry["kl"].values()]
    for t in (f"{t:g}" for t in TEMPERATURES):
        values = [max(entry["kl"][t], 1e-9) for entry in finite]  # nothing lies at 0 on a logarithmic axis
        axes.plot([entry["all_in"] for entry in finite], values, "o", label=f"T = {t}")
    for entry in found:
        axes.axvline(entry["all_in"], color="0.9", zorder=0)
        place = (entry["all_in"], 1.01)
        file = one_line(entry["file"])  # no font has what does not print
        file = file if len(file) <= NAME else f"…{file[1 - NAME :]}"
        name = axes.annotate(file, place, xycoords=("data", "axes fraction"), rotation=30, va="bottom")
        name.set_parse_math(False)  # a $ in a file's name is no formula
    axes.set(xscale="log", yscale="log", xlabel="bytes a label, all in", ylabel="mean KL to the teacher (nats)")
    axes.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)
