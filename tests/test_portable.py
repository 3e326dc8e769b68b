"""The C++ builds without a warning and runs with every compiler found here, for other processors where one can."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, simd_paths

BEST = simd_paths()[-1]
BUILD = ["-std=c++17", "-O2", "-pthread", "-ffp-contract=off"]  # as setup.py says
STRICT = [*BUILD, "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]


@pytest.mark.parametrize(
    ("compiler", "runner", "simd"),
    [
        (["c++"], [], BEST),
        (["clang++"], [], BEST),
        (["clang++", "-fsanitize=address,undefined", "-fno-sanitize-recover"], [], BEST),
        (["aarch64-linux-gnu-g++", "-static"], ["qemu-aarch64"], "neon"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_best_path_equals_scalar(tmp_path: Path, compiler: list[str], runner: list[str], simd: str) -> None:
    for tool in (compiler[0], *runner):
        if shutil.which(tool) is None:
            assert tool != "c++", "the package itself needs a compiler"
            pytest.skip(f"no {tool} here")
    program = tmp_path / "check"
    command = [*compiler, *STRICT, str(ROOT / "tests" / "native_check.cpp"), "-o", str(program)]
    subprocess.run(command, check=True)
    run = subprocess.run([*runner, str(program)], capture_output=True, text=True, check=False)
    assert run.stdout == f"{simd} 0\n", run.stderr
