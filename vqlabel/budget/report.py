"""`vqlabel budget`: the bytes of a data set in every method, as a table, as JSON, and drawn."""

from __future__ import annotations

import argparse
import json
from typing import Any

from vqlabel.budget import DATA_SETS, METHODS, Budget, budget
from vqlabel.budget.ask import DataSet
from vqlabel.outputs import check_picture

OPTIONS = ("images", "epochs", "batch", "keep", "k", "bytes", "prior", "dtype", "block", "as_written")
UNITS = (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3))
COLOURS = {
    "images": "#3a8f5c",
    "labels": "#1f5fa8",
    "tables": "#7aa6d8",
    "augmentation": "#b8560f",
    "index": "#e0b04a",
    "containers": "0.6",
}


def report(options: argparse.Namespace) -> int:
    """Print, and draw, what each method stores."""
    if options.plot:
        _pyplot()  # better missing now than after the table
        check_picture(options.plot)
    dataset = _data_set(options)
    asked = {name: getattr(options, name) for name in OPTIONS}
    found = [budget(method, dataset, options.ipc, **asked) for method in options.method or METHODS]
    if options.json:
        print(json.dumps([entry.to_json() for entry in found], indent=2))
    else:
        _print(found)
    if options.plot:
        _draw(found, options.plot)
    return 0


def _data_set(options: argparse.Namespace) -> str | DataSet:
    if options.classes is None:
        if options.dataset is None:
            raise ValueError(f"say a data set, one of {', '.join(DATA_SETS)}, or --classes of one of your own")
        if options.dataset not in DATA_SETS:
            known = ", ".join(DATA_SETS)
            raise ValueError(f"known data sets are {known}: say --classes of another, got {options.dataset!r:.80}")
        if options.image_bytes is not None:
            raise ValueError(f"--image-bytes go with --classes; those of {options.dataset!r:.80} are known")
        return str(options.dataset)
    if options.dataset in DATA_SETS:
        raise ValueError(f"the classes of {options.dataset!r} are known; leave out --classes, or take another name")
    return DataSet(options.dataset or "your own", options.classes, options.image_bytes or 0)


def human(size: float) -> str:
    """Bytes in decimal units, three digits.

    >>> human(30_420_172_800), human(999), human(0)
    ('30.4 GB', '999 B', '0')
    """
    if size == 0:
        return "0"
    for name, unit in UNITS:
        if size >= 0.9995 * unit:
            number = size / unit
            return f"{number:,.{max(0, 3 - len(str(int(number + 0.0005))))}f} {name}"
    return f"{size:.0f} B"


def _short(size: int) -> str:
    return human(size).replace(" ", "").removesuffix("B")


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits if value < 1000 else 0}f}"


def _print(found: list[Budget]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from vqlabel.terminal import safe

    images = human(found[0].images) if found[0].images else "unknown size"
    title = safe(f"{found[0].dataset}: bytes beside the images ({images})")
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=0)
    table.add_column("method", no_wrap=True)
    for name in ("labels", "tables", "views", "index", "files", "all", "GiB", "B/label", "SRe2L/"):
        table.add_column(f" {name}", justify="right", no_wrap=True)
    for entry in found:
        parts = (entry.labels, entry.tables, entry.augmentation, entry.index, entry.containers, entry.label_set)
        rate = (_number(entry.label_set / 2**30, 3), _number(entry.per_label, 2) if entry.rows else "-")
        table.add_row(entry.method, *map(_short, parts), *rate, "-" if entry.ratio is None else _number(entry.ratio, 1))
    console = Console()
    console.print(table)
    for entry in found:
        teacher = f" ({human(entry.teacher)} as a ResNet-18 in fp16)" if entry.teacher else ""
        if entry.note:
            console.print(safe(f"{entry.method}: {entry.note}{teacher}"))
    console.print("k, M, G: 10^3, 10^6, 10^9 bytes, so 1G is 1 GB; GiB: 2^30 bytes. Labels count that are stored.")


def _pyplot() -> Any:
    try:
        import matplotlib as mpl
    except ImportError:
        raise ValueError("--plot needs matplotlib: pip install 'vqlabel[plots]'") from None
    mpl.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _draw(found: list[Budget], path: str) -> None:
    """Shares of all bytes, the images among them; the same budgets give the same SVG."""
    pyplot = _pyplot()
    with pyplot.rc_context({"svg.hashsalt": "budget"}):
        figure, axes = pyplot.subplots(figsize=(8, 1.5 + 0.4 * len(found)), layout="constrained")
        left = [0.0] * len(found)
        for part, colour in COLOURS.items():
            shares = [100 * getattr(entry, part) / max(entry.total, 1) for entry in found]
            axes.barh(range(len(found)), shares, left=left, color=colour, label=part)
            left = [begin + share for begin, share in zip(left, shares, strict=True)]
        axes.set_yticks(range(len(found)), [f"{entry.method}: {human(entry.total)}" for entry in found], fontsize=8)
        axes.invert_yaxis()
        axes.set(xlabel="share of all bytes, images included, %", xlim=(0, 100))
        axes.set_title(found[0].dataset, fontsize=10, loc="left", parse_math=False)  # a $ in a name is no formula
        figure.legend(fontsize=7, ncols=len(COLOURS), loc="outside lower center")
        figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None)
        pyplot.close(figure)
