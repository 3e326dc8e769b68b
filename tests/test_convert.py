"""`vqlabel convert`: any codec, resumed, with gaps, compared afterwards; what it says and how it ends."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign import write_lpqld, write_sre2l

from vqlabel import LabelDecoder, LabelFile
from vqlabel.cli import main
from vqlabel.convert import Options, open_foreign
from vqlabel.convert.asked import workplace
from vqlabel.data import ReplaySampler
from vqlabel.encoding import Blocks
from vqlabel.sampling import draw
from vqlabel.sources import ArraySource

QUICK = ("--effort", 0.02, "--rows", 200)


def run(*arguments: Any) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["convert", *map(str, arguments)])
    return int(str(ended.value.code or 0))


@pytest.fixture
def sre2l(tmp_path: Path) -> Path:
    write_sre2l(tmp_path / "set", images=40, batch=16, epochs=8)
    return tmp_path / "set"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of 40 images of 10 classes; nobody looks into them."""
    for number in range(40):
        path = tmp_path / "images" / f"class{number % 10}" / f"{number:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path / "images"


def test_labels_stay_as_they_are_unless_a_codec_is_named(
    sre2l: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.safetensors"
    assert run(sre2l, out, "--size", 32, "--check", "--teacher", "resnet18") == 0
    assert "all 320 labels are the same to the last bit" in capsys.readouterr().out
    file = LabelFile(out)
    assert (file.metadata["images"], file.metadata["epochs"], file.metadata["teacher"]) == (40, 8, "resnet18")
    assert file.metadata["x.converted_from"] == "sre2l"
    assert file.verify()
    assert not list(tmp_path.glob(".*converting*"))


@pytest.mark.parametrize(
    ("options", "codec"),
    [
        (("--codec", "int8"), "int8"),
        (("--codec", "topk", "--k", 3), "topk"),
        (("--codec", "vq", "--bytes", 2, *QUICK), "vq"),
        (("--bytes", 2, *QUICK), "vq"),
    ],
)
def test_any_codec_can_be_asked_for(
    options: tuple[Any, ...], codec: str, sre2l: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(sre2l, tmp_path / "a.safetensors", "--size", 32, "--check", *options) == 0
    assert LabelFile(tmp_path / "a.safetensors").metadata["codec"]["id"] == codec
    words = "the file drops classes that the set gives a probability" if codec == "topk" else "mean KL"
    assert f"0 of 320 labels are the same to the last bit; {words}" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.fit"))


@pytest.mark.parametrize("prior", ["classes", "replay"])
def test_a_prior_looks_at_the_views_that_the_set_stored(prior: str, sre2l: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    assert run(sre2l, out, "--size", 32, "--images", images, "--bytes", 2, "--prior", prior, *QUICK) == 0
    decoder = LabelDecoder(out)
    assert decoder([0, 319], temperature=4).shape == (2, 10)
    slow = LabelDecoder(out, backend="reference")
    torch.testing.assert_close(decoder([7]), slow([7]), rtol=1e-3, atol=1e-4)
    assert decoder.file.tensor("images.class").tolist() == np.repeat(np.arange(10), 4).tolist()
    names = bytes(decoder.file.tensor("images.name")).decode().split("\n")
    assert names[:2] == ["class0/000.jpg", "class0/010.jpg"]


def test_labels_that_are_not_of_these_images_look_like_chance(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order = write_sre2l(tmp_path / "set", images=40, batch=16, epochs=1, mix=None)
    for number, ids in enumerate(order[0]):  # a teacher that is right
        path = tmp_path / "set" / "epoch_0" / f"batch_{number}.tar"
        items = torch.load(path, weights_only=False)
        items[5] = torch.nn.functional.one_hot(torch.tensor(ids) // 4, 10).half() * 9
        torch.save(items, path)
    told = (tmp_path / "set", "--size", 32, "--images", images)
    assert run(*told[:1], tmp_path / "a.safetensors", *told[1:]) == 0
    assert "of the image or of its partner in 100% of the labels looked at\n" in capsys.readouterr().err
    assert run(*told[:1], tmp_path / "b.safetensors", *told[1:], "--seed-of-order", 43) == 0
    assert "so few look like chance. Are these the images, in this order" in capsys.readouterr().err


def test_an_interrupted_conversion_goes_on_and_gives_the_same_bytes(
    sre2l: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole.safetensors", tmp_path / "a.safetensors"
    assert run(sre2l, whole, "--size", 32) == 0
    encoded = Blocks.encoded

    def stops(self: Blocks, index: int) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Blocks, "encoded", stops)
    assert run(sre2l, out, "--size", 32) == 130
    monkeypatch.setattr(Blocks, "encoded", encoded)
    assert Path(f"{out}.partial").exists()
    assert run(sre2l, out, "--size", 32) == 0
    assert out.read_bytes() == whole.read_bytes()


def test_the_rest_of_a_damaged_set_is_converted_and_its_gaps_are_marked(
    sre2l: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (sre2l / "epoch_3" / "batch_1.tar").unlink()
    shutil.rmtree(sre2l / "epoch_5")
    out = tmp_path / "a.safetensors"
    assert run(sre2l, out, "--size", 32) == 1
    said = capsys.readouterr().err
    assert "epoch_3/batch_1.tar: it is not there" in said
    assert "epoch_5: not one file of this epoch is there" in said
    assert run(sre2l, out, "--size", 32, "--keep-going", "--check") == 0
    said = capsys.readouterr()
    assert "56 of 320 rows have no label" in said.err
    assert "all 264 labels are the same" in said.out
    sampler = ReplaySampler(LabelDecoder(out))
    lengths = []
    for epoch in range(8):
        sampler.set_epoch(epoch)
        lengths.append(len(list(sampler)))
    assert lengths == [40, 40, 40, 24, 40, 0, 40, 40]


def test_rows_without_a_label_are_not_fitted_on() -> None:
    logits = np.random.default_rng(0).normal(size=(100, 4))
    source = ArraySource(logits)
    source.missing = np.arange(100) % 3 == 0
    logits[source.missing] = np.nan  # a row like that would be refused
    parts = draw(source, None, tier="none", rows=60, held_out=6, seed=0, say=lambda words: None)
    assert [part.total for part in parts] == [60, 6]


def test_another_set_is_told_from_the_one_that_was_converted(
    sre2l: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.safetensors"
    assert run(sre2l, out, "--size", 32) == 0
    write_sre2l(tmp_path / "other", images=40, batch=16, epochs=8, seed=1)
    assert run(tmp_path / "other", out, "--size", 32, "--check") == 1
    assert "tensor views.rows is not what the set says" in capsys.readouterr().out


def test_what_makes_no_sense_is_said_before_anything_is_written(
    sre2l: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.safetensors"
    for options, words in (
        (("--codec", "raw", "--bytes", 4), "--bytes says how to fit a codec, but --codec raw needs no fitting"),
        (("--images", 41), "which cannot be all of 41"),
        (("--images", "nowhere"), "--images is their number, or their folder; nowhere is neither"),
        (("--image-size", "axb"), "--image-size is the side of the images, or HxW"),
        (("--from", "rded"), "--from is one of sre2l"),
    ):
        assert run(sre2l, out, "--size", 32, *options) == 1
        assert words in capsys.readouterr().err
    assert run(tmp_path / "gone", out) == 1
    assert "gone is not a folder" in capsys.readouterr().err
    assert run(sre2l, out, "--size", 32) == 0
    assert run(sre2l, out, "--size", 32) == 1
    assert (
        "a.safetensors exists; delete it or choose another name, or compare it with --check" in capsys.readouterr().err
    )


def test_labels_that_leave_classes_out_are_stored_as_topk_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lpqld(tmp_path / "set")
    options = (tmp_path / "set", tmp_path / "a.safetensors", "--size", 32, "--classes", 100)
    for codec in (("--codec", "raw"), ("--bytes", 4, *QUICK)):
        assert run(*options, *codec) == 1
        assert "tell of 10 of 100 classes, and nothing of the others: they can be stored as topk only" in (
            capsys.readouterr().err
        )
    assert run(*options, "--k", 5) == 1
    assert "the labels tell of 10 classes each: --k cannot be 5" in capsys.readouterr().err


def test_programs_can_open_a_set_too(sre2l: Path, tmp_path: Path) -> None:
    found = open_foreign(str(sre2l), Options(str(tmp_path), size=32))
    assert (found.kind, found.source.classes, len(found.source)) == ("sre2l", 10, 320)


def test_a_check_of_labels_that_were_changed_ends_with_an_error(
    sre2l: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.safetensors"
    assert run(sre2l, out, "--size", 32) == 0
    path = sre2l / "epoch_2" / "batch_0.tar"
    items = torch.load(path, weights_only=False)
    items[5][3, 4] += 1
    torch.save(items, path)
    assert run(sre2l, out, "--size", 32, "--check") == 1
    said = capsys.readouterr().out
    assert "319 of 320 labels are the same" in said
    assert "it should hold the labels of the set to the last bit" in said


def test_a_sparse_set_keeps_its_tail_whatever_k_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fkd(tmp_path / "set")
    for name, options in (("a", ()), ("b", ("--codec", "topk")), ("c", ("--codec", "topk", "--k", 2))):
        assert run(tmp_path / "set", tmp_path / f"{name}.safetensors", "--classes", 5, *options) == 0
        codec = LabelFile(tmp_path / f"{name}.safetensors").metadata["codec"]
        assert (codec["tail"], codec["values"]) == ("uniform", "P16")
    assert run(tmp_path / "set", tmp_path / "a.safetensors", "--classes", 5, "--tail", "drop", "--check") == 1
    assert "its tail is uniform, that of the set drop" in capsys.readouterr().out


def test_codes_of_a_sparse_set_are_judged_by_all_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fkd(tmp_path / "set")
    options = ("--classes", 5, "--codec", "int8", "--check")
    assert run(tmp_path / "set", tmp_path / "a.safetensors", *options) == 0
    said = capsys.readouterr().out
    assert "0 of 12 labels are the same to the last bit; mean KL" in said
    assert float(said.split("mean KL ")[1].split()[0]) < 1e-4


def test_a_folder_of_other_images_is_told_from_those_of_the_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fkd(tmp_path / "set")
    for name in ("c0/a.JPEG", "c0/b.JPEG", "c1/a.JPEG"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(b"")
    options = (tmp_path / "set", tmp_path / "a.safetensors", "--classes", 5, "--images", tmp_path / "images")
    assert run(*options) == 0
    (tmp_path / "a.safetensors").unlink()
    (tmp_path / "images" / "c0" / "b.JPEG").rename(tmp_path / "images" / "c0" / "c.JPEG")
    assert run(*options) == 1
    assert "image 1 of the labels is 'c0/b', but of --images 'c0/c': these are other images" in capsys.readouterr().err


def folder_of(path: Path, *names: str) -> Path:
    """A folder of images of these names; nobody looks into them."""
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"")
    return path


def test_images_of_the_same_names_in_other_folders_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fkd(tmp_path / "set", [f"n0{c}/id{i}.v{i}" for c in (1, 2, 3) for i in range(2)])
    other, same = ([f"n0{c}/id{i}.v{i}.jpg" for c in which for i in range(2)] for which in ((0, 1, 2), (1, 2, 3)))
    order = (tmp_path / "set", tmp_path / "a.safetensors", "--classes", 5, "--images")
    assert run(*order, folder_of(tmp_path / "other", *other)) == 1
    assert "image 0 of the labels is 'n01/id0.v0', but of --images 'n00/id0.v0'" in capsys.readouterr().err
    (folder_of(tmp_path / "dotted", *same) / "n02" / "id1.v1.jpg").rename(tmp_path / "dotted" / "n02" / "id1.v2.jpg")
    assert run(*order, tmp_path / "dotted") == 1
    assert "is 'n02/id1.v1', but of --images 'n02/id1.v2'" in capsys.readouterr().err
    (tmp_path / "set" / "train" / "n00").mkdir()  # counts as a class of the set
    assert run(*order, folder_of(tmp_path / "same", *same)) == 1
    assert "image 0 of the labels is of class 1, but of --images of class 0" in capsys.readouterr().err
    (tmp_path / "set" / "train" / "n00").rmdir()
    assert run(*order, tmp_path / "same", "--check") == 0
    assert "all 24 labels are the same to the last bit" in capsys.readouterr().out
    assert bytes(LabelFile(tmp_path / "a.safetensors").tensor("images.name")).decode().split("\n") == same


def test_keys_that_sort_otherwise_than_folders_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"{folder}/{i}.jpg" for folder in ("cat", "cat-big") for i in range(3)]
    epoch = tmp_path / "set" / "logits_top1_epoch0"
    epoch.mkdir(parents=True)
    np.zeros(6, [("seed", "<i4"), ("ids", "<i2"), ("values", "<f2")]).tofile(epoch / "rank0-values.bin")
    (epoch / "rank0-keys.txt").write_text("".join(f"{name}\n" for name in names))
    images = folder_of(tmp_path / "images", *names)
    assert run(tmp_path / "set", tmp_path / "a.safetensors", "--classes", 5, "--images", images) == 1
    assert "image 0 of the labels is 'cat-big/0', but of --images 'cat/0'" in capsys.readouterr().err


def test_two_runs_for_one_label_file_do_not_share_a_place_to_work_in(tmp_path: Path) -> None:
    out = str(tmp_path / "a.safetensors")
    with workplace(out, 0) as folder:
        mine = Options(folder).spool("places", (4,), np.uint32)
        mine[:] = 7
        with pytest.raises(OSError, match="another run works in .*wait for it"), workplace(out, 0):
            pass
        assert mine.tolist() == [7] * 4
        with workplace(out, 1) as other:
            assert other != folder
        Options(folder).spool("seeds", (4,), np.uint32)
    assert not list(tmp_path.iterdir())


def test_what_a_killed_run_left_is_cleared_away(tmp_path: Path) -> None:
    left = tmp_path / ".a.safetensors.converting-0"
    left.mkdir()
    for name in (".lock", "tinyvit.places"):
        (left / name).write_bytes(b"old")
    with workplace(str(tmp_path / "a.safetensors"), 0) as folder:
        assert sorted(path.name for path in Path(folder).iterdir()) == [".lock"]
    assert not left.exists()


def test_a_place_that_goes_away_while_it_is_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    folder, lock, gone = tmp_path / ".a.safetensors.converting-0", fcntl.flock, []

    def late(fd: int, how: int) -> None:
        lock(fd, how)
        if not gone:  # the run before removes its folder between our two looks
            gone.append(shutil.rmtree(folder))

    monkeypatch.setattr(fcntl, "flock", late)
    with workplace(str(tmp_path / "a.safetensors"), 0), pytest.raises(OSError, match="another run works in"):
        workplace(str(tmp_path / "a.safetensors"), 0).__enter__()


def test_a_name_that_is_no_text_is_told_with_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fkd(tmp_path / "set")
    images = folder_of(tmp_path / "images", "c0/a.jpg", "c0/b\udcff.jpg", "c1/a.jpg")
    assert run(tmp_path / "set", tmp_path / "a.safetensors", "--classes", 5, "--images", images) == 1
    assert r"images/c0/b\udcff.jpg': this name is not UTF-8; rename it" in capsys.readouterr().err


def test_an_option_that_most_files_contradict_is_no_damage(sre2l: Path, tmp_path: Path) -> None:
    write_lpqld(tmp_path / "lpqld")
    fkd(tmp_path / "fkd")
    for path, told, words in (
        (sre2l, {"size": 16}, r"of 24 files contradict what is said .*batch_0.tar: its box .* say the right --size"),
        (tmp_path / "lpqld", {"size": 32, "classes": 50}, "files contradict .*which are not different ones of 50"),
        (tmp_path / "fkd", {"classes": 3}, "of 3 files contradict .*it tells of class [34], but --classes says 3"),
    ):
        with pytest.raises(ValueError, match=words):
            open_foreign(str(path), Options(str(tmp_path), keep_going=True, **told))  # type: ignore[arg-type]


def test_a_prior_says_which_option_it_lacks(sre2l: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order = (sre2l, tmp_path / "a.safetensors", "--size", 32, "--bytes", 2, "--prior")
    for prior, words in (
        ("replay", "--prior replay needs the classes of the images: say their folder with --images"),
        ("tokens", f"--prior tokens is for sets of a text, and {sre2l} is of images"),
    ):
        assert run(*order, prior) == 1
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("codec", [(), ("--codec", "topk"), ("--bytes", 2, *QUICK)])
def test_rows_without_a_label_are_rows_of_zeros(codec: tuple[Any, ...], sre2l: Path, tmp_path: Path) -> None:
    (sre2l / "epoch_3" / "batch_1.tar").unlink()
    out = tmp_path / "a.safetensors"
    assert run(sre2l, out, "--size", 32, "--keep-going", *codec) == 0
    file = LabelFile(out)
    gone = file.missing(np.arange(320))
    content = np.fromfile(out, np.uint8)[file.header.tensors["codes"].offset :].reshape(320, file.row_bytes)
    assert gone.sum() == 16
    assert (content[gone] == 0).all()
    assert (content[~gone] != 0).any(1).mean() > 0.9


def test_a_label_that_cannot_be_is_named_with_its_file_or_passed_over(
    sre2l: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sre2l / "epoch_2" / "batch_1.tar"
    items = torch.load(path, weights_only=False)
    items[5][3, 4] = torch.inf
    torch.save(items, path)
    assert run(sre2l, tmp_path / "a.safetensors", "--size", 32) == 1
    assert "epoch_2/batch_1.tar: its row 3 has a logit that is not finite: make it again, or" in capsys.readouterr().err
    assert run(sre2l, tmp_path / "b.safetensors", "--size", 32, "--keep-going") == 0
    assert "16 of 320 rows have no label" in capsys.readouterr().err


def test_what_a_list_of_images_names_must_be_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sre2l(tmp_path / "set", images=40, batch=16, epochs=3, listed=True)
    shutil.rmtree(tmp_path / "set" / "epoch_2")
    for epoch in range(2):
        (tmp_path / "set" / f"epoch_{epoch}" / "batch_2.tar").unlink()
    assert run(tmp_path / "set", tmp_path / "a.safetensors", "--size", 32) == 1
    said = capsys.readouterr().err
    for words in ("epoch_0/batch_2.tar: it is not there", "epoch_2: not one file of this epoch is there"):
        assert words in said
    assert run(tmp_path / "set", tmp_path / "a.safetensors", "--size", 32, "--keep-going") == 0
    assert len(LabelFile(tmp_path / "a.safetensors")) == 120


def test_a_size_that_nobody_said_is_doubted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sre2l(tmp_path / "set", images=160, batch=4, epochs=1, side=32)  # 32 divides 224
    assert run(tmp_path / "set", tmp_path / "a.safetensors") == 1
    said = capsys.readouterr().err
    assert "taking views to be 224 x 224 pixels" in said
    assert "its boxes reach no further than 32 pixels, so its views are smaller: say --size" in said


def test_another_order_is_another_fit(sre2l: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, asked = tmp_path / "a.safetensors", []

    def stops(out: str, words: dict[str, Any], *rest: Any) -> Any:
        asked.append(words)
        raise ValueError("enough")

    monkeypatch.setattr("vqlabel.convert.command.fitted_once", stops)
    for options in ((), ("--seed-of-order", 7), ("--keep-going",), ("--teacher", "x")):
        assert run(sre2l, out, "--size", 32, "--bytes", 2, *QUICK, *options) == 1
    assert asked[0] != asked[1]
    assert asked[0] != asked[2]
    assert asked[0] == asked[3]


def fkd(folder: Path, names: Sequence[str] = ("c0/a", "c0/b", "c1/a")) -> None:
    """Four crops of each image, two of five classes told."""
    rng = np.random.default_rng(0)
    for name in names:
        ids = np.stack([rng.permutation(5)[:2] for _ in range(4)])
        values = rng.random((4, 2)) * 0.4
        coords = np.tile(np.float32([0, 0, 0.5, 1]), (4, 1))
        path = folder / "train" / f"{name}.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save([coords, np.zeros(4, bool), np.stack([ids, values], 1).astype(np.float16)], path)
