"""The teacher: a small convolutional network on the faces to learn from, kept at several ages."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from examples import shared
from examples.glyphs import models, perturb, training
from examples.glyphs.settings import Settings

BATCH = 256
RATE, DECAY, SMOOTHING = 4e-3, 0.05, 0.0
AGES = (1 / 8, 1 / 4, 1 / 2, 1)  # shares of the training after which the teacher is kept
SAVE_EVERY = 100


def train(settings: Settings) -> tuple[nn.Module, float]:
    """The finished teacher and its accuracy, trained now unless it was before; an interrupted training goes on."""
    path = settings.teacher_path()
    finished = shared.load(path, settings.device)
    if finished is None:
        finished = _train(settings, path)
    net = _new(settings)
    net.load_state_dict(finished["net"])
    return net.eval(), finished["accuracy"]


def at_age(settings: Settings, age: float) -> nn.Module:
    """The teacher as it was after this share of its training; train must have run."""
    state = shared.load(_aged(settings.teacher_path(), age), settings.device)
    if state is None:
        ages = ", ".join(f"{known:g}" for known in AGES)
        raise FileNotFoundError(f"no teacher of age {age}; after training there are {ages}")
    net = _new(settings)
    net.load_state_dict(state["net"])
    return net.eval()


def fingerprint(net: nn.Module) -> str:
    """Hash of all parameters, for the metadata of the labels."""
    digest = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _new(settings: Settings) -> nn.Module:
    torch.manual_seed(settings.seed)
    return training.placed(models.teacher(settings.classes), settings.device)


def _train(settings: Settings, path: Path) -> dict[str, Any]:
    net, steps = _new(settings), settings.teacher_steps
    adam = training.optimiser(net, RATE, DECAY)
    running = path.with_suffix(".running")
    state = shared.load(running, settings.device)
    first = 0
    if state is not None:
        net.load_state_dict(state["net"])
        adam.load_state_dict(state["adam"])
        first = state["step"]
    ages = {round(steps * age): age for age in AGES}
    for step in training.progress("teacher", range(first, steps), steps, done=first):
        x, y = _batch(settings, step)
        rate = RATE * training.rate_at(step, steps, steps // 7)
        training.take_step(net, adam, rate, x, lambda z, y=y: nn.functional.cross_entropy(z, y))  # type: ignore[misc]
        if step + 1 in ages:
            state = {"net": net.state_dict(), "accuracy": training.accuracy(net, settings).whole}
            shared.save(state, _aged(path, ages[step + 1]))
        if (step + 1) % SAVE_EVERY == 0:
            shared.save({"net": net.state_dict(), "adam": adam.state_dict(), "step": step + 1}, running)
    finished = {"net": net.state_dict(), "accuracy": training.accuracy(net, settings).whole}
    shared.save(finished, path)
    running.unlink(missing_ok=True)
    return finished


def _batch(settings: Settings, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Batch of a step, from its number alone: a resumed training sees what an undisturbed one would."""
    images, recipe = settings.teacher_images, settings.teacher_recipe
    per_epoch = max(1, len(images) // BATCH)
    epoch, index = divmod(step, per_epoch)
    ids = np.random.default_rng((settings.seed, epoch)).permutation(len(images))[index * BATCH : (index + 1) * BATCH]
    x = perturb.views(images, recipe, recipe.parameters(epoch, ids), perturb.TRAINING)
    return x, torch.from_numpy(ids % settings.classes).to(settings.device)


def _aged(path: Path, age: float) -> Path:
    return path.with_name(f"{path.stem}-age-{age:g}.pt")
