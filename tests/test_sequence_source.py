"""A teacher of language as a source: whole sequences, each as seldom as possible, nothing stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vqlabel import LabelDecoder, LabelEncoder
from vqlabel.codecs.raw import Raw
from vqlabel.sampling import draw
from vqlabel.sequence_source import EACH, SequenceSource
from vqlabel.sequences import Sequences
from vqlabel.sources import ArraySource

C = 11
LENGTHS = [5, 0, 1, 7, 0, 12, 3, 1]
pytestmark = pytest.mark.usefixtures("one_thread")


class Teacher:
    """Logits that depend on the tokens so far; it counts the texts that it reads."""

    def __init__(self, classes: int = C, form: str = "list") -> None:
        table = np.random.default_rng(7).standard_normal((64, classes)).astype(np.float32)
        self.table, self.form, self.read = torch.from_numpy(table), form, list[list[int]]()

    def __call__(self, texts: list[np.ndarray[Any, Any]]) -> Any:
        """Logits [length, C] of each text."""
        self.read += [text.tolist() for text in texts]
        parts = [self.table[torch.from_numpy(text) % 64].cumsum(0) for text in texts]
        if self.form == "padded":
            return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=torch.nan)
        if self.form == "numpy":
            return [part.numpy() for part in parts]
        return parts


def text(lengths: list[int], seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 64, sum(lengths)).astype(np.int32)


def stored(teacher: Teacher, tokens: Any, sequences: Sequences) -> torch.Tensor:
    """Logits of all rows, the plain way."""
    offsets = sequences.offsets
    found = [torch.empty(0, C)]
    for n in range(len(sequences)):
        whole = torch.as_tensor(Teacher()([tokens[offsets[n] : offsets[n + 1]]])[0])
        found.append(whole[torch.from_numpy(sequences.rows_of(n)[1])])
    return torch.cat(found)


MASK = np.random.default_rng(3).random(sum(LENGTHS)) < 0.4
KEEPS = {"all": None, "every": {"every": 3, "first": 1}, "mask": MASK, "share": {"share": 0.5, "seed": 2}}


@pytest.mark.parametrize("keep", KEEPS.values(), ids=KEEPS)
@pytest.mark.parametrize("form", ["list", "padded", "numpy"])
@pytest.mark.parametrize("batch", [1, 3, 100])
def test_rows_are_those_of_the_whole_sequences(keep: Any, form: str, batch: int) -> None:
    tokens, sequences = text(LENGTHS), Sequences(LENGTHS, keep=keep)
    source = SequenceSource(Teacher(form=form), tokens, sequences, classes=C, batch=batch)
    expected = stored(Teacher(), tokens, sequences)
    N = len(expected)
    assert (len(source), source.classes, source.dtype, source.any_order) == (N, C, torch.float32, True)
    for rows in (range(N), range(2, 5), range(N - 1, N), range(3, 3), range(1)):
        torch.testing.assert_close(source.read(rows), expected[rows.start : rows.stop])
    for picks in (np.arange(0, N, 2), np.array([0, N - 1]), np.zeros(0, np.int64)):
        torch.testing.assert_close(source.take(picks), expected[torch.from_numpy(picks)])


@pytest.mark.parametrize("step", [1, 2, 5, 29])
@pytest.mark.parametrize("batch", [1, 2, 8])
def test_each_sequence_is_read_once_when_rows_are_read_front_to_back(step: int, batch: int) -> None:
    teacher, tokens = Teacher(), text(LENGTHS)
    source = SequenceSource(teacher, tokens, Sequences(LENGTHS), classes=C, batch=batch)
    for start in range(0, len(source), step):
        source.read(range(start, min(start + step, len(source))))
    lengths = [len(read) for read in teacher.read]
    assert lengths == [length for length in LENGTHS if length]
    assert [token for read in teacher.read for token in read] == tokens.tolist()  # whole ones, in order


def test_sequences_without_a_label_are_never_read() -> None:
    keep = np.zeros(sum(LENGTHS), bool)
    keep[[6, 20]] = True  # of sequences 3 and 5
    teacher = Teacher()
    source = SequenceSource(teacher, text(LENGTHS), Sequences(LENGTHS, keep=keep), classes=C, batch=1)
    source.read(range(2))
    assert [len(read) for read in teacher.read] == [7, 12]


@pytest.mark.parametrize("lengths", [[], [0], [0, 0]])
def test_a_text_without_positions_is_a_source_without_rows(lengths: list[int]) -> None:
    teacher = Teacher()
    source = SequenceSource(teacher, np.zeros(0, np.int64), Sequences(lengths), classes=C)
    assert len(source) == 0
    assert source.read(range(0)).shape == (0, C)
    assert teacher.read == []


def test_half_precision_stays_half_precision() -> None:
    tokens = text(LENGTHS)
    source = SequenceSource(
        lambda texts: [part.bfloat16() for part in Teacher()(texts)], tokens, Sequences(LENGTHS), classes=C
    )
    assert source.dtype == source.read(range(3)).dtype == torch.bfloat16


def test_a_fit_reads_as_many_sequences_as_it_takes_and_no_more() -> None:
    lengths = [200] * 100
    teacher, sequences = Teacher(), Sequences(lengths)
    source = SequenceSource(teacher, text(lengths), sequences, classes=C)
    del teacher.read[:]
    options = {"tier": "none", "seed": 0, "say": lambda words: None}
    fitted, held = draw(source, None, rows=1000, held_out=200, **options)
    assert (len(fitted), len(held)) == (1000, 200)
    assert 17 <= len(teacher.read) <= 19  # of 64 rows each; one may be there already


def places(source: SequenceSource, sequences: Sequences, parts: tuple[int, int]) -> tuple[Any, Any]:
    chosen = source.choose(len(source), parts, np.random.default_rng(5))
    assert len(chosen) == sum(parts) == len(set(chosen.tolist()))
    numbers = sequences.places(chosen)[0]
    return numbers[: parts[0]], numbers[parts[0] :]


def test_rows_to_judge_by_are_of_other_sequences_but_for_one() -> None:
    lengths = np.random.default_rng(0).integers(0, 300, 60).tolist()
    sequences = Sequences(lengths, keep={"share": 0.7, "seed": 1})
    source = SequenceSource(Teacher(), text(lengths), sequences, classes=C)
    fitted, held = places(source, sequences, (900, 300))
    assert len(set(fitted) & set(held)) <= 1
    assert max(np.bincount(np.concatenate([fitted, held]))) <= EACH
    assert (np.diff(fitted) < 0).any()  # any leading part is a sample too


def test_where_sequences_are_few_more_of_each_are_taken() -> None:
    sequences = Sequences([500, 3, 0, 40])
    source = SequenceSource(Teacher(), text([500, 3, 0, 40]), sequences, classes=C)
    fitted, held = places(source, sequences, (500, 43))
    assert len(fitted) + len(held) == len(source)


def test_other_sources_choose_as_they_always_did() -> None:
    source = ArraySource(np.zeros((1000, 3), np.float32))
    chosen = source.choose(1000, (70, 30), np.random.default_rng(4))
    np.testing.assert_array_equal(chosen, np.random.default_rng(4).choice(1000, 100, replace=False))


@pytest.mark.parametrize("keep", [None, {"every": 2}], ids=["all", "every other"])
def test_labels_stream_from_the_teacher_into_a_file(keep: Any, tmp_path: Path) -> None:
    tokens, sequences = text(LENGTHS), Sequences(LENGTHS, keep=keep)
    teacher = Teacher()
    source = SequenceSource(teacher, tokens, sequences, classes=C, batch=2)
    LabelEncoder(Raw(C)).encode(source, tmp_path / "labels.safetensors")
    expected = stored(teacher, tokens, sequences).log_softmax(1)
    decoded = LabelDecoder(tmp_path / "labels.safetensors")(np.arange(len(source)), output="log_probs")
    torch.testing.assert_close(decoded, expected, atol=5e-3, rtol=0)


def broken(change: Any) -> Any:
    return lambda texts: change(Teacher()(texts))


def poisoned(value: float) -> Any:
    def change(parts: list[torch.Tensor]) -> list[torch.Tensor]:
        for part in parts:
            part[4:5, 3] = value
        return parts

    return broken(change)


WRONG = {
    "a text too few": (broken(lambda parts: parts[1:]), ValueError, "was given 8 texts, and gave logits of 7"),
    "a position too few": (
        broken(lambda parts: [part[1:] for part in parts]),
        ValueError,
        r"logits of 0 positions of sequence 0, which has 1 tokens: it must give one row for each token",
    ),
    "a position too many": (
        broken(lambda parts: [torch.cat([part, part]) for part in parts]),
        ValueError,
        "logits of 2 positions of sequence 0, which has 1",
    ),
    "a padded vocabulary": (
        lambda texts: Teacher(C + 5)(texts),
        ValueError,
        r"16 classes, but classes=11 was said; cut a padded vocabulary as in logits\[\.\.\., :C\]",
    ),
    "too few classes": (lambda texts: Teacher(5)(texts), ValueError, "5 classes, but classes=11 was said$"),
    "one matrix": (broken(torch.cat), ValueError, "was given 8 texts, and gave logits of"),
    "a dictionary": (broken(lambda parts: {"logits": parts}), TypeError, "a list of logits, .* not dict"),
    "vectors": (broken(lambda parts: [part[:, 0] for part in parts]), ValueError, r"logits \[1, 11\] of sequence 0"),
    "whole numbers": (broken(lambda parts: [part.long() for part in parts]), TypeError, "logits must be float16"),
    "-inf": (poisoned(-np.inf), ValueError, r"sequence 1 hold -inf at position 4, .* logits.clamp\(min=-100\)"),
    "NaN": (poisoned(np.nan), ValueError, "sequence 1 hold NaN at position 4, .* the teacher failed there"),
    "inf": (poisoned(np.inf), ValueError, "sequence 1 hold inf at position 4, .* float32"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_teacher_does_wrong_is_said_at_once(case: str) -> None:
    teacher, kind, words = WRONG[case]
    lengths = [1, 6, 2, 2, 2, 2, 2, 2]
    with pytest.raises(kind, match=words):
        SequenceSource(teacher, text(lengths), Sequences(lengths), classes=C)


def test_what_is_wrong_beyond_the_labels_does_not_matter() -> None:
    sequences = Sequences([6, 6], keep={"every": 6, "first": 3})
    source = SequenceSource(poisoned(np.nan), text([6, 6]), sequences, classes=C)
    assert source.read(range(2)).isfinite().all()


@pytest.mark.parametrize("tokens", [np.zeros(3), np.zeros(4, np.int64), np.zeros((3, 1), np.int64)])
def test_tokens_are_one_whole_number_for_each_position(tokens: Any) -> None:
    with pytest.raises(TypeError, match=r"whole numbers \[3\], one for each position"):
        SequenceSource(Teacher(), tokens, Sequences([1, 2]), classes=C)


@pytest.mark.parametrize("batch", [0, 2.0, True])
def test_a_batch_is_a_whole_number(batch: Any) -> None:
    with pytest.raises(ValueError, match="batch must be a whole number"):
        SequenceSource(Teacher(), [1], Sequences([1]), classes=C, batch=batch)
