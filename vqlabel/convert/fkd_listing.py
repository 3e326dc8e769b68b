"""The files of FKD's labels: a folder for each class, in it a file for each image."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

SUFFIX = ".tar"
OTHERS_FOLDER = re.compile(r"epoch_\d+")  # of SRe2L
OTHERS_FILE = re.compile(r"batch_\d+")  # of SRe2L and LPQLD


@dataclass(frozen=True)
class Listing:
    """The files of a set: `names` are folder/image, lines of bytes, for each folder."""

    root: str
    names: list[bytes]

    @property
    def counts(self) -> list[int]:
        """Images of each folder."""
        return [names.count(b"\n") + 1 if names else 0 for names in self.names]

    def __iter__(self) -> Iterator[str]:
        for names in self.names:
            yield from names.decode().split("\n") if names else ()


def knows(path: str) -> bool:
    """Whether this is a folder of class folders of .tar files, or has one as `train`."""
    root = _root(path)
    return any(next(_images(os.path.join(root, folder)), None) is not None for folder in _folders(root))


def _root(path: str) -> str:
    """Where the class folders are: here, in `train`, or in `train` of the only folder."""
    if os.path.isdir(os.path.join(path, "train")):
        return os.path.join(path, "train")
    inner = [folder for folder in _folders(path) if os.path.isdir(os.path.join(path, folder, "train"))]
    return os.path.join(path, inner[0], "train") if len(inner) == 1 else path


def _folders(root: str) -> list[str]:
    with os.scandir(root) as entries:
        found = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    return [name for name in found if not OTHERS_FOLDER.fullmatch(name)]


def _images(folder: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            stem, suffix = os.path.splitext(entry.name)
            if suffix == SUFFIX and not entry.name.startswith(".") and not OTHERS_FILE.fullmatch(stem):
                yield stem


def listing_of(path: str) -> Listing:
    """All files of a set, in the order of its images; ValueError if there are none."""
    root = _root(path)
    parts: list[bytes] = []
    for folder in _folders(root):
        # As the images' own names sort, where "." follows the stem: "a (1).JPEG" comes before "a.JPEG".
        stems = sorted(_images(os.path.join(root, folder)), key=lambda stem: stem + ".")
        names = [f"{folder}/{stem}" for stem in stems]
        try:
            parts.append("\n".join(names).encode())
        except UnicodeEncodeError:
            raise ValueError(f"{os.path.join(root, folder)!r}: a name in it is not UTF-8; rename it") from None
        if len(names) != (parts[-1].count(b"\n") + 1 if names else 0):
            raise ValueError(f"{os.path.join(root, folder)!r}: a name in it has more than one line; rename it")
    if not any(parts):
        raise ValueError(f"{root} has no class folders with {SUFFIX} files in them, as FKD's labels are")
    return Listing(root, parts)
