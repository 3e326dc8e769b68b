"""TinyViT: every label and seed comes out as its own reader gives them; what is wrong with a file is named."""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import exit_status
from numpy.typing import NDArray

from vqlabel import LabelDecoder
from vqlabel.convert import Imported, Options, detect, open_foreign, tinyvit_index, tinyvit_keys

pytestmark = pytest.mark.usefixtures("one_thread")
C = 30
NAMES = [f"n{number // 7:04d}_{number * 37 % 1000}" for number in range(50)]


def record(rng: np.random.Generator, k: int) -> bytes:
    """Seed, classes and probabilities of a view."""
    said = np.exp(2 * rng.standard_normal(C))
    said /= said.sum()
    ids = np.argsort(-said)[:k]
    return bytes(
        struct.pack("<i", rng.integers(2**31)) + ids.astype("<i2").tobytes() + said[ids].astype("<f2").tobytes()
    )


def write_rank(folder: Path, rank: int, keys: list[str], *, k: int, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    (folder / f"rank{rank}-values.bin").write_bytes(b"".join(record(rng, k) for _ in keys))
    (folder / f"rank{rank}-keys.txt").write_text("".join(f"{key}\n" for key in keys))


def write(path: Path, names: list[str] = NAMES, *, epochs: int = 3, ranks: int = 4, k: int = 5) -> Path:
    """A set: each epoch shuffled over the ranks, filled up with the first of its images to equal lengths."""
    for epoch in range(epochs):
        order = [names[i] for i in np.random.default_rng(epoch).permutation(len(names))]
        order += order[: -len(order) % ranks]
        for rank in range(ranks):
            seed = 100 * epoch + rank
            write_rank(path / f"logits_top{k}_epoch{epoch}", rank, order[rank::ranks], k=k, seed=seed)
    return path


def opened(path: Path, tmp_path: Path, **told: Any) -> Imported:
    spool = tmp_path / f"spool{len(list(tmp_path.iterdir()))}"
    spool.mkdir()
    return open_foreign(str(path), Options(str(spool), **{"classes": C, **told}))


def slowly(folder: Path, k: int) -> dict[str, bytes]:
    """Record of each key of an epoch: line i is of record i, and the lowest rank comes first."""
    found: dict[str, bytes] = {}
    for rank in range(len(list(folder.glob("*.bin")))):
        values = (folder / f"rank{rank}-values.bin").read_bytes()
        for line, key in enumerate((folder / f"rank{rank}-keys.txt").read_text().splitlines()):
            found.setdefault(key.strip(), values[line * (4 + 4 * k) :][: 4 + 4 * k])
    return found


def names_of(found: Imported) -> list[str]:
    return bytes(found.tensors["images.name"]).decode().split("\n")


def assert_same(found: Imported, path: Path, k: int, numbers: NDArray[np.int64] | None = None) -> None:
    names, rows = names_of(found), range(len(found.source))
    ids, values = found.source.kept(rows)  # type: ignore[attr-defined]
    assert str(values.dtype) == "torch.float16"
    for epoch in range(len(rows) // found.images):
        told = slowly(path / f"logits_top{k}_epoch{epoch}", k)
        for image, name in enumerate(names):
            row = epoch * found.images + image
            if found.missing is not None and found.missing[row]:
                continue
            wanted = told[name]
            assert found.tensors["views.seeds"][row] == struct.unpack("<I", wanted[:4])[0]
            assert ids[row].tolist() == np.frombuffer(wanted, "<i2", k, 4).tolist()
            assert values[row].numpy().tobytes() == wanted[4 + 2 * k :]


@pytest.mark.parametrize("ranks", [1, 3, 4])
def test_every_label_and_seed_is_what_its_reader_gives(ranks: int, tmp_path: Path) -> None:
    path = write(tmp_path / "set", ranks=ranks)
    assert detect(str(path)) == "tinyvit"
    found = opened(path, tmp_path)
    assert (found.kind, found.images, len(found.source), found.missing) == ("tinyvit", 50, 150, None)
    assert found.exact
    assert names_of(found) == sorted(NAMES)
    assert found.labels_bytes == sum(file.stat().st_size for file in path.glob("*/*"))
    assert json.loads(found.metadata["x.source"])["epochs"] == 3
    assert_same(found, path, 5)


@pytest.mark.parametrize(("images", "epochs", "k"), [(1, 1, 1), (1, 1, C), (2, 1, C), (1, 3, 2), (3, 2, 1)])
def test_edges(images: int, epochs: int, k: int, tmp_path: Path) -> None:
    path = write(tmp_path / "set", NAMES[:images], epochs=epochs, ranks=1, k=k)
    found = opened(path, tmp_path)
    assert (found.images, len(found.source)) == (images, images * epochs)
    assert_same(found, path, k)


@pytest.mark.parametrize("at_once", [1, 7, 64, 2**22])
def test_keys_are_read_in_blocks_of_any_size(at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tinyvit_keys, "AT_ONCE", at_once)
    monkeypatch.setattr(tinyvit_index, "NAMES_AT_ONCE", max(1, at_once // 5))
    path = write(tmp_path / "set", [*NAMES[:20], "é x", "long" * 25])
    found = opened(path, tmp_path)
    assert names_of(found) == sorted([*NAMES[:20], "é x", "long" * 25], key=str.encode)
    assert_same(found, path, 5)


def test_keys_of_digits_are_numbers_of_images(tmp_path: Path) -> None:
    path = write(tmp_path / "set", [str(number) for number in range(120)])
    found = opened(path, tmp_path)
    assert names_of(found) == [str(number) for number in range(120)]
    assert_same(found, path, 5)
    path = write(tmp_path / "odd", ["7", "07", "10", "n7", "99999999999", "1_0"])
    assert set(names_of(opened(path, tmp_path))) == {"7", "07", "10", "n7", "99999999999", "1_0"}


def test_rows_can_be_read_in_any_part(tmp_path: Path) -> None:
    source = opened(write(tmp_path / "set"), tmp_path).source
    ids, values = source.kept(range(150))  # type: ignore[attr-defined]
    for part in (range(0), range(49, 51), range(150), range(99, 150)):
        some, told = source.kept(part)  # type: ignore[attr-defined]
        assert (some == ids[part.start : part.stop]).all()
        assert (told == values[part.start : part.stop]).all()
    assert (source.take(np.array([3, 60, 61, 149])) == source.read(range(150))[[3, 60, 61, 149]]).all()


def test_a_key_that_comes_twice_is_that_of_the_lowest_rank(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "logits_top2_epoch0"
    for rank, keys in enumerate((["b", "a", "b"], ["c", "a"], ["b", "d", "d"])):
        write_rank(folder, rank, keys, k=2, seed=rank)
    found = opened(tmp_path / "set", tmp_path)
    assert names_of(found) == ["a", "b", "c", "d"]
    assert_same(found, tmp_path / "set", 2)


def test_an_image_that_an_epoch_has_not_met_is_a_gap_there(tmp_path: Path) -> None:
    keys = (["b", "c"], ["a", "c", "dd"], ["c", "b", "a"])
    for epoch, part in enumerate(keys):
        write_rank(tmp_path / "set" / f"logits_top3_epoch{epoch}", 0, part, k=3, seed=epoch)
    said: list[str] = []
    found = opened(tmp_path / "set", tmp_path, say=said.append)
    assert names_of(found) == ["a", "b", "c", "dd"]
    assert found.missing is not None
    assert np.flatnonzero(found.missing).tolist() == [0, 3, 5, 11]
    assert said[0] == "epoch 0 has no label of 2 of 4 images"
    assert_same(found, tmp_path / "set", 3)
    ids, values = found.source.kept(range(3, 4))  # type: ignore[attr-defined]
    assert (ids.tolist(), values.tolist()) == ([[0, 1, 2]], [[0, 0, 0]])


def test_what_the_files_do_not_say_must_be_said(tmp_path: Path) -> None:
    path = write(tmp_path / "set")
    with pytest.raises(ValueError, match="tells of 5 classes each, but not how many there are: say --classes"):
        opened(path, tmp_path, classes=None)
    for classes in (4, 32_769):
        with pytest.raises(ValueError, match=f"--classes must be 5 to 32768 .*, got {classes}"):
            opened(path, tmp_path, classes=classes)
    with pytest.raises(ValueError, match="has labels of 50 images, not of 49"):
        opened(path, tmp_path, images=49)
    with pytest.raises(ValueError, match="tail must be one of drop, uniform, got 'none'"):
        opened(path, tmp_path, tail="none")
    with pytest.raises(ValueError, match=r"row \d+ tells of classes .* different ones of 12: the file is damaged"):
        opened(path, tmp_path, classes=12).source.read(range(150))


def test_one_set_has_one_k_and_epochs_that_belong_together(tmp_path: Path) -> None:
    path = write(tmp_path / "set", epochs=1)
    (path / "logits_top7_epoch1").mkdir()
    with pytest.raises(ValueError, match="of one K from 1 to 32768, not top5, top7"):
        opened(path, tmp_path)
    (path / "logits_top7_epoch1").rename(path / "logits_top5_epoch999999")
    with pytest.raises(ValueError, match="has an epoch 999999, but only 2: most of it is not there"):
        opened(path, tmp_path)
    (path / "logits_top5_epoch999999").rmdir()
    write_rank(path / "logits_top5_epoch1", 0, [f"x{number}" for number in range(51)], k=5, seed=0)
    with pytest.raises(ValueError, match="its epochs are of different images, such as"):
        opened(path, tmp_path)
    write_rank(path / "logits_top5_epoch1", 999_999, ["x"], k=5, seed=0)
    with pytest.raises(ValueError, match="has a rank 999999, but only 2: most of it is not there"):
        opened(path, tmp_path)
    with pytest.raises(ValueError, match="of one K from 1 to 32768, not none"):
        open_foreign(str(tmp_path), Options(str(tmp_path), classes=C), kind="tinyvit")


def keys_file(path: Path) -> Path:
    return path / "logits_top5_epoch1" / "rank2-keys.txt"


def values_file(path: Path) -> Path:
    return path / "logits_top5_epoch1" / "rank2-values.bin"


def spoil(file: Path, change: Any) -> None:
    file.write_bytes(change(file.read_bytes()))


# How a file is spoiled, what is said of it, and how many of the 13 records of its rank can still be read.
BAD: dict[str, tuple[Any, str, int]] = {
    "values gone": (lambda path: values_file(path).unlink(), "rank2-values.bin: it is not there", 0),
    "keys gone": (lambda path: keys_file(path).unlink(), "rank2-keys.txt: it is not there", 0),
    "values empty": (lambda path: values_file(path).write_bytes(b""), "it has 13 keys, but beside it are 0 records", 0),
    "keys empty": (lambda path: keys_file(path).write_bytes(b""), "it has 0 keys, but beside it are 13 records", 0),
    "values cut": (
        lambda path: spoil(values_file(path), lambda data: data[:-1]),
        "rank2-values.bin: it is cut off: 311 bytes are no whole records of 24; .*13 keys, but beside it are 12",
        12,
    ),
    "a record less": (lambda path: spoil(values_file(path), lambda data: data[:-24]), "13 keys, .* are 12 records", 12),
    "a record more": (
        lambda path: spoil(values_file(path), lambda data: data + data[:24]),
        "13 keys, .* 14 record",
        13,
    ),
    "keys cut": (
        lambda path: spoil(keys_file(path), lambda data: data[:-3]),
        "rank2-keys.txt: it is cut off in its last line, b'n0",
        12,
    ),
    "a long line": (lambda path: spoil(keys_file(path), lambda data: b"x" * 101 + data), "lines of more than 100", 0),
    "no lines": (lambda path: spoil(keys_file(path), lambda data: b"x" * 2**16), "lines of more than 100 bytes", 0),
    "an empty line": (lambda path: spoil(keys_file(path), lambda data: data + b"\n"), "it has empty lines", 0),
    "a NUL": (lambda path: spoil(keys_file(path), lambda data: b"\0" + data), "empty lines, or bytes that are no", 0),
    "no text": (lambda path: spoil(keys_file(path), lambda data: b"\xff" + data), "it is not UTF-8", 0),
}


@pytest.mark.parametrize("how", BAD)
def test_a_damaged_file_is_named_and_what_is_whole_of_it_is_kept(how: str, tmp_path: Path) -> None:
    path = write(tmp_path / "set")
    change, words, whole = BAD[how]
    before = keys_file(path).read_text().splitlines()
    change(path)
    with pytest.raises(ValueError, match=words):
        opened(path, tmp_path)
    found = opened(path, tmp_path, keep_going=True)
    elsewhere = {key for rank in (0, 1, 3) for key in rank_keys(path, rank)}
    lost = sorted(set(before) - set(before[:whole]) - elsewhere)
    missing = np.zeros(150, bool) if found.missing is None else found.missing
    assert np.flatnonzero(missing).tolist() == [50 + sorted(NAMES).index(key) for key in lost]
    assert len(lost) >= 12 - whole
    assert all("rank2-" in fault for fault in found.faults)
    found.source.read(range(150))


def rank_keys(path: Path, rank: int) -> list[str]:
    return (path / "logits_top5_epoch1" / f"rank{rank}-keys.txt").read_text().splitlines()


def test_epochs_and_ranks_that_are_not_there_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "set", epochs=4)
    for file in (path / "logits_top5_epoch1").iterdir():
        file.unlink()
    (path / "logits_top5_epoch2").rename(tmp_path / "away")
    for what in ("keys.txt", "values.bin"):
        (path / "logits_top5_epoch3" / f"rank1-{what}").unlink()
    words = "epoch1: none of its files is there; .*epoch2: it is not there; .*epoch3/rank1-values.bin: it is not there"
    with pytest.raises(ValueError, match=words):
        opened(path, tmp_path)
    found = opened(path, tmp_path, keep_going=True)
    assert found.missing is not None
    assert found.missing.reshape(4, 50).sum(1).tolist() == [0, 50, 50, 50 - len(set(slow_keys(path)))]
    for folder in path.iterdir():
        for file in folder.iterdir():
            file.unlink()
    with pytest.raises(ValueError, match="not one label can be read"):
        opened(path, tmp_path, keep_going=True)


def slow_keys(path: Path) -> list[str]:
    files = (path / "logits_top5_epoch3").glob("*.txt")
    return [key for file in files for key in file.read_text().splitlines()]


@pytest.mark.parametrize("value", [1.5, -0.25, np.nan, np.inf])
def test_values_that_are_no_probabilities_are_named_by_row_and_file(value: float, tmp_path: Path) -> None:
    path = write(tmp_path / "set")
    with open(values_file(path), "r+b") as file:
        file.seek(3 * 24 + 4 + 10)
        file.write(np.array(value, "<f2").tobytes())
    row = 50 + sorted(NAMES).index(rank_keys(path, 2)[3])
    source = opened(path, tmp_path).source
    with pytest.raises(ValueError, match=f"row {row} has .* for probabilities: .*epoch1/rank2-values.bin is damaged"):
        source.read(range(150))


def test_absurd_sizes_are_not_believed(tmp_path: Path) -> None:
    path = write(tmp_path / "set", k=5)
    with open(values_file(path), "r+b") as file:
        file.truncate(24 * 2**36)  # without taking any room
    tracemalloc.start()
    found = opened(path, tmp_path, keep_going=True)
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()
    assert found.faults[0].endswith("rank2-keys.txt: it has 13 keys, but beside it are 68719476736 records")
    assert found.missing is None


def test_the_command_converts_a_set_and_finds_no_difference(tmp_path: Path) -> None:
    path, out = write(tmp_path / "set"), tmp_path / "labels.safetensors"
    assert exit_status("convert", path, out, "--classes", C, "--check") == 0
    told = slowly(path / "logits_top5_epoch2", 5)[sorted(NAMES)[8]]
    ids, values = np.frombuffer(told, "<i2", 5, 4), np.frombuffer(told, "<f2", 5, 14).astype(np.float64)
    wanted = np.full(C, (1 - values.sum()) / (C - 5))
    wanted[ids] = values
    decoder = LabelDecoder(out)
    np.testing.assert_allclose(decoder([108]).numpy()[0], wanted, atol=1e-6)
    assert decoder.file.column("views.seeds")[108] == struct.unpack("<I", told[:4])[0]
