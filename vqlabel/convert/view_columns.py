"""The tensors of stored views, filled file by file while a set of batches is looked into."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vqlabel.convert.batch_files import BatchFile, label_places, read_batch
from vqlabel.convert.batches import Batches, check_labels
from vqlabel.convert.imported import Options, check_options
from vqlabel.convert.spooled import let_go
from vqlabel.convert.torch_files import Contradiction, UnreadableFile
from vqlabel.progress import bar
from vqlabel.stored import BOXES, CUTOUTS, LAMBDAS, ROWS
from vqlabel.view_layout import ViewLayout


def pixels_of(crops: torch.Tensor, height: int, width: int) -> NDArray[np.int64] | None:
    """Crops [b, 4] in pixels; None if they are no whole ones of images of this size."""
    stored, sides = crops.numpy(), np.array([height, width, height, width], np.float64)
    pixels = np.rint(stored * sides)
    inside = np.isfinite(pixels).all() and (pixels >= [0, 0, 1, 1]).all()
    if not inside or (pixels[:, :2] + pixels[:, 2:] > sides[:2]).any():
        return None
    same = ((pixels / sides).astype(np.float32).astype(stored.dtype) == stored).all()
    return pixels.astype(np.int64) if same else None


@dataclass
class _Epoch:
    """What is known of the views of an epoch, by image."""

    places: NDArray[np.int64]
    crops: NDArray[Any]
    flips: NDArray[np.bool_]
    partners: NDArray[np.int64]


class ViewColumns:
    """The tensors of the stored views, filled file by file."""

    def __init__(self, batches: Batches, layout: ViewLayout, example: BatchFile, options: Options) -> None:
        self._batches, self._layout, self._example = batches, layout, example
        self._keep_going, self._classes = options.keep_going, options.classes
        self.bytes = 0  # of all files that could be read
        rows, mixes = batches.epochs * batches.images, batches.epochs * layout.batches
        self.tensors = {ROWS: options.spool("rows", (rows, layout.row_bytes), np.uint8)}
        if layout.mix == "cutmix":
            self.tensors[BOXES] = np.zeros((mixes, 4), "<u2")
        if layout.mix != "none":
            self.tensors[LAMBDAS] = np.zeros(mixes, "<f8")
        if example.cutouts is not None:
            self.tensors[CUTOUTS] = options.spool("cutouts", (rows, example.cutouts.shape[1]), np.float32)

    def fill(self, faults: list[str]) -> None:
        """Look into every file; those that are not as they should be are named, and read no more."""
        images, files = self._batches.images, sum(1 for _ in self._batches.files())
        against: list[str] = []
        with bar("looking into files", files, shown=True) as advance:
            for epoch, paths in enumerate(self._batches.paths):
                views = self._empty()
                for number, path in enumerate(paths):
                    if path is None:
                        continue
                    try:
                        found = read_batch(path)
                        if self._keep_going:
                            check_labels(found.labels, self._classes)
                        self._add(views, epoch, number, found)
                        self._batches.labels_at[path] = label_places(path, found)
                        self.bytes += os.path.getsize(path)
                    except (UnreadableFile, FileNotFoundError) as error:
                        why = "it is not there" if isinstance(error, FileNotFoundError) else str(error)
                        faults.append(f"{path}: {why}")
                        against += faults[-1:] if isinstance(error, Contradiction) else []
                        paths[number] = None
                    advance(1)
                flips = views.flips if self._layout.flips else None
                partners = views.partners if self._layout.mix != "none" else None
                packed = self._layout.pack(views.places, views.crops, flips, partners)
                self.tensors[ROWS][epoch * images : (epoch + 1) * images] = packed
                for column in self.tensors.values():
                    let_go(column)
        check_options(against, files)

    def _empty(self) -> _Epoch:
        images = self._batches.images
        kind = np.int64 if self._layout.crops == "pixels" else self._example.crops.numpy().dtype
        crops = np.zeros((images, 4), kind)
        crops[:, 2:] = 1  # of rows that are missing: any crop that is one
        return _Epoch(np.arange(images), crops, np.zeros(images, bool), np.arange(images))

    def _add(self, views: _Epoch, epoch: int, number: int, found: BatchFile) -> None:
        ids = self._batches.ids(epoch, number)
        self._check(found, len(ids))
        crops = self._crops(found.crops)
        views.places[ids] = number * self._batches.batch + np.arange(len(ids))
        views.crops[ids] = crops
        if found.flips is not None:
            views.flips[ids] = found.flips.numpy()
        if found.mix_index is not None:
            views.partners[ids] = ids[found.mix_index]
            self._keep_mix(epoch * self._layout.batches + number, found)
        if found.cutouts is not None:
            self.tensors[CUTOUTS][epoch * self._batches.images + ids] = found.cutouts.float().numpy()

    def _check(self, found: BatchFile, rows: int) -> None:
        if len(found) != rows:
            raise UnreadableFile(f"it has {len(found)} rows where {rows} images were to be labelled")
        if found.kind != self._example.kind:
            raise UnreadableFile("its labels or crops are of another kind than those of the first file")
        if found.mix not in ("none", self._layout.mix):
            raise UnreadableFile(f"it was mixed by {found.mix}, the first file by {self._layout.mix}")
        if found.box is not None and max(found.box[1], found.box[3]) > self._layout.size:
            raise Contradiction(
                f"its box {found.box} is not within views of {self._layout.size} pixels: say the right --size"
            )

    def _crops(self, crops: torch.Tensor) -> NDArray[Any]:
        if self._layout.crops != "pixels":
            return crops.numpy()
        pixels = pixels_of(crops, self._layout.height, self._layout.width)
        if pixels is None:
            raise Contradiction(
                f"its crops are not of images of {self._layout.height} x {self._layout.width} pixels; "
                "--image-size 0 keeps fractions"
            )
        return pixels

    def _keep_mix(self, batch: int, found: BatchFile) -> None:
        self.tensors[LAMBDAS][batch] = found.lam
        if found.box is not None:
            top, bottom, left, right = found.box
            self.tensors[BOXES][batch] = top, left, bottom - top, right - left
