"""Prints the ratios after a run and, with --record, keeps them as dated JSON."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vqlabel
from benchmarks.gpu import HAS_GPU, gpu
from benchmarks.race import RECORDS
from benchmarks.table import lines
from vqlabel import _native

RESULTS = Path(__file__).parent / "results"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --record."""
    words = "keep the figures under benchmarks/results; say which part of all benchmarks they are, if it is one"
    parser.addoption("--record", nargs="?", const="", metavar="PART", help=words)


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """Print what was measured; keep it if asked to and if everything passed."""
    for line in lines(RECORDS):
        terminalreporter.write_line(line)
    part = config.getoption("--record")
    if part is not None and exitstatus == 0 and RECORDS:
        RESULTS.mkdir(exist_ok=True)
        found = machine()
        path = RESULTS / f"{found['date']}-{slug(found.get('gpu', 'cpu') + ' ' + part)}.json"
        path.write_text(json.dumps({"machine": found, "records": RECORDS}, indent=1) + "\n")
        terminalreporter.write_line(f"kept as {path.relative_to(Path.cwd())}")


def machine() -> dict[str, Any]:
    """Circumstances of the figures."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit.stdout.strip(),
        "cpu": cpu_name(),
        "simd": _native.simd(),
        "python": platform.python_version(),
        "vqlabel": vqlabel.__version__,
        "numpy": np.__version__,
        "faiss": version("faiss-cpu"),
        **(gpu() if HAS_GPU else {}),
    }


def slug(name: str) -> str:
    """A name as a part of a file's name."""
    return re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")


def version(package: str) -> str:
    """Version of a package; its rivals are skipped where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def cpu_name() -> str:
    """What the processor calls itself."""
    try:
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        return names[0].split(":")[1].strip()
    except (OSError, IndexError):
        return platform.processor() or platform.machine()
