"""Fixtures that several test files share."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from vqlabel import LabelFile, _native

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden"

# The same examples in every run; no deadline, because a shared machine may stall.
settings.register_profile("vqlabel", derandomize=True, deadline=None, max_examples=200)
settings.load_profile("vqlabel")


def simd_paths() -> list[str]:
    """Every path that this processor can run, by asking for each."""
    best, found = _native.simd(), []
    for name in ("scalar", "ssse3", "avx2", "neon"):
        try:
            _native.use_simd(name)
        except ValueError:
            continue
        found.append(name)
    _native.use_simd(best)
    return found


@pytest.fixture(params=simd_paths())
def simd(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once on every SIMD path."""
    before = _native.simd()
    _native.use_simd(request.param)
    yield request.param
    _native.use_simd(before)


@pytest.fixture(scope="session")
def golden() -> ModuleType:
    """tests/golden/make.py as a module."""
    spec = importlib.util.spec_from_file_location("golden_make", GOLDEN / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def golden_copy(tmp_path: Path) -> Path:
    """A copy, to be damaged, of the golden file that has everything."""
    return Path(shutil.copy(GOLDEN / "v1_vq_g3x11.safetensors", tmp_path / "golden.safetensors"))


def random_rows(rows: int, row_bytes: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Rows of random bytes."""
    return np.random.default_rng(seed).integers(0, 256, (rows, row_bytes)).astype(np.uint8)


@pytest.fixture
def make_file(tmp_path: Path) -> Callable[..., tuple[Path, np.ndarray[Any, Any]]]:
    """Get make(rows, row_bytes, **metadata), which writes a file of random rows and returns its path and the rows."""

    def make(rows: int, row_bytes: int, **metadata: Any) -> tuple[Path, np.ndarray[Any, Any]]:
        path = tmp_path / f"{rows}x{row_bytes}.safetensors"
        data = random_rows(rows, row_bytes)
        settings = {"codec": {"id": "raw"}, **metadata}
        tensors = {"books": np.arange(12, dtype=np.float32)}
        with LabelFile.create(path, rows=rows, row_bytes=row_bytes, tensors=tensors, metadata=settings) as writer:
            writer.write(0, data)
        return path, data

    return make
