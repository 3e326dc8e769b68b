"""Sets of SRe2L, CDA and LPLD: epoch_0/batch_0.tar and so on, with or without a list of the images of each epoch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import numpy as np

from vqlabel.convert.batch_files import read_batch
from vqlabel.convert.batches import Batches
from vqlabel.convert.imported import Imported, Options
from vqlabel.convert.order import drawn_order, listed_order
from vqlabel.convert.scan import imported_batches
from vqlabel.convert.torch_files import UnreadableFile

INDEX = "sampler_indices_epoch.json"
EPOCH, BATCH = re.compile(r"epoch_(\d{1,9})"), re.compile(r"batch_(\d{1,9})\.tar")


def knows(path: str) -> bool:
    """Whether a folder looks like such a set."""
    return any(EPOCH.fullmatch(name) for name in os.listdir(path))


def open_set(path: str, options: Options) -> Imported:
    """The set, every file looked into."""
    paths = _files(path)
    index = os.path.join(path, INDEX)
    batches = _with_list(index, paths, options) if os.path.exists(index) else _with_sampler(paths, options)
    return imported_batches("sre2l", batches, options, list(_lost(path, batches)))


def _lost(path: str, batches: Batches) -> Iterator[str]:
    """Files of rows that there should be."""
    for epoch, names in enumerate(batches.paths):
        folder = os.path.join(path, f"epoch_{epoch}")
        due = [number for number in range(len(names)) if len(batches.ids(epoch, number))]
        if due and not any(names):
            yield f"{folder}: not one file of this epoch is there"
            continue
        for number in due:
            if names[number] is None:
                yield f"{os.path.join(folder, f'batch_{number}.tar')}: it is not there"


def _files(path: str) -> list[list[str | None]]:
    """Files by epoch and number; None for one that is not there."""
    epochs = {int(found[1]): found[0] for name in os.listdir(path) if (found := EPOCH.fullmatch(name))}
    names = {epoch: _numbered(os.path.join(path, folder)) for epoch, folder in epochs.items()}
    if not any(names.values()):
        raise ValueError(
            f"{path} holds no epoch_0/batch_0.tar, nor any other batch of an epoch: copy the set again, or say which "
            "other kind it is with --from"
        )
    count = max(epochs) + 1
    if count > 10 * len(epochs) + 100:
        raise ValueError(f"{path} has an epoch {count - 1}, but only {len(epochs)} epochs: most of it is not there")
    batches = max(1 + max(numbered, default=-1) for numbered in names.values())
    return [[names.get(epoch, {}).get(number) for number in range(batches)] for epoch in range(count)]


def _numbered(folder: str) -> dict[int, str]:
    found = {int(match[1]): name for name in os.listdir(folder) if (match := BATCH.fullmatch(name))}
    if found and max(found) > 100 * len(found) + 10_000:
        raise ValueError(f"{folder} has a batch {max(found)}, but only {len(found)} files: most of it is not there")
    return {number: os.path.join(folder, name) for number, name in found.items()}


def _rows(paths: list[list[str | None]], number: int) -> int:
    """Rows of the batches of a number, by the first of them that can be read."""
    for names in paths:
        name = names[number]
        try:
            if name is not None:
                return len(read_batch(name))
        except UnreadableFile:
            continue
    which = "first" if number == 0 else "last"
    raise ValueError(f"the {which} batch of no epoch can be read, so nobody knows how many rows it has")


def _with_sampler(paths: list[list[str | None]], options: Options) -> Batches:
    """The order is drawn again: SRe2L and CDA store none."""
    batch, last = _rows(paths, 0), _rows(paths, -1)
    held = batch * (len(paths[0]) - 1) + last
    images = options.images or held
    if images != held and not (last == batch and held < images < held + batch):  # a last batch may have been dropped
        raise ValueError(f"the epochs hold {held} images in batches of {batch}, which cannot be all of {images}")
    if options.images is None and last == batch and len(paths[0]) > 1:
        options.say(f"taking it that there are {images:,} images and no last batch was dropped; --images says better")
    order = drawn_order(images, len(paths), options.seed)
    order[:, held:] = -1
    return Batches(images, batch, paths, order)


def _with_list(index: str, paths: list[list[str | None]], options: Options) -> Batches:
    """The order is listed: LPLD."""
    listed = listed_order(index)
    images = options.images or 1 + max(int(ids.max(initial=-1)) for ids in listed.values())
    batch, epochs = _rows(paths, 0), max(len(paths), 1 + max(listed))
    if epochs > 10 * len(listed) + 100:
        raise ValueError(f"{index} lists an epoch {epochs - 1}, but only {len(listed)} in all")
    numbers = max(len(paths[0]), *(-(-len(ids) // batch) for ids in listed.values()))
    paths = [names + [None] * (numbers - len(names)) for names in paths]
    paths += [[None] * numbers for _ in range(epochs - len(paths))]
    order = np.full((epochs, images), -1, np.int32)
    for epoch in range(epochs):
        ids = listed.get(epoch, np.zeros(0, np.int32))
        if len(ids) > images or (len(ids) and int(ids.max()) >= images) or len(np.unique(ids)) != len(ids):
            raise ValueError(f"{index}: epoch {epoch} does not list different images of {images}")
        order[epoch, : len(ids)] = ids
    return Batches(images, batch, paths, order)
