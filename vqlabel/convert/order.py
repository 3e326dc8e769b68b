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

from vqlabel.arguments import check_whole

ENTRY = re.compile(rb'"(\d{1,18})"\s*:\s*\[([\d,\s]*)\]')
BETWEEN = re.compile(rb"[\s,{}]*")
MOST = 2**31  # images, so that the number of each is an int32


def drawn_order(images: int, epochs: int, seed: int) -> NDArray[np.int32]:
    """Images [epochs, images] in the order that a loader with a seeded RandomSampler reads them in, epoch by epoch.

    The sampler itself is asked: how many numbers it draws for an epoch is its own affair.
    """
    check_whole("images", images, 1, MOST)
    check_whole("seed", seed, 0, 2**63 - 1)
    generator = torch.Generator()
    generator.manual_seed(seed)
    sampler = RandomSampler(range(images), generator=generator)
    order = np.empty((epochs, images), np.int32)
    for row in order:
        row[:] = np.fromiter(sampler, np.int32)  # to its end, after which it may draw once more
    return order


def listed_order(path: str) -> dict[int, NDArray[np.int32]]:
    """Images by epoch or batch number of a file {"0": [17, 4, ...], "1": ...}; it may be larger than memory."""
    if os.path.getsize(path) == 0:
        raise ValueError(f"{path} is empty: fetch it again")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        found = dict(_entries(text, path))
    if not found:
        raise ValueError(f"{path} lists no images")
    held, largest = sum(map(len, found.values())), max(int(ids.max(initial=0)) for ids in found.values())
    if largest > 10 * held + 100_000:  # what is made for all images that there may be would fill the memory
        raise ValueError(f"{path} lists an image {largest}, but {held:,} in all: it is damaged, or part of a list")
    return found


def _entries(text: mmap.mmap, path: str) -> Iterator[tuple[int, NDArray[np.int32]]]:
    end = 0
    for entry in ENTRY.finditer(text):
        if not BETWEEN.fullmatch(text, end, entry.start()):
            raise _strange(path, end)
        yield int(entry[1]), _numbers(entry[2], path, entry.start())
        end = entry.end()
    if not BETWEEN.fullmatch(text, end):
        raise _strange(path, end)


def _numbers(text: bytes, path: str, offset: int) -> NDArray[np.int32]:
    try:
        numbers = np.array(text.split(b",") if text.strip() else [], np.int64)
    except (ValueError, OverflowError):  # too many commas, or too few, or too many digits
        raise _strange(path, offset) from None
    if numbers.max(initial=0) >= MOST:
        raise ValueError(f"{path}: image {numbers.max()} is beyond what a set can have")
    return numbers.astype(np.int32)


def _strange(path: str, offset: int) -> ValueError:
    return ValueError(
        f"{path} is not a JSON object of lists of image numbers near byte {offset}: it is cut off or damaged; fetch it "
        "again"
    )
