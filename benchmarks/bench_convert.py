"""`vqlabel convert` of SRe2L's files against reading them with torch.load and encoding; its memory on a large set."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.bench_encode import CLASSES, teacher
from benchmarks.race import race
from vqlabel import LabelEncoder, LabelFile
from vqlabel.codecs.raw import Raw
from vqlabel.convert import Options, open_foreign
from vqlabel.convert.order import drawn_order

IMAGES, EPOCHS = 16_384, 12
LARGE = {"images": 60_000, "classes": 10_450, "batch": 32}  # an epoch of 1.25 GB, in batches as for ImageNet-21K
PEAK_BYTES = 2 * 10**9


def write(folder: Path, images: int, batch: int, epochs: int, logits: torch.Tensor) -> None:
    """A set as SRe2L writes it; all epochs have the same logits [images, C]."""
    order = drawn_order(images, epochs, 42)
    coords = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(batch, 1)
    for epoch in range(epochs):
        target = folder / f"epoch_{epoch}"
        target.mkdir(parents=True)
        for number, start in enumerate(range(0, images, batch)):
            ids = torch.from_numpy(order[epoch, start : start + batch].astype(np.int64))
            box = [np.int64(part) for part in (10, 20, 100, 120)]
            views = coords[: len(ids)].clone(), torch.zeros(len(ids), dtype=torch.bool), torch.randperm(len(ids))
            torch.save([*views, 0.5, box, logits[ids]], target / f"batch_{number}.tar")


def convert(folder: Path, out: Path, encoder: LabelEncoder | None = None) -> LabelFile:
    """The set as a label file, with `raw` unless an encoder is given."""
    found = open_foreign(str(folder), Options(str(out.parent), size=224), "sre2l")
    encoder = encoder or LabelEncoder(found.codec)
    facts: dict[str, Any] = {"metadata": found.metadata | {"images": found.images}, "tensors": found.tensors}
    return encoder.encode(found.source, out, **facts, progress=False)


def read(folder: Path) -> None:
    """All files, once."""
    for path in folder.glob("*/*.tar"):
        torch.load(path, weights_only=False)[5].sum()


@pytest.mark.parametrize("batch", [1024, 128])
def test_convert(benchmark: Any, tmp_path: Path, batch: int) -> None:
    logits, out = torch.from_numpy(teacher(IMAGES, CLASSES)).half(), tmp_path / "labels"
    write(tmp_path / "set", IMAGES, batch, EPOCHS, logits)
    array = tmp_path / "logits.npy"
    np.save(array, logits.repeat(EPOCHS, 1).numpy())
    encoder = LabelEncoder(Raw(CLASSES, as_given=True))
    assert torch.equal(
        LabelEncoder(Raw(CLASSES)).codec.decode(convert(tmp_path / "set", out).gather([3])).half()[0], logits[3]
    )
    runners = {
        "vqlabel convert --codec raw": lambda: convert(tmp_path / "set", out),
        "vqlabel encode of a .npy": lambda: encoder.encode(array, out, progress=False),
        "torch.load of all files": lambda: read(tmp_path / "set"),
    }
    size = IMAGES * EPOCHS * CLASSES * 2
    case = {"op": "convert fp16 logits", "per": "byte of logits", "case": f"batches of {batch}"}
    remove = functools.partial(out.unlink, missing_ok=True)
    race(benchmark, case, runners, dict.fromkeys(runners, size), rounds=5, prepare=remove)


def test_convert_to_codes(benchmark: Any, tmp_path: Path) -> None:
    logits, out = torch.from_numpy(teacher(IMAGES, CLASSES)).half(), tmp_path / "labels"
    write(tmp_path / "set", IMAGES, 1024, 2, logits)
    array = tmp_path / "logits.npy"
    np.save(array, logits.repeat(2, 1).numpy())
    options: dict[str, Any] = {"effort": 0.2, "rows": 10_000, "held_out": 1000, "progress": False}
    encoder = LabelEncoder.fit(str(array), bytes_per_label=8, **options)
    runners = {
        "vqlabel convert --codec vq": lambda: convert(tmp_path / "set", out, encoder),
        "vqlabel encode of a .npy": lambda: encoder.encode(array, out, progress=False),
    }
    case = {"op": f"convert {CLASSES} logits to codes", "per": "row", "case": "8 bytes a label"}
    remove = functools.partial(out.unlink, missing_ok=True)
    race(benchmark, case, runners, dict.fromkeys(runners, 2 * IMAGES), rounds=3, prepare=remove)


def test_memory_of_converting_epochs_larger_than_a_window(benchmark: Any, tmp_path: Path) -> None:
    logits = torch.zeros(LARGE["images"], LARGE["classes"], dtype=torch.float16)
    write(tmp_path / "set", LARGE["images"], LARGE["batch"], 1, logits)
    del logits
    script = (
        "import sys\nfrom pathlib import Path\nfrom benchmarks.bench_convert import convert\n"
        "print(len(convert(Path(sys.argv[1]), Path(sys.argv[2]))))\n"
        "lines = Path('/proc/self/status').read_text().splitlines()\n"
        "print(next(int(line.split()[1]) * 1024 for line in lines if line.startswith('VmHWM')))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "set"), str(tmp_path / "labels")]
    run = functools.partial(subprocess.run, command, capture_output=True, text=True, check=True)
    rows, peak = map(int, benchmark.pedantic(run, rounds=1).stdout.split())
    benchmark.extra_info["peak GB"] = round(peak / 10**9, 2)
    assert rows == LARGE["images"]
    assert peak < PEAK_BYTES
