"""The images of a label set, as torchvision's ImageFolder numbers them: by class, then by name."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqlabel.side import CLASSES, NAMES

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def image_tables(folder: str) -> dict[str, NDArray[Any]]:
    """Class and name of each image of a folder of folders, for a label file: images.class, images.name."""
    classes = class_names(folder)
    names: list[str] = []
    numbers: list[int] = []
    for number, name in enumerate(classes):
        found = image_paths(folder, name)
        names += [path.replace(os.sep, "/") for path in found]
        numbers += [number] * len(found)
    kind = np.uint16 if len(classes) <= 2**16 else np.uint32
    try:
        return {CLASSES: np.array(numbers, kind), NAMES: text_of(names)}
    except UnicodeEncodeError as error:
        name = error.object.split("\n")[error.object.count("\n", 0, error.start)]
        raise ValueError(f"{os.path.join(folder, name)!r}: this name is not UTF-8; rename it") from None


def class_names(root: str) -> list[str]:
    """Names of the folders in root, in order."""
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    if not names:
        raise ValueError(f"{root} holds no folders, but images lie in one folder a class: {root}/class/image.jpg")
    return names


def image_paths(root: str, name: str) -> list[str]:
    """Images of a class, below root, folder after folder; a class without images is refused, as torchvision does."""
    walked = sorted(os.walk(os.path.join(root, name), followlinks=True))
    paths = [os.path.join(at, file) for at, _, files in walked for file in sorted(files)]
    found = [os.path.relpath(path, root) for path in paths if path.lower().endswith(ENDINGS)]
    if not found:
        raise ValueError(
            f"{os.path.join(root, name)} holds no images ({', '.join(ENDINGS)}), but each folder is a class and needs "
            "one: remove it if it is none"
        )
    return found


def text_of(names: list[str]) -> NDArray[np.uint8]:
    """Names, one a line, as the tensor images.name has them."""
    return np.frombuffer("\n".join(name.replace("\n", " ") for name in names).encode(), np.uint8)
