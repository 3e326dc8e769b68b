"""Encoding: against the codec alone and the matrix products in it, and its memory on more logits than memory holds."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.race import race
from vqlabel import LabelEncoder
from vqlabel.codecs import Codec
from vqlabel.codecs.vq import VQ

ROWS, CLASSES = 16_384, 1000
LARGE_ROWS = 2_700_000  # of 2,000 float32 logits: 21.6 GB
PEAK_BYTES = 2 * 10**9


def teacher(rows: int, classes: int) -> Any:
    """Logits of low rank, as a teacher's are, with a little noise."""
    draw = np.random.default_rng(0).standard_normal
    mixed = draw((rows, 32)) @ (draw((32, classes)) * np.linspace(3, 0.3, 32)[:, None])
    return (mixed + 0.2 * draw((rows, classes))).astype(np.float32)


def products(codec: Codec, logits: torch.Tensor) -> list[torch.Tensor]:
    """The projection of the logits, and the products with the books that distances to all codewords are made of."""
    assert isinstance(codec, VQ)
    assert codec.search is not None
    layout, books = codec.layout, codec.search.books
    h = logits @ codec.search.basis
    if layout.form == "residual":
        return [h @ books.T]
    owner = torch.tensor(layout.owner)
    owned = [(owner == g).nonzero()[:, 0] for g in range(layout.G)]
    return [h[:, own] @ books[own] for own in owned]


@pytest.mark.parametrize("size", [4, 16])
def test_encode(benchmark: Any, tmp_path: Path, size: int) -> None:
    logits = teacher(ROWS, CLASSES)
    options: dict[str, Any] = {
        "bytes_per_label": size,
        "effort": 0.2,
        "rows": 10_000,
        "held_out": 1000,
        "progress": False,
    }
    encoder = LabelEncoder.fit(logits, **options)
    codec, labels = encoder.codec, tmp_path / "labels"
    blocks = [torch.from_numpy(logits[start : start + 4096]) for start in range(0, ROWS, 4096)]
    packed = np.concatenate([codec.encode(block) for block in blocks])
    np.testing.assert_array_equal(encoder.encode(logits, labels, progress=False).gather(np.arange(ROWS)), packed)
    runners = {
        "vqlabel": lambda: encoder.encode(logits, labels, progress=False),
        "the codec alone, no file": lambda: [codec.encode(block) for block in blocks],
        "the matrix products in it": lambda: [products(codec, block) for block in blocks],
    }
    case = {"op": f"encode {CLASSES} logits", "per": "row", "case": f"{size} bytes a label"}
    remove = functools.partial(labels.unlink, missing_ok=True)
    race(benchmark, case, runners, dict.fromkeys(runners, ROWS), rounds=7, prepare=remove)


LARGE = """
import sys
from pathlib import Path
import numpy as np
from vqlabel import LabelEncoder
folder = sys.argv[1]
small = np.load(folder + "/small.npy")
encoder = LabelEncoder.fit(small, bytes_per_label=4, beam=4, effort=0.1, rows=3000, held_out=200, progress=False)
file = encoder.encode(folder + "/large.npy", folder + "/labels", progress=False)
# not ru_maxrss, which begins with that of the process that started this one
lines = Path("/proc/self/status").read_text().splitlines()
print(len(file), next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")))
"""


def test_memory_of_encoding_more_than_20_gb(benchmark: Any, tmp_path: Path) -> None:
    # A sparse file: nothing of it is on the disk, but all of it is read.
    classes = 2000
    array = np.lib.format.open_memmap(tmp_path / "large.npy", "w+", np.float32, (LARGE_ROWS, classes))
    del array
    assert os.path.getsize(tmp_path / "large.npy") > 20 * 10**9
    np.save(tmp_path / "small.npy", teacher(4000, classes))
    command = [sys.executable, "-c", LARGE, str(tmp_path)]
    run = functools.partial(subprocess.run, command, capture_output=True, text=True, check=True)
    done = benchmark.pedantic(run, rounds=1)
    rows, peak = map(int, done.stdout.split())
    benchmark.extra_info["peak GB"] = round(peak / 10**9, 2)
    assert rows == LARGE_ROWS
    assert peak < PEAK_BYTES
