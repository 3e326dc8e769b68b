"""The student: learns from views and labels, in one pass over all rows, and is tested on faces that were held out.

SRe2L's protocol: AdamW, cosine, KL at a temperature, no factor T^2. The label source is all that differs between runs:
views, their order and the test are the same; a seed changes the student's first weights and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from examples.glyphs import distill, models, perturb, training
from examples.glyphs.settings import Settings
from vqlabel import LabelFile
from vqlabel.replay import Parameters

RATE, DECAY = 2e-3, 0.01

# Loss of the student's logits [B, C] for the views of a batch, in an epoch of the training.
Source: TypeAlias = Callable[[torch.Tensor, Parameters, int], torch.Tensor]


class Batch(NamedTuple):
    """Images of one step, and the epoch of the label set whose views and labels they meet."""

    stored: int
    images: NDArray[np.int64]


Plan: TypeAlias = Sequence[Sequence[Batch]]  # for each epoch of the training


def plan(settings: Settings) -> list[list[Batch]]:
    """Every row once: each epoch meets the views and labels of its own number."""
    count = -(-settings.distilled_recipe.images // settings.batch)
    return [
        [Batch(epoch, images) for images in np.array_split(_order(settings, epoch), count)]
        for epoch in range(settings.epochs)
    ]


def train(
    settings: Settings,
    source: Source,
    *,
    seed: int,
    student: str = "convnet",
    epochs: Plan | None = None,
    precision: torch.dtype = torch.float32,
) -> training.Accuracy:
    """Accuracy of a student trained on this source of labels, in the order of `plan` unless told."""
    torch.manual_seed(seed)
    net = training.placed(models.student(student, settings.classes), settings.device)
    images, recipe = distill.images(settings), settings.distilled_recipe
    adam = training.optimiser(net, RATE, DECAY)
    batches = [(epoch, batch) for epoch, part in enumerate(epochs or plan(settings)) for batch in part]
    for step in training.progress(f"student {seed}", range(len(batches)), len(batches)):
        epoch, batch = batches[step]
        parameters = recipe.parameters(batch.stored, batch.images)
        x = perturb.views(images, recipe, parameters, perturb.TRAINING)
        rate = RATE * training.rate_at(step, len(batches), len(batches) // 20)
        # A context for each step: it keeps the weights as it has cast them, and knows nothing of the optimiser.
        with torch.autocast(settings.device.type, precision, enabled=precision != torch.float32):
            loss = training.take_step(net, adam, rate, x, lambda z, p=parameters, e=epoch: source(z.float(), p, e))  # type: ignore[misc]
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss was {loss} in step {step} of {len(batches)}, seed {seed}: {settings}")
    return training.accuracy(net, settings)


def _order(settings: Settings, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng((settings.seed, epoch)).permutation(settings.distilled_recipe.images)


def soft(file: LabelFile, temperature: float) -> Source:
    """KL to the stored logits at a temperature, mean over the batch."""
    images = file.metadata["images"]

    def loss(found: torch.Tensor, parameters: Parameters, _: int) -> torch.Tensor:
        wanted = distill.logits(file, parameters.epochs * images + parameters.images).to(found.device)
        target = functional.softmax(wanted / temperature, dim=1)
        return functional.kl_div(functional.log_softmax(found / temperature, dim=1), target, reduction="batchmean")

    return loss


def hard(classes: int) -> Source:
    """Cross-entropy to the classes of the image and of its partner, by the share of each."""

    def loss(found: torch.Tensor, parameters: Parameters, _: int) -> torch.Tensor:
        own, other = (torch.from_numpy(ids % classes) for ids in (parameters.images, parameters.partners))
        share = torch.from_numpy(parameters.shares.astype(np.float32)).to(found.device)
        each = [functional.cross_entropy(found, y.to(found.device), reduction="none") for y in (own, other)]
        return (share * each[0] + (1 - share) * each[1]).mean()

    return loss
