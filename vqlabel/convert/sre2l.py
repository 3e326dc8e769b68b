"""Sets of SRe2L, CDA and LPLD: epoch_0/batch_0.tar and so on, with or without a list of the images of each epoch."""

from __future__ import annotations

import os
import re

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
    faults: list[str] = []
    paths = _listed(path)
    index = os.path.join(path, INDEX)
    batches = _with_list(index, paths, options) if os.path.exists(index) else _with_sampler(paths, options)
    for epoch, names in enumerate(batches.paths):
        if not any(names):
            faults.append(f"{os.path.join(path, f'epoch_{epoch}')}: not one file of this epoch is there")
        else:
            there = range(len(names))
            lost = [number for number in there if names[number] is None and len(batches.ids(epoch, number))]
            faults += [f"{os.path.join(path, f'epoch_{epoch}', f'batch_{n}.tar')}: it is not there" for n in lost]
    return imported_batches("sre2l", batches, options, faults)


def _listed(path: str) -> list[list[str | None]]:
    """Files by epoch and number; None for one that is not there."""
    epochs = {int(found[1]): found[0] for name in os.listdir(path) if (found := EPOCH.fullmatch(name))}
    names = {epoch: _numbered(os.path.join(path, folder)) for epoch, folder in epochs.items()}
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
    raise ValueError(f"no batch_{number}.tar of any epoch can be read, so nobody knows how many rows it has")


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
    order = np.full((len(paths), images), -1, np.int32)
    for epoch in range(len(paths)):
        ids = listed.get(epoch, np.zeros(0, np.int32))
        if len(ids) > images or (len(ids) and int(ids.max()) >= images) or len(np.unique(ids)) != len(ids):
            raise ValueError(f"{index}: epoch {epoch} does not list different images of {images}")
        order[epoch, : len(ids)] = ids
    return Batches(images, _rows(paths, 0), paths, order)
