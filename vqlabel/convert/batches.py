"""A set that was written batch by batch: which rows are where, and their labels in our order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vqlabel.convert.batch_files import BatchFile, read_batch
from vqlabel.convert.torch_files import Contradiction, UnreadableFile
from vqlabel.sources import Source, SparseSource

WINDOW_BYTES = 2**28  # of labels that are held at a time

Places = NDArray[np.int32]


@dataclass
class Batches:
    """Files of batches, by epoch, and the image of each of their rows.

    paths[e][b] is None where a file is not to be read; order[e] are the images of epoch e in the order of its rows, -1
    for none. All batches of an epoch but the last have `batch` rows.
    """

    images: int
    batch: int
    paths: list[list[str | None]]
    order: Places  # [epochs, images]
    labels_at: dict[str, list[int]] = field(default_factory=dict)  # where in a file its labels begin, once it was read

    @property
    def epochs(self) -> int:
        """Epochs that there are."""
        return len(self.paths)

    def ids(self, epoch: int, number: int) -> Places:
        """Images of a batch."""
        found: Places = self.order[epoch, number * self.batch : (number + 1) * self.batch]
        return found[found >= 0]

    def places(self, epoch: int) -> Places:
        """Place of each image [images] in an epoch, -1 for none."""
        found = np.full(self.images, -1, np.int32)
        there = np.flatnonzero(self.order[epoch] >= 0)
        found[self.order[epoch, there]] = there
        return found

    def files(self) -> Iterator[tuple[int, int, str]]:
        """Epoch, number in it, and path of each file that is to be read."""
        for epoch, paths in enumerate(self.paths):
            for number, path in enumerate(paths):
                if path is not None:
                    yield epoch, number, path

    def missing(self) -> NDArray[np.bool_]:
        """Whether each row [epochs * images] is in no file that is to be read."""
        found = np.ones((self.epochs, self.images), np.bool_)
        for epoch, number, _ in self.files():
            found[epoch, self.ids(epoch, number)] = False
        return found.ravel()


def check_labels(labels: list[torch.Tensor], classes: int | None) -> None:
    """UnreadableFile if logits [b, C], or values and classes [b, k], cannot be."""
    if not labels[0].sum(dtype=torch.float32).isfinite() and not labels[0].isfinite().all():
        row = int((~labels[0].isfinite().all(1)).nonzero()[0])
        raise UnreadableFile(f"its row {row} has a logit that is not finite")
    if len(labels) == 1 or classes is None:
        return
    ordered = labels[1].long().sort(dim=1).values
    wrong = (ordered[:, 0] < 0) | (ordered[:, -1] >= classes) | (ordered[:, 1:] == ordered[:, :-1]).any(1)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise (Contradiction if ordered[row, -1] >= classes else UnreadableFile)(
            f"its row {row} tells of classes {ordered[row].tolist()!s:.80}, which are not different ones of {classes}"
        )


class _Rows:
    """Labels of rows, from the files of their batches; an epoch at a time, or as much of it as fits a window."""

    def __init__(self, batches: Batches, example: BatchFile) -> None:
        self._batches = batches
        self._widths = [(part.dtype, part.shape[1]) for part in example.labels]
        row_bytes = sum(dtype.itemsize * width for dtype, width in self._widths)
        self._step = max(1, min(batches.images, WINDOW_BYTES // row_bytes))
        self._held: tuple[int, int] | None = None  # epoch and first image of the window
        self._window: list[torch.Tensor] = []

    def read(self, rows: range) -> list[torch.Tensor]:
        """Labels of rows that follow each other."""
        parts, start = [], rows.start
        while start < rows.stop:
            epoch, image = divmod(start, self._batches.images)
            first = image - image % self._step
            self._hold(epoch, first)
            count = min(rows.stop - start, first + len(self._window[0]) - image)
            parts.append([part[image - first : image - first + count] for part in self._window])
            start += count
        if len(parts) == 1:
            return parts[0]
        return [torch.cat(same) for same in zip(*parts, strict=True)] if parts else self._empty(0)

    def take(self, indices: NDArray[np.int64]) -> list[torch.Tensor]:
        """Labels of rows in rising order, without the rest of their epochs."""
        found = self._empty(len(indices))
        epochs, images = np.divmod(indices, self._batches.images)
        for epoch in np.unique(epochs).tolist():
            mine = np.flatnonzero(epochs == epoch)
            places = self._batches.places(epoch)[images[mine]]
            for number in np.unique(places[places >= 0] // self._batches.batch).tolist():
                path = self._batches.paths[epoch][number]
                inside = (places >= 0) & (places // self._batches.batch == number)
                if path is not None:
                    at = places[inside].astype(np.int64) % self._batches.batch
                    for target, part in zip(found, self._some(path, at), strict=True):
                        target[torch.from_numpy(mine[inside])] = part
        return found

    def _some(self, path: str, at: NDArray[np.int64]) -> Iterator[torch.Tensor]:
        """Rows of a file, without reading the others."""
        places = self._batches.labels_at.get(path, [-1])
        if -1 in places:
            yield from (part[torch.from_numpy(at)] for part in read_batch(path).labels)
            return
        with open(path, "rb", buffering=0) as file:
            for place, empty in zip(places, self._empty(len(at)), strict=True):
                for row, target in zip(at.tolist(), empty.numpy(), strict=True):
                    file.seek(place + row * target.nbytes)
                    if file.readinto(memoryview(target).cast("B")) != target.nbytes:
                        raise ValueError(f"{path} became shorter while it was read")
                yield empty

    def _all(self, path: str, rows: int) -> Iterator[NDArray[Any]]:
        """All rows of a file."""
        places = self._batches.labels_at.get(path, [-1])
        if -1 in places:
            yield from (part.numpy() for part in read_batch(path).labels)
            return
        for place, empty in zip(places, self._empty(0), strict=True):
            count = rows * empty.shape[1]
            found = np.fromfile(path, empty.numpy().dtype, count, offset=place)
            if len(found) != count:
                raise ValueError(f"{path} became shorter while it was read")
            yield found.reshape(rows, -1)

    def _empty(self, rows: int) -> list[torch.Tensor]:
        return [torch.zeros(rows, width, dtype=dtype) for dtype, width in self._widths]

    def _hold(self, epoch: int, first: int) -> None:
        if self._held == (epoch, first):
            return
        stop = min(first + self._step, self._batches.images)
        self._held, self._window = None, []  # the one before goes first
        window = self._empty(stop - first)
        for number, path in enumerate(self._batches.paths[epoch]):
            ids = self._batches.ids(epoch, number)
            inside = np.flatnonzero((ids >= first) & (ids < stop))
            if path is None or not len(inside):
                continue
            few = 2 * len(inside) < len(ids)  # of an epoch in several windows
            parts = self._some(path, inside) if few else (torch.from_numpy(part) for part in self._all(path, len(ids)))
            for target, part in zip(window, parts, strict=True):
                found = part.numpy()
                target.numpy()[ids[inside] - first] = found if few or len(inside) == len(ids) else found[inside]
        self._held, self._window = (epoch, first), window


class BatchSource(Source):
    """Logits of a set that was written batch by batch."""

    def __init__(self, batches: Batches, example: BatchFile) -> None:
        logits = example.labels[0]
        super().__init__(batches.epochs * batches.images, logits.shape[1], logits.dtype)
        self._rows = _Rows(batches, example)

    def _read(self, rows: range) -> torch.Tensor:
        return self._rows.read(rows)[0]

    def _take(self, indices: NDArray[np.int64]) -> torch.Tensor:
        return self._rows.take(indices)[0]


class SparseBatchSource(SparseSource):
    """The k largest logits of a set that was written batch by batch."""

    def __init__(self, batches: Batches, example: BatchFile, classes: int) -> None:
        rows, k = batches.epochs * batches.images, example.labels[0].shape[1]
        super().__init__(rows, classes, k, tail="drop", probabilities=False)
        self._rows = _Rows(batches, example)
        self._missing: Callable[[NDArray[np.int64]], NDArray[np.bool_]] = batches.missing().__getitem__

    def _kept(self, indices: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        together = len(indices) and indices[-1] - indices[0] + 1 == len(indices)
        rows = range(int(indices[0]), int(indices[-1]) + 1) if together else None
        values, ids = self._rows.read(rows) if rows else self._rows.take(indices)
        ids = ids.long()
        gaps = torch.from_numpy(self._missing(indices))
        if bool(gaps.any()):  # some classes or other, so that a row of zeros counts as a label
            ids[gaps] = torch.arange(self.k)
        return ids, values
