"""Replayed augmentation: drawing the parameters of views, and making their pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.race import race
from vqlabel import reference
from vqlabel.replay import ReplayRecipe
from vqlabel.views import apply

BATCH = 1024
RECIPE = ReplayRecipe(seed=1, images=50_000, height=256, width=256, size=224, cutmix=1.0)
SMALL = ReplayRecipe(seed=1, images=BATCH, height=64, width=64, size=64, cutmix=0.5)


def torch_crop(height: int, width: int) -> tuple[int, int, int, int]:
    """Random resized crop drawn from torch's global generator, as training scripts do it."""
    for _ in range(10):
        area = height * width * torch.empty(1).uniform_(0.08, 1.0).item()
        ratio = torch.exp(torch.empty(1).uniform_(float(np.log(3 / 4)), float(np.log(4 / 3)))).item()
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            top = int(torch.randint(0, height - h + 1, (1,)).item())
            return top, int(torch.randint(0, width - w + 1, (1,)).item()), h, w
    return 0, 0, height, width


def by_fork_rng(epoch: int, images: Any) -> list[Any]:
    """A seed for each view, inside torch's guard of the global generator."""
    views = []
    for image in images.tolist():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(epoch * RECIPE.images + image)
            views.append((torch_crop(256, 256), torch.rand(1).item() < 0.5, torch.rand(1).item()))
    return views


def by_numpy_philox(epoch: int, images: Any) -> list[Any]:
    """A NumPy generator for each view."""
    views = []
    for image in images.tolist():
        draws = np.random.Generator(np.random.Philox(key=(epoch << 32) + image)).random(44)
        views.append(draws)
    return views


def test_parameters(benchmark: Any) -> None:
    images = np.random.default_rng(0).integers(0, RECIPE.images, BATCH)
    epochs, sizes = np.full(BATCH, 3), np.tile(np.array([256, 256], np.int32), (BATCH, 1))
    few = images[:64]
    np.testing.assert_array_equal(
        RECIPE.parameters(3, images).crops, reference.replay_parameters(RECIPE, epochs, images, images, sizes)[0]
    )
    runners = {
        "vqlabel, partners too": lambda: RECIPE.parameters(3, images),
        "the same in NumPy, without partners": lambda: reference.replay_parameters(
            RECIPE, epochs, images, images, sizes
        ),
        "torch.fork_rng + torchvision's way": lambda: by_fork_rng(3, few),
        "np.random.Philox, 44 draws only": lambda: by_numpy_philox(3, few),
    }
    units = dict(zip(runners, (BATCH, BATCH, len(few), len(few)), strict=True))
    case = {"op": "parameters of a view", "per": "view", "case": f"crop, flip, CutMix; batch of {BATCH}"}
    race(benchmark, case, runners, units, rounds=30)


def test_apply(benchmark: Any) -> None:
    torch.set_num_threads(1)
    images = torch.randint(0, 256, (BATCH, 3, 64, 64), dtype=torch.uint8)
    views = SMALL.parameters(0, np.arange(256))
    torch.testing.assert_close(apply(images, views), reference.apply(images, views), atol=2e-5, rtol=0)
    runners = {"vqlabel": lambda: apply(images, views), "one by one": lambda: reference.apply(images, views)}
    case = {"op": "pixels of a view", "per": "view", "case": "3 x 64 x 64, CutMix on half; batch of 256"}
    race(benchmark, case, runners, dict.fromkeys(runners, 256))
