"""Batch-norm statistics: those that a teacher has kept, those of each class, and how far a batch is from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from examples.glyphs import perturb, training
from examples.glyphs.settings import Settings

# Mean and variance of the inputs of each layer, [S, channels]: S = 1 for all classes together, or one row a class.
Statistics = list[tuple[torch.Tensor, torch.Tensor]]

VIEWS = 40  # of each face; what is left of the 0 and 1 that the averages start from is 0.9^40, 1.5 %
MOMENTUM = 0.1
CHUNK = 50  # classes that are looked at together


def layers(net: nn.Module) -> list[nn.Module]:
    """The batch norms of a network, from its input on."""
    kinds = nn.BatchNorm1d | nn.BatchNorm2d
    return [module for module in net.modules() if isinstance(module, kinds)]


def seen(net: nn.Module, x: torch.Tensor, groups: int) -> tuple[torch.Tensor, Statistics]:
    """Logits of a batch, and what each batch norm sees in every one of its equal parts [groups, channels]."""
    found: Statistics = []

    def hook(_: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        found.append(moments(inputs[0], groups))

    handles = [layer.register_forward_pre_hook(hook) for layer in layers(net)]
    try:
        return net(x.contiguous(memory_format=torch.channels_last)), found
    finally:
        for handle in handles:
            handle.remove()


def moments(x: torch.Tensor, groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance [groups, channels] of x [groups * size, channels, ...], as a batch norm takes them."""
    mean, square = (each.unflatten(0, (groups, -1)).mean(1) for each in _Means.apply(x))  # type: ignore[no-untyped-call]
    return mean, square - mean.square()


class _Means(torch.autograd.Function):
    """Means [B, channels] of x and of its square; the gradient takes one pass over x instead of six."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(x)
        inside = tuple(range(2, x.ndim))
        return (x.mean(inside), x.square().mean(inside)) if inside else (x.clone(), x.square())

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        size = x[0, 0].numel()
        mean, square = (each.view(*each.shape, *[1] * (x.ndim - 2)) for each in gradients)
        return torch.addcmul(mean / size, x, square * (2 / size))


def of_all(net: nn.Module) -> Statistics:
    """What the teacher itself has kept, [1, channels]."""
    return [(layer.running_mean[None].clone(), layer.running_var[None].clone()) for layer in layers(net)]  # type: ignore[index]


def by_class(net: nn.Module, settings: Settings) -> Statistics:
    """Statistics of each class [C, channels]: averages that move with its faces, in one view after the other."""
    images, recipe, count = settings.teacher_images, settings.teacher_recipe, settings.classes
    faces = np.arange(len(images) // count) * count
    kept = [(torch.zeros(count, mean.shape[1]), torch.ones(count, mean.shape[1])) for mean, _ in of_all(net)]
    kept = [(mean.to(settings.device), variance.to(settings.device)) for mean, variance in kept]
    with torch.inference_mode():
        for view in training.progress("statistics", range(VIEWS), VIEWS):
            for start in range(0, count, CHUNK):
                classes = np.arange(start, min(start + CHUNK, count))
                parameters = recipe.parameters(view, (classes[:, None] + faces).ravel())
                _, found = seen(net, perturb.views(images, recipe, parameters, perturb.TRAINING), len(classes))
                rows = slice(start, start + len(classes))
                for (mean, variance), (new_mean, new_variance) in zip(kept, found, strict=True):
                    mean[rows].lerp_(new_mean, MOMENTUM)
                    variance[rows].lerp_(new_variance, MOMENTUM)
    return kept


def distance(found: Statistics, target: Statistics, rows: torch.Tensor, first: float) -> torch.Tensor:
    """How far each group is from its row of the target [groups]: norms of both differences, summed over layers."""
    total = torch.zeros(len(rows), device=rows.device)
    for number, (mine, wanted) in enumerate(zip(found, target, strict=True)):
        far = sum((torch.linalg.vector_norm(a - b[rows], dim=1) for a, b in zip(mine, wanted, strict=True)), total * 0)
        total = total + (first if number == 0 else 1.0) * far
    return total
