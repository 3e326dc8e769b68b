"""The command `vqlabel`: look at a label file, check it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from vqlabel._version import __version__
from vqlabel.errors import FormatError
from vqlabel.file import LabelFile
from vqlabel.format import CODES


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 if all is well, 1 if the file is not, 2 if the command makes no sense."""
    options = _parser().parse_args(arguments)
    try:
        sys.exit(options.run(options))
    except (FormatError, OSError, ValueError, EOFError) as error:
        _say(f"error: {_one_line(error)}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("vqlabel", description="Soft labels in a few bytes each.")
    parser.add_argument("--version", action="version", version=f"vqlabel {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    inspect = commands.add_parser("inspect", help="say what a label file holds")
    inspect.add_argument("file")
    inspect.add_argument("--json", action="store_true", help="for programs")
    inspect.set_defaults(run=_inspect)
    verify = commands.add_parser("verify", help="compare everything in a label file with its checksums")
    verify.add_argument("file")
    verify.add_argument("--images", help=".npy of all images [N, c, H, W], to compare with the stored reference views")
    verify.set_defaults(run=_verify)
    return parser


def _inspect(options: argparse.Namespace) -> int:
    file = LabelFile(options.file)
    if options.json:
        print(json.dumps(_summary(file), indent=2))
        return 0
    from rich.console import Console
    from rich.table import Table

    sizes = Table("what", "type", "shape", "bytes", title=_safe(os.path.basename(file.path)), title_justify="left")
    for name, tensor in file.header.tensors.items():
        shape = " x ".join(map(str, tensor.shape))
        sizes.add_row(_safe(name), str(tensor.dtype), shape, f"{tensor.nbytes:,}")
    sizes.add_row("header", "", "", f"{len(file.header.raw):,}")
    sizes.add_row("file", "", "", f"{file.header.file_bytes:,}", end_section=True)
    facts = Table("key", "value", show_header=False, title="metadata", title_justify="left")
    for key, value in file.metadata.items():
        facts.add_row(_safe(key), _safe(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
    facts.add_row("bytes a label, all in", f"{file.header.file_bytes / len(file):.3f}" if len(file) else "-")
    console = Console()
    console.print(sizes)
    console.print(facts)
    return 0


def _summary(file: LabelFile) -> dict[str, Any]:
    tensors = {
        name: {"dtype": str(tensor.dtype), "shape": list(tensor.shape), "bytes": tensor.nbytes}
        for name, tensor in file.header.tensors.items()
    }
    return {
        "path": file.path,
        "rows": len(file),
        "row_bytes": file.row_bytes,
        "file_bytes": file.header.file_bytes,
        "metadata": file.metadata,
        "tensors": tensors,
    }


def _verify(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    file = LabelFile(options.file)
    columns = TextColumn("checking"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=file.header.tensors[CODES].nbytes)
        verdict = file.verify(lambda count: progress.advance(task, count), images=_images(options.images))
    if verdict:
        views = ", and the images are the ones" if options.images else ""
        print(f"{_one_line(file.path)}: {verdict}{views} ({len(file):,} rows, {len(file.tensor_names)} tensors)")
        return 0
    _say(f"{_one_line(file.path)}: {_one_line(verdict)}" + ("" if verdict.bad_views else "; fetch the file again"))
    return 1


def _images(path: str | None) -> Any:
    if path is None:
        return None
    import numpy as np
    import torch

    return torch.from_numpy(np.load(path, allow_pickle=False))


def _one_line(value: object) -> str:
    # A file's own words must not steer a terminal.
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(value))


def _safe(value: str) -> Any:
    from rich.text import Text

    return Text(_one_line(value))  # no markup, no emoji


def _say(message: str) -> None:
    print(message, file=sys.stderr)
