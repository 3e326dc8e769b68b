"""LabelFile: the right rows, in every way of loading, in every kind of process; damage is named."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vqlabel import Corrupt, LabelFile, Truncated, reference, rows
from vqlabel.file import COPY_BYTES

Made = Callable[..., tuple[Path, np.ndarray[Any, Any]]]
LOADS = ["copy", "map"]


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("row_bytes", [1, 3, 4, 16, 33, 2000])
def test_gather_gives_the_rows_asked_for(make_file: Made, load: str, row_bytes: int) -> None:
    path, data = make_file(500, row_bytes)
    file = LabelFile(path, load=load)
    for indices in (
        [],
        [0],
        [499, 0, 0, 7],
        np.arange(500),
        np.uint8([255]),
        np.random.default_rng(0).permutation(500),
    ):
        np.testing.assert_array_equal(file.gather(indices), data[np.asarray(indices, int)], strict=True)
    out = np.empty((2, row_bytes), np.uint8)
    assert file.gather([3, 4], out=out, threads=2) is out
    np.testing.assert_array_equal(out, data[3:5])


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize(("G", "nbits"), [(3, 4), (4, 8), (5, 9), (16, 12), (3, 16), (7, 17), (2, 24), (1, 1)])
def test_codes_are_unpacked(make_file: Made, load: str, G: int, nbits: int) -> None:
    row_bytes = (G * nbits + 7) // 8
    path, data = make_file(200, row_bytes, codec={"id": "vq", "G": G, "nbits": nbits})
    picks = np.random.default_rng(1).integers(0, 200, 64)
    codes = LabelFile(path, load=load).codes(picks)
    np.testing.assert_array_equal(codes, reference.unpack(data[picks], nbits, G), strict=True)


def test_what_is_small_is_copied_and_what_is_large_is_mapped(make_file: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = make_file(100, 4)
    assert isinstance(LabelFile(path)._rows_here(), rows.CopiedRows)
    monkeypatch.setattr("vqlabel.file.COPY_BYTES", 399)
    assert isinstance(LabelFile(path)._rows_here(), rows.MappedRows)
    assert COPY_BYTES >= 2**20
    with pytest.raises(ValueError, match="load must be one of auto, copy, map, got 'mmap'"):
        LabelFile(path, load="mmap")


def test_map_asks_for_pages_while_it_is_cold_and_looks_again(make_file: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    path, data = make_file(5000, 16)
    file = LabelFile(path, load="map")
    asked, faults = [], iter(range(0, 10**9, 1000))
    monkeypatch.setattr(rows.MappedRows, "_ask_for", lambda self, indices: asked.append(len(indices)))
    monkeypatch.setattr(rows, "_major_faults", lambda: 0)
    for _ in range(100):
        np.testing.assert_array_equal(file.gather([1, 4999]), data[[1, 4999]])
    assert len(asked) == rows.PROBE_EVERY, "a warm map is left alone"
    monkeypatch.setattr(rows, "_major_faults", lambda: next(faults))
    for _ in range(rows.PROBE_EVERY + 1):
        file.gather([0])
    assert len(asked) == 2 * rows.PROBE_EVERY, "page faults start it again"


@pytest.mark.parametrize("load", LOADS)
def test_pages_are_asked_for_up_to_the_last_row(make_file: Made, load: str) -> None:
    path, data = make_file(3000, 2000)
    file = LabelFile(path, load=load)
    np.testing.assert_array_equal(file.gather([2999, 0, 2998]), data[[2999, 0, 2998]])
    with pytest.raises(IndexError, match=r"indices\[1\] is 3000, but there are 3000 rows"):
        file.gather([0, 3000])


@pytest.mark.parametrize("row_bytes", [0, 2])
def test_wrong_indices_are_named(make_file: Made, row_bytes: int) -> None:
    path, _ = make_file(10, row_bytes)
    file = LabelFile(path)
    with pytest.raises(IndexError, match=r"indices\[2\] is 10, but there are 10 rows"):
        file.gather([1, 2, 10])
    with pytest.raises(IndexError, match=r"indices\[0\] is -1, but there are 10 rows"):
        file.gather([-1])
    for wrong in (3, [[1]], [1.0], [True], ["a"], None):
        with pytest.raises(TypeError, match=r"indices must be whole numbers \[B\], got "):
            file.gather(wrong)  # type: ignore[arg-type]
    assert file.gather([9, 9, 9]).shape == (3, row_bytes)


def test_what_the_codec_does_not_store_is_named(make_file: Made) -> None:
    file = LabelFile(make_file(10, 2)[0])
    with pytest.raises(ValueError, match="codec 'raw' does not store codes, but packed rows"):
        file.codes([0])
    with pytest.raises(KeyError, match="no tensor 'book'; there are books"):
        file.tensor("book")
    with pytest.raises(KeyError, match="no tensor 'codes'"):
        file.tensor("codes")


def test_systems_that_take_no_advice_go_without(make_file: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    class Deaf(mmap.mmap):
        def madvise(self, *_: int) -> None:
            raise OSError(22, "Invalid argument")

    path, data = make_file(100, 4)
    monkeypatch.setattr(rows.mmap, "mmap", Deaf)
    for load in LOADS:
        np.testing.assert_array_equal(LabelFile(path, load=load).gather([99, 0]), data[[99, 0]])


def test_rows_of_no_bytes_keep_the_contract(make_file: Made) -> None:
    path, _ = make_file(10, 0, codec={"id": "vq", "G": 0, "nbits": 12})
    out = np.empty((2, 0), np.uint16)
    file = LabelFile(path)
    assert file.codes([1, 2], out=out) is out
    assert file.codes([1, 2]).dtype == np.uint16
    with pytest.raises(TypeError, match="out must be uint16"):
        file.codes([1, 2], out=np.empty((2, 0), np.uint8))


@pytest.mark.skipif(not os.path.exists("/proc/self/io"), reason="needs /proc")
def test_opening_reads_the_header_only(tmp_path: Path) -> None:
    def bytes_read() -> int:
        return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])

    path = tmp_path / "labels"
    with LabelFile.create(path, rows=2**22, row_bytes=16, metadata={"codec": {"id": "raw"}}) as writer:
        writer.write(0, np.zeros((2**22, 16), np.uint8))
    before = bytes_read()
    LabelFile(path)
    assert bytes_read() - before < 100_000


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_verify_names_the_bad_rows_and_tensors(make_file: Made) -> None:
    path, _ = make_file(100, 3, rows_per_chunk=10)
    start = LabelFile(path).header.tensors["codes"].offset
    for row in (0, 45, 59, 99):
        flip(path, start + 3 * row + 2)
    flip(path, LabelFile(path).header.tensors["books"].offset)
    progress: list[int] = []
    verdict = LabelFile(path).verify(progress.append)
    assert not verdict
    assert verdict.bad_rows == [range(10), range(40, 60), range(90, 100)]
    assert verdict.bad_tensors == ["books"]
    assert str(verdict) == "damaged: rows 0 to 9, 40 to 59, 90 to 99, tensor 'books'"
    assert sum(progress) == 300


def test_damage_never_becomes_a_label(make_file: Made) -> None:
    path, _ = make_file(100, 3, rows_per_chunk=10)
    flip(path, LabelFile(path).header.tensors["codes"].offset + 3 * 45)
    with pytest.raises(Corrupt, match=f"{path}: rows 40 to 49 do not match their checksum; fetch the file again"):
        LabelFile(path).gather([0])
    flip(path, LabelFile(path).header.tensors["books"].offset)
    with pytest.raises(Corrupt, match="tensor 'books' does not match its checksum"):
        LabelFile(path).tensor("books")


def test_replaced_file_is_noticed(make_file: Made, tmp_path: Path) -> None:
    path, _ = make_file(100, 3)
    file, pickled = LabelFile(path), pickle.dumps(LabelFile(path))
    other = tmp_path / "other"
    with LabelFile.create(
        other, rows=100, row_bytes=3, tensors={"books": np.arange(12, dtype=np.float32)}, metadata=file.metadata
    ) as writer:
        writer.write(0, np.zeros((100, 3), np.uint8))
    assert LabelFile(other).header.raw == file.header.raw, "only the rows differ"
    shutil.move(other, path)
    with pytest.raises(Corrupt, match="the file was replaced after it was opened; open it anew"):
        file.gather([0])
    with pytest.raises(Corrupt, match="not the file that was pickled"):
        pickle.loads(pickled)
    os.truncate(path, 4096)
    with pytest.raises(Truncated):
        file.gather([0])


def test_a_mapped_file_that_is_written_to_is_noticed(make_file: Made) -> None:
    path, data = make_file(100, 3)
    mapped, copied = LabelFile(path, load="map"), LabelFile(path, load="copy")
    mapped.gather([0]), copied.gather([0])
    with path.open("r+b") as handle:  # as `cp other labels` does: the same file, other bytes
        handle.seek(mapped.header.tensors["codes"].offset)
        handle.write(bytes(300))
    os.utime(path, ns=(0, 0))  # clocks are coarse
    with pytest.raises(Corrupt, match="was written to after it was opened; open it anew"):
        mapped.gather([0])
    np.testing.assert_array_equal(copied.gather([0, 99]), data[[0, 99]])
    path.unlink()
    np.testing.assert_array_equal(copied.gather([0, 99]), data[[0, 99]])


def test_a_mapped_file_that_is_deleted_is_read_on(make_file: Made) -> None:
    path, data = make_file(100, 3)
    file = LabelFile(path, load="map")
    file.gather([0])
    path.unlink()
    np.testing.assert_array_equal(file.gather([0, 99]), data[[0, 99]])


@pytest.mark.parametrize("load", LOADS)
def test_pickle_takes_the_path_along_and_nothing_else(make_file: Made, load: str) -> None:
    path, data = make_file(50_000, 20)
    file = LabelFile(path, load=load)
    file.gather([0])
    pickled = pickle.dumps(file)
    assert len(pickled) < 500
    np.testing.assert_array_equal(pickle.loads(pickled).gather([49_999]), data[[49_999]])


def test_a_path_may_be_bytes_or_an_object(make_file: Made) -> None:
    path, _ = make_file(1, 1)
    kinds: list[Any] = [str(path), os.fsencode(path), path]
    assert {LabelFile(kind).path for kind in kinds} == {str(path)}


def test_close_and_go_on(make_file: Made) -> None:
    path, data = make_file(10, 4)
    with LabelFile(path) as file:
        np.testing.assert_array_equal(file.gather([5]), data[[5]])
    np.testing.assert_array_equal(file.gather([5]), data[[5]])
    assert repr(file) == "LabelFile('10x4.safetensors', codec='raw', rows=10, row_bytes=4)"
    assert len(file) == 10


def read_rows(file: LabelFile, worker: int, answers: Any) -> None:
    picks = np.random.default_rng(worker).integers(0, len(file), 100)
    answers.put((worker, file.gather(picks).tobytes()))


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_many_processes_read_one_file(make_file: Made, load: str, method: str) -> None:
    processes = 64
    path, data = make_file(20_000, 12)
    file = LabelFile(path, load=load)
    file.gather([0])  # a map or a copy that the children inherit, where they inherit anything
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["vqlabel"])
    answers = context.Queue()
    workers = [context.Process(target=read_rows, args=(file, worker, answers)) for worker in range(processes)]
    for worker in workers:
        worker.start()
    results = dict(answers.get(timeout=300) for _ in workers)
    for worker in workers:
        worker.join()
    for worker, found in results.items():
        picks = np.random.default_rng(worker).integers(0, 20_000, 100)
        assert found == data[picks].tobytes()
    assert len(results) == processes
