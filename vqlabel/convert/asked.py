"""What the command line says of a foreign set: options for its reader, tables of its images, a place to work in."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqlabel.convert.folder import ENDINGS, image_tables
from vqlabel.convert.imported import Imported, Options
from vqlabel.outputs import check_folder
from vqlabel.side import CLASSES, NAMES
from vqlabel.terminal import say

Tables = dict[str, NDArray[Any]]

LOCK = ".lock"


@contextmanager
def workplace(out: str, rank: int) -> Iterator[str]:
    """A folder beside the label file, for what does not fit into memory; what a killed run left there goes.

    OSError if another run works in it.
    """
    check_folder(out)
    parent, name = os.path.split(os.path.abspath(out))
    folder = os.path.join(parent, f".{name}.converting-{rank}")
    fd = _locked(folder)
    try:
        _empty(folder)
        yield folder
    finally:
        with suppress(OSError):
            _empty(folder)
            os.unlink(os.path.join(folder, LOCK))  # the last: a run that comes now makes another, and the folder stays
            os.rmdir(folder)
        os.close(fd)  # which also unlocks it


def _locked(folder: str) -> int:
    """Descriptor of the lock of this folder, which is made if it is not there."""
    path = os.path.join(folder, LOCK)
    while True:
        with suppress(FileExistsError):
            os.mkdir(folder)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue  # the run that had the folder has just removed it
        if not _lock(fd):
            os.close(fd)
            raise BlockingIOError(
                f"another run works in {folder}: wait for it, or choose another name for the label file"
            )
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(fd)):
                return fd
        os.close(fd)  # it was removed before it was locked


def _lock(fd: int) -> bool:
    """Whether nobody else has this lock."""
    import fcntl  # not at the top: not every system has it

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system that knows no locks
    return True


def _empty(folder: str) -> None:
    """Remove all but the lock, as far as that can be."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
        elif name != LOCK:
            with suppress(OSError):
                os.unlink(path)


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
    if NAMES in found.tensors:
        _check_names(*(_names(table[NAMES]) for table in (found.tensors, tables)))
    if CLASSES in found.tensors:
        _check_classes(found.tensors[CLASSES], tables[CLASSES])


def _check_names(ours: list[str], theirs: list[str]) -> None:
    if ours == [str(number) for number in range(len(ours))]:
        return  # keys that count, as those of a data set do that has no names
    for index, (own, other) in enumerate(zip(ours, theirs, strict=True)):
        parts = min(own.count("/"), other.count("/"), 1) + 1  # its folder counts where both tell one
        own, other = ("/".join(name.split("/")[-parts:]) for name in (own, other))
        if own != other:
            raise ValueError(
                f"image {index} of the labels is {own!r:.80}, but of --images {other!r:.80}: these are other images, "
                "or the same in another order, or in other folders"
            )


def _check_classes(ours: NDArray[Any], theirs: NDArray[Any]) -> None:
    different = np.flatnonzero(ours != theirs)
    if len(different):
        index = int(different[0])
        raise ValueError(
            f"image {index} of the labels is of class {ours[index]}, but of --images of class {theirs[index]}: are all "
            "folders of the set there, also those without a label?"
        )


def _names(table: NDArray[np.uint8]) -> list[str]:
    """Names of images without the endings that files have."""
    names = bytes(table).decode().split("\n")
    return [stem if ending.lower() in ENDINGS else stem + ending for stem, ending in map(os.path.splitext, names)]
