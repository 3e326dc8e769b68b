"""Labels in the batches of transformers: the right row at every position, and an error where that cannot be."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT

from vqlabel import LabelDecoder, LabelEncoder
from vqlabel.codecs.raw import Raw
from vqlabel.gaps import FEATURE, MISSING, bitmap
from vqlabel.huggingface import LabelCollator, check_tokenizer, fingerprint, teacher_of
from vqlabel.losses import distillation_loss
from vqlabel.sequences import Sequences
from vqlabel.tokens import TokenInformation

sys.path.insert(0, str(ROOT))  # examples are run from the repository

from examples.huggingface import text, train

C = 17
LENGTHS = [4, 1, 0, 6, 3]
P = sum(LENGTHS)
TOKENS = np.random.default_rng(0).integers(2, C, P)
TEXTS = [part.tolist() for part in np.split(TOKENS, np.cumsum(LENGTHS)[:-1])]
LOGITS = np.random.default_rng(1).standard_normal((P, C)).astype(np.float32)  # of all positions
KEEPS = {"all": None, "every second": {"every": 2, "first": 1}, "a mask": np.arange(P) % 5 < 2}
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., LabelDecoder]:
    """What writes a label file and opens it."""

    def make(
        keep: Any = None, *, store: bool = True, tokens: Any = None, missing: Any = None, **metadata: Any
    ) -> LabelDecoder:
        sequences = Sequences(LENGTHS, keep=keep)
        kept = LOGITS[np.concatenate([sequences.offsets[n] + sequences.rows_of(n)[1] for n in range(len(LENGTHS))])]
        side = TokenInformation(TOKENS, sequences, store=store)
        tensors = {}
        if missing is not None:
            tensors[MISSING], metadata["requires"] = bitmap(missing), [FEATURE]
        encoder, path = LabelEncoder(Raw(C, dtype="F32"), side), tmp_path / "labels.safetensors"
        encoder.encode(kept, path, metadata=metadata, tensors=tensors, progress=False)
        return LabelDecoder(path, tokens=tokens)

    return make


def pad(samples: list[dict[str, Any]], *, left: bool = False, longest: int = 0) -> dict[str, torch.Tensor]:
    """What a collate function of transformers does."""
    texts = [sample["input_ids"] for sample in samples]
    L = max([longest, *map(len, texts)])
    ids, there = torch.zeros(len(texts), L, dtype=torch.long), torch.zeros(len(texts), L, dtype=torch.long)
    for row, tokens in enumerate(texts):
        part = slice(L - len(tokens), L) if left else slice(0, len(tokens))
        ids[row, part], there[row, part] = torch.tensor(tokens, dtype=torch.long), 1
    return {"input_ids": ids, "attention_mask": there}


def samples(numbers: list[int], cut: int = 100) -> list[dict[str, Any]]:
    return [{"input_ids": TEXTS[number][:cut], "sequence": number} for number in numbers]


def positions(numbers: list[int], cut: int, keep: Any) -> list[int]:
    """Positions of the text that these samples have a label of, one by one."""
    starts, found = np.cumsum([0, *LENGTHS]), []
    for number in numbers:
        for place in range(min(LENGTHS[number], cut)):
            position = int(starts[number]) + place
            if keep is None or (keep[position] if isinstance(keep, np.ndarray) else position % 2 == 1):
                found.append(position)
    return found


@pytest.mark.parametrize("keep", KEEPS.values(), ids=KEEPS)
@pytest.mark.parametrize("left", [False, True], ids=["padded behind", "padded before"])
@pytest.mark.parametrize("cut", [100, 3, 1])
@pytest.mark.parametrize("numbers", [[0], [3, 1], [2], [4, 2, 0, 3, 3]], ids=str)
def test_labels_stand_where_their_tokens_stand(
    make: Callable[..., LabelDecoder], keep: Any, left: bool, cut: int, numbers: list[int]
) -> None:
    collate = LabelCollator(make(keep), lambda parts: pad(parts, left=left, longest=5))
    batch = collate(samples(numbers, cut))
    expected = positions(numbers, cut, keep)
    assert sorted(batch) == ["attention_mask", "input_ids", "teacher", "teacher_mask"]
    assert batch["teacher_mask"].dtype == torch.bool
    assert batch["teacher_mask"].shape == batch["input_ids"].shape
    assert batch["input_ids"][batch["teacher_mask"]].tolist() == TOKENS[expected].tolist()
    truth = torch.from_numpy(LOGITS[expected]).log_softmax(1)
    torch.testing.assert_close(batch["teacher"].log_probs(), truth, atol=1e-5, rtol=1e-5)


def test_the_loss_of_the_batch_is_that_of_its_positions(make: Callable[..., LabelDecoder]) -> None:
    batch = LabelCollator(make(), pad)(samples([3, 0]))
    student = torch.randn(2, 6, C, requires_grad=True)
    loss = distillation_loss(student[batch["teacher_mask"]], batch["teacher"], 1.0)
    loss.backward()
    truth = torch.from_numpy(LOGITS[positions([3, 0], 100, None)])
    torch.testing.assert_close(loss, distillation_loss(student[batch["teacher_mask"]], truth, 1.0))
    assert not student.grad[~batch["teacher_mask"]].any()


def test_positions_that_were_lost_have_no_label(make: Callable[..., LabelDecoder]) -> None:
    missing = np.zeros(P, bool)
    missing[[1, 7]] = True
    batch = LabelCollator(make(missing=missing), pad)(samples([0, 3]))
    assert batch["teacher_mask"].tolist() == [[True, False, True, True, False, False], [True, True, False] + [True] * 3]
    assert len(batch["teacher"]) == 8


def test_without_a_mask_every_token_counts(make: Callable[..., LabelDecoder]) -> None:
    def bare(parts: list[Any]) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.tensor([part["input_ids"] for part in parts])}

    collate = LabelCollator(make(), bare)
    assert collate(samples([0, 0]))["teacher_mask"].all()
    with pytest.raises(ValueError, match="sequence 1 has 3 tokens here and 1 in .*: is it padded without an attention"):
        collate([{"input_ids": TEXTS[1] + [0, 0], "sequence": 1}])


def test_another_name_for_the_sequence(make: Callable[..., LabelDecoder]) -> None:
    collate = LabelCollator(make(), pad, sequence="document")
    batch = collate([{"input_ids": TEXTS[4], "document": torch.tensor(4)}])
    assert batch["teacher_mask"].all()


def test_a_loader_with_workers_gives_the_same(make: Callable[..., LabelDecoder]) -> None:
    collate = LabelCollator(make(), pad)
    data: Any = samples([0, 3, 4])
    options: Any = {"batch_size": 3, "collate_fn": collate, "num_workers": 1, "multiprocessing_context": "fork"}
    (batch,) = torch.utils.data.DataLoader(data, **options)
    expected = collate(data)
    assert torch.equal(batch["teacher_mask"], expected["teacher_mask"])
    assert torch.equal(batch["teacher"].data, expected["teacher"].data)


def test_a_column_that_trainer_took_away_is_named(make: Callable[..., LabelDecoder]) -> None:
    collate = LabelCollator(make(), pad)
    with pytest.raises(
        ValueError, match=r"has input_ids, but no 'sequence', .* TrainingArguments\(remove_unused_columns=F"
    ):
        collate([{"input_ids": TEXTS[0]}])


def test_a_sequence_that_is_not_there_is_named(make: Callable[..., LabelDecoder]) -> None:
    collate = LabelCollator(make(), pad)
    for number in (-1, len(LENGTHS)):
        with pytest.raises(IndexError, match=f"sequence {number} is not in labels.safetensors, which has 5"):
            collate([{"input_ids": [3], "sequence": number}])


def test_a_text_that_is_another_is_noticed_where_the_file_knows_it(make: Callable[..., LabelDecoder]) -> None:
    wrong = [{"input_ids": [*TEXTS[3][:2], TEXTS[3][2] + 1], "sequence": 3}]
    words = "sequence 3 has token .* at position 2, and another one in labels.safetensors"
    with pytest.raises(ValueError, match=words):
        LabelCollator(make(), pad)(wrong)


def test_a_text_that_the_reader_brings_along_is_compared_too(make: Callable[..., LabelDecoder]) -> None:
    end = [{"input_ids": TEXTS[3][3:], "sequence": 3}]  # what a tokenizer leaves that cuts off at the left
    with pytest.raises(ValueError, match="sequence 3 has token .* at position 0, and another one"):
        LabelCollator(make(store=False, tokens=TOKENS), pad)(end)


def test_a_text_that_the_file_does_not_hold_is_taken_on_trust(make: Callable[..., LabelDecoder]) -> None:
    collate = LabelCollator(make(store=False), pad)
    assert collate([{"input_ids": [1, 1], "sequence": 3}])["teacher_mask"].tolist() == [[True, True]]


def test_labels_of_images_are_refused(tmp_path: Path) -> None:
    LabelEncoder(Raw(C)).encode(LOGITS, tmp_path / "images.safetensors", progress=False)
    with pytest.raises(ValueError, match="does not say which sequences its rows are of: encode it with side=Token"):
        LabelCollator(LabelDecoder(tmp_path / "images.safetensors"), pad)


def tokenizer(size: int, shift: int = 0) -> Any:
    return SimpleNamespace(get_vocab=lambda: {f"word{(n + shift) % size}": n for n in range(size)})


def model(size: int) -> Any:
    return SimpleNamespace(config=SimpleNamespace(vocab_size=size))


def test_the_fingerprint_of_a_tokenizer_is_that_of_its_words() -> None:
    found = fingerprint(SimpleNamespace(get_vocab=lambda: {"b": 1, "a": 0}))
    assert found == fingerprint(SimpleNamespace(get_vocab=lambda: {"a": 0, "b": 1}))
    assert found == "f4c1d8bd90d7ccd7"
    assert found != fingerprint(SimpleNamespace(get_vocab=lambda: {"a": 1, "b": 0}))


def test_a_tokenizer_and_a_model_that_fit_are_let_through(make: Callable[..., LabelDecoder]) -> None:
    check_tokenizer(make(tokenizer=fingerprint(tokenizer(C))), tokenizer(C), model=model(C))


def test_a_file_that_names_no_tokenizer_takes_any_that_is_not_too_large(make: Callable[..., LabelDecoder]) -> None:
    decoder = make()
    check_tokenizer(decoder, tokenizer(C - 3))
    with pytest.raises(ValueError, match="the tokenizer has 18 tokens, but the labels of labels.safetensors are of 17"):
        check_tokenizer(decoder, tokenizer(C + 1))


def test_another_tokenizer_is_refused(make: Callable[..., LabelDecoder]) -> None:
    decoder = make(tokenizer=fingerprint(tokenizer(C)))
    with pytest.raises(ValueError, match=r"are of the tokenizer [0-9a-f]{16}, but this one is .* teacher's tokenizer"):
        check_tokenizer(decoder, tokenizer(C, shift=1))


@pytest.mark.parametrize(
    ("size", "words"),
    [(C + 3, r"vocabulary of 20, but .* of 17: give logits\[..., :17\]"), (C - 1, r"resize_token_embeddings\(17\)")],
)
def test_a_model_of_another_vocabulary_is_told_what_to_do(
    make: Callable[..., LabelDecoder], size: int, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        check_tokenizer(make(), tokenizer(C), model=model(size))


def test_a_model_of_transformers_is_a_teacher() -> None:
    causal = train.model_of(16, 1, C).train()
    teacher = teacher_of(causal, classes=C - 2)
    assert not causal.training
    texts = [np.array(tokens) for tokens in TEXTS if tokens]
    with torch.no_grad():
        found = teacher(texts)
        assert found.shape == (len(texts), 6, C - 2)
        for row, tokens in enumerate(texts):
            alone = causal(input_ids=torch.from_numpy(tokens)[None]).logits[0, :, : C - 2]
            torch.testing.assert_close(found[row, : len(tokens)], alone, atol=1e-5, rtol=1e-5)


def test_a_tokenizer_of_transformers_has_a_fingerprint() -> None:
    words = text.sentences(20, seed=0)
    assert fingerprint(text.tokenizer_of(words, 50)) == fingerprint(text.tokenizer_of(words, 50))
    assert fingerprint(text.tokenizer_of(words, 50)) != fingerprint(text.tokenizer_of(words, 40))
