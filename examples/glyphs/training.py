"""What teacher and students share: the loop, the test, files that are never half-written."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn

from examples.glyphs import perturb
from examples.glyphs.settings import TEST_VIEWS, Settings

TEST_BATCH = 500


class Accuracy(NamedTuple):
    """Per cent of the test views that were told right."""

    whole: float
    unseen: float  # of those whose rendering no face to learn from has


def placed(net: nn.Module, device: torch.device) -> nn.Module:
    """The network on its device, laid out as convolutions like it."""
    net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net


def optimiser(net: nn.Module, rate: float, decay: float) -> torch.optim.AdamW:
    """AdamW, without decay of norms and biases."""
    flat = [p for p in net.parameters() if p.ndim < 2]
    deep = [p for p in net.parameters() if p.ndim >= 2]
    groups = [{"params": deep, "weight_decay": decay}, {"params": flat, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate)


def rate_at(step: int, steps: int, warmup: int) -> float:
    """Cosine from 1 to 0 after a linear start."""
    if step < warmup:
        return (step + 1) / warmup
    return float(0.5 + 0.5 * np.cos(np.pi * (step - warmup) / max(1, steps - warmup)))


def take_step(
    net: nn.Module, adam: torch.optim.Optimizer, rate: float, x: torch.Tensor, loss: Callable[[torch.Tensor], Any]
) -> float:
    """One step at a learning rate; the loss before it."""
    for group in adam.param_groups:
        group["lr"] = rate
    value = loss(net(x.contiguous(memory_format=torch.channels_last)))
    adam.zero_grad(set_to_none=True)
    value.backward()
    adam.step()
    return float(value.detach())


def accuracy(net: nn.Module, settings: Settings) -> Accuracy:
    """Share of the test views, per cent, of which the largest logit is the class."""
    net.eval()
    images, recipe, right = settings.test_images, settings.test_recipe, []
    with torch.inference_mode():
        for epoch in range(TEST_VIEWS):
            for ids in np.split(np.arange(len(images)), range(TEST_BATCH, len(images), TEST_BATCH)):
                x = perturb.views(images, recipe, recipe.parameters(epoch, ids), perturb.TESTING)
                found = net(x.contiguous(memory_format=torch.channels_last)).argmax(1).cpu().numpy()
                right.append(found == ids % settings.classes)
    net.train()
    every = np.concatenate(right).reshape(TEST_VIEWS, -1)
    new = every[:, settings.glyphs.unseen.ravel()]
    return Accuracy(100 * every.mean().item(), 100 * new.mean().item())


def progress(what: str, steps: Iterable[int], total: int, *, done: int = 0) -> Iterable[int]:
    """The steps, with a bar, where they are and when they will end."""
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}")
    seen = sys.stdout.isatty()  # elsewhere a bar would only leave empty lines
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), transient=True, disable=not seen) as bars:
        task = bars.add_task(what, total=total, completed=done)
        for step in steps:
            yield step
            bars.advance(task)
