"""Views that a file remembers instead of drawing: of imported sets, whose augmentation nobody can draw again.

Each row has a record of bits, `views.rows`, and each batch that was mixed together a box or a share. `StoredViews`
reads them and gives the same `Parameters` as a ReplayRecipe does. FORMAT.md, "Stored views", says what the bits mean.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vqlabel.arguments import check_whole
from vqlabel.errors import Corrupt
from vqlabel.fields import unpack
from vqlabel.replay import CUTMIX, MIXUP, NO_MIX, Parameters, epochs_and_images
from vqlabel.view_layout import FLOAT_BITS, ViewLayout, span

VIEWS = "views."  # the tensors
ROWS, BOXES, LAMBDAS = f"{VIEWS}rows", f"{VIEWS}boxes", f"{VIEWS}lambdas"
SEEDS, CUTOUTS = f"{VIEWS}seeds", f"{VIEWS}cutouts"  # what only the author's own code can replay

SLACK = 2.0**-8  # what the end of a crop in fp16 may be off by

Columns = Callable[[str], NDArray[Any]]  # a tensor by its name


class StoredViews:
    """Parameters of the views of a set, read from its tensors.

    >>> layout = ViewLayout(images=2, height=224, width=224, size=224, crops="pixels")
    >>> records = layout.pack(np.array([1, 0]), np.array([[0, 0, 224, 224], [5, 7, 100, 90]]), None, None)
    >>> StoredViews(layout, {ROWS: records}.__getitem__).parameters(0, [1, 0]).crops.tolist()
    [[5, 7, 100, 90], [0, 0, 224, 224]]
    """

    pairing = "pair"  # a row is replayed without the others of its batch

    def __init__(self, layout: ViewLayout, columns: Columns) -> None:
        self.layout, self._columns = layout, columns
        self.images, self.size = layout.images, layout.size
        self.height, self.width = layout.height, layout.width

    def parameters(
        self, epoch: ArrayLike, images: ArrayLike, *, batch: int | None = None, sizes: ArrayLike | None = None
    ) -> Parameters:
        """What happened to images [B] in an epoch (a number, or one for each), as ReplayRecipe.parameters.

        sizes [images, 2] are needed where the layout names no height and width.
        """
        epochs, ids = epochs_and_images(epoch, images, self.epochs, self.images)
        places, crops, flips, partners = self._records(epochs, ids, sizes)
        none = np.zeros(len(ids), np.uint8)
        drawn: tuple[Any, ...] = none, np.full(len(ids), -1), np.ones(len(ids)), np.zeros((len(ids), 4), np.int32)
        if partners is not None:
            drawn = self._mixed(epochs, ids, places, partners)
        kinds, partners = drawn[0], drawn[1]
        partner_crops, partner_flips = np.zeros_like(crops), np.zeros_like(flips)
        rows = kinds > 0
        if rows.any():
            _, partner_crops[rows], partner_flips[rows], _ = self._records(epochs[rows], partners[rows], sizes)
        made: list[Any] = [crops, flips, *drawn, partner_crops, partner_flips, self.size]
        return Parameters(epochs, ids, *made)

    @property
    def epochs(self) -> int:
        """Whole epochs that are stored."""
        return len(self._columns(ROWS)) // self.images

    def of_size(self, height: int, width: int) -> StoredViews:
        """The same views of images that are all of this size."""
        return StoredViews(dataclasses.replace(self.layout, height=height, width=width), self._columns)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Images [images] in the order in which an epoch was labelled; as they are numbered if none is known."""
        first = check_whole("epoch", epoch, 0, self.epochs - 1) * self.images
        if not self.layout.ordered:
            return np.arange(self.images)
        rows = np.arange(first, first + self.images)
        return np.argsort(self._fields(rows)[0], kind="stable")

    def fractions(self, epoch: ArrayLike, images: ArrayLike) -> NDArray[np.float64]:
        """Crops [B, 4] as parts of the image, exactly as they were stored."""
        epochs, ids = epochs_and_images(epoch, images, self.epochs, self.images)
        fields = self._fields(epochs * self.images + ids)
        if self.layout.crops not in FLOAT_BITS:
            raise ValueError(f"the crops of this set are stored as {self.layout.crops}, not as fractions")
        kind, whole, _ = FLOAT_BITS[self.layout.crops]
        parts = fields[self.layout.ordered :][:4]
        return np.stack([part.astype(whole).view(kind) for part in parts], axis=1).astype(np.float64)

    def _fields(self, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        return unpack(self._columns(ROWS)[rows], self.layout.widths)

    def _records(self, epochs: NDArray[Any], ids: NDArray[Any], sizes: ArrayLike | None) -> tuple[Any, ...]:
        """Places (the images' numbers if none is known), crops, flips and partners (None without mixing)."""
        rest = self._fields(epochs * self.images + ids)
        places = rest.pop(0) if self.layout.ordered else ids
        if self.layout.crops == "pixels":
            crops = np.zeros((len(ids), 4), np.int32)
            for axis, side in self.layout.sides:
                crops[:, axis], crops[:, axis + 2] = span(rest.pop(0), side)
        else:
            crops = self._boxes(epochs, ids, sizes)
            rest = rest[4:] if self.layout.crops in FLOAT_BITS else rest
        flips = rest.pop(0).astype(bool) if self.layout.flips else np.zeros(len(ids), bool)
        partners = rest.pop(0) if rest else None
        rows = epochs * self.images + ids
        if self.layout.ordered:
            _check(places < self.images, rows, f"has a place in its epoch beyond {self.images} images")
        if partners is not None:
            _check(partners < self.images, rows, f"is mixed with an image beyond {self.images}")
        return places, crops, flips, partners

    def _boxes(self, epochs: NDArray[Any], ids: NDArray[Any], sizes: ArrayLike | None) -> NDArray[np.int32]:
        """Crops in pixels of images whose sizes are known; rounded as Pillow rounds a box."""
        extents = np.array([[self.height, self.width]]) if sizes is None else np.asarray(sizes)[ids]
        if not extents.all():
            raise ValueError("these crops are parts of images of different sizes: give sizes=, [images, 2]")
        if self.layout.crops == "none":
            whole = np.broadcast_to(extents, (len(ids), 2))
            return np.concatenate([np.zeros_like(whole), whole], axis=1).astype(np.int32)
        fractions = self.fractions(epochs, ids)
        inside = (fractions >= 0).all(1) & (fractions[:, :2] + fractions[:, 2:] <= 1 + SLACK).all(1)
        _check(inside, epochs * self.images + ids, "has a crop that does not lie in its image")
        start, extent = np.split(fractions * np.tile(extents, 2), 2, axis=1)
        first = np.rint(start)
        return np.concatenate([first, np.rint(start + extent) - first], axis=1).astype(np.int32)

    def _mixed(self, epochs: Any, ids: Any, places: Any, partners: Any) -> tuple[Any, ...]:
        """Kinds, partners, shares and cuts of rows that were mixed in batches."""
        batches = epochs * self.layout.batches + places // self.layout.batch
        cuts, shares = np.zeros((len(ids), 4), np.int32), np.ones(len(ids))
        if self.layout.mix == "cutmix":
            cuts = self._columns(BOXES)[batches].astype(np.int32)
            inside = (cuts[:, :2] + cuts[:, 2:] <= self.size).all(1)
            _check(inside, epochs * self.images + ids, f"shows its partner outside of {self.size} pixels")
            shares = 1 - cuts[:, 2] * cuts[:, 3] / self.size**2
        else:
            shares = self._columns(LAMBDAS)[batches]
            _check((shares >= 0) & (shares <= 1), epochs * self.images + ids, "has a share that is not 0 to 1")
        changes = (partners != ids) & (shares < 1)
        kinds = np.where(changes, CUTMIX if self.layout.mix == "cutmix" else MIXUP, NO_MIX).astype(np.uint8)
        return kinds, np.where(changes, partners, -1), np.where(changes, shares, 1.0), cuts * changes[:, None]


def _check(sound: Any, rows: NDArray[np.int64], words: str) -> None:
    """Corrupt for the first of these rows that is not sound."""
    if not sound.all():
        raise Corrupt(f"row {int(rows[~sound][0])} {words}")
