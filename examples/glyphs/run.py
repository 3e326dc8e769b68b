"""The command line: python -m examples.glyphs.run STAGE. Each stage makes what it needs and is not there yet."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from examples import shared
from examples.glyphs import data, distill, figures, models, student, teacher
from examples.glyphs.settings import Settings

RESULTS = Path(__file__).parent / "results"
TEMPERATURES = (1.0, 4.0, 20.0)
IPCS = (1, 5, 10)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a stage; exit 1 with one line if it cannot be done."""
    options = _parser().parse_args(arguments)
    try:
        options.run(_settings(options), options)
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m examples.glyphs.run", description=__doc__)
    stages: dict[str, Callable[..., None]] = {
        "data": _data, "teacher": _teacher, "labels": _labels, "student": _student, "baseline": _baseline,
        "table": _table, "all": _all, "main": _main,
    }  # fmt: skip
    parser.add_argument("stage", choices=stages)
    parser.add_argument("--quick", action="store_true", help="100 classes, under a minute on two cores")
    for field in dataclasses.fields(Settings):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), help=f"{field.default}")
    parser.add_argument("--seeds", type=int, default=3, help="students for each source of labels")
    parser.add_argument("--temperature", type=float, default=20.0)
    parser.add_argument("--student", default="convnet", choices=models.STUDENTS)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of baseline.json and the figure")
    parser.set_defaults(run=lambda settings, options: stages[options.stage](settings, options))
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(Settings)}
    base = Settings.quick() if options.quick else Settings()
    return dataclasses.replace(base, **{name: value for name, value in given.items() if value is not None})


def _timed(what: str, work: Callable[[], str]) -> None:
    begin = time.perf_counter()
    said = work()
    print(f"{what}: {said} ({time.perf_counter() - begin:.1f} s)", flush=True)


def _data(settings: Settings, _: argparse.Namespace) -> None:
    def work() -> str:
        glyphs = settings.glyphs
        faces = f"{len(glyphs.train)} + {len(glyphs.test)} faces"
        unseen = f"{100 * glyphs.unseen.mean():.1f} % of the test in none to learn from"
        return f"{glyphs.classes} classes, {faces}, {unseen}, {glyphs.fingerprint()}"

    _timed("data", work)


def _teacher(settings: Settings, _: argparse.Namespace) -> None:
    _timed("teacher", lambda: f"{teacher.train(settings)[1]:.2f} % of the held-out faces")


def _labels(settings: Settings, _: argparse.Namespace) -> None:
    def work() -> str:
        file = distill.labels(settings)
        return f"{len(file):,} rows of {file.row_bytes} bytes, {file.header.file_bytes / 1e6:.1f} MB in {file.path}"

    _timed("labels", work)


def _student(settings: Settings, options: argparse.Namespace) -> None:
    sources = {"hard": student.hard(settings.classes)}
    sources["fp16"] = student.soft(distill.labels(settings), options.temperature)
    for name, source in sources.items():

        def work(source: student.Source = source) -> str:
            seeds = range(options.seeds)
            runs = [student.train(settings, source, seed=s, student=options.student).whole for s in seeds]
            return f"{np.mean(runs):.2f} % +- {np.std(runs):.2f} over {len(runs)} seeds"

        at = "" if name == "hard" else f" at T = {options.temperature:g}"
        _timed(f"student from {name} labels{at}", work)


def _all(settings: Settings, options: argparse.Namespace) -> None:
    for stage in (_data, _teacher, _labels, _student):
        stage(settings, options)


def _baseline(settings: Settings, options: argparse.Namespace) -> None:
    """Students from hard and from full labels: IPC x temperature x seed. A finished cell is never run again."""
    if settings.method != "random":
        raise ValueError(f"the baseline is of real images, not of method {settings.method!r}")
    path = options.results / "baseline.json"
    results = _read(path)
    here: dict[str, Any] = {"processor": processor(), "cores": os.cpu_count(), "torch": torch.__version__}
    results["settings"] = {k: v for k, v in settings.facts().items() if k != "ipc"}
    with _stopwatch(results, "teacher", settings.teacher_path()):
        net, here["teacher"] = teacher.train(settings)
    if results.setdefault("teacher", teacher.fingerprint(net)) != teacher.fingerprint(net):
        raise ValueError(  # the last bits of its weights depend on the processor
            f"{path} holds students of another teacher's labels; move it away to begin again"
        )
    results["machines"] = [*(m for m in results.get("machines", []) if m != here), here]
    for seed, ipc in itertools.product(range(options.seeds), IPCS):
        local = dataclasses.replace(settings, ipc=ipc)
        with _stopwatch(results, f"labels, IPC {ipc}", local.labels_path()):
            file = distill.labels(local)
        cells: dict[str, student.Source] = {"hard": student.hard(settings.classes)}
        cells |= {f"fp16, T = {t:g}": student.soft(file, t) for t in TEMPERATURES}
        for name, source in cells.items():
            key = f"IPC {ipc}, {name}, {options.student}, seed {seed}"
            if key not in results["cells"]:
                with _stopwatch(results, f"student, IPC {ipc}"):
                    found = student.train(local, source, seed=seed, student=options.student)
                    results["cells"][key] = found.whole
                print(f"{key}: {results['cells'][key]:.2f} %", flush=True)
            shared.write(path, results)
    results["spectrum"] = figures.spectrum(distill.labels(settings), options.results)
    shared.write(path, results)
    print("\n".join(figures.table(results)))


def _main(_: Settings, options: argparse.Namespace) -> None:
    """Images of all methods under labels of every kind, which `examples.glyphs.main` has more commands for."""
    from examples.glyphs import main as images  # which imports this module

    given = ["--quick"] * options.quick + (["--classes", str(options.classes)] if options.classes else [])
    images.main(["run", "--seeds", str(options.seeds), *given])


def _table(_: Settings, options: argparse.Namespace) -> None:
    """The table of README.md, from baseline.json."""
    figures.write_table(_read(options.results / "baseline.json"), Path(__file__).with_name("README.md"))


@contextlib.contextmanager
def _stopwatch(results: dict[str, Any], what: str, made: Path | None = None) -> Iterator[None]:
    """Keep the seconds of the first time that something was made, not of finding it there."""
    was_there, begin = made is not None and made.exists(), time.perf_counter()
    yield
    if not was_there:
        results["seconds"].setdefault(what, round(time.perf_counter() - begin, 1))


def processor() -> str:
    """What the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _read(path: Path) -> dict[str, Any]:
    return shared.read(path, {"renderer": data.renderer(), "cells": {}, "seconds": {}})


if __name__ == "__main__":
    main()
