"""Images of one size by their numbers, whatever holds them: a tensor, a function or a map-style data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

Numbers: TypeAlias = NDArray[np.int64]
Source: TypeAlias = "torch.Tensor | Callable[[Numbers], torch.Tensor] | Sequence[Any] | torch.utils.data.Dataset[Any]"

MODES = ("L", "RGB", "RGBA", "F")  # of PIL images whose numbers are levels of their channels


class Images:
    """Images by number: called with numbers [B] it gives uint8 or floats [B, c, H, W].

    >>> Images(torch.zeros(5, 3, 8, 6)).shape
    (3, 8, 6)
    """

    def __init__(self, source: Source) -> None:
        self._source: Any = source
        self.count: int | None = None  # not known of a function
        self.shape: tuple[int, ...] = ()  # c, H, W; not known where there are no images
        self.dtype: torch.dtype | None = None
        if isinstance(source, torch.Tensor):
            self.count, self._read = len(source) if source.ndim else 0, self._of_tensor
            self._remember(_checked(source, "images", None))
            return
        if isinstance(source, np.ndarray):
            raise TypeError("images are an array: give torch.from_numpy(images), of shape [N, c, H, W]")
        if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
            self.count, self._read = len(source), self._of_items
        elif callable(source):
            self._read = self._of_function
        else:
            raise TypeError(
                "images must be a tensor [N, c, H, W], a function from image numbers to such a tensor, or a map-style "
                f"data set, got {type(source).__name__}"
            )
        if self.count != 0:
            self._remember(self._read(np.zeros(1, np.int64)))

    def __call__(self, numbers: Numbers) -> torch.Tensor:
        """Images [B, c, H, W] of these numbers [B]."""
        found: torch.Tensor = self._read(numbers)
        return found

    def _of_tensor(self, numbers: Numbers) -> torch.Tensor:
        return self._source[torch.from_numpy(numbers).to(self._source.device)]  # type: ignore[no-any-return]

    def _of_function(self, numbers: Numbers) -> torch.Tensor:
        found = _checked(self._source(numbers), "what the function of image numbers returns", len(numbers))
        self._check_alike(found, f"images {numbers.tolist()[:3]}..")
        return found

    def _of_items(self, numbers: Numbers) -> torch.Tensor:
        parts = []
        for number in numbers.tolist():
            part = _image(self._source[number], number)
            self._check_alike(part, f"image {number}")
            parts.append(part)
        return torch.stack(parts) if parts else torch.zeros(0, *self.shape, dtype=self.dtype)

    def _remember(self, images: torch.Tensor) -> None:
        self.shape, self.dtype = tuple(images.shape[1:]), images.dtype

    def _check_alike(self, image: torch.Tensor, which: str) -> None:
        """ValueError unless this image [..., c, H, W] is of the size and dtype of image 0."""
        if self.dtype is None:
            return  # it is image 0
        shape = tuple(image.shape[-3:])
        if shape != self.shape:
            raise ValueError(
                f"{which} is {list(shape)} (channels, height, width), but image 0 is {list(self.shape)}: views are "
                "replayed for images of one size, so resize them as they were when the labels were made"
            )
        if image.dtype != self.dtype:
            raise ValueError(
                f"{which} is {image.dtype}, but image 0 is {self.dtype}: uint8 counts as 0 to 1 and floats as they "
                "are, so give all images one dtype"
            )


def _checked(found: Any, what: str, count: int | None) -> torch.Tensor:
    """ValueError unless these are images [B, c, H, W]."""
    if not isinstance(found, torch.Tensor) or not (found.dtype == torch.uint8 or found.is_floating_point()):
        kind = found.dtype if isinstance(found, torch.Tensor) else type(found).__name__
        raise TypeError(f"{what} must be a tensor of uint8 or floats, got {kind}")
    if found.ndim != 4 or (count is not None and len(found) != count):
        raise ValueError(f"{what} must be [{'N' if count is None else count}, c, H, W], got {list(found.shape)}")
    return found


def _image(item: Any, number: int) -> torch.Tensor:
    """Image [c, H, W] of an item: the item itself or the first of several; a tensor, or a PIL image."""
    found = item[0] if isinstance(item, (tuple, list)) else item
    if not isinstance(found, torch.Tensor):
        mode = getattr(found, "mode", None)
        if mode not in MODES:
            what = f"a PIL image of mode {mode!r}" if mode else type(found).__name__
            raise TypeError(
                f"image {number} is {what}, but items must be an image or (image, ...), a tensor or a PIL image of "
                f"mode {', '.join(MODES)}: convert it, with .convert('RGB') or torch.from_numpy"
            )
        levels = np.array(found)
        found = torch.from_numpy(levels.reshape(*levels.shape[:2], -1)).permute(2, 0, 1)
    return _checked(found[None], f"image {number}", 1)[0]
