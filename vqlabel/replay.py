"""Replayable augmentation: every view of every image recomputed from (seed, epoch, image) instead of stored.

`ReplayRecipe` says what is drawn and lives in the metadata of a label file; `parameters` draws it, the same numbers in
any batch, order, process and on any machine; `vqlabel.views` makes the pixels. The exact law is csrc/replay.hpp.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vqlabel import _native
from vqlabel.arguments import check_number, check_whole, check_word, keep_whole, whole_numbers
from vqlabel.tables import beta_quantiles, log_uniform_quantiles

NO_MIX, CUTMIX, MIXUP = 0, 1, 2  # kinds
ORDER_STREAM = 3  # the draws that put a batch in the order of its partners
USER_STREAM = 2**16  # yours from here on
MAX_SIDE = 2**15  # of a source image
MAX_VIEW = 2**12
WORD = 2**32  # what a word of a counter is below


@dataclass(frozen=True)
class Parameters:
    """What happens to B images; boxes are top, left, height, width in pixels.

    `crops` are parts of the source images, `cuts` parts of the finished views, where the partner's view shows.
    """

    epochs: NDArray[np.int64]  # [B]
    images: NDArray[np.int64]  # [B]
    crops: NDArray[np.int32]  # [B, 4]
    flips: NDArray[np.bool_]  # [B]
    kinds: NDArray[np.uint8]  # [B] NO_MIX, CUTMIX or MIXUP
    partners: NDArray[np.int64]  # [B] the image mixed in, -1 for none
    shares: NDArray[np.float64]  # [B] lambda: what remains of the image itself
    cuts: NDArray[np.int32]  # [B, 4]
    partner_crops: NDArray[np.int32]  # [B, 4] the partner's own, of the same epoch
    partner_flips: NDArray[np.bool_]  # [B]
    size: int  # side of a view

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class ReplayRecipe:
    """How the views of a set of images are drawn.

    height and width are those of the source images, size the side of a view. cutmix and mixup are probabilities, their
    alphas those of the Beta law of lambda. pairing "pair" mixes each image with one of the set, drawn for it; "batch"
    shares one lambda and one box in a batch and mixes it with its own permutation, as SRe2L and FKD do.

    >>> recipe = ReplayRecipe(seed=7, images=5000, height=48, width=48, size=32, cutmix=0.5)
    >>> recipe.parameters(epoch=3, images=[17, 4]).crops.tolist()  # top, left, height, width
    [[5, 11, 30, 35], [2, 10, 35, 34]]
    >>> recipe.parameters(epoch=3, images=[4]).crops.tolist()  # the same, whatever else is in the batch
    [[2, 10, 35, 34]]
    >>> ReplayRecipe.from_json(recipe.to_json()) == recipe
    True
    """

    seed: int
    images: int
    height: int
    width: int
    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    cutmix: float = 0.0
    mixup: float = 0.0
    cutmix_alpha: float = 1.0
    mixup_alpha: float = 0.8
    pairing: str = "pair"

    def __post_init__(self) -> None:
        keep_whole(self, "seed", 0, 2**64 - 1)
        keep_whole(self, "images", 1, WORD)
        for name, limit in (("height", MAX_SIDE), ("width", MAX_SIDE), ("size", MAX_VIEW)):
            keep_whole(self, name, 1, limit)
        for name, least, most in (("scale", 0.0, 1.0), ("ratio", 1e-3, 1e3)):
            low, high = _pair(name, getattr(self, name))
            if not least < low <= high <= most:
                raise ValueError(f"{name} must rise between {least:g} and {most:g}, got {low:g}, {high:g}")
            object.__setattr__(self, name, (low, high))
        alphas = ("cutmix_alpha", 0.01, 100), ("mixup_alpha", 0.01, 100)
        for name, least, most in (("flip", 0, 1), ("cutmix", 0, 1), ("mixup", 0, 1), *alphas):
            object.__setattr__(self, name, check_number(name, getattr(self, name), least, most))
        if self.cutmix + self.mixup > 1:
            raise ValueError(f"cutmix and mixup are probabilities, but add up to {self.cutmix + self.mixup:g}")
        check_word("pairing", self.pairing, ("pair", "batch"))

    def to_json(self) -> dict[str, Any]:
        """Fields, for the metadata key `replay`."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> ReplayRecipe:
        """Recipe of these fields; ValueError for one that is not known: it would change the views."""
        if not isinstance(fields, dict):
            raise ValueError(f"a replay recipe is a JSON object, got {fields!r:.80}")
        known = {field.name for field in dataclasses.fields(cls)}
        for name in fields:
            if name not in known:
                raise ValueError(
                    f"replay field {name!r:.80} is not known; this vqlabel knows {', '.join(sorted(known))}"
                )
        try:
            return cls(**fields)
        except TypeError as error:
            raise ValueError(f"the replay recipe is incomplete: {error}") from None

    def unmixed(self) -> ReplayRecipe:
        """The same crops and flips, nothing mixed."""
        return dataclasses.replace(self, cutmix=0.0, mixup=0.0, pairing="pair")

    @cached_property
    def tables(self) -> NDArray[np.float64]:
        """Quantiles [3, 4097] of crop ratio, CutMix lambda and MixUp lambda."""
        alphas = self.cutmix_alpha, self.mixup_alpha
        return np.stack([log_uniform_quantiles(*self.ratio), *(beta_quantiles(alpha) for alpha in alphas)])

    def parameters(
        self, epoch: ArrayLike, images: ArrayLike, *, batch: int | None = None, sizes: ArrayLike | None = None
    ) -> Parameters:
        """Draws for images [B] in an epoch (a number, or one for each image).

        batch is the number of the batch in its epoch, for pairing "batch" only; images must then be the whole batch, in
        order. sizes [N, 2] are heights and widths of all source images, where they differ from the recipe's.
        """
        epochs, ids = epochs_and_images(epoch, images, WORD, self.images)
        crops, flips, kinds, partners, shares, cuts = _native.replay_parameters(
            self, epochs, ids, self._mixers(ids, epochs, batch), self._extents(ids, sizes)
        )
        if self.pairing == "batch":
            order = np.argsort(self._words(epochs, np.arange(len(ids)), ORDER_STREAM, batch or 0)[:, 0], kind="stable")
            partners = np.where(kinds > 0, ids[order], -1)
        partner_crops, partner_flips = np.zeros_like(crops), np.zeros_like(flips)
        if kinds.any():
            mixed = kinds > 0
            others = partners[mixed], self._extents(partners[mixed], sizes)
            partner_crops[mixed], partner_flips[mixed] = _native.replay_parameters(
                self, epochs[mixed], others[0], *others
            )[:2]
        drawn = crops, flips, kinds, partners, shares, cuts, partner_crops, partner_flips
        return Parameters(epochs, ids, *drawn, self.size)

    def draws(self, epochs: ArrayLike, images: ArrayLike, stream: int, block: ArrayLike = 0) -> NDArray[np.uint32]:
        """Four random words [B, 4] of your own for each row, from a stream of USER_STREAM on."""
        stream = check_whole("stream, of which those below are the recipe's own,", stream, USER_STREAM, WORD - 1)
        numbers = (("epochs", epochs), ("images", images), ("block", block))
        epochs, images, block = (whole_numbers(name, values, WORD) for name, values in numbers)
        return self._words(epochs, images, stream, block)

    def _words(self, epochs: ArrayLike, images: ArrayLike, stream: int, block: ArrayLike) -> NDArray[np.uint32]:
        counters = np.stack(np.broadcast_arrays(images, epochs, stream, block), axis=-1)
        return _native.philox(np.ascontiguousarray(counters, np.uint32), self.seed)

    def _extents(self, ids: NDArray[np.int64], sizes: ArrayLike | None) -> NDArray[np.int32]:
        if sizes is None:
            return np.tile(np.array([self.height, self.width], np.int32), (len(ids), 1))
        table = np.asarray(sizes)
        if table.shape != (self.images, 2):
            raise ValueError(f"sizes must have shape ({self.images}, 2), got {table.shape}")
        extents = table[ids]
        if extents.size and not 1 <= extents.min() <= extents.max() <= MAX_SIDE:
            raise ValueError(f"sizes must be 1 to {MAX_SIDE} pixels, got {extents.min()} to {extents.max()}")
        return np.ascontiguousarray(extents, np.int32)

    def _mixers(self, ids: NDArray[np.int64], epochs: NDArray[np.int64], batch: int | None) -> NDArray[np.int64]:
        if self.pairing == "pair":
            if batch is not None:
                raise ValueError("batch is for recipes with pairing='batch'; this one pairs images on their own")
            return ids
        if batch is None:
            raise ValueError("pairing='batch' needs batch=, the number of the batch in its epoch")
        if len(epochs) and (epochs != epochs[0]).any():
            raise ValueError("the rows of a batch must be of one epoch")
        return np.full(len(ids), check_whole("batch", batch, 0, WORD - 1))


def epochs_and_images(
    epoch: ArrayLike, images: ArrayLike, epochs: int, count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Epochs [B] and images [B], below these limits, of an epoch for all images or one for each."""
    ids = whole_numbers("images", images, count)
    if ids.ndim != 1:
        raise TypeError(f"images must be whole numbers [B], got one number: [{ids}]")
    each = np.broadcast_to(whole_numbers("epoch", epoch, epochs), ids.shape)
    return np.ascontiguousarray(each), np.ascontiguousarray(ids)


def _pair(name: str, value: Any) -> tuple[float, float]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(f"{name} must be two numbers, got {value!r:.80}")
    low, high = (float(check_number(name, number, 0, 1e9)) for number in value)
    return low, high
