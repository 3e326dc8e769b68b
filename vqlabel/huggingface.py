"""Labels in the batches of transformers, and of what is built on it; nothing of it is imported here.

    decoder = LabelDecoder("labels.safetensors")
    check_tokenizer(decoder, tokenizer, model=student)
    collate = LabelCollator(decoder, DataCollatorWithPadding(tokenizer))

    class Distillation(Trainer):
        loss_is_scaled_for_ga = False  # the loss below is a mean: let Trainer divide by its accumulation steps

        def compute_loss(self, model, inputs, return_outputs=False, **others):
            teacher, mask = inputs.pop("teacher"), inputs.pop("teacher_mask")
            outputs = model(**inputs)
            loss = distillation_loss(outputs.logits[mask], teacher.to(mask.device), temperature=1.0)
            return (loss, outputs) if return_outputs else loss

    Distillation(student, TrainingArguments(..., remove_unused_columns=False), data_collator=collate, ...).train()

Samples carry the number that their sequence has in the label file: {"input_ids": [...], "sequence": 7}.
"""

from __future__ import annotations

import hashlib
import json
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from vqlabel.decoder import LabelDecoder

TOKENIZER = "tokenizer"  # of the metadata: `fingerprint` of the one that the text was read with


class LabelCollator:
    """A collate function of yours, and the labels of the same positions.

    `collate` makes a batch of the samples without their `sequence`: a mapping with input_ids [B, L] and, where it pads,
    attention_mask [B, L]. Added to it are "teacher", the packed labels of all positions of these sequences that have
    one, and "teacher_mask", bool [B, L], which says where they belong: `logits[teacher_mask]` are the student's, in the
    same order. Padding may lie before or behind; a sample may hold the beginning of its sequence only.

    Where the label file holds its text, or the decoder was given it, each sample is compared with it. Where neither is
    so, nobody notices a sample that was cut off at its beginning: give LabelDecoder the tokens.
    """

    def __init__(
        self, decoder: LabelDecoder, collate: Callable[[list[Any]], Mapping[str, Any]], *, sequence: str = "sequence"
    ) -> None:
        if decoder.sequences is None:
            raise ValueError(
                f"{decoder.file.path} does not say which sequences its rows are of: encode it with "
                "side=TokenInformation(tokens, sequences)"
            )
        self._decoder, self._collate, self._sequence = decoder, collate, sequence
        self._sequences = decoder.sequences
        decoder.load()

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The batch of these samples, with labels."""
        numbers = [self._number(sample) for sample in samples]
        batch = dict(self._collate([{k: v for k, v in sample.items() if k != self._sequence} for sample in samples]))
        ids, there = batch["input_ids"].numpy(), batch.get("attention_mask")
        used = np.ones(ids.shape, bool) if there is None else there.numpy() != 0
        mask, rows = np.zeros(ids.shape, bool), [np.zeros(0, np.int64)]
        for row, number in enumerate(numbers):
            columns = np.flatnonzero(used[row])
            self._check(number, ids[row, columns])
            found, labelled = self._labelled(number, len(columns))
            mask[row, columns[labelled]] = True
            rows.append(found)
        return {**batch, "teacher": self._decoder.read(np.concatenate(rows)), "teacher_mask": torch.from_numpy(mask)}

    def _number(self, sample: Mapping[str, Any]) -> int:
        if self._sequence not in sample:
            raise ValueError(
                f"a sample has {', '.join(sample)}, but no {self._sequence!r}, the number of its sequence: Trainer "
                "takes away what the model does not read unless TrainingArguments(remove_unused_columns=False)"
            )
        number = operator.index(sample[self._sequence])
        if not 0 <= number < len(self._sequences):
            raise IndexError(f"sequence {number} is not in {self._name}, which has {len(self._sequences)}, from 0 on")
        return number

    def _labelled(self, number: int, length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of the first positions of a sequence that have a label, and which positions these are."""
        rows, places = self._sequences.rows_of(number)
        there = (places < length) & ~self._decoder.file.missing(rows)
        return rows[there], places[there]

    def _check(self, number: int, tokens: NDArray[Any]) -> None:
        """ValueError unless the sequence begins with these tokens."""
        first, stop = self._sequences.offsets[number : number + 2].tolist()
        if len(tokens) > stop - first:
            raise ValueError(
                f"sequence {number} has {len(tokens)} tokens here and {stop - first} in {self._name}: is it padded "
                "without an attention_mask, read by another tokenizer, or are there several texts in a sample?"
            )
        text = self._decoder.tokens
        if text is not None:
            wrong = np.flatnonzero(text[first : first + len(tokens)] != tokens)
            if len(wrong):
                raise ValueError(
                    f"sequence {number} has token {tokens[wrong[0]]} at position {wrong[0]}, and another one in "
                    f"{self._name}: another tokenizer, another order of the sequences, or not the beginning of it"
                )

    @property
    def _name(self) -> str:
        return os.path.basename(self._decoder.file.path)


def teacher_of(model: Any, *, classes: int | None = None) -> Callable[[list[NDArray[np.int64]]], torch.Tensor]:
    """A causal model of transformers as the teacher of a `SequenceSource`; it is set to eval().

    classes cuts a vocabulary that was padded to a round number.
    """
    model.eval()

    def teacher(texts: list[NDArray[np.int64]]) -> torch.Tensor:
        ids = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(text) for text in texts], batch_first=True)
        there = torch.arange(ids.shape[1]) < torch.tensor([len(text) for text in texts])[:, None]
        inputs = {"input_ids": ids.to(model.device), "attention_mask": there.long().to(model.device)}
        logits: torch.Tensor = model(**inputs, use_cache=False).logits
        return logits[..., :classes]

    return teacher


def fingerprint(tokenizer: Any) -> str:
    """Which tokenizer this is: SHA-256 of its vocabulary as sorted JSON, for metadata={"tokenizer": ...}."""
    words = json.dumps(tokenizer.get_vocab(), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def check_tokenizer(decoder: LabelDecoder, tokenizer: Any, *, model: Any = None) -> None:
    """ValueError unless the labels are of this tokenizer and, if one is given, of the vocabulary of this model.

    A model with more classes than the labels can still be trained on them: cut its logits, and do not pass it here.
    """
    name, C = os.path.basename(decoder.file.path), decoder.classes
    told, found = decoder.file.metadata.get(TOKENIZER), fingerprint(tokenizer)
    if told is not None and told != found:
        raise ValueError(
            f"the labels of {name} are of the tokenizer {told!s:.40}, but this one is {found}: the same number means "
            "another token, so take the teacher's tokenizer"
        )
    tokens = max(tokenizer.get_vocab().values(), default=-1) + 1
    if tokens > C:
        raise ValueError(
            f"the tokenizer has {tokens} tokens, but the labels of {name} are of {C}: they cannot be of it"
        )
    size = C if model is None else model.config.vocab_size
    if size > C:
        raise ValueError(
            f"the model has a vocabulary of {size}, but the labels of {name} are of {C}: give logits[..., :{C}] to the "
            "loss"
        )
    if size < C:
        raise ValueError(
            f"the model has a vocabulary of {size}, but the labels of {name} are of {C}: "
            f"model.resize_token_embeddings({C}), or encode logits[..., :{size}] of the teacher"
        )
