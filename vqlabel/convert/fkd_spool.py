"""Crops of image after image, put down crop after crop: row = crop * images + image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqlabel.convert.fkd_files import Crops, Kind
from vqlabel.convert.imported import Options
from vqlabel.convert.spooled import let_go
from vqlabel.view_layout import ViewLayout

BLOCK_BYTES = 2**25  # of crops that are kept in memory until they are put down


class Spool:
    """Labels and views of all crops, in files.

    How many crops the images have is known only at the end, so the arrays grow; images with fewer get gaps.
    """

    def __init__(self, options: Options, kind: Kind, images: int, classes: int) -> None:
        self._options, self._kind, self.images = options, kind, images
        sides = options.height or 0, options.width or 0
        self.layout = ViewLayout(images, *sides, options.view_size, crops=kind.crops, flips=True, ordered=False)
        self.counts = np.zeros(images, np.uint32)  # crops of each image
        self.crops, self._room, self._held = 0, 0, 0
        self._block: list[tuple[int, Crops]] = []
        values = np.float16 if kind.values == "F16" else np.float32
        self._columns: list[tuple[str, int, Any]] = [
            ("ids", kind.k, np.uint16 if classes <= 2**16 else np.uint32),
            ("values", kind.k, values),
            ("views", self.layout.row_bytes, np.uint8),
        ]
        self._arrays: list[NDArray[Any]] = []  # [room, images, width] of each column

    def put(self, image: int, crops: Crops) -> None:
        """All crops of an image; images come in rising order."""
        self.counts[image] = len(crops)
        self._block.append((image, crops))
        self._held += crops.ids.nbytes + crops.values.nbytes + crops.coords.nbytes
        if self._held >= BLOCK_BYTES:
            self._put_down()

    def finish(self) -> NDArray[np.bool_] | None:
        """Put down what is left, and fill the gaps: whether each row is one [N], or None without any."""
        self._put_down()
        if int(self.counts.min()) == self.crops:
            return None
        missing = self._options.spool("fkd.missing", (self.crops, self.images), np.bool_)
        whole = np.array([0, 0, 1, 1], self._float)
        for crop in range(int(self.counts.min()), self.crops):
            missing[crop] = self.counts <= crop
            gaps = np.flatnonzero(missing[crop])
            ids, _, views = (array[crop] for array in self._arrays)
            ids[gaps] = np.arange(self._kind.k)  # no probability, but classes that there are
            boxes = np.tile(whole, (len(gaps), 1))
            views[gaps] = self.layout.pack(None, boxes, np.zeros(len(gaps), np.bool_), None)
            for array in (missing, *self._arrays):
                let_go(array)
        return missing.reshape(-1)

    @property
    def labels(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Classes [N, k] and probabilities [N, k]."""
        return self._rows(0), self._rows(1)

    @property
    def views(self) -> NDArray[np.uint8]:
        """Records [N, row_bytes]."""
        return self._rows(2)

    def _rows(self, column: int) -> NDArray[Any]:
        array = self._arrays[column][: self.crops]
        return array.reshape(self.crops * self.images, array.shape[2])

    @property
    def _float(self) -> Any:
        return np.float16 if self._kind.crops == "F16" else np.float32

    def _put_down(self) -> None:
        if not self._block:
            return
        lengths = np.array([len(crops) for _, crops in self._block])
        images = np.repeat([image for image, _ in self._block], lengths)
        numbers = np.concatenate([np.arange(length) for length in lengths])  # of the crops
        coords, flips, ids, values = (
            np.concatenate([getattr(crops, name) for _, crops in self._block])
            for name in ("coords", "flips", "ids", "values")
        )
        self._grow(int(lengths.max()))
        order = np.lexsort((images, numbers))  # by crop: what goes to one place of the files comes together
        records = self.layout.pack(None, coords, flips, None)
        for array, rows in zip(self._arrays, (ids, values, records), strict=True):
            array[numbers[order], images[order]] = rows[order]
            let_go(array)
        self._block, self._held = [], 0

    def _grow(self, crops: int) -> None:
        self.crops = max(self.crops, crops)
        if crops <= self._room:
            return
        before, self._room = self._arrays, max(crops, self._room * 3 // 2)
        self._arrays = [
            self._options.spool(f"fkd.{name}.{self._room}", (self._room, self.images, width), dtype)
            for name, width, dtype in self._columns
        ]
        for old, new in zip(before, self._arrays, strict=False):
            for crop in range(len(old)):
                new[crop] = old[crop]
            let_go(new)
