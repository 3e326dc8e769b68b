"""Labels of a causal model of transformers, and a student that Trainer trains on them.

    $ python -m examples.huggingface.train

Both models are tiny and the language is made up, so nothing is downloaded; put your own in their places.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DataCollatorWithPadding, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from examples.huggingface.text import sentences, tokenizer_of
from vqlabel import LabelDecoder, LabelEncoder
from vqlabel.huggingface import LabelCollator, check_tokenizer, fingerprint, teacher_of
from vqlabel.losses import distillation_loss
from vqlabel.sequence_source import SequenceSource
from vqlabel.sequences import Sequences
from vqlabel.tokens import TokenInformation


class Distillation(Trainer):
    """Learns from the labels instead of the text."""

    loss_is_scaled_for_ga = False  # the loss below is a mean, so Trainer has to divide by its accumulation steps

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **others: Any) -> Any:
        """Mean KL of the positions that have a label."""
        teacher, mask = inputs.pop("teacher"), inputs.pop("teacher_mask")
        outputs = model(**inputs)
        total = distillation_loss(outputs.logits[mask], teacher.to(mask.device), temperature=1.0, reduction="sum")
        loss = total / mask.sum().clamp(min=1)  # a batch may have no label at all
        return (loss, outputs) if return_outputs else loss


class Texts(torch.utils.data.Dataset[dict[str, Any]]):
    """Texts of token ids, and the number that each has in the label file."""

    def __init__(self, texts: list[list[int]]) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {"input_ids": self.texts[number], "sequence": number}


def model_of(width: int, layers: int, vocabulary: int) -> Any:
    """A small causal model that has learnt nothing."""
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 128}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, pad_token_id=0, **sizes, **heads))


def arguments(steps: int, folder: str) -> TrainingArguments:
    """For both models; Trainer must not take "sequence" away."""
    plain: dict[str, Any] = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
    size = {"per_device_train_batch_size": 16, "max_steps": steps, "learning_rate": 3e-3, "logging_steps": steps}
    return TrainingArguments(folder, remove_unused_columns=False, **plain, **size)


def read_the_text(teacher: Any, data: Texts, pad: Any, folder: str, steps: int) -> None:
    """Teach the teacher the text itself, as Trainer does."""

    def collate(samples: list[Any]) -> Any:
        batch = pad([{"input_ids": sample["input_ids"]} for sample in samples])
        return {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}

    Trainer(teacher, arguments(steps, folder), data_collator=collate, train_dataset=data).train()


def write_labels(teacher: Any, data: Texts, tokenizer: Any, path: Path) -> None:
    """What the teacher says at every second position, 4 bytes each; its logits are never stored."""
    tokens = np.concatenate([np.array(text) for text in data.texts])
    sequences = Sequences([len(text) for text in data.texts], keep={"every": 2})
    source = SequenceSource(teacher_of(teacher), tokens, sequences, classes=len(tokenizer), batch=16)
    side = TokenInformation(tokens, sequences)
    encoder = LabelEncoder.fit(source, side=side, bytes_per_label=4, temperatures=(1.0,), effort=0.02)
    encoder.encode(source, path, metadata={"tokenizer": fingerprint(tokenizer)}, progress=False)


def distance(teacher: Any, student: Any, texts: list[list[int]]) -> float:
    """Mean KL from teacher to student at all positions of texts."""

    def logits(model: Any) -> torch.Tensor:
        ask = teacher_of(model)
        return torch.cat([ask([np.array(text)])[0] for text in texts])

    with torch.no_grad():
        return float(distillation_loss(logits(student), logits(teacher), temperature=1.0))


def main(options: list[str] | None = None) -> tuple[float, float]:
    """KL from the teacher to the student before and after training, on texts that neither has seen."""
    parser = argparse.ArgumentParser("python -m examples.huggingface.train", description=__doc__)
    parser.add_argument("--steps", type=int, default=150, help="of training, for teacher and student (150)")
    steps = parser.parse_args(options).steps
    torch.manual_seed(0)
    texts = sentences(400, seed=1)
    tokenizer = tokenizer_of(texts, vocabulary=120)
    data, unseen = Texts(tokenizer(texts)["input_ids"]), tokenizer(sentences(40, seed=2))["input_ids"]
    teacher, student = model_of(64, 2, len(tokenizer)), model_of(32, 1, len(tokenizer))
    pad = DataCollatorWithPadding(tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        read_the_text(teacher, data, pad, folder, steps)
        write_labels(teacher, data, tokenizer, Path(folder, "labels.safetensors"))
        decoder = LabelDecoder(Path(folder, "labels.safetensors"))
        print(decoder)
        check_tokenizer(decoder, tokenizer, model=student)
        before = distance(teacher, student, unseen)
        collate = LabelCollator(decoder, pad)
        Distillation(student, arguments(steps, folder), data_collator=collate, train_dataset=data).train()
    after = distance(teacher, student, unseen)
    print(f"KL from teacher to student, nats a token: {before:.3f} before training, {after:.3f} after {steps} steps")
    return before, after


if __name__ == "__main__":
    main()
