"""An image folder, root/class/image.jpg, as numbered uint8 images of one size, read when they are asked for."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from vqlabel.arguments import check_whole
from vqlabel.convert.folder import class_names, image_paths

Numbers: TypeAlias = NDArray[np.int64]

AT_ONCE = 256  # images of a whole folder


class Folder:
    """Images uint8 [B, 3, size, size] by their numbers [B]: `folder([0, 5])`.

    Classes, and the images of each, are numbered in the order of their names, as in torchvision's ImageFolder.
    An image is resized until its shorter side is `resize` (None: size) and cut to its centre; one that has the size
    already stays as it is. Nothing is open between two calls, so workers of any kind may have a copy. threads read
    together; in a loader's workers one is enough.
    """

    def __init__(self, root: str | os.PathLike[str], size: int, *, resize: int | None = None, threads: int = 1) -> None:
        self.root, self.size = os.fspath(root), size
        self.resize, self.threads = size if resize is None else resize, threads
        check_whole("size", self.size, 1, 2**15)
        check_whole("resize", self.resize, size, 2**15)
        check_whole("threads", self.threads, 1, 1024)
        pillow()  # says so now if it is missing
        self.names = class_names(self.root)
        found = [(path, number) for number, name in enumerate(self.names) for path in image_paths(self.root, name)]
        # One block of memory: forked workers would copy a list of a million texts as soon as they look at it.
        self._paths = np.array([os.fsencode(path) for path, _ in found])
        self.classes = np.array([number for _, number in found], np.int64)  # [N]

    def __len__(self) -> int:
        return len(self._paths)

    def __call__(self, numbers: Any) -> torch.Tensor:
        """Images uint8 [B, 3, size, size] of these numbers [B]."""
        paths = [os.path.join(self.root, os.fsdecode(path)) for path in self._paths[np.asarray(numbers, np.int64)]]
        if self.threads == 1 or len(paths) < 2:
            images = [self._image(path) for path in paths]
        else:
            with ThreadPoolExecutor(self.threads) as pool:
                images = list(pool.map(self._image, paths))
        return torch.stack(images) if images else torch.zeros(0, 3, self.size, self.size, dtype=torch.uint8)

    def in_memory(self) -> torch.Tensor:
        """All images, uint8 [N, 3, size, size]."""
        images = torch.empty(len(self), 3, self.size, self.size, dtype=torch.uint8)
        for start in range(0, len(self), AT_ONCE):
            numbers = np.arange(start, min(start + AT_ONCE, len(self)))
            images[start : start + AT_ONCE] = self(numbers)
        return images

    def _image(self, path: str) -> torch.Tensor:
        Image = pillow()
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except Exception as error:  # whatever each of Pillow's readers makes of bytes that are no image
            raise ValueError(f"{path} cannot be read ({error}); put a sound copy in its place") from None
        shorter = min(image.size)
        if shorter != self.resize:
            sides = [int(self.resize * side / shorter) for side in image.size]
            image = image.resize(sides, Image.Resampling.BILINEAR)
        left, top = (round((side - self.size) / 2) for side in image.size)
        image = image.crop((left, top, left + self.size, top + self.size))
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def pillow() -> Any:
    """Pillow's Image module; ValueError where there is none."""
    try:
        from PIL import Image
    except ImportError:
        raise ValueError("reading images needs Pillow: pip install pillow") from None
    return Image
