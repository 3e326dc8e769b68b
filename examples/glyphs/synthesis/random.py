"""Real images: the renderings, and where they do not suffice, renderings with a perturbation of their own."""

from __future__ import annotations

import numpy as np
import torch

from examples.glyphs import perturb
from examples.glyphs.settings import CROPS, Settings
from vqlabel.replay import ReplayRecipe

BATCH = 512


def images(settings: Settings) -> torch.Tensor:
    """The first eight images of a class are its renderings; from there on they are perturbed."""
    plain = settings.teacher_images
    extra = settings.ipc * settings.classes - len(plain)
    if extra <= 0:
        return plain[: settings.ipc * settings.classes]
    recipe = ReplayRecipe(seed=settings.seed + 2**34, images=extra, scale=(0.8, 1.0), **CROPS)
    source = plain.repeat(-(-extra // len(plain)), 1, 1, 1)[:extra]
    made = []
    for start in range(0, extra, BATCH):
        view = recipe.parameters(0, np.arange(start, min(start + BATCH, extra)))
        pixels = perturb.views(source, recipe, view, perturb.TRAINING) / 2 + 0.5
        made.append((pixels.clamp(0, 1) * 255).round().to(torch.uint8))
    return torch.cat([plain, *made])
