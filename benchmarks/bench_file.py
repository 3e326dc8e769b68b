"""A file of 1 GiB: random rows as a data loader asks for them, and the time until the first row."""

from __future__ import annotations

import functools
import itertools
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors

from benchmarks import rivals
from benchmarks.race import race
from vqlabel import LabelFile

FILE_BYTES = 2**30
BATCH = 1024
CODECS = {4: (3, 10), 16: (14, 9), 32: (21, 12)}  # row_bytes: G, nbits


@pytest.fixture(scope="module", params=CODECS, ids="{}-byte rows".format)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A label file of random rows, removed afterwards."""
    row_bytes = request.param
    G, nbits = CODECS[row_bytes]
    path = tmp_path_factory.mktemp("rows") / f"{row_bytes}.safetensors"
    rows, block = FILE_BYTES // row_bytes, 2**24 // row_bytes
    random = np.random.default_rng(0).integers(0, 256, (block, row_bytes)).astype(np.uint8)
    metadata = {"codec": {"id": "vq", "G": G, "nbits": nbits}}
    with LabelFile.create(path, rows=rows, row_bytes=row_bytes, metadata=metadata) as writer:
        for start in range(0, rows, block):
            writer.write(start, random)
    yield path
    path.unlink()


def batches(rows: int, seed: int) -> Iterator[Any]:
    """Indices no round has asked for before: the rows come from memory, not from the cache."""
    sets = np.random.default_rng(seed).integers(0, rows, (64, BATCH))
    return itertools.cycle(sets)


@pytest.mark.parametrize("state", ["in memory", "mapped, warm", "mapped, cold"])
def test_gather(benchmark: Any, path: Path, state: str) -> None:
    file = LabelFile(path, load="copy" if state == "in memory" else "map")
    G, nbits = file.metadata["codec"]["G"], file.metadata["codec"]["nbits"]
    offset, shape = file.header.tensors["codes"].offset, (len(file), file.row_bytes)
    mapped: Any = np.memmap(path, np.uint8, "r", offset, shape)
    array: Any = np.array(mapped) if state == "in memory" else mapped
    asked = [batches(len(file), seed) for seed in range(2)]
    runners: dict[str, Callable[[], Any]] = {
        "vqlabel": lambda: file.codes(next(asked[0])),
        "index + numpy": lambda: rivals.numpy_unpack(array[next(asked[1])], nbits, G),
    }
    picks = next(batches(len(file), 7))
    np.testing.assert_array_equal(file.codes(picks), rivals.numpy_unpack(array[picks], nbits, G))
    case = {
        "op": f"gather + unpack of {BATCH} random rows",
        "per": "row",
        "case": f"{file.row_bytes}-byte rows ({G} x {nbits} bits), {state}",
    }
    if state == "mapped, cold":
        race(benchmark, case, runners, dict.fromkeys(runners, BATCH), prepare=lambda: forget(path, array, file))
        return
    for _ in range(60):  # a map that turns out to be warm stops asking for pages
        runners["vqlabel"]()
    race(benchmark, case, runners, dict.fromkeys(runners, BATCH), rounds=60)


def forget(path: Path, mapped: Any = None, file: LabelFile | None = None) -> None:
    """Drop the file from the page cache, and from the maps that hold it there."""
    if file is not None:
        file.close()
        mapped.base.madvise(mmap.MADV_DONTNEED)
    with path.open("rb") as handle:
        os.fsync(handle.fileno())
        os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bytes_read() -> int:
    """What this process has had fetched from disk, and what it has read through system calls."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return max(int(fields["read_bytes"]), int(fields["rchar"]))


@pytest.mark.parametrize("path", [16], indirect=True, ids=["16-byte rows"])
@pytest.mark.parametrize("state", ["warm", "cold"])
def test_open(benchmark: Any, path: Path, state: str) -> None:
    forget(path)
    before = bytes_read()
    file = LabelFile(path, load="map")
    opened = bytes_read() - before
    assert opened < 1_000_000
    offset, shape = file.header.tensors["codes"].offset, (len(file), file.row_bytes)

    def ours() -> Any:
        return LabelFile(path, load="map").gather([12_345])

    def by_safetensors() -> Any:
        with safetensors.safe_open(path, "np") as file:
            return file.get_slice("codes")[12_345:12_346]

    def by_memmap() -> Any:
        return np.array(np.memmap(path, np.uint8, "r", offset, shape)[12_345:12_346])

    np.testing.assert_array_equal(ours(), by_safetensors())
    np.testing.assert_array_equal(ours(), by_memmap())
    prepare = functools.partial(forget, path) if state == "cold" else lambda: None
    runners = {"vqlabel": ours, "safetensors": by_safetensors, "np.memmap, unchecked": by_memmap}
    case = {"op": "open a file of 1 GiB and read one row", "per": "call", "case": state, "bytes_read": opened}
    race(benchmark, case, runners, dict.fromkeys(runners, 1), rounds=40, prepare=prepare)
