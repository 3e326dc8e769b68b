"""Sets as DistillKit's own script writes them, with vLLM: the last token of each sequence has no label."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import distillkit_sets as sets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import exit_status
from distillkit_sets import Position, check_kept, open_set

from vqlabel import LabelDecoder
from vqlabel.convert.distillkit_records import DECODED

pytestmark = pytest.mark.usefixtures("one_thread")
CONFIG = sets.exact()
LENGTHS = [[3, 0, 4], [1, 1], [2, 5]]  # in tokens
MADE = [sets.sequences(CONFIG, part, seed) for seed, part in enumerate(LENGTHS)]
LABELS = [[position for sequence in file for position in sequence[:-1]] for file in MADE]
FLAT: list[Position | None] = list(itertools.chain(*LABELS))
STARTS = [0, 3, 3, 7, 8, 9, 11, 16]
WITHOUT = [2, 6, 7, 8, 10, 15]  # positions that have no label


def change(path: Path, column: str, sequence: int, what: Any) -> None:
    """Put what a function makes of the items of a sequence into their place."""
    columns = pq.read_table(path).to_pydict()
    columns[column][sequence] = what(columns[column][sequence])
    sets.write(path, columns)


def test_rows_are_the_positions_that_have_a_label(tmp_path: Path) -> None:
    tokens = sets.save(tmp_path / "set", CONFIG, MADE, spare=1)
    found = open_set(tmp_path / "set")
    check_kept(found, FLAT)
    assert (found.source.rows, found.images, found.faults) == (10, 10, [])
    assert found.tensors["sequences.starts"].tolist() == STARTS
    assert found.tensors["sequences.tokens"].tolist() == tokens == list(range(16))
    mask = np.unpackbits(found.tensors["sequences.kept"], bitorder="little")
    assert np.flatnonzero(mask).tolist() == np.setdiff1d(np.arange(16), WITHOUT).tolist()
    assert found.metadata["sequences"] == {"keep": "mask"}


def test_sets_with_a_label_for_each_token_have_no_mask(tmp_path: Path) -> None:
    sets.save(tmp_path / "set", CONFIG, MADE)
    found = open_set(tmp_path / "set")
    assert set(found.tensors) == {"sequences.starts", "sequences.tokens"}
    assert "sequences" not in found.metadata


def test_labels_of_sequences_leave_out_each_last_position(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets.save(tmp_path / "set", CONFIG, MADE, spare=1)
    assert exit_status("convert", tmp_path / "set", tmp_path / "labels", "--check") == 0
    assert "all 10 labels are the same to the last bit" in capsys.readouterr().out
    decoder = LabelDecoder(tmp_path / "labels")
    assert len(decoder) == 10
    assert decoder.sequences is not None
    assert decoder.sequences.lengths.tolist() == list(itertools.chain(*LENGTHS))
    assert decoder.sequences.rows([0, 2, 6, 6], [1, 0, 0, 3]).tolist() == [1, 2, 6, 9]
    with pytest.raises(IndexError, match="position 2 of sequence 0 has no label: its mask leaves it out"):
        decoder.sequences.rows([0], [2])
    labels, mask = decoder.of_sequences([0, 1])
    assert mask.tolist() == [[True, True, False], [False, False, False]]
    assert torch.equal(labels.logits(), decoder([0, 1], output="logits"))
    labels, mask = decoder.of_sequences([3, 6, 5])
    assert mask.sum(1).tolist() == [0, 4, 1]
    for row, logits in zip([6, 7, 8, 9, 5], labels.logits(), strict=True):
        position = FLAT[row]
        assert position is not None
        ids, values = sets.decode(CONFIG, position)
        assert logits[ids].tolist() == values


def test_a_file_of_another_set_is_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets.save(tmp_path / "set", CONFIG, [sets.sequences(CONFIG, [3, 2])], spare=1)
    sets.save(tmp_path / "other", CONFIG, [sets.sequences(CONFIG, [2, 3])], spare=1)
    sets.save(tmp_path / "full", CONFIG, [sets.sequences(CONFIG, [3, 2])])
    assert exit_status("convert", tmp_path / "set", tmp_path / "labels") == 0
    assert exit_status("convert", tmp_path / "other", tmp_path / "labels", "--check") == 1
    assert "tensor sequences.kept is not what the set says" in capsys.readouterr().out
    assert exit_status("convert", tmp_path / "full", tmp_path / "labels", "--check") == 1
    assert "it has 3 rows, the set 5" in capsys.readouterr().out


@pytest.mark.parametrize("decoded", [DECODED, 20])
def test_rows_are_found_wherever_empty_sequences_lie(
    decoded: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vqlabel.convert.distillkit_records.DECODED", decoded)
    made = [sets.sequences(CONFIG, part, seed) for seed, part in enumerate([[0, 1, 1, 0, 3, 0, 1], [0], [2, 1, 0, 7]])]
    sets.save(tmp_path / "set", CONFIG, made, spare=1, row_group_size=2)
    flat = [position for file in made for sequence in file for position in sequence[:-1]]
    found = open_set(tmp_path / "set")
    check_kept(found, list(flat))
    for rows in ([0, 8], [2, 3], [], [5]):
        ids, _ = found.source.kept(np.array(rows, np.int64))  # type: ignore[attr-defined]
        assert ids.tolist() == [sets.decode(CONFIG, flat[row])[0] for row in rows]


def test_the_legacy_form_is_read_too(tmp_path: Path) -> None:
    config = sets.small(k=5, exact_k=2)
    positions = [sets.legacy_position(config, seed) for seed in range(5)]
    sets.save_legacy(tmp_path / "set", config, positions, [2, 0, 3])
    path = tmp_path / "set" / "data_0.parquet"
    change(path, "input_ids", 0, lambda tokens: [*tokens, 9])
    change(path, "input_ids", 2, lambda tokens: [*tokens, 9])
    found = open_set(tmp_path / "set")
    ids, _ = found.source.kept(range(5))  # type: ignore[attr-defined]
    assert ids.tolist() == [sets.teacher(config, row)[0] for row in range(5)]
    assert found.tensors["sequences.tokens"].tolist() == [0, 0, 9, 0, 0, 0, 9]


@pytest.mark.parametrize(
    ("column", "what", "words"),
    [
        ("compressed_logprobs", lambda items: items[:-1], "compressed_logprobs has 2 positions, input_ids 4"),
        ("bytepacked_indices", lambda items: items + items[:1], "bytepacked_indices has 4 positions, input_ids 4"),
        ("compressed_logprobs", lambda items: None, "compressed_logprobs has 0 positions, input_ids 4"),
    ],
)
def test_a_sequence_that_does_not_agree_is_named(column: str, what: Any, words: str, tmp_path: Path) -> None:
    sets.save(tmp_path / "set", CONFIG, MADE, spare=1)
    change(tmp_path / "set" / "data_0.parquet", column, 2, what)
    where = "data_0.parquet: 4 of 7 positions cannot be read: sequence 2"
    with pytest.raises(ValueError, match=f"{where}: {words}, and in this set the last of them has no label"):
        open_set(tmp_path / "set")
    check_kept(open_set(tmp_path / "set", keep_going=True), [*FLAT[:2], None, None, None, *FLAT[5:]])


def test_the_first_sequences_say_how_many_labels_there_are(tmp_path: Path) -> None:
    sets.save(tmp_path / "set", CONFIG, [[[], MADE[0][0][:1]], *MADE], spare=1)  # in the first file, none can tell
    check_kept(open_set(tmp_path / "set"), FLAT)
    sets.save(tmp_path / "first", CONFIG, [MADE[0], *MADE], spare=1)
    sets.save(tmp_path / "full", CONFIG, MADE)
    (tmp_path / "full" / "data_2.parquet").rename(tmp_path / "first" / "data_3.parquet")
    words = "data_3.parquet: 7 of 7 positions .* sequence 0: compressed_logprobs has 2 positions, input_ids 2, and in"
    with pytest.raises(ValueError, match=words):
        open_set(tmp_path / "first")
    check_kept(open_set(tmp_path / "first", keep_going=True), [*FLAT[:5], *FLAT[:5], *[None] * 5])


@pytest.mark.parametrize("files", [1, 3])
def test_most_of_them_say_it_where_one_is_damaged(files: int, tmp_path: Path) -> None:
    sequences = sets.sequences(CONFIG, [2, 3, 4])
    flat = [position for sequence in sequences for position in sequence]
    sets.save(tmp_path / "set", CONFIG, [sequences] if files == 1 else [[sequence] for sequence in sequences])
    for column in ("compressed_logprobs", "bytepacked_indices"):
        change(tmp_path / "set" / "data_0.parquet", column, 0, lambda items: items[:-1])
    with pytest.raises(ValueError, match=r"sequence 0: compressed_logprobs has 1 positions, input_ids 2$"):
        open_set(tmp_path / "set")
    check_kept(open_set(tmp_path / "set", keep_going=True), [None, None, *flat[2:]])


def test_a_wrong_label_is_named_and_the_others_can_be_kept(tmp_path: Path) -> None:
    made = copy.deepcopy(MADE)
    made[0][2][1] = sets.with_ids(made[0][2][1], 3, 3)
    made[2][1][0] = sets.with_ids(made[2][1][0], 50)
    sets.save(tmp_path / "set", CONFIG, made, spare=1)
    words = (
        "data_0.parquet: 1 of 7 positions cannot be read: sequence 2, position 1: it tells of a token twice(?s:.*)"
        "data_2.parquet: 1 of 7 positions cannot be read: sequence 1, position 0: it tells of token 50, but d is 50"
    )
    with pytest.raises(ValueError, match=words):
        open_set(tmp_path / "set")
    expected = [None if row in (3, 6) else position for row, position in enumerate(FLAT)]
    check_kept(open_set(tmp_path / "set", keep_going=True), expected)


def test_a_token_that_cannot_be_is_named_where_it_has_no_label(tmp_path: Path) -> None:
    sets.save(tmp_path / "set", CONFIG, MADE, spare=1)
    change(tmp_path / "set" / "data_2.parquet", "input_ids", 0, lambda tokens: [tokens[0], 2**32])
    words = "data_2.parquet: 1 of 7 .* sequence 0, position 1: token 4294967296 is beyond 32 bits"
    with pytest.raises(ValueError, match=words):
        open_set(tmp_path / "set")
    check_kept(open_set(tmp_path / "set", keep_going=True), FLAT)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_file_that_is_cut_off_is_named_and_left_out(index: int, tmp_path: Path) -> None:
    sets.save(tmp_path / "set", CONFIG, MADE, spare=1)
    path = tmp_path / "set" / f"data_{index}.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"data_{index}.parquet: it is cut off or damaged, or no Parquet file"):
        open_set(tmp_path / "set")
    kept: list[Any] = [position for number, file in enumerate(LABELS) if number != index for position in file]
    check_kept(open_set(tmp_path / "set", keep_going=True), kept)


def test_damage_to_the_first_sequence_leaves_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets.save(tmp_path / "set", CONFIG, MADE, spare=1, row_group_size=1, write_page_checksum=True)
    path = tmp_path / "set" / "data_0.parquet"
    column = pq.ParquetFile(path).metadata.row_group(0).column(1)
    data = bytearray(path.read_bytes())
    data[column.data_page_offset + column.total_compressed_size - 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"data_0.parquet: 3 of 7 positions cannot be read: sequence 0 and on: it is"):
        open_set(tmp_path / "set")
    check_kept(open_set(tmp_path / "set", keep_going=True), [None, None, *FLAT[2:]])
    assert exit_status("convert", tmp_path / "set", tmp_path / "labels", "--keep-going", "--check") == 0
    assert "all 8 labels are the same to the last bit" in capsys.readouterr().out
    decoder = LabelDecoder(tmp_path / "labels")
    assert decoder.file.missing(np.arange(10)).tolist() == [True, True] + [False] * 8


@pytest.mark.parametrize(
    "options", [["--tail", "uniform"], ["--tail", "uniform", "--bytes", 8, "--form", "product", "--effort", "0.01"]]
)
def test_labels_of_a_damaged_set_become_small_too(options: list[Any], tmp_path: Path) -> None:
    made = [sets.sequences(CONFIG, [40, 30], seed) for seed in range(2)]
    made[0][1][3] = sets.with_ids(made[0][1][3], 3, 3)
    sets.save(tmp_path / "set", CONFIG, made, spare=1)
    assert exit_status("convert", tmp_path / "set", tmp_path / "labels", "--keep-going", "--check", *options) == 0
    decoder = LabelDecoder(tmp_path / "labels")
    assert len(decoder) == 136
    assert np.flatnonzero(decoder.file.missing(np.arange(136))).tolist() == [42]
    likeliest = [sets.decode(CONFIG, position)[0][0] for file in made for line in file for position in line[:-1]]
    rows = np.delete(np.arange(136), 42)
    assert (decoder(rows).argmax(1).numpy() == np.delete(likeliest, 42)).mean() > 0.5


def test_a_label_that_is_missing_reads_as_nothing(tmp_path: Path) -> None:
    made = [sets.sequences(CONFIG, [3, 4])]
    made[0][1][1] = sets.with_ids(made[0][1][1], 3, 3)
    sets.save(tmp_path / "set", CONFIG, made, spare=1)
    for tail in ("drop", "uniform"):
        _, values = open_set(tmp_path / "set", keep_going=True, tail=tail).source.kept(range(5))  # type: ignore[attr-defined]
        assert (values == 0).all(1).tolist() == [row == 3 for row in range(5)]


@pytest.mark.parametrize("lengths", [[1], [1, 0, 1]])
def test_a_set_of_single_tokens_has_no_label(lengths: list[int], tmp_path: Path) -> None:
    sets.save(tmp_path / "set", CONFIG, [sets.sequences(CONFIG, lengths)], spare=1)
    with pytest.raises(ValueError, match="compressed_logprobs has 0 positions, input_ids 1"):
        open_set(tmp_path / "set")
    with pytest.raises(ValueError, match="holds no position that can be read"):
        open_set(tmp_path / "set", keep_going=True)
