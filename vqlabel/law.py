"""The law that the rows of a set are drawn by, as tensors for the kernel that draws them on a GPU."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from vqlabel.replay import ReplayRecipe
from vqlabel.side import SideInformation


class Law(NamedTuple):
    """What kernels/replay.py reads; `whole` and `real` are empty without a recipe."""

    whole: torch.Tensor  # int64
    real: torch.Tensor  # float64
    classes: torch.Tensor  # int64 [images]


def law_of(info: SideInformation, device: torch.device) -> Law:
    """The law of a set, on this device."""
    recipe = info.recipe if isinstance(info.recipe, ReplayRecipe) else None
    whole = torch.tensor(_whole(recipe, info.draws) if recipe else [], dtype=torch.int64)
    real = torch.tensor(_real(recipe) if recipe else [], dtype=torch.float64)
    return Law(*(part.to(device) for part in (whole, real, torch.from_numpy(info.classes))))


def _whole(recipe: ReplayRecipe, draws: list[list[int]]) -> list[int]:
    seed = recipe.seed - 2**64 if recipe.seed >= 2**63 else recipe.seed  # the same bits
    sizes = [recipe.images, recipe.height, recipe.width, recipe.size]
    return [seed, *sizes, *_middle_crop(recipe), *(number for draw in draws for number in draw)]


def _real(recipe: ReplayRecipe) -> list[float]:
    least, most = recipe.scale
    chances = [recipe.flip, recipe.cutmix, recipe.cutmix + recipe.mixup]
    return [least, most - least, *chances, *recipe.tables.ravel().tolist()]


def _middle_crop(recipe: ReplayRecipe) -> tuple[int, int, int, int]:
    """Top, left, height and width of the crop where no random one fits: the middle, as far as the ratios allow."""
    height, width = recipe.height, recipe.width
    ratio = width / height
    nearest = min(max(ratio, recipe.ratio[0]), recipe.ratio[1])
    w = max(math.floor(height * nearest + 0.5), 1) if ratio > nearest else width
    h = max(math.floor(width / nearest + 0.5), 1) if ratio < nearest else height
    return (height - h) // 2, (width - w) // 2, h, w
