"""Sets of LPQLD: batch_0.tar, batch_1.tar, ... in one folder, and a list of the images of each."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from vqlabel.convert.batches import Batches
from vqlabel.convert.imported import Imported, Options
from vqlabel.convert.order import listed_order
from vqlabel.convert.scan import imported_batches
from vqlabel.convert.sre2l import BATCH

INDEX = "sampler_indices_batch.json"


def knows(path: str) -> bool:
    """Whether a folder looks like such a set."""
    return os.path.exists(os.path.join(path, INDEX))


def open_set(path: str, options: Options) -> Imported:
    """The set, every file looked into."""
    index = os.path.join(path, INDEX)
    if not os.path.exists(index):
        raise ValueError(f"{index} is not there: without it nobody knows which images the rows of a batch are")
    listed = listed_order(index)
    images = options.images or 1 + max(int(ids.max(initial=-1)) for ids in listed.values())
    epochs = _epochs(listed, images, index)
    there = {int(match[1]) for name in os.listdir(path) if (match := BATCH.fullmatch(name))}
    faults = [f"{os.path.join(path, f'batch_{n}.tar')}: it is not there" for n in sorted(set(listed) - there)]
    unlisted = sorted(there - set(listed))
    if unlisted:
        named = os.path.join(path, f"batch_{unlisted[0]}.tar")
        faults.append(f"{named}: {INDEX} does not list it, nor {len(unlisted) - 1} others")
    rows = sum(len(ids) for ids in listed.values())
    if len(epochs) * images > 10 * rows + 10**6:
        raise ValueError(
            f"{index} lists {rows} rows for {len(epochs)} epochs of {images} images: most of it is not there"
        )
    batch = max(len(ids) for ids in listed.values())
    order = np.full((len(epochs), images), -1, np.int32)
    paths: list[list[str | None]] = []
    for epoch, numbers in enumerate(epochs):
        ids = np.concatenate([listed[number] for number in numbers])
        order[epoch, : len(ids)] = ids
        paths.append([os.path.join(path, f"batch_{n}.tar") if n in there else None for n in numbers])
    return imported_batches("lpqld", Batches(images, batch, paths, order), options, faults)


def _epochs(listed: dict[int, NDArray[np.int32]], images: int, index: str) -> list[list[int]]:
    """Numbers of the batches of each epoch: one begins where an image comes again."""
    epochs: list[list[int]] = []
    seen = np.ones(images, bool)
    for number in sorted(listed):
        ids = listed[number]
        if len(np.unique(ids)) != len(ids) or int(ids.max(initial=0)) >= images:
            raise ValueError(f"{index}: batch {number} does not list different images of {images}")
        short = epochs and len(listed[epochs[-1][-1]]) != len(ids)
        if seen[ids].any() or (short and len(listed[epochs[-1][-1]]) < len(ids)):
            epochs.append([])
            seen[:] = False
        epochs[-1].append(number)
        seen[ids] = True
    return epochs
