"""What the command line says of a foreign set: options for its reader, tables of its images, a place to work in."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqlabel.convert.folder import image_tables
from vqlabel.convert.imported import Imported, Options
from vqlabel.outputs import check_folder
from vqlabel.side import CLASSES, NAMES
from vqlabel.terminal import say

Tables = dict[str, NDArray[Any]]


@contextmanager
def workplace(out: str, rank: int) -> Iterator[str]:
    """A folder beside the label file, for what does not fit into memory; what a killed run left there goes."""
    check_folder(out)
    parent, name = os.path.split(os.path.abspath(out))
    folder = os.path.join(parent, f".{name}.converting-{rank}")
    shutil.rmtree(folder, ignore_errors=True)
    os.mkdir(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def images_told(said: str | None) -> tuple[Tables, int | None]:
    """Tables of the images and their number, from --images: a folder, or the number."""
    if said is None:
        return {}, None
    if said.isascii() and said.isdigit():
        if not 1 <= int(said) <= 2**31:
            raise ValueError(f"--images must be 1 to {2**31}, got {said}")
        return {}, int(said)
    if not os.path.isdir(said):
        raise ValueError(f"--images is their number, or their folder; {said} is neither")
    tables = image_tables(said)
    return tables, len(tables[CLASSES])


def options_told(asked: argparse.Namespace, folder: str, images: int | None) -> Options:
    """Options for the reader of a set."""
    sides = asked.image_size.lower().split("x") if asked.image_size else []
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() for side in sides):
        raise ValueError(f"--image-size is the side of the images, or HxW, such as 224, got {asked.image_size!r:.40}")
    height, width = (int(sides[0]), int(sides[-1])) if sides else (None, None)
    return Options(
        folder,
        images=images,
        classes=asked.classes,
        height=height,
        width=width,
        size=asked.size,
        seed=asked.seed_of_order,
        tail=asked.tail,
        keep_going=asked.keep_going,
        say=say,
    )


def check_tables(found: Imported, tables: Tables) -> None:
    """ValueError if the folder holds other images than the set has labels of, as far as both tell."""
    if not tables:
        return
    if len(tables[CLASSES]) != found.images:
        raise ValueError(f"--images holds {len(tables[CLASSES])} images, but the labels are of {found.images}")
    if NAMES not in found.tensors:
        return
    ours, theirs = (_stems(table[NAMES]) for table in (found.tensors, tables))
    if ours == [str(number) for number in range(len(ours))]:
        return  # keys that count, as those of a data set do that has no names
    different = [index for index, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]]
    if different:
        index = different[0]
        raise ValueError(
            f"image {index} of the labels is {ours[index]!r:.80}, but of --images {theirs[index]!r:.80}: these are "
            "other images, or the same in another order"
        )


def _stems(table: NDArray[np.uint8]) -> list[str]:
    return [name.rpartition("/")[2].partition(".")[0] for name in bytes(table).decode().split("\n")]
