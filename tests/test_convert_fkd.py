"""FKD: every crop's label and view come out as its own reader gives them; what is wrong with a file is named."""

from __future__ import annotations

import json
import os
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import exit_status
from numpy.typing import NDArray

from vqlabel import LabelDecoder
from vqlabel.convert import Imported, Options, detect, fkd_spool, open_foreign
from vqlabel.stored import StoredViews
from vqlabel.view_layout import ViewLayout

pytestmark = pytest.mark.usefixtures("one_thread")
C = 12


def image(seed: int, crops: int = 4, *, k: int = 3, half: bool = False, kind: str = "top-k") -> list[Any]:
    """What a file of FKD holds: where the crops lie, which are flipped, what the teacher said of each."""
    rng = np.random.default_rng(seed)
    extents = rng.integers(20, 100, (crops, 2))
    boxes = np.concatenate([rng.integers(0, 100 - extents + 1), extents], axis=1) / 100
    said = np.exp(2 * rng.standard_normal((crops, C)))
    said /= said.sum(1, keepdims=True)
    ids = np.argsort(-said, axis=1)[:, :k]
    labels = np.stack([ids, np.take_along_axis(said, ids, 1)], axis=1)
    if kind == "smoothing":
        labels = labels[:, :, 0]
    dtype = np.float16 if half else np.float32
    if kind == "hard":
        return [boxes.astype(dtype), rng.random(crops) < 0.5, ids[:, 0]]
    return [boxes.astype(dtype), rng.random(crops) < 0.5, labels.astype(dtype)]


def write(folder: Path, crops: list[list[int]] | None = None, **how: Any) -> list[Path]:
    """A set: for each class the number of crops of each of its images. Paths in the order of images."""
    paths = []
    for number, images in enumerate(crops or [[4, 4], [4], [4, 4]]):
        parent = folder / "train" / f"n{number:03d}"
        parent.mkdir(parents=True)
        for which, count in enumerate(images):
            paths.append(parent / f"n{number:03d}_{which}.tar")
            torch.save(image(len(paths), count, **how), paths[-1])
    return paths


def opened(path: Path, tmp_path: Path, **told: Any) -> Imported:
    spool = tmp_path / f"spool{len(list(tmp_path.iterdir()))}"
    spool.mkdir()
    return open_foreign(str(path), Options(str(spool), **{"classes": C, **told}))


def recovered(label: NDArray[Any], kind: str) -> NDArray[np.float64]:
    """Probabilities [C] of a stored label, as a student of FKD gets them."""
    if kind == "hard":
        return np.eye(C)[label]
    ids, told = label.reshape(2, -1)[0].astype(int), label.reshape(2, -1)[1].astype(np.float64)
    full = np.zeros(C)
    if kind != "renorm":
        full += (1 - told.sum()) / max(C - len(ids), 1)
    full[ids] = told
    return full / full.sum() if kind == "renorm" else full


def check(found: Imported, paths: list[Path], kind: str, **how: Any) -> None:
    views = StoredViews(ViewLayout.from_json(found.metadata["replay"]["stored"]), found.tensors.__getitem__)
    for number, path in enumerate(paths):
        coords, flips, labels = torch.load(path, weights_only=False)
        for crop in range(len(coords)):
            row = crop * len(paths) + number
            ids, values = found.source.kept(range(row, row + 1))  # type: ignore[attr-defined]
            wanted = recovered(labels[crop], kind)
            logits = found.codec.decode(found.codec.encode_kept(ids, values))  # type: ignore[attr-defined]
            error = np.abs(logits.double().softmax(1).numpy()[0] - wanted).max()
            assert error < 1e-6 if found.exact and kind != "renorm" else error < 1e-3
            np.testing.assert_array_equal(views.fractions(crop, [number])[0], coords[crop].astype(np.float64))
            parameters = views.parameters(crop, [number], sizes=np.full((len(paths), 2), 100))
            pixels = np.rint(coords[crop] * 100) if how.get("half") else np.rint(100 * coords[crop].astype(np.float64))
            assert parameters.crops[0, :2].tolist() == pixels[:2].tolist()
            assert bool(parameters.flips[0]) == bool(flips[crop])


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("kind", ["top-k", "smoothing", "hard"])
def test_every_label_and_view_is_what_its_reader_gives(kind: str, half: bool, tmp_path: Path) -> None:
    paths = write(tmp_path / "set", half=half, kind=kind)
    found = opened(tmp_path / "set", tmp_path)
    assert (found.kind, found.images, len(found.source), found.missing) == ("fkd", 5, 20, None)
    assert found.exact == (half or kind == "hard")
    assert found.labels_bytes == sum(path.stat().st_size for path in paths)
    check(found, paths, kind, half=half)


@pytest.mark.parametrize(("crops", "k"), [([[1]], 1), ([[1]], C), ([[3], [3]], C), ([[1, 1, 1]], 2)])
def test_edges(crops: list[list[int]], k: int, tmp_path: Path) -> None:
    paths = write(tmp_path / "set", crops, k=k, half=True)
    found = opened(tmp_path / "set", tmp_path)
    assert len(found.source) == sum(map(sum, crops))
    check(found, paths, "top-k" if found.codec.tail == "uniform" else "renorm", half=True)  # type: ignore[attr-defined]


def test_kept_labels_are_those_of_the_file_to_the_last_bit(tmp_path: Path) -> None:
    paths = write(tmp_path / "set", half=True)
    ids, values = opened(tmp_path / "set", tmp_path).source.kept(range(20))  # type: ignore[attr-defined]
    assert values.dtype == torch.float16
    for row in range(20):
        stored = torch.load(paths[row % 5], weights_only=False)[2][row // 5]
        assert (ids[row].tolist(), values[row].tolist()) == (stored[0].tolist(), stored[1].tolist())


def test_labels_of_marginal_renorm_need_a_word_of_their_reader(tmp_path: Path) -> None:
    paths, said = write(tmp_path / "set", half=True), []
    assert opened(tmp_path / "set", tmp_path, say=said.append).source.tail == "uniform"  # type: ignore[attr-defined]
    assert any("give --tail drop" in words for words in said)
    found = opened(tmp_path / "set", tmp_path, tail="drop")
    check(found, paths, "renorm", half=True)
    with pytest.raises(ValueError, match="tail must be one of drop, uniform, got 'none'"):
        opened(tmp_path / "set", tmp_path, tail="none")


def test_labels_that_add_up_to_one_leave_nothing_to_others(tmp_path: Path) -> None:
    for path in write(tmp_path / "set", half=True):
        coords, flips, labels = torch.load(path, weights_only=False)
        labels[:, 1] /= labels[:, 1].sum(1, keepdims=True, dtype=np.float32)
        torch.save([coords, flips, labels], path)
    said: list[str] = []
    assert opened(tmp_path / "set", tmp_path, say=said.append).source.tail == "drop"  # type: ignore[attr-defined]
    assert any("have no probability" in words for words in said)


def test_images_are_numbered_by_folder_and_name(tmp_path: Path) -> None:
    write(tmp_path / "set", [[1] * 11, [], [1]])
    (tmp_path / "set" / "train" / "n002" / "notes.txt").write_text("not a label")
    found = opened(tmp_path / "set", tmp_path)
    names = bytes(found.tensors["images.name"]).decode().split("\n")
    assert names[:3] == ["n000/n000_0", "n000/n000_1", "n000/n000_10"]
    assert names[-1] == "n002/n002_0"
    assert found.tensors["images.class"].tolist() == [0] * 11 + [2]
    about = json.loads(found.metadata["x.source"])
    assert (about["folders"], about["labels"], about["crops"]) == (3, "top-k", 1)


def test_all_folders_that_its_writer_and_its_reader_name_are_found(tmp_path: Path) -> None:
    write(tmp_path / "set" / "imagenet")
    for path in ("set", "set/imagenet", "set/imagenet/train"):
        assert detect(str(tmp_path / path)) == "fkd"
    for other in ("epoch_0/batch_0.tar", "more/batch_7.tar", "logits_top3_epoch0/rank0-keys.txt"):
        (tmp_path / other).parent.mkdir()
        (tmp_path / other).touch()
    with pytest.raises(ValueError, match="has no class folders with .tar files in them"):
        open_foreign(str(tmp_path / "more"), Options(str(tmp_path)), kind="fkd")


def test_images_are_numbered_by_their_file_names_not_by_their_stems(tmp_path: Path) -> None:
    stems = ["photo", "photo (1)", "photo-2", "photo_4", "photo0"]
    (tmp_path / "set" / "n000").mkdir(parents=True)
    for number, stem in enumerate(stems):
        torch.save(image(number, 1), tmp_path / "set" / "n000" / f"{stem}.tar")
    names = bytes(opened(tmp_path / "set", tmp_path).tensors["images.name"]).decode().split("\n")
    for ending in (".JPEG", ".jpg"):  # of the images, which the set does not tell
        assert [f"{name}{ending}" for name in names] == sorted(f"n000/{stem}{ending}" for stem in stems)
    assert names[0] == "n000/photo (1)"


@pytest.mark.parametrize("block", [1, 2**25])
def test_images_with_fewer_crops_leave_gaps(block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fkd_spool, "BLOCK_BYTES", block)
    paths = write(tmp_path / "set", [[2, 1], [3, 7, 5]])
    found = opened(tmp_path / "set", tmp_path)
    assert found.missing is not None
    assert found.missing.reshape(7, 5).sum(0).tolist() == [5, 6, 4, 0, 2]
    check(found, paths, "top-k")
    ids, values = found.source.kept(range(35))  # type: ignore[attr-defined]
    assert ids[4].tolist() != ids[34].tolist() == [0, 1, 2]
    assert values[34].tolist() == [0, 0, 0]


def test_sizes_of_the_images_are_kept_beside_the_fractions(tmp_path: Path) -> None:
    write(tmp_path / "set")
    layout = opened(tmp_path / "set", tmp_path, height=64, width=48, size=32).metadata["replay"]["stored"]
    assert (layout["height"], layout["width"], layout["size"], layout["crops"]) == (64, 48, 32, "F32")


@pytest.mark.parametrize("given", [None, C])
def test_the_class_count_is_that_of_the_folders_or_is_asked_for(given: int | None, tmp_path: Path) -> None:
    write(tmp_path / "set", [[1]] * C)
    assert opened(tmp_path / "set", tmp_path, classes=given).source.classes == C
    write(tmp_path / "few", [[1]] * 3)
    with pytest.raises(ValueError, match="tells of class [0-9]+, but there are 3 class folders: say --classes"):
        opened(tmp_path / "few", tmp_path, classes=None)
    write(tmp_path / "one", [[1]])
    with pytest.raises(ValueError, match="has 1 class folders: say --classes, at least 2"):
        opened(tmp_path / "one", tmp_path, classes=None)
    with pytest.raises(ValueError, match="n000_0.tar: it tells of class [0-9]+, but --classes says 3"):
        opened(tmp_path / "few", tmp_path, classes=3)
    with pytest.raises(ValueError, match="has labels of 3 images, not of 4"):
        opened(tmp_path / "few", tmp_path, images=4)


def test_class_numbers_that_fp16_rounds_are_an_error_that_says_so(tmp_path: Path) -> None:
    paths = write(tmp_path / "set", half=True)
    with pytest.raises(ValueError, match="as fp16 .--use_fp16., which rounds those above 2048, but there are 5000"):
        opened(tmp_path / "set", tmp_path, classes=5000)
    assert opened(tmp_path / "set", tmp_path, classes=2048).source.classes == 2048
    items = image(0, half=True)
    items[2][1, 0, 0] = 3001  # reads 3000 in fp16
    torch.save(items, paths[0])
    write(tmp_path / "many", [[1]] * 3, half=True)
    torch.save(items, tmp_path / "many" / "train" / "n000" / "n000_0.tar")
    with pytest.raises(ValueError, match="nobody can tell any more which were meant"):
        opened(tmp_path / "many", tmp_path, classes=None)


def put(items: list[Any], slot: int, place: Any, value: Any) -> list[Any]:
    items[slot][place] = value
    return items


BAD: dict[str, tuple[Any, str]] = {
    "two items": (lambda: image(2)[:2], "a list of 2, not a list of 3 items"),
    "no arrays": (lambda: [1, 2, 3], "it holds a int where an array is due"),
    "other k": (lambda: image(2, k=2), "it has top-k labels, k = 2, float32, and coords F32, but the files before it"),
    "other dtype": (lambda: image(2, half=True), "float16, and coords F16, but the files before it"),
    "fewer coords": (lambda: [image(2)[0][:3], *image(2)[1:]], r"coords are float32 \[3, 4\], but labels"),
    "no crops": (lambda: [torch.from_numpy(part) for part in image(2, 0)], r"labels are float32 \[0, 2, 3\]"),
    "whole coords": (lambda: [np.ones((4, 4), np.int64), *image(2)[1:]], r"coords are int64 \[4, 4\]"),
    "odd flips": (lambda: [image(2)[0], np.full(4, 2), image(2)[2]], r"flips are int64 \[4\], not one 0 or 1"),
    "three rows": (lambda: [*image(2)[:2], np.zeros((4, 3, 2), np.float32)], r"labels are float32 \[4, 3, 2\]"),
    "nothing told": (lambda: [*image(2)[:2], torch.zeros(4, 2, 0)], r"labels are float32 \[4, 2, 0\]"),
    "doubles": (lambda: [*image(2)[:2], image(2)[2].astype(np.float64)], r"labels are float64 \[4, 2, 3\]"),
    "outside": (lambda: put(image(2), 0, (1, 3), 1.5), r"crop 1 is \[.*\], which does not lie in its image"),
    "no number": (lambda: put(image(2), 0, (2, 0), np.nan), "crop 2 is .*, which does not lie in its image"),
    "half an id": (lambda: put(image(2), 2, (3, 0, 1), 0.5), "crop 3 tells of classes .*, which are no class numbers"),
    "negative id": (lambda: put(image(2), 2, (0, 0, 0), -1), "crop 0 tells of classes .*, which are no class numbers"),
    "infinite id": (lambda: put(image(2), 2, (0, 0, 0), np.inf), "crop 0 tells of classes .*, which are no class"),
    "an id twice": (lambda: put(image(2), 2, (1, 0), 7), "crop 1 tells of classes .7, 7, 7., one of them twice"),
    "above 1": (lambda: put(image(2), 2, (1, 1, 0), 1.25), "crop 1 has .1.25, .* for probabilities"),
    "NaN": (lambda: put(image(2), 2, (1, 1, 0), np.nan), "crop 1 has .nan, .* for probabilities"),
    "above 1 in all": (lambda: put(image(2), 2, (2, 1), 0.5), "crop 2 has .0.5, 0.5, 0.5. for probabilities"),
}


@pytest.mark.parametrize("how", BAD)
def test_a_damaged_file_is_named_and_can_be_passed_over(how: str, tmp_path: Path) -> None:
    paths = write(tmp_path / "set")
    make, words = BAD[how]
    torch.save(make(), paths[1])
    with pytest.raises(ValueError, match=f"n000_1.tar: .*{words}"):
        opened(tmp_path / "set", tmp_path)
    found = opened(tmp_path / "set", tmp_path, keep_going=True)
    assert len(found.faults) == 1
    assert found.missing is not None
    assert np.flatnonzero(found.missing).tolist() == [1, 6, 11, 16]
    found.source.read(range(20))


@pytest.mark.parametrize("left", [0, 1, 100, 0.5, -1])
def test_a_truncated_file_is_named(left: float, tmp_path: Path) -> None:
    paths = write(tmp_path / "set")
    whole = paths[2].read_bytes()
    paths[2].write_bytes(whole[: int(left if left != 0.5 else len(whole) // 2)])
    with pytest.raises(ValueError, match=r"n001_0.tar: (the file is empty|it is cut off or damaged)"):
        opened(tmp_path / "set", tmp_path)


def test_a_harmful_pickle_runs_nothing(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path}/harmed",)

    paths = write(tmp_path / "set")
    torch.save([*image(0)[:2], Harm()], paths[4])
    with pytest.raises(ValueError, match="n002_1.tar: its pickle asks for posix.system"):
        opened(tmp_path / "set", tmp_path)
    assert not (tmp_path / "harmed").exists()


def test_absurd_sizes_are_not_believed(tmp_path: Path) -> None:
    paths = write(tmp_path / "set")
    with zipfile.ZipFile(paths[0]) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in parts if name.endswith("data.pkl"))
    shape = b"K\x04K\x04\x86"  # of the coords
    assert shape in parts[pickled]
    parts[pickled] = parts[pickled].replace(shape, b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86", 1)
    with zipfile.ZipFile(paths[0], "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    with open(paths[1], "r+b") as file:
        file.truncate(2**40)
    tracemalloc.start()
    found = opened(tmp_path / "set", tmp_path, keep_going=True)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    assert "n000_0.tar: it is cut off or damaged" in found.faults[0]
    assert "n000_1.tar: it has 1,099,511,627,776 bytes" in found.faults[1]
    for path in paths:
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 5 files can be read, the first: .*n000_0.tar: the file is empty"):
        opened(tmp_path / "set", tmp_path, keep_going=True)


def test_the_command_converts_a_set_and_finds_no_difference(tmp_path: Path) -> None:
    paths, out = write(tmp_path / "set", [[2, 3], [3]], half=True), tmp_path / "labels.safetensors"
    assert exit_status("convert", tmp_path / "set", out, "--classes", C, "--check") == 0
    decoder = LabelDecoder(out)
    wanted = recovered(torch.load(paths[1], weights_only=False)[2][2], "top-k")
    np.testing.assert_allclose(decoder([7]).numpy()[0], wanted, atol=1e-6)
    with pytest.raises(IndexError, match="has no label for row 6"):
        decoder([6])
