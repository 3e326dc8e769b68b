"""`vqlabel convert`: any codec, compared afterwards; what it says and how it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import exit_status
from foreign import QUICK, write_fkd, write_lpqld, write_sre2l

from vqlabel import LabelDecoder, LabelFile
from vqlabel.convert import Options, open_foreign


def test_labels_stay_as_they_are_unless_a_codec_is_named(
    sre2l: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.safetensors"
    assert exit_status("convert", sre2l, out, "--size", 32, "--check", "--teacher", "resnet18") == 0
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
    assert exit_status("convert", sre2l, tmp_path / "a.safetensors", "--size", 32, "--check", *options) == 0
    assert LabelFile(tmp_path / "a.safetensors").metadata["codec"]["id"] == codec
    words = "the file drops classes that the set gives a probability" if codec == "topk" else "mean KL"
    assert f"0 of 320 labels are the same to the last bit; {words}" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.fit"))


@pytest.mark.parametrize("prior", ["classes", "replay"])
def test_a_prior_looks_at_the_views_that_the_set_stored(prior: str, sre2l: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    fit = ("--bytes", 2, "--prior", prior, *QUICK)
    assert exit_status("convert", sre2l, out, "--size", 32, "--images", images, *fit) == 0
    decoder = LabelDecoder(out)
    assert decoder([0, 319], temperature=4).shape == (2, 10)
    slow = LabelDecoder(out, backend="reference")
    torch.testing.assert_close(decoder([7]), slow([7]), rtol=1e-3, atol=1e-4)
    assert decoder.file.tensor("images.class").tolist() == np.repeat(np.arange(10), 4).tolist()
    names = bytes(decoder.file.tensor("images.name")).decode().split("\n")
    assert names[:2] == ["class0/000.jpg", "class0/010.jpg"]


def test_another_set_is_told_from_the_one_that_was_converted(
    sre2l: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.safetensors"
    assert exit_status("convert", sre2l, out, "--size", 32) == 0
    write_sre2l(tmp_path / "other", images=40, batch=16, epochs=8, seed=1)
    assert exit_status("convert", tmp_path / "other", out, "--size", 32, "--check") == 1
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
        assert exit_status("convert", sre2l, out, "--size", 32, *options) == 1
        assert words in capsys.readouterr().err
    assert exit_status("convert", tmp_path / "gone", out) == 1
    assert "gone is not a folder" in capsys.readouterr().err
    assert exit_status("convert", sre2l, out, "--size", 32) == 0
    assert exit_status("convert", sre2l, out, "--size", 32) == 1
    assert (
        "a.safetensors exists; delete it or choose another name, or compare it with --check" in capsys.readouterr().err
    )


def test_labels_that_leave_classes_out_are_stored_as_topk_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lpqld(tmp_path / "set")
    options = (tmp_path / "set", tmp_path / "a.safetensors", "--size", 32, "--classes", 100)
    for codec in (("--codec", "raw"), ("--bytes", 4, *QUICK)):
        assert exit_status("convert", *options, *codec) == 1
        assert "tell of 10 of 100 classes, and nothing of the others: they can be stored as topk only" in (
            capsys.readouterr().err
        )
    assert exit_status("convert", *options, "--k", 5) == 1
    assert "the labels tell of 10 classes each: --k cannot be 5" in capsys.readouterr().err


def test_programs_can_open_a_set_too(sre2l: Path, tmp_path: Path) -> None:
    found = open_foreign(str(sre2l), Options(str(tmp_path), size=32))
    assert (found.kind, found.source.classes, len(found.source)) == ("sre2l", 10, 320)


def test_a_check_of_labels_that_were_changed_ends_with_an_error(
    sre2l: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.safetensors"
    assert exit_status("convert", sre2l, out, "--size", 32) == 0
    path = sre2l / "epoch_2" / "batch_0.tar"
    items = torch.load(path, weights_only=False)
    items[5][3, 4] += 1
    torch.save(items, path)
    assert exit_status("convert", sre2l, out, "--size", 32, "--check") == 1
    said = capsys.readouterr().out
    assert "319 of 320 labels are the same" in said
    assert "it should hold the labels of the set to the last bit" in said


def test_a_sparse_set_keeps_its_tail_whatever_k_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_fkd(tmp_path / "set")
    for name, options in (("a", ()), ("b", ("--codec", "topk")), ("c", ("--codec", "topk", "--k", 2))):
        assert exit_status("convert", tmp_path / "set", tmp_path / f"{name}.safetensors", "--classes", 5, *options) == 0
        codec = LabelFile(tmp_path / f"{name}.safetensors").metadata["codec"]
        assert (codec["tail"], codec["values"]) == ("uniform", "P16")
    order = (tmp_path / "set", tmp_path / "a.safetensors", "--classes", 5, "--tail", "drop", "--check")
    assert exit_status("convert", *order) == 1
    assert "its tail is uniform, that of the set drop" in capsys.readouterr().out


def test_codes_of_a_sparse_set_are_judged_by_all_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_fkd(tmp_path / "set")
    options = ("--classes", 5, "--codec", "int8", "--check")
    assert exit_status("convert", tmp_path / "set", tmp_path / "a.safetensors", *options) == 0
    said = capsys.readouterr().out
    assert "0 of 12 labels are the same to the last bit; mean KL" in said
    assert float(said.split("mean KL ")[1].split()[0]) < 1e-4


def test_a_prior_says_which_option_it_lacks(sre2l: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order = (sre2l, tmp_path / "a.safetensors", "--size", 32, "--bytes", 2, "--prior")
    for prior, words in (
        ("replay", "--prior replay needs the classes of the images: say their folder with --images"),
        ("tokens", f"--prior tokens is for sets of a text, and {sre2l} is of images"),
    ):
        assert exit_status("convert", *order, prior) == 1
        assert words in capsys.readouterr().err


def test_a_size_that_nobody_said_is_doubted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sre2l(tmp_path / "set", images=160, batch=4, epochs=1, side=32)  # 32 divides 224
    assert exit_status("convert", tmp_path / "set", tmp_path / "a.safetensors") == 1
    said = capsys.readouterr().err
    assert "taking views to be 224 x 224 pixels" in said
    assert "its boxes reach no further than 32 pixels, so its views are smaller: say --size" in said
