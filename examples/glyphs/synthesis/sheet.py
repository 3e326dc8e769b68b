"""A picture of the images of each method, the same classes under each other."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from examples.glyphs.data import SIDE

SHOWN, DEEP = 20, 2  # classes across, images of each below


def draw(images: dict[str, torch.Tensor], classes: int, path: Path) -> None:
    """Write the picture of images uint8 [ipc * C, 1, 32, 32] by method."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot
    from PIL import Image

    blocks = {name: mosaic(each, classes) for name, each in images.items()}
    heights = [len(block) for block in blocks.values()]
    size = (10, 10 * sum(heights) / (min(SHOWN, classes) * SIDE) + 0.3 * len(blocks))
    figure, axes = pyplot.subplots(
        len(blocks), 1, figsize=size, layout="constrained", squeeze=False, height_ratios=heights
    )
    for place, (name, block) in zip(axes[:, 0], blocks.items(), strict=True):
        place.imshow(block, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        place.set_title(name, loc="left", fontsize=9)
        place.axis("off")
    whole = io.BytesIO()
    figure.savefig(whole, dpi=120)
    pyplot.close(figure)
    Image.open(whole).convert("L").save(path, "png", optimize=True)  # grey: a third of the bytes


def mosaic(images: torch.Tensor, classes: int) -> NDArray[np.uint8]:
    """Pixels [DEEP * 32, SHOWN * 32] of classes that lie evenly in the set, or of all if they are few."""
    chosen = np.linspace(0, classes - 1, min(SHOWN, classes)).astype(int)
    square = images.cpu().numpy().reshape(-1, classes, SIDE, SIDE)[:DEEP, chosen]
    deep, wide = square.shape[:2]
    pixels: NDArray[np.uint8] = square.transpose(0, 2, 1, 3).reshape(deep * SIDE, wide * SIDE)
    return pixels
