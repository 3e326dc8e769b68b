"""`vqlabel convert --images`: whether a folder holds the images of the labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import exit_status
from foreign import folder_of, write_fkd, write_sre2l

from vqlabel import LabelFile


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
    assert exit_status("convert", *told[:1], tmp_path / "a.safetensors", *told[1:]) == 0
    assert "of the image or of its partner in 100% of the labels looked at\n" in capsys.readouterr().err
    assert exit_status("convert", *told[:1], tmp_path / "b.safetensors", *told[1:], "--seed-of-order", 43) == 0
    assert "so few look like chance. Are these the images, in this order" in capsys.readouterr().err


def test_a_folder_of_other_images_is_told_from_those_of_the_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_fkd(tmp_path / "set")
    for name in ("c0/a.JPEG", "c0/b.JPEG", "c1/a.JPEG"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(b"")
    options = (tmp_path / "set", tmp_path / "a.safetensors", "--classes", 5, "--images", tmp_path / "images")
    assert exit_status("convert", *options) == 0
    (tmp_path / "a.safetensors").unlink()
    (tmp_path / "images" / "c0" / "b.JPEG").rename(tmp_path / "images" / "c0" / "c.JPEG")
    assert exit_status("convert", *options) == 1
    assert "image 1 of the labels is 'c0/b', but of --images 'c0/c': these are other images" in capsys.readouterr().err


def test_images_of_the_same_names_in_other_folders_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_fkd(tmp_path / "set", [f"n0{c}/id{i}.v{i}" for c in (1, 2, 3) for i in range(2)])
    other, same = ([f"n0{c}/id{i}.v{i}.jpg" for c in which for i in range(2)] for which in ((0, 1, 2), (1, 2, 3)))
    order = (tmp_path / "set", tmp_path / "a.safetensors", "--classes", 5, "--images")
    assert exit_status("convert", *order, folder_of(tmp_path / "other", *other)) == 1
    assert "image 0 of the labels is 'n01/id0.v0', but of --images 'n00/id0.v0'" in capsys.readouterr().err
    (folder_of(tmp_path / "dotted", *same) / "n02" / "id1.v1.jpg").rename(tmp_path / "dotted" / "n02" / "id1.v2.jpg")
    assert exit_status("convert", *order, tmp_path / "dotted") == 1
    assert "is 'n02/id1.v1', but of --images 'n02/id1.v2'" in capsys.readouterr().err
    (tmp_path / "set" / "train" / "n00").mkdir()  # counts as a class of the set
    assert exit_status("convert", *order, folder_of(tmp_path / "same", *same)) == 1
    assert "image 0 of the labels is of class 1, but of --images of class 0" in capsys.readouterr().err
    (tmp_path / "set" / "train" / "n00").rmdir()
    assert exit_status("convert", *order, tmp_path / "same", "--check") == 0
    assert "all 24 labels are the same to the last bit" in capsys.readouterr().out
    assert bytes(LabelFile(tmp_path / "a.safetensors").tensor("images.name")).decode().split("\n") == same


def test_keys_that_sort_otherwise_than_folders_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"{folder}/{i}.jpg" for folder in ("cat", "cat-big") for i in range(3)]
    epoch = tmp_path / "set" / "logits_top1_epoch0"
    epoch.mkdir(parents=True)
    np.zeros(6, [("seed", "<i4"), ("ids", "<i2"), ("values", "<f2")]).tofile(epoch / "rank0-values.bin")
    (epoch / "rank0-keys.txt").write_text("".join(f"{name}\n" for name in names))
    images = folder_of(tmp_path / "images", *names)
    assert exit_status("convert", tmp_path / "set", tmp_path / "a.safetensors", "--classes", 5, "--images", images) == 1
    assert "image 0 of the labels is 'cat-big/0', but of --images 'cat/0'" in capsys.readouterr().err


def test_a_name_that_is_no_text_is_told_with_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_fkd(tmp_path / "set")
    images = folder_of(tmp_path / "images", "c0/a.jpg", "c0/b\udcff.jpg", "c1/a.jpg")
    assert exit_status("convert", tmp_path / "set", tmp_path / "a.safetensors", "--classes", 5, "--images", images) == 1
    assert r"images/c0/b\udcff.jpg': this name is not UTF-8; rename it" in capsys.readouterr().err
