"""The images of a label set, as torchvision's ImageFolder numbers them: by class, then by name."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqlabel.scene import CLASSES

NAMES = "images.name"
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def image_tables(folder: str) -> dict[str, NDArray[Any]]:
    """Class and name of each image of a folder of folders, for a label file: images.class, images.name."""
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    names: list[str] = []
    numbers: list[int] = []
    for number, name in enumerate(classes):
        found = _images(os.path.join(folder, name))
        names += [os.path.relpath(path, folder).replace(os.sep, "/") for path in found]
        numbers += [number] * len(found)
    if not names:
        raise ValueError(f"{folder} holds no images: a folder for each class is expected, with images in it")
    kind = np.uint16 if len(classes) <= 2**16 else np.uint32
    return {CLASSES: np.array(numbers, kind), NAMES: text_of(names)}


def _images(folder: str) -> list[str]:
    found = []
    for root, _, names in sorted(os.walk(folder, followlinks=True)):
        found += [os.path.join(root, name) for name in sorted(names) if name.lower().endswith(ENDINGS)]
    return found


def text_of(names: list[str]) -> NDArray[np.uint8]:
    """Names, one a line, as the tensor images.name has them."""
    return np.frombuffer("\n".join(name.replace("\n", " ") for name in names).encode(), np.uint8)
