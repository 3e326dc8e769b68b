"""Sequences: positions, which of them have a label, and what a file says of them."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqlabel import Corrupt, LabelDecoder, LabelEncoder, LabelFile, creation, reference
from vqlabel.codecs.raw import Raw
from vqlabel.sequences import Sequences
from vqlabel.text import sequences_of

LENGTHS = [3, 0, 9, 1, 0, 600]

keeps = st.one_of(
    st.none(),
    st.builds(lambda k, f: {"every": k, "first": f}, st.integers(1, 9), st.integers(0, 12)),
    st.builds(lambda p, s: {"share": p, "seed": s}, st.floats(0.01, 1), st.integers(0, 2**63 - 1)),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 40), max_size=12), keeps, st.booleans())
def test_every_row_is_found_again_from_its_place(lengths: list[int], keep: Any, masked: bool) -> None:
    sequences = Sequences(lengths, keep=keep)
    if masked:  # the same positions as a mask
        places = [(s, t) for s, length in enumerate(lengths) for t in range(length)]
        mask = np.array([sequences.has(s, t)[0] for s, t in places], bool)
        sequences, other = Sequences(lengths, keep=mask), sequences
        assert sequences.rows_total == other.rows_total
    rows = np.arange(sequences.rows_total)
    numbers, positions = sequences.places(rows)
    assert np.array_equal(sequences.rows(numbers, positions), rows)
    assert sequences.has(numbers, positions).all()
    assert (np.diff(sequences.offsets[numbers] + positions) > 0).all()
    every = [sequences.rows_of(s)[0] for s in range(len(sequences))]
    assert np.array_equal(np.concatenate([rows[:0], *every]), rows)


def test_all_positions_have_a_row_unless_told_otherwise() -> None:
    sequences = Sequences(LENGTHS)
    assert (len(sequences), sequences.total, sequences.rows_total) == (6, 613, 613)
    assert sequences.rows([2, 5, 5], [0, 0, 599]).tolist() == [3, 13, 612]


def test_every_third_position_is_numbered_through_all_sequences() -> None:
    sequences = Sequences([4, 4], keep={"every": 3, "first": 1})
    assert [list(map(int, pair)) for pair in zip(*sequences.places(range(3)), strict=True)] == [[0, 1], [1, 0], [1, 3]]


def test_a_share_is_drawn_alike_everywhere_and_about_as_large() -> None:
    sequences = Sequences([100_001], keep={"share": 0.25, "seed": 7})
    counters = np.array([[n, 0, 2**32 - 1, 0] for n in range(25_001)], np.uint32)
    kept = reference.philox(counters, 7).ravel()[:100_001] < 2**30
    assert np.array_equal(sequences.has(0, np.arange(100_001)), kept)
    assert (sequences.rows_total, sequences.places([0, 1, 2])[1].tolist()) == (24_820, [2, 21, 27])
    assert Sequences([100_000], keep={"share": 1.0, "seed": 7}).rows_total == 100_000


def test_a_mask_is_counted_by_an_old_numpy_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(np, "bitwise_count", raising=False)  # which NumPy has from 2.0 on
    for total in (0, 1, 511, 512, 513, 5000):
        mask = np.random.default_rng(total).random(total) < 0.7
        sequences = Sequences([total], keep=mask)
        assert sequences.rows_total == mask.sum()
        assert sequences.places(np.arange(mask.sum()))[1].tolist() == np.flatnonzero(mask).tolist()


def test_a_set_of_nothing_has_no_rows() -> None:
    for lengths in ([], [0], [0, 0]):
        for keep in (None, {"every": 2}, {"share": 0.5, "seed": 0}, np.zeros(0, bool)):
            sequences = Sequences(lengths, keep=keep)
            assert sequences.rows_total == 0
            assert sequences.places([])[0].tolist() == []
            assert sequences.batch(range(len(lengths)))[1].shape == (len(lengths), 0)


def test_a_batch_is_the_rows_of_its_sequences_and_where_they_go() -> None:
    sequences = Sequences([3, 0, 5], keep={"every": 2})
    rows, mask = sequences.batch([2, 0, 1])
    assert rows.tolist() == [2, 3, 0, 1]
    assert mask.astype(int).tolist() == [[0, 1, 0, 1, 0], [1, 0, 1, 0, 0], [0, 0, 0, 0, 0]]
    rows, mask = sequences.batch([2, 0], length=2)
    assert rows.tolist() == [2, 0]
    assert mask.astype(int).tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("sequence", "position", "words"),
    [
        (6, 0, "sequence 6 is not there: there are 6"),
        (-1, 0, "sequence -1 is not there"),
        (1, 0, "sequence 1 has 0 positions, and none of number 0"),
        (0, 3, "sequence 0 has 3 positions, and none of number 3"),
        (0, -1, "none of number -1"),
        (0, 1, "position 1 of sequence 0 has no label: kept are {'every': 2}"),
    ],
)
def test_a_place_that_has_no_label_is_named(sequence: int, position: int, words: str) -> None:
    with pytest.raises(IndexError, match=words):
        Sequences(LENGTHS, keep={"every": 2}).rows([sequence], [position])


def test_rows_of_a_sequence_take_little_memory() -> None:
    sequences = Sequences([7, 100_000], keep={"share": 0.5, "seed": 3})
    tracemalloc.start()
    rows, places = sequences.rows_of(1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * 100_000
    assert [part.tolist() for part in sequences.places(rows[::99])] == [[1] * len(rows[::99]), places[::99].tolist()]
    assert [part.tolist() for part in Sequences([3, 2], keep={"every": 9}).rows_of(1)] == [[], []]


@pytest.mark.parametrize("rows", [[1.7], 1.0, [True]])
def test_rows_are_whole_numbers(rows: Any) -> None:
    with pytest.raises(TypeError, match="rows must be whole numbers, got"):
        Sequences([3]).places(rows)


def test_a_place_that_a_mask_leaves_out_is_named() -> None:
    sequences = Sequences([3], keep=[True, False, True])
    assert sequences.has(0, [0, 1, 2]).tolist() == [True, False, True]
    with pytest.raises(IndexError, match="its mask leaves it out"):
        sequences.rows(0, 1)


@pytest.mark.parametrize(
    ("lengths", "keep", "words"),
    [
        ([1.5], None, "lengths must be whole numbers"),
        ([[1]], None, "lengths must be whole numbers"),
        ([1, -2], None, "sequence 1 has the length -2"),
        ([4], {"every": 0}, "every must be a whole number from 1"),
        ([4], {"every": 2, "first": -1}, "first must be"),
        ([4], {"share": 0.0, "seed": 1}, "share must be above 0 and at most 1"),
        ([4], {"share": 0.5}, "keep is None"),
        ([4], {}, "keep is None"),
        ([4], "all", "keep is None"),
        ([4], [True, False], r"a mask must be boolean \[4\]"),
        ([4], [1, 0, 1, 0], r"a mask must be boolean \[4\], got int64"),
    ],
)
def test_sequences_that_make_no_sense_are_refused(lengths: Any, keep: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        Sequences(lengths, keep=keep)


@pytest.mark.parametrize(
    ("keep", "plain"),
    [
        ({"every": np.int64(2), "first": np.uint8(1)}, {"every": 2, "first": 1}),
        ({"share": np.float32(0.5), "seed": np.int32(3)}, {"share": 0.5, "seed": 3}),
    ],
)
def test_numbers_of_numpy_are_numbers(keep: Any, plain: Any, tmp_path: Path) -> None:
    sequences = Sequences([40, 2], keep=keep)
    assert written(tmp_path / "labels", sequences).metadata["sequences"] == {"keep": plain}
    assert sequences.rows_total == Sequences([40, 2], keep=plain).rows_total


def written(path: Path, sequences: Sequences, **changed: Any) -> LabelFile:
    logits = np.random.default_rng(0).standard_normal((sequences.rows_total, 6)).astype(np.float32)
    metadata = {"sequences": sequences.facts(), **changed}
    return LabelEncoder(Raw(6)).encode(logits, path, tensors=sequences.tensors(), metadata=metadata, progress=False)


@pytest.mark.parametrize("keep", [None, {"every": 3, "first": 2}, {"share": 0.3, "seed": 5}, "mask"])
def test_a_file_remembers_its_sequences(tmp_path: Path, keep: Any) -> None:
    if keep == "mask":
        keep = np.random.default_rng(1).random(613) < 0.5
    sequences = Sequences(LENGTHS, keep=keep)
    decoder = LabelDecoder(written(tmp_path / "labels.safetensors", sequences).path)
    assert decoder.sequences is not None
    assert decoder.sequences.rows_total == sequences.rows_total == len(decoder)
    rows = np.arange(len(decoder))
    assert all(
        np.array_equal(*pair) for pair in zip(decoder.sequences.places(rows), sequences.places(rows), strict=True)
    )
    packed, mask = decoder.of_sequences([5, 1, 2], length=8)
    numbers, positions = np.nonzero(mask.numpy())
    again = decoder.read(sequences.rows(np.array([5, 1, 2])[numbers], positions))
    assert np.array_equal(packed.data, again.data)


def test_labels_of_images_have_no_sequences(tmp_path: Path) -> None:
    file = LabelEncoder(Raw(3)).encode(np.zeros((4, 3), np.float32), tmp_path / "a.safetensors", progress=False)
    decoder = LabelDecoder(file.path)
    assert decoder.sequences is None
    with pytest.raises(ValueError, match="is not of sequences"):
        decoder.of_sequences([0])


@pytest.mark.parametrize(
    ("starts", "keep", "words"),
    [
        (np.array([0, 4], np.int64), None, "must be U64"),
        (np.array([1, 4], np.uint64), None, "from 0 on"),
        (np.array([], np.uint64), None, "from 0 on"),
        (np.array([0, 3], np.uint64), None, "3 positions of its sequences have a label, not 4"),
        (np.array([0, 5, 4], np.uint64), None, "sequence 1 has the length -1"),
        (np.array([0, 2**62, 2**63, 3 * 2**62, 4], np.uint64), None, "from 0 on"),  # adds up to 4 in 64 bits
        (np.array([0, 2**60], np.uint64), {"share": 0.5, "seed": 1}, "cannot be of 1152921504606846976 positions"),
        (np.array([0, 2**40], np.uint64), {"share": 1, "seed": 1}, "cannot be of 1099511627776 positions"),
        (np.array([0, 2**40], np.uint64), {"every": 2**31}, "cannot be of 1099511627776 positions"),
        (np.array([0, 8], np.uint64), {"every": 3}, "3 positions of its sequences have a label, not 4"),
        (np.array([0, 8], np.uint64), "mask", "make no sense"),
        (np.array([0, 8], np.uint64), {"every": "x"}, "every must be a whole number"),
    ],
)
def test_a_file_whose_sequences_cannot_be_is_corrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starts: Any, keep: Any, words: str
) -> None:
    monkeypatch.setattr(creation, "MOST_POSITIONS", 2**64)  # so that it can be written
    metadata = {} if keep is None else {"sequences": {"keep": keep}}
    tensors = {"sequences.starts": starts}
    path = tmp_path / "bad.safetensors"
    file = LabelEncoder(Raw(3)).encode(
        np.zeros((4, 3), np.float32), path, tensors=tensors, metadata=metadata, progress=False
    )
    with pytest.raises(Corrupt, match=words):
        sequences_of(file)


@pytest.mark.parametrize("tokens", [np.zeros(3, np.uint32), np.zeros((4, 1), np.uint32), np.zeros(4, np.int32)])
def test_a_text_that_is_not_of_all_positions_is_corrupt(tmp_path: Path, tokens: Any) -> None:
    tensors = {"sequences.starts": np.array([0, 4], np.uint64), "sequences.tokens": tokens}
    logits = np.zeros((4, 3), np.float32)
    file = LabelEncoder(Raw(3)).encode(logits, tmp_path / "bad.safetensors", tensors=tensors, progress=False)
    with pytest.raises(Corrupt, match=r"tensor 'sequences.tokens' is .*, not uint32 \[4\]"):
        sequences_of(file)


def test_inspect_tells_of_the_sequences(tmp_path: Path) -> None:
    from vqlabel.inspection import label_facts

    file = written(tmp_path / "a.safetensors", Sequences(LENGTHS, keep={"every": 3}))
    assert dict(label_facts(file))["sequences"] == '6, of whose positions these are kept: {"every": 3}'
