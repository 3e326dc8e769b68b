"""Prints the ratios after a run and, with --record, keeps them as dated JSON."""

from __future__ import annotations

import datetime
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

import vqlabel
from benchmarks.race import RECORDS
from benchmarks.table import lines
from vqlabel import _native

RESULTS = Path(__file__).parent / "results"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --record."""
    parser.addoption("--record", action="store_true", help="keep the figures under benchmarks/results")


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """Print what was measured; keep it if asked to and if everything passed."""
    for line in lines(RECORDS):
        terminalreporter.write_line(line)
    if config.getoption("--record") and exitstatus == 0 and RECORDS:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{datetime.date.today().isoformat()}-cpu.json"
        path.write_text(json.dumps({"machine": machine(), "records": RECORDS}, indent=1) + "\n")
        terminalreporter.write_line(f"kept as {path.relative_to(Path.cwd())}")


def machine() -> dict[str, Any]:
    """Circumstances of the figures."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit.stdout.strip(),
        "cpu": cpu_name(),
        "simd": _native.simd(),
        "python": platform.python_version(),
        "vqlabel": vqlabel.__version__,
        "numpy": np.__version__,
        "faiss": faiss.__version__,
    }


def cpu_name() -> str:
    """What the processor calls itself."""
    try:
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        return names[0].split(":")[1].strip()
    except (OSError, IndexError):
        return platform.processor() or platform.machine()
