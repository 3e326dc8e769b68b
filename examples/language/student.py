"""The student: learns from sequences and their labels, and is judged on text that nobody has seen."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from examples.language import training
from examples.language.model import GPT
from examples.language.settings import Settings
from examples.language.teacher import Teacher
from examples.language.tokens import Windows

# Mean loss of the student's logits [B, C] at rows int64 [B].
Loss: TypeAlias = Callable[[torch.Tensor, NDArray[np.int64]], torch.Tensor]

RECIPES = {"kd": 0.0, "kd + ce": 0.5}  # weight of the cross-entropy to the next token, beside the labels
TAUGHT = 1  # counts changes of students and their test after which older results do not compare
AT_ONCE = 8  # sequences that are judged at a time


def train(settings: Settings, windows: Windows, loss: Loss, *, seed: int, recipe: str = "kd") -> GPT:
    """A student of these labels. The seed sets its first weights and nothing else."""
    torch.manual_seed(seed)
    net = GPT(settings.vocabulary, settings.student_layers, settings.student_width)
    optimiser = training.Optimiser(net)
    batches = [part for number in range(settings.passes) for part in _batches(settings, number)]
    share = RECIPES[recipe]
    for step, batch in enumerate(batches):
        own = windows.part(batch)
        with training.half_precision(own.tokens.device):
            found = net(own.tokens)
        found = found.flatten(0, 1).float()
        value = loss(found, rows_of(batch, settings.context))
        if share:
            value = (1 - share) * value + share * functional.cross_entropy(found, own.following.flatten())
        if not math.isfinite(float(value.detach())):
            raise FloatingPointError(f"the loss was {float(value)} in step {step} of {len(batches)}, seed {seed}")
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step(training.factor_at(step, len(batches)))
    return net.eval().requires_grad_(False)


def rows_of(sequences: NDArray[np.int64], context: int) -> NDArray[np.int64]:
    """Rows of all positions of these sequences."""
    return (sequences[:, None] * context + np.arange(context)).reshape(-1)


def _batches(settings: Settings, number: int) -> list[NDArray[np.int64]]:
    """Sequences of each step of a pass; every sequence comes once."""
    order = np.random.default_rng((settings.seed, number)).permutation(settings.sequences)
    return np.array_split(order, max(1, settings.sequences // settings.batch))


@torch.no_grad()
def judge(net: GPT, held: Teacher) -> dict[str, float]:
    """On held-out text: cross-entropy, KL(teacher || student), share of positions with the teacher's first token."""
    sums, context = torch.zeros(3, dtype=torch.float64), held.windows.tokens.shape[1]
    for batch in np.array_split(np.arange(len(held.windows)), -(-len(held.windows) // AT_ONCE)):
        own = held.windows.part(batch)
        found = torch.log_softmax(net(own.tokens).flatten(0, 1), 1)
        wanted = torch.log_softmax(held(rows_of(batch, context)).float(), 1)
        missed = functional.nll_loss(found, own.following.flatten(), reduction="sum")
        divergence = (wanted.exp() * (wanted - found)).sum()
        agree = (wanted.argmax(1) == found.argmax(1)).sum()
        sums += torch.stack([missed, divergence, agree]).double()
    names = "cross_entropy", "kl", "agreement"
    return dict(zip(names, (sums / len(held)).tolist(), strict=True))
