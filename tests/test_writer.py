"""LabelWriter: any order, several processes, kill -9, a full disk; the file is whole or it is not there."""

from __future__ import annotations

import errno
import itertools
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import random_rows
from hypothesis import given
from hypothesis import strategies as st

from vqlabel import Corrupt, LabelFile, Truncated, Unfinished
from vqlabel.writer import LabelWriter

RAW = {"codec": {"id": "raw"}}


def begin(path: Path, rows: int = 100, row_bytes: int = 5, per_chunk: int = 8) -> LabelWriter:
    return LabelFile.create(path, rows=rows, row_bytes=row_bytes, metadata={**RAW, "rows_per_chunk": per_chunk})


def undisturbed(folder: Path, data: np.ndarray[Any, Any], per_chunk: int = 8) -> bytes:
    """Bytes of the file that one writer makes in one go."""
    path = folder / "undisturbed"
    with begin(path, *data.shape, per_chunk) as writer:
        writer.write(0, data)
    return path.read_bytes()


@given(cuts=st.lists(st.integers(0, 100), max_size=12), seed=st.integers(0, 1000), per_chunk=st.integers(1, 120))
def test_any_order_gives_the_same_file(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], seed: int, per_chunk: int
) -> None:
    folder = tmp_path_factory.mktemp("order")
    data = random_rows(100, 5)
    edges = sorted({0, 100, *cuts})
    spans = list(itertools.pairwise(edges))
    with begin(folder / "file", per_chunk=per_chunk) as writer:
        for index in np.random.default_rng(seed).permutation(len(spans)):
            start, stop = spans[index]
            writer.write(start, data[start:stop])
    assert (folder / "file").read_bytes() == undisturbed(folder, data, per_chunk)
    assert sorted(path.name for path in folder.iterdir()) == ["file", "undisturbed"]


def test_missing_rows_are_told_in_whole_chunks(tmp_path: Path) -> None:
    data = random_rows(100, 5)
    writer = begin(tmp_path / "file")
    assert writer.missing() == [range(100)]
    writer.write(8, data[8:33])
    assert writer.missing() == [range(8), range(32, 100)]
    writer.write(96, data[96:])
    assert writer.missing() == [range(8), range(32, 96)]
    with pytest.raises(Unfinished, match="rows 0 to 7, 32 to 95 are not written; go on with LabelFile.resume"):
        writer.close()
    writer = LabelFile.resume(tmp_path / "file")
    assert writer.missing() == [range(8), range(32, 96)]
    writer.write(0, data[:8])
    writer.write(32, data[32:96])
    writer.close()
    writer.close()  # once more is no harm
    assert (tmp_path / "file").read_bytes() == undisturbed(tmp_path, data)


@pytest.mark.parametrize(
    ("start", "rows", "kind", "words"),
    [
        (0, np.zeros((2, 5)), TypeError, r"rows must be a uint8 array \[n, 5\], got float64"),
        (0, [[1] * 5], TypeError, "got list"),
        (0, np.zeros((2, 4), np.uint8), ValueError, r"rows must have shape \[n, 5\], got \[2, 4\]"),
        (0, np.zeros(5, np.uint8), ValueError, r"got \[5\]"),
        (99, np.zeros((2, 5), np.uint8), ValueError, "rows 99 to 100 do not fit a set of 100"),
        (-1, np.zeros((2, 5), np.uint8), ValueError, "rows -1 to 0 do not fit"),
        (20, np.zeros((2, 5), np.uint8), ValueError, "rows 20 to 21 hold rows that are already written"),
        (31, np.zeros((9, 5), np.uint8), ValueError, "rows 31 to 31 hold rows that are already written"),
    ],
)
def test_wrong_rows_are_named(tmp_path: Path, start: int, rows: Any, kind: type[Exception], words: str) -> None:
    writer = begin(tmp_path / "file")
    writer.write(16, np.zeros((16, 5), np.uint8))
    with pytest.raises(kind, match=words):
        writer.write(start, rows)
    writer.detach()


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint64])
def test_a_start_may_be_any_whole_number(tmp_path: Path, kind: Any) -> None:
    data = random_rows(600, 5)
    with begin(tmp_path / "file", 600, per_chunk=100) as writer:
        for start in np.array([0, 200], kind):
            writer.write(start, data[int(start) : int(start) + 200])
        writer.write(400, data[400:])
    assert (LabelFile(tmp_path / "file").gather(range(600)) == data).all()
    with begin(tmp_path / "far", 33_000, per_chunk=2**15) as writer:
        writer.write(np.int16(32_000), random_rows(1000, 5))  # which ends beyond what this kind can count
        writer.write(0, random_rows(32_000, 5))
    with pytest.raises(TypeError, match="integer"):
        begin(tmp_path / "other").write(0.0, data)  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [random_rows(5, 8).T, random_rows(8, 10)[:, ::2]], ids=["transposed", "strided"])
def test_rows_may_lie_in_memory_as_they_like(tmp_path: Path, rows: Any) -> None:
    with begin(tmp_path / "file", 8) as writer:  # one chunk, which is summed where the rows lie
        writer.write(0, rows)
    assert (LabelFile(tmp_path / "file").gather(range(8)) == rows).all()


def test_rows_of_no_bytes_are_read_back(tmp_path: Path) -> None:
    writer = begin(tmp_path / "file", row_bytes=0)
    assert writer.read(range(10, 30)).shape == (20, 0)
    writer.detach()


def test_a_file_that_was_deleted_while_it_was_written_is_named(tmp_path: Path) -> None:
    writer = begin(tmp_path / "file")
    writer.write(0, random_rows(100, 5))
    (tmp_path / "file.partial").unlink()
    with pytest.raises(FileNotFoundError, match=r"file.partial was deleted while it was written; begin again"):
        writer.close()


def test_codes_are_packed_as_the_codec_says(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 2**11, (50, 3)).astype(np.uint16)
    settings = {"codec": {"id": "vq", "G": 3, "nbits": 11}}
    with LabelFile.create(tmp_path / "file", rows=50, row_bytes=5, metadata=settings) as writer:
        with pytest.raises(ValueError, match=r"codes must have shape \[n, 3\], got \[50, 2\]"):
            writer.write_codes(0, codes[:, :2])
        with pytest.raises(TypeError, match="codes must be uint16, got int64"):
            writer.write_codes(0, codes.astype(np.int64))
        with pytest.raises(ValueError, match=r"codes\[0, 0\] is 2048, but 11 bits hold at most 2047"):
            writer.write_codes(0, np.full((50, 3), 2048, np.uint16))
        writer.write_codes(20, codes[20:])
        writer.write_codes(0, codes[:20])
    np.testing.assert_array_equal(LabelFile(tmp_path / "file").codes(np.arange(50)), codes, strict=True)
    writer = begin(tmp_path / "other")
    with pytest.raises(ValueError, match="codec 'raw' does not store codes"):
        writer.write_codes(0, codes)
    writer.detach()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    writer = begin(tmp_path / "file", rows=0)
    with pytest.raises(FileExistsError, match="partial exists: go on with LabelFile.resume, or delete it"):
        begin(tmp_path / "file")
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"file appeared while .*partial was written; move one of them"):
        writer.close()
    assert (tmp_path / "file").read_bytes() == b"mine"
    with pytest.raises(FileExistsError, match="exists; delete it or choose another name"):
        begin(tmp_path / "file")
    (tmp_path / "file").unlink()
    LabelFile.resume(tmp_path / "file").close()
    with pytest.raises(FileNotFoundError, match="file is finished"):
        LabelFile.resume(tmp_path / "file")
    with pytest.raises(FileNotFoundError, match="was never begun with LabelFile.create"):
        LabelFile.resume(tmp_path / "other")


def test_failed_block_leaves_a_partial_file(tmp_path: Path) -> None:
    def fail() -> None:
        with begin(tmp_path / "file") as writer:
            writer.write(0, np.zeros((64, 5), np.uint8))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not (tmp_path / "file").exists()
    assert LabelFile.resume(tmp_path / "file").missing() == [range(64, 100)]


def test_chunk_damaged_while_it_waited_is_missing_again(tmp_path: Path) -> None:
    data = random_rows(100, 5)
    writer = begin(tmp_path / "file")
    writer.write(0, data)
    writer.detach()
    partial = tmp_path / "file.partial"
    with partial.open("r+b") as file:
        os.pwrite(file.fileno(), b"\xff" * 5, writer.header.tensors["codes"].offset + 5 * 50)
    resumed = LabelFile.resume(tmp_path / "file")
    assert resumed.missing() == [range(48, 56)]
    resumed.write(48, data[48:56])
    resumed.close()
    assert (tmp_path / "file").read_bytes() == undisturbed(tmp_path, data)


def test_writer_stopped_before_its_first_row_cannot_be_resumed(tmp_path: Path) -> None:
    begin(tmp_path / "file").detach()
    partial = tmp_path / "file.partial"
    whole = partial.read_bytes()
    crcs = LabelFile.resume(tmp_path / "file").header.tensors["crc32"].offset
    states = [whole[:size] for size in (4095, 100, 5, 0)]  # as a system without room set aside leaves it
    states += [bytes(len(whole)), whole[:crcs] + bytes(4) + whole[crcs + 4 :]]  # or one with
    for state in states:
        partial.write_bytes(state)
        with pytest.raises(
            Truncated, match="stopped before the first row, or it is damaged; delete it and begin again"
        ):
            LabelFile.resume(tmp_path / "file")


def test_damaged_tensor_is_never_finished(tmp_path: Path) -> None:
    books = {"books": np.arange(100, dtype=np.float32)}
    writer = LabelFile.create(tmp_path / "file", rows=4, row_bytes=1, tensors=books, metadata=RAW)
    writer.write(0, np.zeros((4, 1), np.uint8))
    with (tmp_path / "file.partial").open("r+b") as file:
        os.pwrite(file.fileno(), bytes(400), writer.header.tensors["books"].offset)
    for finish in (writer.close, lambda: LabelFile.resume(tmp_path / "file")):
        with pytest.raises(Corrupt, match="tensor 'books' is damaged; delete the file and begin again"):
            finish()
    writer.detach()


def test_writer_of_another_file_writes_nothing(tmp_path: Path) -> None:
    old = pickle.dumps(begin(tmp_path / "file"))
    (tmp_path / "file.partial").unlink()
    begin(tmp_path / "file", row_bytes=6).detach()
    before = (tmp_path / "file.partial").read_bytes()
    with pytest.raises(Corrupt, match="is not the file that this writer was made for; resume it anew"):
        pickle.loads(old).write(0, np.ones((8, 5), np.uint8))
    assert (tmp_path / "file.partial").read_bytes() == before


def test_resuming_changes_nothing_in_a_live_file(tmp_path: Path) -> None:
    writer = begin(tmp_path / "file")
    writer.write(0, random_rows(40, 5))
    before = (tmp_path / "file.partial").read_bytes()
    LabelFile.resume(tmp_path / "file").detach()
    assert LabelFile.resume(tmp_path / "file.partial").missing() == [range(40, 100)], "either name will do"
    assert (tmp_path / "file.partial").read_bytes() == before
    writer.write(40, random_rows(60, 5))
    other = LabelFile.resume(tmp_path / "file")
    writer.close()
    other.close()  # finished already, by another
    assert LabelFile(tmp_path / "file").verify()


def test_names_of_partial_files_are_not_for_finished_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="names that end in .partial are for files that are being written"):
        begin(tmp_path / "file.partial")


def test_writing_no_rows_is_no_harm(tmp_path: Path) -> None:
    with begin(tmp_path / "file", rows=8) as writer:
        writer.write(0, np.zeros((8, 5), np.uint8))
        writer.write(5, np.zeros((0, 5), np.uint8))
        writer.write(8, np.zeros((0, 5), np.uint8))
    assert LabelFile(tmp_path / "file").verify()


SLOW_WRITER = """
    import sys, time, numpy as np
    from vqlabel import LabelFile
    from conftest import random_rows
    data = random_rows(4000, 5)
    metadata = {"codec": {"id": "raw"}, "rows_per_chunk": 8}
    writer = LabelFile.create(sys.argv[1], rows=4000, row_bytes=5, metadata=metadata)
    for count, start in enumerate(np.random.default_rng(0).permutation(4000)):
        writer.write(int(start), data[start : start + 1])
        print(count, flush=True)
        time.sleep(60 if count == 3990 else 0)
"""


@pytest.mark.parametrize("after", [0, 1500, 3800])
def test_killed_writer_is_resumed_to_the_same_bytes(tmp_path: Path, after: int) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", textwrap.dedent(SLOW_WRITER), str(tmp_path / "file")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < after:
            pass
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    data = random_rows(4000, 5)
    with LabelFile.resume(tmp_path / "file") as writer:
        for missing in writer.missing():
            writer.write(missing.start, data[missing.start : missing.stop])
    assert (tmp_path / "file").read_bytes() == undisturbed(tmp_path, data)


def test_full_disk_is_told_before_the_first_row(tmp_path: Path) -> None:
    """The limit on file sizes stands for a full disk: the system refuses both at the same place."""
    code = """
        import resource, signal, sys
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        from vqlabel import LabelFile
        try:
            LabelFile.create(sys.argv[1], rows=100_000, row_bytes=5, metadata={"codec": {"id": "raw"}})
        except OSError as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "file")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "file needs 504,096 bytes; make room and begin again" in run.stdout
    assert not list(tmp_path.iterdir())


def test_full_disk_in_mid_write_keeps_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = random_rows(100, 5)
    writer = begin(tmp_path / "file")
    writer.write(0, data[:48])

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match=r"No space left on device; .*partial is kept: make room and go on") as caught:
            writer.write(48, data[48:])
    assert caught.value.errno == errno.ENOSPC
    writer.detach()
    with LabelFile.resume(tmp_path / "file") as resumed:
        assert resumed.missing() == [range(48, 100)]
        resumed.write(48, data[48:])
    assert (tmp_path / "file").read_bytes() == undisturbed(tmp_path, data)


def test_room_is_claimed_before_the_first_row(tmp_path: Path) -> None:
    writer = begin(tmp_path / "file", rows=10**6)
    status = os.stat(tmp_path / "file.partial")
    assert status.st_size == writer.header.file_bytes
    assert status.st_blocks * 512 >= 5 * 10**6
    writer.detach()


def write_part(writer: LabelWriter | str, parts: list[range]) -> None:
    if isinstance(writer, str):
        writer = LabelFile.resume(writer)
    data = random_rows(4000, 5)
    for rows in parts:
        for start in range(rows.start, rows.stop, 3):
            stop = min(start + 3, rows.stop)
            writer.write(start, data[start:stop])
    writer.detach()


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("how", ["pickled", "resumed"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_two_processes_write_disjoint_halves(tmp_path: Path, method: str, how: str) -> None:
    writer = begin(tmp_path / "file", rows=4000)
    chunks = [range(start, min(start + 8, 4000)) for start in range(0, 4000, 8)]
    context: Any = multiprocessing.get_context(method)
    argument = writer if how == "pickled" else str(tmp_path / "file")
    workers = [context.Process(target=write_part, args=(argument, chunks[half::2])) for half in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert writer.missing() == []
    writer.close()
    assert (tmp_path / "file").read_bytes() == undisturbed(tmp_path, random_rows(4000, 5))


def test_pickled_writer_is_small_and_detached(tmp_path: Path) -> None:
    writer = begin(tmp_path / "file", rows=10**6)
    writer.write(0, np.zeros((1000, 5), np.uint8))
    pickled = pickle.dumps(writer)
    assert len(pickled) < 10_000
    pickle.loads(pickled).write(1000, np.zeros((8, 5), np.uint8))
    with pytest.raises(ValueError, match="rows 1000 to 1007 hold rows that are already written"):
        writer.write(1000, np.zeros((8, 5), np.uint8))
    writer.detach()


def test_large_files_need_little_memory(tmp_path: Path) -> None:
    """A header first, rows as they come: 200 MB are written and checked in a process that may not hold them."""
    code = """
        import resource, sys, numpy as np
        from vqlabel import LabelFile
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with LabelFile.create(sys.argv[1], rows=10**7, row_bytes=20, metadata={"codec": {"id": "raw"}}) as writer:
            for start in range(0, 10**7, 10**5):
                writer.write(start, np.full((10**5, 20), start % 251, np.uint8))
        assert LabelFile(sys.argv[1]).verify()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "file")]
    kilobytes = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert kilobytes < 40_000
