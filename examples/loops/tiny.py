"""What the loops share: a tiny distilled set, made in seconds from random images and a random linear teacher."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed, nn

from vqlabel import LabelDecoder, LabelEncoder
from vqlabel.replay import ReplayRecipe
from vqlabel.side import SideInformation
from vqlabel.views import apply

CLASSES, SIDE, VIEW = 10, 20, 16
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def options(words: str | None, **more: str) -> argparse.Namespace:
    """The command line of a loop: --quick, and texts with these defaults."""
    parser = argparse.ArgumentParser(description=words)
    parser.add_argument("--quick", action="store_true", help="a few seconds, for tests")
    for name, default in more.items():
        parser.add_argument(f"--{name}", default=default)
    return parser.parse_args()


@contextmanager
def distilled(*, quick: bool) -> Iterator[tuple[torch.Tensor, LabelDecoder]]:
    """Images uint8 [N, 3, 20, 20] and their labels, as long as it is open. Ranks make it together and share it."""
    with tempfile.TemporaryDirectory() as own:
        folder = [own]
        if distributed.is_initialized():
            distributed.broadcast_object_list(folder)
        yield made(Path(folder[0]), *((100, 4) if quick else (1000, 20)))
        if distributed.is_initialized():
            distributed.barrier()


def made(folder: Path, images: int, epochs: int) -> tuple[torch.Tensor, LabelDecoder]:
    """Images and the labels that a teacher gives their views, in a label file."""
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, SIDE, SIDE), generator=random, dtype=torch.uint8)
    recipe = ReplayRecipe(seed=1, images=images, height=SIDE, width=SIDE, size=VIEW, scale=(0.5, 1.0), cutmix=0.5)
    teacher = torch.randn(3 * VIEW * VIEW, CLASSES, generator=random)
    logits = [
        apply(pixels, recipe.parameters(epoch, np.arange(images))).flatten(1) @ teacher for epoch in range(epochs)
    ]
    side = SideInformation(np.arange(images) % CLASSES, recipe)
    quickly: dict[str, Any] = {"bytes_per_label": 4, "nbits": 4, "width": 9, "effort": 0.05, "prior": "classes"}
    encoder = LabelEncoder.fit(torch.cat(logits), side=side, progress=False, **quickly)
    return pixels, LabelDecoder(encoder.encode(torch.cat(logits), folder / "labels.safetensors", progress=False).path)


def student() -> nn.Module:
    """A small network; its seed is fixed, so that ranks begin alike."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * VIEW * VIEW, 64), nn.GELU(), nn.Linear(64, CLASSES))


def normalised(views: torch.Tensor) -> torch.Tensor:
    """Views around zero: a transform."""
    return (views - 0.5) * 4
