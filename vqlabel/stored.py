"""Views that a file remembers instead of drawing: of imported sets, whose augmentation nobody can draw again.

Each row has a record of bits, `views.rows`, and each batch that was mixed together a box or a share. `StoredViews`
reads them and gives the same `Parameters` as a ReplayRecipe does. FORMAT.md, "Stored views", says what the bits mean.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vqlabel.arguments import check_whole, check_word
from vqlabel.errors import Corrupt
from vqlabel.fields import bits_for, pack, record_bytes, unpack
from vqlabel.replay import CUTMIX, MAX_SIDE, MAX_VIEW, MIXUP, NO_MIX, Parameters

ROWS, BOXES, LAMBDAS = "views.rows", "views.boxes", "views.lambdas"  # the tensors
SEEDS, CUTOUTS = "views.seeds", "views.cutouts"  # what only the author's own code can replay
CROPS = ("none", "pixels", "F16", "F32")
MIXES = ("none", "cutmix", "mixup")
FLOAT_BITS = {"F16": (np.float16, np.uint16, 16), "F32": (np.float32, np.uint32, 32)}

Columns = Callable[[str], NDArray[Any]]  # a tensor by its name


@dataclass(frozen=True)
class ViewLayout:
    """What is stored of each view.

    height and width are those of all source images, or 0 where they differ; size is the side of a view. crops are
    boxes in "pixels", or fractions of the image as floats. ordered says whether the place of each image in its epoch is
    known, and batch is the number of rows that shared a mix.
    """

    images: int
    height: int
    width: int
    size: int
    crops: str = "none"
    flips: bool = False
    mix: str = "none"
    batch: int = 1
    ordered: bool = True

    def __post_init__(self) -> None:
        check_whole("images", self.images, 1, 2**32)
        check_whole("height", self.height, 0, MAX_SIDE)
        check_whole("width", self.width, 0, MAX_SIDE)
        check_whole("size", self.size, 1, MAX_VIEW)
        check_whole("batch", self.batch, 1, 2**32)
        check_word("crops", self.crops, CROPS)
        check_word("mix", self.mix, MIXES)
        for name in ("flips", "ordered"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r:.80}")
        if self.mix != "none" and not self.ordered:
            raise ValueError("what was mixed in batches needs the places of the images: ordered must be true")
        if self.crops == "pixels" and not (self.height and self.width):
            raise ValueError("crops in pixels need the height and width of the images")

    @classmethod
    def from_json(cls, fields: Any) -> ViewLayout:
        """Layout of the metadata; ValueError for a field that is missing, unknown or out of range."""
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(fields, dict) or set(fields) != known:
            raise ValueError(f"stored views are described by {', '.join(sorted(known))}, got {fields!r:.80}")
        return cls(**fields)

    def to_json(self) -> dict[str, Any]:
        """Fields, for `replay` in the metadata."""
        return dataclasses.asdict(self)

    @property
    def batches(self) -> int:
        """Batches of an epoch."""
        return -(-self.images // self.batch)

    @property
    def widths(self) -> list[int]:
        """Bits of the fields of a record: place in the epoch, crop, flip, partner."""
        crop = [FLOAT_BITS[self.crops][2]] * 4 if self.crops in FLOAT_BITS else []
        if self.crops == "pixels":
            crop = [bits_for(side * (side + 1) // 2) for side in (self.height, self.width)]
        number = bits_for(self.images)
        return [*[number] * self.ordered, *crop, *[1] * self.flips, *[number] * (self.mix != "none")]

    @property
    def row_bytes(self) -> int:
        """Bytes of a record."""
        return record_bytes(self.widths)

    def pack(
        self,
        places: NDArray[Any] | None,
        crops: NDArray[Any] | None,
        flips: NDArray[np.bool_] | None,
        partners: NDArray[Any] | None,
    ) -> NDArray[np.uint8]:
        """Records [B, row_bytes]: places in the epoch [B], crops [B, 4], flips [B], partners [B], those that there are.

        Crops are pixels, or fractions of the dtype that the layout names.
        """
        columns: list[Any] = [places] if places is not None else []
        if self.crops == "pixels" and crops is not None:
            columns += [_interval(crops[:, axis], crops[:, axis + 2], side) for axis, side in self._sides]
        elif crops is not None:
            _, whole, _ = FLOAT_BITS[self.crops]
            columns += list(np.ascontiguousarray(crops).view(whole).T)
        columns += [part for part in (flips, partners) if part is not None]
        return pack(columns, self.widths)

    @property
    def _sides(self) -> tuple[tuple[int, int], tuple[int, int]]:
        return (0, self.height), (1, self.width)


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
        ids = np.asarray(images, np.int64)
        epochs = np.broadcast_to(np.asarray(epoch, np.int64), ids.shape)
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

    def of_size(self, height: int, width: int) -> StoredViews:
        """The same views of images that are all of this size."""
        return StoredViews(dataclasses.replace(self.layout, height=height, width=width), self._columns)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Images [images] in the order in which an epoch was labelled; as they are numbered if none is known."""
        if not self.layout.ordered:
            return np.arange(self.images)
        rows = np.arange(epoch * self.images, (epoch + 1) * self.images)
        return np.argsort(self._fields(rows)[0], kind="stable")

    def fractions(self, epoch: ArrayLike, images: ArrayLike) -> NDArray[np.float64]:
        """Crops [B, 4] as parts of the image, exactly as they were stored."""
        ids = np.asarray(images, np.int64)
        fields = self._fields(np.asarray(epoch, np.int64) * self.images + ids)
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
            for axis, side in self.layout._sides:
                crops[:, axis], crops[:, axis + 2] = _span(rest.pop(0), side)
        else:
            crops = self._boxes(epochs, ids, sizes)
            rest = rest[4:] if self.layout.crops in FLOAT_BITS else rest
        flips = rest.pop(0).astype(bool) if self.layout.flips else np.zeros(len(ids), bool)
        partners = rest.pop(0) if rest else None
        if partners is not None and (partners >= self.images).any():
            bad = int(np.flatnonzero(partners >= self.images)[0])
            row = int(epochs[bad] * self.images + ids[bad])
            raise Corrupt(f"row {row} is mixed with image {partners[bad]}, but there are {self.images}")
        return places, crops, flips, partners

    def _boxes(self, epochs: NDArray[Any], ids: NDArray[Any], sizes: ArrayLike | None) -> NDArray[np.int32]:
        """Crops in pixels of images whose sizes are known; rounded as Pillow rounds a box."""
        extents = np.array([[self.height, self.width]]) if sizes is None else np.asarray(sizes)[ids]
        if not extents.all():
            raise ValueError("these crops are parts of images of different sizes: give sizes=, [images, 2]")
        if self.layout.crops == "none":
            whole = np.broadcast_to(extents, (len(ids), 2))
            return np.concatenate([np.zeros_like(whole), whole], axis=1).astype(np.int32)
        start, extent = np.split(self.fractions(epochs, ids) * np.tile(extents, 2), 2, axis=1)
        first = np.rint(start)
        return np.concatenate([first, np.rint(start + extent) - first], axis=1).astype(np.int32)

    def _mixed(self, epochs: Any, ids: Any, places: Any, partners: Any) -> tuple[Any, ...]:
        """Kinds, partners, shares and cuts of rows that were mixed in batches."""
        batches = epochs * self.layout.batches + places // self.layout.batch
        cuts, shares = np.zeros((len(ids), 4), np.int32), np.ones(len(ids))
        if self.layout.mix == "cutmix":
            cuts = self._columns(BOXES)[batches].astype(np.int32)
            shares = 1 - cuts[:, 2] * cuts[:, 3] / self.size**2
        else:
            shares = self._columns(LAMBDAS)[batches]
        changes = (partners != ids) & (shares < 1)
        kinds = np.where(changes, CUTMIX if self.layout.mix == "cutmix" else MIXUP, NO_MIX).astype(np.uint8)
        return kinds, np.where(changes, partners, -1), np.where(changes, shares, 1.0), cuts * changes[:, None]


def _interval(start: NDArray[Any], length: NDArray[Any], side: int) -> NDArray[np.int64]:
    """Number of a span among all of a line of `side` pixels: the shortest first, then from the left."""
    start, length = start.astype(np.int64), length.astype(np.int64)
    if len(start) and not (start.min() >= 0 and length.min() >= 1 and (start + length).max() <= side):
        bad = int(np.flatnonzero((start < 0) | (length < 1) | (start + length > side))[0])
        raise ValueError(f"a crop from {start[bad]} of length {length[bad]} does not lie in {side} pixels")
    number: NDArray[np.int64] = _before(length, side) + start
    return number


def _span(index: NDArray[np.int64], side: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Start and length of the spans of these numbers; the whole line for a number that is none."""
    lengths = np.arange(1, side + 1)
    first = _before(lengths, side)
    index = np.where(index < side * (side + 1) // 2, index, side * (side + 1) // 2 - 1)
    which = np.searchsorted(first, index, side="right") - 1
    return index - first[which], lengths[which]


def _before(length: NDArray[Any], side: int) -> NDArray[Any]:
    """How many spans are shorter."""
    count: NDArray[Any] = (length - 1) * (side + 1) - (length - 1) * length // 2
    return count
