"""The example of Trainer runs, and its student learns from the labels."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT

from vqlabel import LabelDecoder, LabelEncoder
from vqlabel.codecs.raw import Raw
from vqlabel.huggingface import LabelCollator, teacher_of
from vqlabel.sequence_source import SequenceSource
from vqlabel.sequences import Sequences
from vqlabel.tokens import TokenInformation

sys.path.insert(0, str(ROOT))  # examples are run from the repository

from examples.huggingface import train

C = 23
pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_student_comes_closer_to_its_teacher(capsys: pytest.CaptureFixture[str]) -> None:
    before, after = train.main(["--steps", "25"])
    assert after < 0.5 * before
    assert "KL from teacher to student" in capsys.readouterr().out


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Any, LabelDecoder]:
    """Texts, and what a model says of them."""
    torch.manual_seed(0)
    texts = np.random.default_rng(0).integers(1, C, (8, 5))
    sequences = Sequences([5] * 8)
    source = SequenceSource(teacher_of(train.model_of(16, 1, C)), texts.ravel(), sequences, classes=C)
    side = TokenInformation(texts.ravel(), sequences)
    LabelEncoder(Raw(C), side).encode(source, tmp_path / "labels.safetensors", progress=False)
    return train.Texts(texts.tolist()), LabelDecoder(tmp_path / "labels.safetensors")


def bare(samples: list[Any]) -> dict[str, torch.Tensor]:
    ids = torch.tensor([sample["input_ids"] for sample in samples])
    return {"input_ids": ids, "labels": ids}


def trained(parts: tuple[Any, LabelDecoder], folder: Path, **options: Any) -> torch.Tensor:
    """A weight of a student after one step of stochastic gradient descent on all eight texts."""
    data, decoder = parts
    torch.manual_seed(1)
    student = train.model_of(16, 1, C)
    arguments = train.arguments(1, str(folder))
    for name, value in {"optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0.0, **options}.items():
        setattr(arguments, name, value)
    collate = LabelCollator(decoder, bare)
    train.Distillation(student, arguments, data_collator=collate, train_dataset=data).train()
    weight: torch.Tensor = student.lm_head.weight.detach()
    return weight


def test_accumulated_batches_weigh_as_much_as_a_large_one(parts: Any, tmp_path: Path) -> None:
    once = trained(parts, tmp_path, per_device_train_batch_size=8)
    twice = trained(parts, tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    torch.testing.assert_close(once, twice, atol=1e-5, rtol=1e-4)


def test_trainer_that_takes_columns_away_is_found_out(parts: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no 'sequence', .* Trainer takes away .*remove_unused_columns=False"):
        trained(parts, tmp_path, remove_unused_columns=True)


def test_a_batch_without_labels_is_no_loss(tmp_path: Path) -> None:
    sequences, tokens = Sequences([2, 2], keep={"every": 4, "first": 3}), np.array([1, 2, 3, 4])
    LabelEncoder(Raw(C), TokenInformation(tokens, sequences)).encode(
        np.random.default_rng(0).standard_normal((1, C)).astype(np.float32),
        tmp_path / "few.safetensors",
        progress=False,
    )
    collate = LabelCollator(LabelDecoder(tmp_path / "few.safetensors"), bare)
    student = train.model_of(16, 1, C)
    trainer = train.Distillation(student, train.arguments(1, str(tmp_path)), data_collator=collate)
    loss = trainer.compute_loss(student, collate([{"input_ids": [1, 2], "sequence": 0}]))
    loss.backward()
    assert loss == 0
