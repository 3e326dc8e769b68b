"""The files of TinyViT's labels: logits_top100_epoch0/rank0-values.bin, its rank0-keys.txt, and so on.

A record of the first, without a header, is

    seed     I32       of the image's augmentation
    classes  I16 [K]
    values   F16 [K]   probabilities of these classes

and line i of the second is the key of the image of record i.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqlabel.convert.tinyvit_keys import count_lines, lines

EPOCH = re.compile(r"logits_top(\d{1,5})_epoch(\d{1,6})")
RANK = re.compile(r"rank(\d{1,6})-(values\.bin|keys\.txt)")
RANKS_APART = 10_000  # what numbers may be missing before the highest of them is not believed


@dataclass(frozen=True)
class Part:
    """The records of a rank in an epoch that have a key: their number, and that of the first in its epoch."""

    stem: str  # of both paths
    k: int
    count: int
    first: int

    def records(self) -> NDArray[Any]:
        """Records [count] of fields seed, ids, values; mapped."""
        fields = [("seed", "<i4"), ("ids", "<i2", (self.k,)), ("values", "<f2", (self.k,))]
        return np.memmap(values_of(self.stem), np.dtype(fields), "r", shape=(self.count,))

    def lines(self) -> Iterator[list[bytes]]:
        """Keys of its records, some at a time."""
        left = self.count
        for found in lines(keys_of(self.stem)) if left else ():
            yield found[:left]
            left -= len(found)
            if left <= 0:
                return


def values_of(stem: str) -> str:
    """Path of the records."""
    return f"{stem}-values.bin"


def keys_of(stem: str) -> str:
    """Path of the keys."""
    return f"{stem}-keys.txt"


def epochs_of(path: str) -> tuple[int, dict[int, str]]:
    """K and the folder of each epoch; ValueError unless there is one K."""
    found = [match for name in sorted(os.listdir(path)) if (match := EPOCH.fullmatch(name))]
    sizes = sorted({int(match[1]) for match in found})
    if len(sizes) != 1 or not 1 <= sizes[0] <= 2**15:
        told = ", ".join(f"top{size}" for size in sizes) or "none"
        raise ValueError(f"{path} must have folders logits_top<K>_epoch<number> of one K from 1 to 32768, not {told}")
    folders = {int(match[2]): os.path.join(path, match[0]) for match in found}
    if max(folders) > 10 * len(folders) + 100:
        raise ValueError(f"{path} has an epoch {max(folders)}, but only {len(folders)}: most of it is not there")
    return sizes[0], folders


def parts_of(folder: str, k: int, faults: list[str]) -> list[Part]:
    """What can be read of an epoch, the lowest rank first; what cannot is added to the faults."""
    found = [match for name in os.listdir(folder) if (match := RANK.fullmatch(name))]
    ranks = {int(match[1]) for match in found}
    if not ranks:
        faults.append(f"{folder}: none of its files is there")
    elif max(ranks) > RANKS_APART + len(ranks):
        raise ValueError(f"{folder} has a rank {max(ranks)}, but only {len(ranks)}: most of it is not there")
    parts: list[Part] = []
    first = 0
    for rank in range(max(ranks, default=-1) + 1):
        stem = os.path.join(folder, f"rank{rank}")
        count = _count(stem, 4 + 4 * k, faults)
        if count:
            parts.append(Part(stem, k, count, first))
        first += count
    if first >= 2**32 - 1:
        raise ValueError(f"{folder} has {first} records, but an epoch has fewer than 2^32 - 1")
    return parts


def _count(stem: str, record_bytes: int, faults: list[str]) -> int:
    """How many records of a rank can be read."""
    absent = [path for path in (values_of(stem), keys_of(stem)) if not os.path.isfile(path)]
    faults += [f"{path}: it is not there" for path in absent]
    if absent:
        return 0
    size = os.path.getsize(values_of(stem))
    if size % record_bytes:
        faults.append(f"{values_of(stem)}: it is cut off: {size} bytes are no whole records of {record_bytes}")
    count, wrong = count_lines(keys_of(stem), size // record_bytes)
    if wrong:
        faults.append(f"{keys_of(stem)}: {wrong}")
    return count


def bytes_of(folder: str) -> int:
    """Size of the files of an epoch."""
    return sum(os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder) if RANK.fullmatch(name))
