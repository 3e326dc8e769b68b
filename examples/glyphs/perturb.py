"""What happens to a view after its crop and mix: a small affine map, contrast, brightness and noise.

All of it is drawn from the recipe's own streams, so it is replayed like the crop.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vqlabel.replay import USER_STREAM, Parameters, ReplayRecipe
from vqlabel.views import apply

SHAPE_STREAM, NOISE_STREAM = USER_STREAM, USER_STREAM + 1


@dataclass(frozen=True)
class Strength:
    """Half-widths of what is drawn evenly around nothing."""

    rotation: float  # radians
    shear: float
    zoom: float
    contrast: float  # lost at most
    brightness: float
    noise: float  # largest amplitude


TRAINING = Strength(rotation=0.15, shear=0.2, zoom=0.1, contrast=0.5, brightness=0.15, noise=0.25)
SHAPE = dataclasses.replace(TRAINING, contrast=0.0, brightness=0.0, noise=0.0)
TESTING = Strength(rotation=0.2, shear=0.2, zoom=0.12, contrast=0.6, brightness=0.2, noise=0.32)


def views(images: torch.Tensor, recipe: ReplayRecipe, parameters: Parameters, strength: Strength) -> torch.Tensor:
    """Views [B, 1, 32, 32] as networks see them: replayed, perturbed, around zero."""
    return perturbed(apply(images, parameters), recipe, parameters, strength)


def perturbed(x: torch.Tensor, recipe: ReplayRecipe, parameters: Parameters, strength: Strength) -> torch.Tensor:
    """Replayed views [B, 1, 32, 32] of 0 to 1 as networks see them."""
    words = [recipe.draws(parameters.epochs, parameters.images, SHAPE_STREAM, block) for block in (0, 1)]
    u = torch.from_numpy((np.concatenate(words, axis=1) * (2 / 2**32) - 1).astype(np.float32)).to(x.device)
    x = _affine(x, u, strength)
    contrast = 1 - strength.contrast * (u[:, 4] + 1) / 2
    level = strength.brightness * u[:, 5]
    x = (x - 0.5) * contrast[:, None, None, None] + level[:, None, None, None]
    amplitude = strength.noise * (u[:, 6] + 1) / 2
    noise = torch.from_numpy(_noise(recipe, parameters, x[0].numel())).to(x.device)
    return (x + noise.view_as(x) * amplitude[:, None, None, None]) * 2


def _affine(x: torch.Tensor, u: torch.Tensor, strength: Strength) -> torch.Tensor:
    angle, shear, zoom = strength.rotation * u[:, 0], strength.shear * u[:, 1], 1 + strength.zoom * u[:, 2]
    cos, sin, zero = torch.cos(angle) / zoom, torch.sin(angle) / zoom, torch.zeros_like(angle)
    theta = torch.stack([cos, shear - sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
    grid = torch.nn.functional.affine_grid(theta, list(x.shape), align_corners=False)
    return torch.nn.functional.grid_sample(x, grid, align_corners=False)


def _noise(recipe: ReplayRecipe, parameters: Parameters, pixels: int) -> NDArray[np.float32]:
    """Even noise [B, pixels] between -1 and 1."""
    blocks = np.arange(-(-pixels // 4))
    words = recipe.draws(
        np.repeat(parameters.epochs, len(blocks)),
        np.repeat(parameters.images, len(blocks)),
        NOISE_STREAM,
        np.tile(blocks, len(parameters)),
    )
    noise: NDArray[np.float32] = words.reshape(len(parameters), -1)[:, :pixels].astype(np.float32)
    return noise * np.float32(2 / 2**32) - 1
