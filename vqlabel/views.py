"""The pixels of replayed views, in torch, for whole batches on any device; and a check that they are still the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vqlabel.replay import CUTMIX, Parameters, ReplayRecipe

if TYPE_CHECKING:
    import torch

    from vqlabel.images import Source as AnySource

Source: TypeAlias = "torch.Tensor | Callable[[NDArray[np.int64]], torch.Tensor]"

REFERENCE_VIEWS = 8
THUMBNAIL_SIDE = 8
TOLERANCE = 2  # of 255: what other devices and versions may round differently


def apply(images: Source, parameters: Parameters) -> torch.Tensor:
    """Views [B, c, size, size] of float32, on the device of the images.

    images is the whole set, a tensor [N, c, H, W], or a function from image numbers [B] to their tensor [B, c, H, W].
    uint8 counts as 0 to 1. Crops are resized with bilinear interpolation between pixel centres, without antialiasing.
    """
    import torch

    views = _resized(_fetch(images, parameters.images), parameters.crops, parameters.flips, parameters.size)
    mixed = np.flatnonzero(parameters.kinds)
    if len(mixed) == 0:
        return views
    others = _fetch(images, parameters.partners[mixed])
    partners = _resized(others, parameters.partner_crops[mixed], parameters.partner_flips[mixed], parameters.size)
    weights = _on(views, _partner_weights(parameters, mixed)[:, None])
    rows = _on(views, mixed)
    views[rows] = torch.lerp(views[rows], partners, weights)
    return views


def _partner_weights(parameters: Parameters, mixed: NDArray[np.intp]) -> NDArray[np.float32]:
    """How much of the partner shows at each pixel [M, size, size]: all or nothing in a cut, evenly in a mix."""
    top, left, height, width = (side[:, None] for side in parameters.cuts[mixed].T)
    line = np.arange(parameters.size)
    rows = (line >= top) & (line < top + height)
    columns = (line >= left) & (line < left + width)
    inside = rows[:, :, None] & columns[:, None, :]
    share = 1 - parameters.shares[mixed, None, None]
    return np.where(parameters.kinds[mixed, None, None] == CUTMIX, inside, share).astype(np.float32)


def _fetch(images: Source, ids: NDArray[np.int64]) -> torch.Tensor:
    import torch

    batch = images(ids) if callable(images) else images[torch.from_numpy(ids).to(images.device)]
    return batch.float() / 255 if batch.dtype == torch.uint8 else batch.float()


def _on(like: torch.Tensor, array: NDArray[Any]) -> torch.Tensor:
    import torch

    return torch.from_numpy(array).to(like.device, non_blocking=True)


def _resized(batch: torch.Tensor, crops: NDArray[np.int32], flips: NDArray[np.bool_], size: int) -> torch.Tensor:
    import torch

    height, width = batch.shape[-2:]
    top, left, crop_height, crop_width = crops.astype(np.float32).T
    y = _positions(top, crop_height, np.zeros_like(flips), size, height)
    x = _positions(left, crop_width, flips, size, width)
    columns = _on(batch, x)[:, None, :].expand(-1, size, -1)
    grid = torch.stack([columns, _on(batch, y)[:, :, None].expand(-1, -1, size)], dim=-1)
    return torch.nn.functional.grid_sample(batch, grid, padding_mode="border", align_corners=True)


def _positions(
    start: NDArray[np.float32], length: NDArray[np.float32], flips: NDArray[np.bool_], size: int, extent: int
) -> NDArray[np.float32]:
    """Where the pixels of a line of a view lie in the source [B, size]: -1 its first pixel, 1 its last."""
    line = np.arange(size, dtype=np.float32) + np.float32(0.5)
    line = np.where(flips[:, None], size - line, line)
    inside = np.clip(line * (length[:, None] / size) - 0.5, 0, length[:, None] - 1)
    return ((start[:, None] + inside) * (2 / max(extent - 1, 1)) - 1).astype(np.float32)


def fingerprint(images: AnySource, recipe: ReplayRecipe) -> list[str]:
    """Thumbnails of a few views spread over the set, for the metadata of a label file."""
    return [bytes(thumbnail).hex() for thumbnail in _thumbnails(images, recipe)]


def check_fingerprint(images: AnySource, recipe: ReplayRecipe, stored: Sequence[str]) -> None:
    """Raise ValueError if the views of these images are not those that the labels were made for."""
    if not isinstance(stored, (list, tuple)) or len(stored) != REFERENCE_VIEWS:
        raise ValueError(f"the stored reference views are {stored!r:.80}, not a list of {REFERENCE_VIEWS}")
    for index, (thumbnail, text) in enumerate(zip(_thumbnails(images, recipe), stored, strict=True)):
        expected = np.frombuffer(bytes.fromhex(text if isinstance(text, str) else ""), np.uint8)
        if expected.shape != thumbnail.shape or np.abs(thumbnail.astype(int) - expected).max() > TOLERANCE:
            raise ValueError(
                f"reference view {index} differs from the one the labels were made for: "
                "other images, another order of them, or another way of making pixels"
            )


def _thumbnails(images: AnySource, recipe: ReplayRecipe) -> NDArray[np.uint8]:
    import torch

    from vqlabel.images import Images

    source = Images(images)
    if source.count not in (None, recipe.images):
        raise ValueError(f"the recipe is of {recipe.images} images, but there are {source.count}")
    # in batch mode mixing belongs to a batch; the crops and the pixels say enough
    plain, side = recipe.unmixed(), min(THUMBNAIL_SIDE, recipe.size)
    small = []
    for index in range(REFERENCE_VIEWS):  # one at a time: a view may be large
        view = apply(source, plain.parameters(index, [index * recipe.images // REFERENCE_VIEWS]))
        small.append(torch.nn.functional.adaptive_avg_pool2d(view.mean(1), side).flatten())
    rounded: NDArray[np.uint8] = (torch.stack(small).clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return rounded
