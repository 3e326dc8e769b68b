"""How the record of a stored view is made of bits: FORMAT.md, "Stored views"."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqlabel.arguments import check_word, keep_whole
from vqlabel.fields import bits_for, pack, record_bytes
from vqlabel.replay import MAX_SIDE, MAX_VIEW

CROPS = ("none", "pixels", "F16", "F32")
MIXES = ("none", "cutmix", "mixup")
FLOAT_BITS = {"F16": (np.float16, np.uint16, 16), "F32": (np.float32, np.uint32, 32)}


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
        keep_whole(self, "images", 1, 2**32)
        keep_whole(self, "height", 0, MAX_SIDE)
        keep_whole(self, "width", 0, MAX_SIDE)
        keep_whole(self, "size", 1, MAX_VIEW)
        keep_whole(self, "batch", 1, 2**32)
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
            columns += [_interval(crops[:, axis], crops[:, axis + 2], side) for axis, side in self.sides]
        elif crops is not None:
            _, whole, _ = FLOAT_BITS[self.crops]
            columns += list(np.ascontiguousarray(crops).view(whole).T)
        columns += [part for part in (flips, partners) if part is not None]
        return pack(columns, self.widths)

    @property
    def sides(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Where a crop's start stands for each of the two lines of an image, and how long the line is."""
        return (0, self.height), (1, self.width)


def _interval(start: NDArray[Any], length: NDArray[Any], side: int) -> NDArray[np.int64]:
    """Number of a span among all of a line of `side` pixels: the shortest first, then from the left."""
    start, length = start.astype(np.int64), length.astype(np.int64)
    if len(start) and not (start.min() >= 0 and length.min() >= 1 and (start + length).max() <= side):
        bad = int(np.flatnonzero((start < 0) | (length < 1) | (start + length > side))[0])
        raise ValueError(f"a crop from {start[bad]} of length {length[bad]} does not lie in {side} pixels")
    number: NDArray[np.int64] = _before(length, side) + start
    return number


def span(index: NDArray[np.int64], side: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
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
