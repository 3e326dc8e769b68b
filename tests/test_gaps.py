"""Rows without a label: a file tells which, nobody is given one, and an epoch goes without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import exit_status
from numpy.typing import NDArray
from torch.utils.data import default_collate

from vqlabel import LabelDecoder, LabelEncoder, LabelFile
from vqlabel.codecs.raw import Raw
from vqlabel.data import DistilledDataset, ReplaySampler
from vqlabel.errors import Corrupt
from vqlabel.gaps import FEATURE, MISSING, bitmap
from vqlabel.schedules import Reuse

IMAGES, EPOCHS = 5, 3


def labelled(path: Path, missing: list[int], **change: Any) -> LabelDecoder:
    gone = np.isin(np.arange(IMAGES * EPOCHS), missing)
    logits = np.random.default_rng(0).normal(size=(len(gone), 4)).astype(np.float32)
    metadata = {"requires": [FEATURE], "images": IMAGES, "epochs": EPOCHS}
    LabelEncoder(Raw(4)).encode(logits, path, metadata=metadata, tensors={MISSING: bitmap(gone), **change})
    return LabelDecoder(path)


def test_a_row_without_a_label_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    decoder = labelled(tmp_path / "a.safetensors", [1, 8])
    assert decoder([0, 7, 14]).shape == (3, 4)
    with pytest.raises(IndexError, match=r"a.safetensors has no label for row 8: .* LabelFile.missing"):
        decoder([0, 8])
    assert np.flatnonzero(decoder.file.missing(np.arange(15))).tolist() == [1, 8]


def test_a_file_without_gaps_misses_nothing(tmp_path: Path) -> None:
    file = LabelEncoder(Raw(4)).encode(2 * np.eye(4, dtype=np.float32), tmp_path / "a.safetensors")
    assert not file.has_gaps
    assert not file.missing([0, 3]).any()


def test_rows_that_are_asked_about_are_whole_and_there(tmp_path: Path) -> None:
    labelled(tmp_path / "gaps", [1])
    LabelEncoder(Raw(4)).encode(2 * np.eye(4, dtype=np.float32), tmp_path / "none")
    for name, last in (("gaps", 14), ("none", 3)):
        file = LabelFile(tmp_path / name)
        with pytest.raises(TypeError, match="rows must be whole numbers, got float64"):
            file.missing([1.7])
        for row in (-1, last + 1, 10**9):
            with pytest.raises(IndexError, match=f"rows must be 0 to {last}, got {row} to {row}"):
                file.missing([row])


def test_a_file_whose_first_row_has_no_label_is_loaded(tmp_path: Path) -> None:
    decoder = labelled(tmp_path / "a.safetensors", [0])
    decoder.load()
    assert DistilledDataset(torch.zeros(IMAGES, 1, 2, 2), decoder, augment_on=None)[1][1].logits().shape == (1, 4)
    assert decoder.collate(default_collate, row=0)([(1,), (2,)])[-1].logits().shape == (2, 4)


def test_a_data_set_is_iterated_to_its_end(tmp_path: Path) -> None:
    images, decoder = torch.zeros(IMAGES, 1, 2, 2), labelled(tmp_path / "a.safetensors", [0, 8, 14])
    data = DistilledDataset(images, decoder, augment_on=None)
    found = torch.cat([label.logits() for _, label in data])
    assert torch.equal(found, decoder([1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13], output="logits"))
    with pytest.raises(IndexError, match="no label for row 8"):
        data[8]
    assert len(list(DistilledDataset(images, labelled(tmp_path / "b.safetensors", []), augment_on=None))) == 15


def test_an_epoch_reads_the_images_that_have_a_label(tmp_path: Path) -> None:
    sampler = ReplaySampler(labelled(tmp_path / "a.safetensors", [1, 8]))
    for epoch, rows in ((0, {0, 2, 3, 4}), (1, {5, 6, 7, 9}), (2, {10, 11, 12, 13, 14})):
        sampler.set_epoch(epoch)
        assert len(sampler) == len(rows)
        assert set(sampler) == rows


def test_ranks_share_out_what_is_there(tmp_path: Path) -> None:
    decoder = labelled(tmp_path / "a.safetensors", [1, 2])
    parts = [list(ReplaySampler(decoder, rank=rank, world=2, shuffle=False)) for rank in range(2)]
    assert parts == [[0, 4], [3, 0]]


def test_reuse_takes_another_epoch_where_a_label_is_missing(tmp_path: Path) -> None:
    decoder = labelled(tmp_path / "a.safetensors", [1, 6, 2, 7, 12])
    sampler = ReplaySampler(decoder, reuse=Reuse())
    for epoch in range(9):
        sampler.set_epoch(epoch)
        rows = np.array(list(sampler))
        assert sorted(rows % IMAGES) == [0, 1, 3, 4]  # image 2 has no label in any epoch
        assert rows[rows % IMAGES == 1].tolist() == [11]
        assert not decoder.file.missing(rows).any()


def test_a_state_is_of_the_rows_that_are_there(tmp_path: Path) -> None:
    decoder = labelled(tmp_path / "a.safetensors", [1, 2])
    whole, again = ReplaySampler(decoder, seed=3), ReplaySampler(decoder, seed=3)
    rows = list(whole)
    again.load_state_dict(whole.state_dict(consumed=2))
    assert list(again) == rows[2:]


@pytest.mark.parametrize("table", [None, np.zeros(3, np.uint8), np.zeros((2, 1), np.uint8), np.zeros(2, np.int8)])
def test_a_file_that_does_not_tell_which_rows_are_missing_is_corrupt(
    tmp_path: Path, table: NDArray[np.uint8] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"no reader would accept this file: .* by tensor 'rows.missing', U8 \[2\]"):
        written(tmp_path / "a.safetensors", {} if table is None else {MISSING: table})
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("vqlabel.creation.check_gaps", lambda header: None)  # as another writer might
    with pytest.raises(Corrupt, match=r"by tensor 'rows.missing', U8 \[2\], which is"):
        written(tmp_path / "a.safetensors", {} if table is None else {MISSING: table})


def written(path: Path, tensors: dict[str, Any]) -> LabelFile:
    metadata = {"codec": {"id": "raw"}, "requires": [FEATURE]}
    with LabelFile.create(path, rows=9, row_bytes=1, tensors=tensors, metadata=metadata) as writer:
        writer.write(0, np.zeros((9, 1), np.uint8))
    return LabelFile(path)


def test_the_command_line_says_so_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labelled(tmp_path / "a.safetensors", [1])
    assert exit_status("decode", tmp_path / "a.safetensors", "-o", tmp_path / "a.npy") == 1
    assert "has no label for row 1" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
