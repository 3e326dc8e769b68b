"""`vqlabel convert` of sets with faults: named, or passed over and marked as gaps."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import exit_status
from foreign import QUICK, write_fkd, write_lpqld, write_sre2l

from vqlabel import LabelDecoder, LabelFile
from vqlabel.convert import Options, open_foreign
from vqlabel.data import ReplaySampler
from vqlabel.sampling import draw
from vqlabel.sources import ArraySource


def test_the_rest_of_a_damaged_set_is_converted_and_its_gaps_are_marked(
    sre2l: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (sre2l / "epoch_3" / "batch_1.tar").unlink()
    shutil.rmtree(sre2l / "epoch_5")
    out = tmp_path / "a.safetensors"
    assert exit_status("convert", sre2l, out, "--size", 32) == 1
    said = capsys.readouterr().err
    assert "epoch_3/batch_1.tar: it is not there" in said
    assert "epoch_5: not one file of this epoch is there" in said
    assert exit_status("convert", sre2l, out, "--size", 32, "--keep-going", "--check") == 0
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


@pytest.mark.parametrize("codec", [(), ("--codec", "topk"), ("--bytes", 2, *QUICK)])
def test_rows_without_a_label_are_rows_of_zeros(codec: tuple[Any, ...], sre2l: Path, tmp_path: Path) -> None:
    (sre2l / "epoch_3" / "batch_1.tar").unlink()
    out = tmp_path / "a.safetensors"
    assert exit_status("convert", sre2l, out, "--size", 32, "--keep-going", *codec) == 0
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
    assert exit_status("convert", sre2l, tmp_path / "a.safetensors", "--size", 32) == 1
    assert "epoch_2/batch_1.tar: its row 3 has a logit that is not finite: make it again, or" in capsys.readouterr().err
    assert exit_status("convert", sre2l, tmp_path / "b.safetensors", "--size", 32, "--keep-going") == 0
    assert "16 of 320 rows have no label" in capsys.readouterr().err


def test_what_a_list_of_images_names_must_be_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sre2l(tmp_path / "set", images=40, batch=16, epochs=3, listed=True)
    shutil.rmtree(tmp_path / "set" / "epoch_2")
    for epoch in range(2):
        (tmp_path / "set" / f"epoch_{epoch}" / "batch_2.tar").unlink()
    assert exit_status("convert", tmp_path / "set", tmp_path / "a.safetensors", "--size", 32) == 1
    said = capsys.readouterr().err
    for words in ("epoch_0/batch_2.tar: it is not there", "epoch_2: not one file of this epoch is there"):
        assert words in said
    assert exit_status("convert", tmp_path / "set", tmp_path / "a.safetensors", "--size", 32, "--keep-going") == 0
    assert len(LabelFile(tmp_path / "a.safetensors")) == 120


def test_an_option_that_most_files_contradict_is_no_damage(sre2l: Path, tmp_path: Path) -> None:
    write_lpqld(tmp_path / "lpqld")
    write_fkd(tmp_path / "fkd")
    for path, told, words in (
        (sre2l, {"size": 16}, r"of 24 files contradict what is said .*batch_0.tar: its box .* say the right --size"),
        (tmp_path / "lpqld", {"size": 32, "classes": 50}, "files contradict .*which are not different ones of 50"),
        (tmp_path / "fkd", {"classes": 3}, "of 3 files contradict .*it tells of class [34], but --classes says 3"),
    ):
        with pytest.raises(ValueError, match=words):
            open_foreign(str(path), Options(str(tmp_path), keep_going=True, **told))  # type: ignore[arg-type]
