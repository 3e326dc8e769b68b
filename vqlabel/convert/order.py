"""Which image is in which row of a batch: drawn by torch's sampler, or listed in a JSON file."""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import RandomSampler

ENTRY = re.compile(rb'"(\d{1,18})"\s*:\s*\[([\d,\s]*)\]')
BETWEEN = re.compile(rb"[\s,{}]*")


def drawn_order(images: int, epochs: int, seed: int) -> NDArray[np.int32]:
    """Images [epochs, images] in the order that a loader with a seeded RandomSampler reads them in, epoch by epoch.

    The sampler itself is asked: how many numbers it draws for an epoch is its own affair.
    """
    generator = torch.Generator()
    generator.manual_seed(seed)
    sampler = RandomSampler(range(images), generator=generator)
    return np.array([list(sampler) for _ in range(epochs)], np.int32).reshape(epochs, images)


def listed_order(path: str) -> dict[int, NDArray[np.int32]]:
    """Images by epoch or batch number of a file {"0": [17, 4, ...], "1": ...}; it may be larger than memory."""
    if os.path.getsize(path) == 0:
        raise ValueError(f"{path} is empty: fetch it again")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        found = dict(_entries(text, path))
    if not found:
        raise ValueError(f"{path} lists no images")
    return found


def _entries(text: mmap.mmap, path: str) -> Iterator[tuple[int, NDArray[np.int32]]]:
    end = 0
    for entry in ENTRY.finditer(text):
        if not BETWEEN.fullmatch(text[end : entry.start()]):
            raise _strange(path, end)
        numbers = np.array(entry[2].split(b","), np.int64) if entry[2].strip() else np.zeros(0, np.int64)
        if len(numbers) and numbers.max() >= 2**31:
            raise ValueError(f"{path}: image {numbers.max()} is beyond what a set can have")
        yield int(entry[1]), numbers.astype(np.int32)
        end = entry.end()
    if not BETWEEN.fullmatch(text[end:]):
        raise _strange(path, end)


def _strange(path: str, offset: int) -> ValueError:
    return ValueError(
        f"{path} is not a JSON object of lists of image numbers near byte {offset}: it is cut off or damaged; fetch it "
        "again"
    )
