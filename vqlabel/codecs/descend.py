"""Gradient descent over all ranks: the same batches and, but for the order of sums, the same steps on any number."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch

from vqlabel.ranks import Ranks

WARMUP = 0.05  # of the steps
BATCH = 500
FEWEST = 200  # steps that even a small set gets

Loss = Callable[[torch.Tensor], torch.Tensor]  # of own rows [b], summed over them


def batches(total: int, steps: int, ranks: Ranks, seed: int) -> Iterator[torch.Tensor]:
    """For each step this rank's rows of a common random batch of BATCH; every row comes once before any comes again."""
    generator = torch.Generator().manual_seed(seed)
    size = min(BATCH, total)
    order, position = torch.randperm(total, generator=generator), 0
    for _ in range(steps):
        if position + size > total:
            order, position = torch.randperm(total, generator=generator), 0
        batch = order[position : position + size]
        position += size
        own = batch[batch % ranks.world == ranks.rank]
        yield own // ranks.world


def bounded(steps: int, passes: int, total: int) -> int:
    """Steps of BATCH rows: no more than so many passes over all rows, of which a small set would learn the noise."""
    return min(steps, max(passes * math.ceil(total / BATCH), FEWEST))


def descend(
    parameters: list[torch.Tensor],
    loss: Loss,
    rows: Iterator[torch.Tensor],
    *,
    steps: int,
    rate: float,
    ranks: Ranks,
    decay: float = 0.0,
) -> None:
    """AdamW with a cosine schedule. The rate is relative: each tensor's own size times it is a step."""
    groups = [{"params": [p], "scale": max(float(p.detach().square().mean().sqrt()), 1e-2)} for p in parameters]
    adam = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.99), eps=1e-12, weight_decay=decay)
    for step, own in enumerate(rows):
        factor = min(1.0, (step + 1) / max(1, WARMUP * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in adam.param_groups:
            group["lr"] = rate * factor * group["scale"]
        adam.zero_grad(set_to_none=False)
        if len(own):
            loss(own).backward()  # type: ignore[no-untyped-call]
        for p in parameters:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            ranks.sum(p.grad)
        adam.step()
