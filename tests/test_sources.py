"""Sources: every way to hand logits over gives the same rows, and says so when it cannot."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vqlabel import Corrupt, LabelEncoder, LabelFile, NotALabelFile
from vqlabel.codecs.raw import Raw
from vqlabel.logits import check_finite, check_not_probabilities
from vqlabel.sources import Source, open_source

N, C = 300, 7
LOGITS = np.random.default_rng(0).standard_normal((N, C)).astype(np.float32)


def as_npy(folder: Path) -> Any:
    np.save(folder / "logits.npy", LOGITS)
    return folder / "logits.npy"


def as_safetensors(folder: Path) -> Any:
    others = {"labels": torch.zeros(N, 2), "logits": torch.from_numpy(LOGITS), "ids": torch.arange(N)}
    save_file(others, folder / "logits.safetensors")
    return str(folder / "logits.safetensors")


def as_shards(folder: Path) -> Any:
    np.save(folder / "part-0.npy", LOGITS[:100])
    np.save(folder / "part-1.npy", LOGITS[:0])
    save_file({"x": torch.from_numpy(LOGITS[100:].copy())}, folder / "part-2.safetensors")
    (folder / "README.txt").write_text("not logits")
    return folder


class Loader:
    """Batches of unequal size, anew in each iteration."""

    def __iter__(self) -> Iterator[Any]:
        yield from (LOGITS[:1], torch.from_numpy(LOGITS[1:120]), LOGITS[120:120], LOGITS[120:])


KINDS: dict[str, Callable[[Path], Any]] = {
    "array": lambda folder: LOGITS,
    "other byte order": lambda folder: LOGITS.astype(">f4"),
    "memmap": lambda folder: np.load(as_npy(folder), mmap_mode="r"),
    "private memmap": lambda folder: np.load(as_npy(folder), mmap_mode="c"),
    "tensor": lambda folder: torch.from_numpy(LOGITS).requires_grad_(),
    "npy": as_npy,
    "safetensors": as_safetensors,
    "shards": as_shards,
    "teacher": lambda folder: lambda rows: torch.from_numpy(LOGITS)[torch.from_numpy(rows)],
    "loader": lambda folder: Loader(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_rows_in_any_order(kind: str, tmp_path: Path) -> None:
    source = open_source(KINDS[kind](tmp_path), rows=N, classes=C)
    assert (len(source), source.classes, source.dtype, source.any_order) == (N, C, torch.float32, True)
    for rows in (range(250, N), range(50), range(95, 130), range(N), range(7, 7)):
        np.testing.assert_array_equal(source.read(rows).numpy(), LOGITS[rows.start : rows.stop])
    for picks in (np.array([0, 99, 100, 299]), np.arange(0, N, 2), np.zeros(0, np.int64)):
        np.testing.assert_array_equal(source.take(picks).numpy(), LOGITS[picks])
    assert open_source(source) is source


def test_a_label_file_is_a_source(tmp_path: Path) -> None:
    path, codec = tmp_path / "labels.safetensors", Raw(C)
    metadata = {"codec": {"id": "raw", **codec.config()}, "classes": C}
    with LabelFile.create(path, rows=N, row_bytes=codec.row_bytes, metadata=metadata) as writer:
        writer.write(0, codec.encode(torch.from_numpy(LOGITS)))
    source = open_source(path)
    centred = LOGITS - LOGITS.mean(1, keepdims=True)
    np.testing.assert_allclose(source.read(range(N)).numpy(), centred, atol=2e-3)
    np.testing.assert_allclose(source.take(np.array([5, 17])).numpy(), centred[[5, 17]], atol=2e-3)


def test_a_label_file_is_a_source_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQLABEL_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "labels.safetensors"
    LabelEncoder(Raw(C)).encode(LOGITS, path, progress=False)
    there = open_source(f"file://{path}", rows=N, classes=C)
    assert torch.equal(there.read(range(N)), open_source(path).read(range(N)))
    with pytest.raises(NotALabelFile, match=r"file://.*logits.safetensors: a safetensors file, but"):
        open_source(f"file://{as_safetensors(tmp_path)}")


def test_label_files_of_a_folder_are_copied_and_checked_if_all_of_them_are_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        LabelEncoder(Raw(C)).encode(LOGITS, tmp_path / f"{name}.safetensors", progress=False)
    data = bytearray((tmp_path / "b.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "b.safetensors").write_bytes(data)
    with pytest.raises(Corrupt, match=r"b.safetensors: .* do not match their checksum"):
        open_source(tmp_path).read(range(2 * N))
    monkeypatch.setattr("vqlabel.source_files.COPY_BYTES", len(data))
    assert len(open_source(tmp_path).read(range(2 * N))) == 2 * N  # mapped, as one large file is


def test_a_header_of_many_brackets_is_found_out(tmp_path: Path) -> None:
    header = b'{"a":' + b"[" * 100_000
    (tmp_path / "deep.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match=r"deep.safetensors: the header of the safetensors file is too deeply nested"):
        open_source(tmp_path / "deep.safetensors")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_float_type_is_read_from_safetensors(dtype: torch.dtype, tmp_path: Path) -> None:
    expected = torch.from_numpy(LOGITS).to(dtype)
    save_file({"anything": expected}, tmp_path / "logits.safetensors")
    source = open_source(tmp_path / "logits.safetensors")
    assert source.dtype == dtype
    assert torch.equal(source.read(range(10, 20)), expected[10:20])


def test_a_one_time_iterator_is_read_forward_and_no_other_way() -> None:
    source = open_source(iter(Loader()), rows=N)
    assert not source.any_order
    np.testing.assert_array_equal(source.read(range(100, 150)).numpy(), LOGITS[100:150])
    with pytest.raises(
        ValueError, match="row 149 was asked for, but the iterator is at row 150 and gives each row once"
    ):
        source.read(range(149, 160))
    np.testing.assert_array_equal(source.read(range(150, N)).numpy(), LOGITS[150:])


@pytest.mark.parametrize("name", ["labels.pt", "labels.pth", "labels.tar", "labels.pkl"])
def test_pickles_are_refused_unread(name: str, tmp_path: Path) -> None:
    for path in (tmp_path / name, tmp_path):  # the file need not be there to be refused
        with pytest.raises(ValueError, match=r"can run code .* save the logits as .npy or .safetensors"):
            open_source(path)
        (tmp_path / name).write_bytes(b"")


def write(path: Path, array: Any, **options: Any) -> Path:
    np.save(path, array, **options)
    return path


def text(path: Path, words: str) -> Path:
    path.write_text(words)
    return path


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda f: LOGITS.astype(int), TypeError, "logits must be float16, .* got int64"),
        (lambda f: torch.zeros(3, 4).int(), TypeError, "got torch.int32"),
        (lambda f: LOGITS[0], ValueError, r"logits must have shape \[rows, classes\], got \[7\]"),
        (lambda f: LOGITS[:, :1], ValueError, "have 1 classes, but a label has at least 2"),
        (lambda f: 7, TypeError, "not from int"),
        (lambda f: f / "absent.npy", FileNotFoundError, "absent.npy"),
        (lambda f: f / "logits.csv", ValueError, "logits are read from .npy and .safetensors files"),
        (lambda f: f, ValueError, "the folder holds no .npy or .safetensors file"),
        (lambda f: write(f / "a.npy", LOGITS.astype(int)), ValueError, "a.npy: logits must be float16.* got int64"),
        (lambda f: write(f / "a.npy", LOGITS[0]), ValueError, r"a.npy: logits must have shape .* got \[7\]"),
        (lambda f: write(f / "a.npy", np.asfortranarray(LOGITS)), ValueError, "stored column by column"),
        (lambda f: write(f / "a.npy", np.array([{}]), allow_pickle=True), ValueError, "not a .npy file of numbers"),
        (lambda f: text(f / "a.npy", "no array"), ValueError, "not a .npy file of numbers: the magic string"),
        (lambda f: lambda rows: LOGITS, ValueError, r"does not tell how many rows there are: open_source"),
    ],
)
def test_what_cannot_be_read_is_named(make: Any, kind: type[Exception], words: str, tmp_path: Path) -> None:
    with pytest.raises(kind, match=words):
        open_source(make(tmp_path))


def test_shards_without_one_order_are_refused(tmp_path: Path) -> None:
    for number in (2, 10):
        np.save(tmp_path / f"part{number}.npy", LOGITS)
    with pytest.raises(ValueError, match=r"part10.npy comes before part2.npy by name; write the numbers with leading"):
        open_source(tmp_path)
    os.rename(tmp_path / "part2.npy", tmp_path / "part02.npy")
    np.save(tmp_path / "part03.npy", LOGITS[:, :4])
    with pytest.raises(ValueError, match="part02.npy has 7 classes, but part03.npy has 4"):
        open_source(tmp_path)


def test_safetensors_with_several_matrices_must_name_one(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3, 4), "b": torch.zeros(3, 4)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"are a, b; keep one, or name the one to use 'logits'"):
        open_source(tmp_path / "x.safetensors")


@pytest.mark.parametrize("cut", [0, 7, 100, -1])
def test_a_cut_safetensors_file_is_found_out(cut: int, tmp_path: Path) -> None:
    path = Path(as_safetensors(tmp_path))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match="cut off|ends before its 300 rows|makes no sense"):
        open_source(path)


def test_promised_sizes_are_held_to(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the source has 300 rows, not 301"):
        open_source(LOGITS, rows=301)
    with pytest.raises(ValueError, match="the source has 7 classes, not 8"):
        open_source(LOGITS, classes=8)
    with pytest.raises(ValueError, match="rows 0 to 300 were asked for, but the source has 300"):
        open_source(LOGITS).read(range(301))


def shrinking_file(folder: Path) -> tuple[Source, Callable[[], None]]:
    path = as_npy(folder)
    return open_source(path), lambda: os.truncate(path, 4000)


def growing_file(folder: Path) -> tuple[Source, Callable[[], None]]:
    path = as_npy(folder)
    return open_source(path), lambda: np.save(path, np.zeros((N + 1, C), np.float32))


def teacher_with_a_new_head(folder: Path) -> tuple[Source, Callable[[], None]]:
    width = [C]
    return open_source(lambda rows: np.zeros((len(rows), width[0]), np.float32), rows=N), lambda: width.append(
        width.pop() + 1
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (shrinking_file, "had 8528 bytes when it was opened and has 4000 now; encode it when it no longer changes"),
        (growing_file, "had 8528 bytes when it was opened and has 8556 now"),
        (teacher_with_a_new_head, r"gave logits of shape \[10, 8\] where \[10, 7\] was due: it must not change"),
    ],
)
def test_a_source_that_changes_is_found_out(change: Any, words: str, tmp_path: Path) -> None:
    source, alter = change(tmp_path)
    source.read(range(10))
    alter()
    with pytest.raises(ValueError, match=words):
        source.read(range(10))


@pytest.mark.parametrize("again", [True, False])
def test_batches_of_another_number_are_found_out(again: bool) -> None:
    def batches() -> Any:
        return Loader() if again else iter(Loader())

    with pytest.raises(ValueError, match="the iterator ended after 300 rows, but 301 were promised"):
        open_source(batches(), rows=N + 1).read(range(290, N + 1))
    with pytest.raises(ValueError, match="the iterator goes on after the 299 rows that were promised"):
        open_source(batches(), rows=N - 1).read(range(290, N - 1))
    with pytest.raises(ValueError, match="no batch at all"):
        open_source([], rows=0)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.nan, "row 1002 holds NaN, but a label is finite logits: the teacher failed"),
        (-np.inf, "row 1002 holds -inf, .* probability of 0 by a low logit"),
        (np.inf, "row 1002 holds inf, .* store the logits as float32"),
    ],
)
def test_rows_that_are_not_finite_are_named(value: float, words: str) -> None:
    logits = torch.zeros(4, C)
    check_finite(logits, range(1000, 1004))
    check_finite(torch.full((4, C), 3e38), range(4))  # their sum is not finite, they are
    logits[2, 3] = value
    with pytest.raises(ValueError, match=words):
        check_finite(logits, range(1000, 1004))
    logits[3] = value
    with pytest.raises(ValueError, match="as do 1 of the 3 rows read with it"):
        check_finite(logits, range(1000, 1004))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("temperature", [0.01, 1, 20])
def test_probabilities_are_told_from_logits(dtype: torch.dtype, temperature: float) -> None:
    probabilities = torch.softmax(torch.from_numpy(LOGITS) / temperature, 1)
    with pytest.raises(ValueError, match="these look like probabilities: .* take their logarithm, or pass the logits"):
        check_not_probabilities(probabilities.to(dtype))
    for good in (LOGITS, LOGITS - LOGITS.min(), np.zeros((5, C), np.float32), LOGITS[:0]):
        check_not_probabilities(torch.from_numpy(good))
    check_not_probabilities(probabilities.log())
