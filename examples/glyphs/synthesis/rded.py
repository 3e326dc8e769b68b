"""RDED: square crops of real images that the teacher is surest of, stitched 2 x 2 into one image."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from examples.glyphs import perturb, training
from examples.glyphs.data import SIDE
from examples.glyphs.settings import CROPS, Settings
from examples.glyphs.synthesis.options import Patches
from vqlabel.replay import ReplayRecipe
from vqlabel.views import apply

CHUNK = 25  # classes that are looked at together


def images(settings: Settings, net: nn.Module, options: Patches) -> torch.Tensor:
    """Images uint8 [ipc * C, 1, 32, 32] of a class's surest patches, best first."""
    made = torch.zeros(settings.ipc, settings.classes, 1, SIDE, SIDE, dtype=torch.uint8, device=settings.device)
    starts = range(0, settings.classes, CHUNK)
    with torch.inference_mode():
        for index in training.progress("patches", range(len(starts)), len(starts)):
            classes = np.arange(starts[index], min(starts[index] + CHUNK, settings.classes))
            patches, losses = candidates(settings, net, options, classes)
            best = chosen(patches, losses, settings.ipc * options.factor**2)
            made[:, torch.from_numpy(classes)] = stitched(best, options.factor).transpose(0, 1)
    return made.flatten(0, 1)


def candidates(
    settings: Settings, net: nn.Module, options: Patches, classes: NDArray[np.int64]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches [B, images, crops, side, side] of 0 to 1, and the teacher's cross-entropy of each [B, images, crops].

    The teacher sees a patch in the middle of black, which is what is around a character.
    """
    count, faces = settings.classes, len(settings.teacher_images) // settings.classes
    views = max(options.views, -(-settings.ipc * options.factor**2 // faces))  # as many as a class needs
    shapes = ReplayRecipe(seed=settings.seed + 2**35, images=faces * count, scale=(0.8, 1.0), **CROPS)
    size = {**CROPS, "size": SIDE // options.factor, "ratio": (1.0, 1.0)}
    crops = ReplayRecipe(seed=settings.seed + 2**37, images=views * faces * count, scale=options.area, **size)
    ids = (classes[:, None] + count * np.arange(views * faces)).ravel()  # candidate = (view * faces + face) * C + class
    view, face = np.divmod(ids, faces * count)
    drawn = shapes.parameters(view, face)
    # Only shapes vary: contrast and noise are for the views of what is made here.
    pixels = (perturb.views(settings.teacher_images, shapes, drawn, perturb.SHAPE) / 2 + 0.5).clamp(0, 1)
    patches = torch.stack([apply(lambda _: pixels, crops.parameters(k, ids)) for k in range(options.crops)], 1)
    wide = functional.pad(patches.flatten(0, 1), [(SIDE - crops.size) // 2] * 4)
    wanted = torch.from_numpy(np.repeat(ids % count, options.crops)).to(settings.device)
    losses = functional.cross_entropy(net((wide - 0.5) * 2), wanted, reduction="none")
    shape = len(classes), views * faces, options.crops
    return patches.view(*shape, *patches.shape[-2:]), losses.view(shape)


def chosen(patches: torch.Tensor, losses: torch.Tensor, count: int) -> torch.Tensor:
    """The best patch of each image, and of those the best ones of a class, best first [B, count, side, side]."""
    least, which = losses.min(2)
    order = least.argsort(dim=1, stable=True)[:, :count]
    rows = torch.arange(len(patches), device=patches.device)[:, None]
    return patches[rows, order, which[rows, order]]


def stitched(patches: torch.Tensor, factor: int) -> torch.Tensor:
    """Patches in squares: [B, ipc * factor^2, side, side] of 0 to 1 to uint8 [B, ipc, 1, 32, 32]."""
    squares = patches.reshape(len(patches), -1, factor, factor, *patches.shape[2:])  # [B, ipc, row, column, side, side]
    whole = squares.transpose(3, 4).flatten(4, 5).flatten(2, 3)
    return (whole * 255).round().to(torch.uint8).unsqueeze(2)
