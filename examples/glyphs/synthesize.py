"""Make the distilled images of a method: python -m examples.glyphs.synthesize METHOD|list|sheet.

What is made is kept in VQLABEL_CACHE, and what was interrupted goes on. Students, labels and tables use it by --method.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from examples.glyphs.settings import Settings
from examples.glyphs.synthesis import sets, sheet
from examples.glyphs.synthesis.options import METHODS

CHOSEN = ("classes", "family", "ipc", "steps", "teacher_steps", "seed")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exit 1 with one line if it cannot be done."""
    parser = argparse.ArgumentParser("python -m examples.glyphs.synthesize", description=__doc__)
    parser.add_argument("what", metavar="METHOD|list|sheet", help=", ".join([*METHODS, "list", "sheet"]))
    parser.add_argument("--quick", action="store_true", help="100 classes and a teacher of seconds")
    for field in dataclasses.fields(Settings):
        if field.name in CHOSEN:
            parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), help=f"{field.default}")
    parser.add_argument("--out", type=Path, default=Path("sheet.png"), help="the picture of `sheet`")
    options = parser.parse_args(arguments)
    try:
        _run(options)
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")


def _run(options: argparse.Namespace) -> None:
    given = {name: getattr(options, name) for name in CHOSEN if getattr(options, name) is not None}
    steps = given.pop("steps", 0)
    settings = dataclasses.replace(Settings.quick() if options.quick else Settings(), **given)
    if options.what not in ("list", "sheet"):
        _make(dataclasses.replace(settings, method=options.what, steps=steps))
        return
    iterative = {method for method in METHODS if getattr(METHODS[method], "steps", 0)}
    every = [dataclasses.replace(settings, method=m, steps=steps if m in iterative else 0) for m in METHODS]
    _list(every) if options.what == "list" else _sheet(every, options.out)


def _make(settings: Settings) -> None:
    begin = time.perf_counter()
    path = sets.stored(settings)
    seconds = time.perf_counter() - begin
    print(f"{settings.method}: {_told(path)} in {path} ({seconds:.1f} s)")


def _list(every: Sequence[Settings]) -> None:
    for settings in every:
        path = settings.images_path()
        print(f"{settings.method:<8}{_told(path) if path.exists() else 'missing'}")


def _sheet(every: Sequence[Settings], out: Path) -> None:
    """Those that were made, and real images."""
    made = {s.method: sets.images(s) for s in every if s.method == "random" or s.images_path().exists()}
    sheet.draw(made, every[0].classes, out)
    missing = [s.method for s in every if s.method not in made]
    print(f"{out}: {', '.join(made)}" + (f"; not made yet: {', '.join(missing)}" if missing else ""))


def _told(path: Path) -> str:
    """What a file says of its images, on a line."""
    told = sets.provenance(path)
    losses = told.get("losses", {})
    words = [f"{name.upper()} {pair[0]:.2f} to {pair[1]:.2f}" for name, pair in losses.items() if pair]
    count = told["settings"]["ipc"] * told["settings"]["classes"]
    return ", ".join([f"{count:,} images", f"{path.stat().st_size / 1e6:.1f} MB", *words])


if __name__ == "__main__":
    main()
