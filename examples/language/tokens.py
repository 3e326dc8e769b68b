"""Byte-pair tokens, learned on the spot, and the text as tokens in sequences of one length."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from examples import shared
from examples.language import corpus
from examples.language.settings import Settings, key

END = "<|end|>"  # stands before each document
BEGUN = 1  # counts changes of this file after which older tokens are others


@dataclass(frozen=True)
class Text:
    """Tokens int32 [P] to learn from and held out, and the vocabulary that made them."""

    train: NDArray[np.int32]
    held_out: NDArray[np.int32]
    vocabulary: str  # JSON of the tokenizer
    provenance: dict[str, Any]  # of the documents

    @property
    def fingerprint(self) -> str:
        """Hash of the vocabulary and its merges."""
        return hashlib.sha256(self.vocabulary.encode()).hexdigest()[:16]


def load(settings: Settings) -> Text:
    """The text of these settings as tokens, from the cache if they are there."""
    facts = [BEGUN, settings.texts, corpus.sources(settings.texts), settings.vocabulary]
    path = settings.path("tokens", facts, ".safetensors")
    about = path.with_suffix(".json")
    with shared.alone(path):
        if not about.exists():
            text = learned(corpus.load(settings.texts), settings.vocabulary)
            save_file({"train": text.train, "held_out": text.held_out}, path)
            about.write_text(json.dumps([text.vocabulary, text.provenance]))
    arrays = load_file(path)
    return Text(arrays["train"], arrays["held_out"], *json.loads(about.read_text()))


def learned(found: corpus.Corpus, size: int) -> Text:
    """Vocabulary of the documents to learn from, and both parts as tokens."""
    coder = trained(found.train.values(), size)
    parts = [encoded(coder, part.values()) for part in (found.train, found.held_out)]
    vocabulary = json.dumps(json.loads(coder.to_str()), sort_keys=True)
    about = {"sources": found.sources, "text": found.fingerprint(), "documents": len(found.train)}
    return Text(parts[0], parts[1], vocabulary, {**about, "documents_held_out": len(found.held_out)})


def trained(documents: Iterable[str], size: int) -> Any:
    """A tokenizer of bytes with so many tokens; token 0 stands before each document."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    coder = Tokenizer(models.BPE())
    coder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    coder.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    coder.train_from_iterator(documents, trainer)
    return coder


def encoded(coder: Any, documents: Iterable[str]) -> NDArray[np.int32]:
    """All documents one after the other, each begun by token 0."""
    tokens: list[int] = []
    for part in coder.encode_batch(list(documents)):
        tokens += [0, *part.ids]
    return np.array(tokens, np.int32)


@dataclass(frozen=True)
class Windows:
    """Sequences of a text: tokens int64 [S, L], and those that follow each of them [S, L]."""

    tokens: torch.Tensor
    following: torch.Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def part(self, numbers: NDArray[np.int64]) -> Windows:
        """Some of the sequences."""
        chosen = torch.from_numpy(numbers)
        return Windows(self.tokens[chosen], self.following[chosen])

    def fingerprint(self) -> str:
        """Hash of the tokens."""
        return key([self.tokens.flatten().tolist(), list(self.tokens.shape)])


def windows(stream: NDArray[np.int32], context: int) -> Windows:
    """All of a stream, cut into sequences one after the other; the rest that is too short is left out."""
    count = (len(stream) - 1) // context
    wide = torch.from_numpy(stream[: count * context + 1].astype(np.int64))
    return Windows(wide[:-1].view(count, context), wide[1:].view(count, context))


def split(settings: Settings, text: Text) -> tuple[Windows, Windows, Windows]:
    """Sequences for the teacher, those that get labels, and those that judge, in an order that the seed draws."""
    every, held = (windows(part, settings.context) for part in (text.train, text.held_out))
    if len(every) <= settings.sequences or len(held) < settings.held_out:
        raise ValueError(
            f"{settings.sequences} sequences with labels and {settings.held_out} held out were asked for, but the "
            f"text has {len(every)} and {len(held)}; ask for fewer, or for shorter ones"
        )
    order = np.random.default_rng(settings.seed).permutation(len(every))
    judging = np.random.default_rng(settings.seed + 1).permutation(len(held))[: settings.held_out]
    labelled = np.sort(order[: settings.sequences])
    return every.part(order[settings.sequences :]), every.part(labelled), held.part(np.sort(judging))
