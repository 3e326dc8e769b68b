"""A language of a few words, and a tokenizer that was trained on it."""

from __future__ import annotations

import random
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SUBJECTS = ["the cat", "a dog", "my aunt", "the old captain", "nobody", "every second student"]
VERBS = ["sees", "follows", "does not like", "has bought", "dreams of"]
OBJECTS = ["a red boat", "the sea", "two apples", "an honest answer", "the last train"]
ENDINGS = ["", " in the morning", " again and again", " because it rains", " without a word"]


def sentences(count: int, seed: int) -> list[str]:
    """Made-up texts of one to four sentences."""
    draw = random.Random(seed)
    parts = (SUBJECTS, VERBS, OBJECTS, ENDINGS)
    return [
        " ".join(
            "{} {} {}{} .".format(*(draw.choices(words, range(len(words), 0, -1))[0] for words in parts))
            for _ in range(draw.randint(1, 4))
        )
        for _ in range(count)
    ]


def tokenizer_of(texts: list[str], vocabulary: int) -> Any:
    """A BPE tokenizer of these texts, as transformers takes it."""
    model = Tokenizer(models.BPE(unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    model.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=["<pad>", "<unk>"]))
    return PreTrainedTokenizerFast(tokenizer_object=model, pad_token="<pad>", unk_token="<unk>")
