"""Which record of each epoch is of which image: found once, by the keys, and put down in files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqlabel.convert.imported import Options
from vqlabel.convert.spooled import let_go
from vqlabel.convert.tinyvit_files import Part, keys_of
from vqlabel.convert.tinyvit_keys import Keys, different, find, sortable, text
from vqlabel.progress import bar

NONE = 2**32 - 1  # in place of a record's number
NAMES_AT_ONCE = 2**20


def keys_in(path: str, epochs: list[list[Part]]) -> Keys:
    """Keys of all epochs, sorted: those of the largest epoch, and what others have besides, which is rare."""
    largest = max(epochs, key=_records)
    keys = different(sortable(found) for part in largest for found in part.lines())
    others = different([])
    with bar("sorting keys", len(epochs), shown=True) as advance:
        for epoch in epochs:
            for part in epoch if epoch is not largest else []:
                for found in map(sortable, part.lines()):
                    strange = find(keys, found) < 0
                    others = different([others, found[strange]]) if strange.any() else others
            if len(others) > len(keys):
                raise ValueError(f"{path}: its epochs are of different images, such as {text(others[:3])!r:.80}")
            advance(1)
    if not len(keys):
        raise ValueError(f"{path}: not one label can be read")
    return different([keys, others]) if len(others) else keys


def _records(parts: list[Part]) -> int:
    return sum(part.count for part in parts)


def names_of(keys: Keys, options: Options) -> NDArray[np.uint8]:
    """Keys as they were written, one a line, in a file."""
    path = os.path.join(options.folder, "tinyvit.names")
    with open(path, "wb") as file:
        for start in range(0, len(keys), NAMES_AT_ONCE):
            file.write((b"\n" if start else b"") + text(keys[start : start + NAMES_AT_ONCE]))
    return np.memmap(path, np.uint8, "r")


class Index:
    """Where the record of each image is in each epoch, and its seed: both [epochs, images], in files."""

    def __init__(self, epochs: list[list[Part]], keys: Keys, options: Options) -> None:
        shape = len(epochs), len(keys)
        self.places = options.spool("tinyvit.places", shape, np.uint32)
        self.seeds = options.spool("tinyvit.seeds", shape, np.uint32)
        self._lost: list[int] = []  # images without a label, of each epoch
        with bar("finding records", sum(map(_records, epochs)), shown=True) as advance:
            for epoch, parts in enumerate(epochs):
                places, seeds = np.full(len(keys), NONE, np.uint32), np.zeros(len(keys), np.uint32)
                for images, numbers, drawn in _found(parts, keys):
                    # Backwards: of records of the same image, the first is written last, and stays.
                    free = np.flatnonzero(places[images] == NONE)[::-1]
                    places[images[free]] = numbers[free]
                    seeds[images[free]] = drawn[free]
                    advance(len(images))
                self.places[epoch], self.seeds[epoch] = places, seeds
                self._lost.append(int(np.count_nonzero(places == NONE)))
                let_go(self.places)
                let_go(self.seeds)

    def missing(self, options: Options) -> NDArray[np.bool_] | None:
        """Whether each row has no label [N]; None if all have one."""
        if not any(self._lost):
            return None
        found: NDArray[np.bool_] = options.spool("tinyvit.missing", self.places.shape, np.bool_)
        for epoch, count in enumerate(self._lost):
            found[epoch] = self.places[epoch] == NONE
            if count:
                options.say(f"epoch {epoch} has no label of {count:,} of {found.shape[1]:,} images")
            let_go(self.places)
        return found.reshape(-1)


def _found(parts: list[Part], keys: Keys) -> Iterator[tuple[Any, Any, Any]]:
    """Images, numbers in the epoch, and seeds of its records, some at a time."""
    for part in parts:
        at, records = 0, part.records()
        for found in part.lines():
            images = find(keys, sortable(found))
            if (images < 0).any():
                raise ValueError(f"{keys_of(part.stem)} changed while it was read")
            stop = at + len(found)
            yield images, np.arange(part.first + at, part.first + stop), records["seed"][at:stop].view("<u4")
            let_go(records)
            at = stop
