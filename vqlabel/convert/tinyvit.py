"""TinyViT: the K largest probabilities of each image in each epoch, and the seed of its augmentation.

Row = epoch * images + image. An image is its key; tinyvit_keys.py numbers them. Where a key comes more than once in an
epoch, because ranks were filled up to the same length, the first of the lowest rank counts: with TinyViT's own reader
it depends on which rank reads.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vqlabel.arguments import check_word
from vqlabel.codecs.topk import TAILS, TopK
from vqlabel.convert.imported import Imported, Options, check_faults
from vqlabel.convert.spooled import let_go
from vqlabel.convert.tinyvit_files import EPOCH, Part, bytes_of, epochs_of, parts_of, values_of
from vqlabel.convert.tinyvit_index import Index, keys_in, names_of
from vqlabel.progress import bar
from vqlabel.side import NAMES
from vqlabel.sources import SparseSource
from vqlabel.stored import SEEDS

MOST_CLASSES = 2**15  # that I16 can tell
SUMS = 1.01  # what fp16 probabilities may add up to


def knows(path: str) -> bool:
    """Whether this is a folder of folders logits_top<K>_epoch<number>."""
    return any(EPOCH.fullmatch(name) for name in os.listdir(path))


def open_set(path: str, options: Options) -> Imported:
    """All epochs, from the first to the highest that is there."""
    k, folders = epochs_of(path)
    tail = options.tail or "uniform"
    check_word("tail", tail, TAILS)
    codec = TopK(_classes(path, k, options.classes), k, tail=tail, values="P16", as_given=True)
    epochs, faults = _look(path, k, folders)
    check_faults(faults, options.keep_going)
    keys = keys_in(path, epochs)
    images = len(keys)
    if options.images not in (None, images):
        raise ValueError(f"{path} has labels of {images} images, not of {options.images}")
    index = Index(epochs, keys, options)
    about = {"set": "tinyvit", "k": k, "epochs": len(epochs), "temperature": 1, "seeds": "of AugRandomContext"}
    return Imported(
        kind="tinyvit",
        source=TinyVitLabels(epochs, index.places, codec),
        images=images,
        codec=codec,
        tensors={SEEDS: index.seeds.reshape(-1), NAMES: names_of(keys, options)},
        metadata={"x.source": json.dumps(about)},
        missing=index.missing(options),
        faults=faults,
        labels_bytes=sum(map(bytes_of, folders.values())),
    )


def _classes(path: str, k: int, classes: int | None) -> int:
    if classes is None:
        raise ValueError(f"{path} tells of {k} classes each, but not how many there are: say --classes")
    if not max(k, 2) <= classes <= MOST_CLASSES:
        raise ValueError(
            f"--classes must be {max(k, 2)} to {MOST_CLASSES} for labels of the {k} largest, got {classes}"
        )
    return classes


def _look(path: str, k: int, folders: dict[int, str]) -> tuple[list[list[Part]], list[str]]:
    """What can be read of each epoch, and what is wrong."""
    epochs, faults = [], []
    with bar("looking into epochs", max(folders) + 1, shown=True) as advance:
        for epoch in range(max(folders) + 1):
            folder = folders.get(epoch)
            if folder is None:
                faults.append(f"{os.path.join(path, f'logits_top{k}_epoch{epoch}')}: it is not there")
            epochs.append(parts_of(folder, k, faults) if folder else [])
            advance(1)
    return epochs, faults


class TinyVitLabels(SparseSource):
    """Labels where they are, found by their places [epochs, images]."""

    def __init__(self, epochs: list[list[Part]], places: NDArray[np.uint32], codec: TopK) -> None:
        super().__init__(places.size, codec.classes, codec.k, tail=codec.tail, probabilities=True)
        self._epochs, self._places = epochs, places

    def _kept(self, indices: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        ids = np.tile(np.arange(self.k), (len(indices), 1))  # for rows that are missing
        values = np.zeros((len(indices), self.k), np.float16)
        epochs, images = np.divmod(indices, self._places.shape[1])
        for epoch in np.unique(epochs).tolist():
            own = np.flatnonzero(epochs == epoch)
            places = self._places[epoch][images[own]].astype(np.int64)
            order = places.argsort()
            own, places = own[order], places[order]
            for part in self._epochs[epoch]:
                inside = slice(*np.searchsorted(places, (part.first, part.first + part.count)))
                records = part.records()
                found = records[places[inside] - part.first]
                let_go(records)
                _check(found, indices[own[inside]], part)
                ids[own[inside]], values[own[inside]] = found["ids"], found["values"]
        let_go(self._places)
        return torch.from_numpy(ids), torch.from_numpy(values)


def _check(found: NDArray[Any], rows: NDArray[np.int64], part: Part) -> None:
    """ValueError for the first row whose values are no probabilities."""
    values = found["values"]
    sound = ((values >= 0) & (values <= 1)).all(1) & (values.sum(1, dtype=np.float32) <= SUMS)
    if not sound.all():
        bad = int(np.flatnonzero(~sound)[0])
        raise ValueError(
            f"row {rows[bad]} has {values[bad].tolist()!s:.80} for probabilities: {values_of(part.stem)} is damaged, "
            f"or has records of another K than {part.k}"
        )
