"""What a reader of foreign label sets gives: rows in our order, and all that stands beside them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqlabel.codecs.base import Codec
from vqlabel.sources import Source

USUAL_SIZE = 224  # of the views of ImageNet
ADVICE = "fetch or make them again, or convert the rest with --keep-going, which marks the gaps"


@dataclass(frozen=True)
class Options:
    """What a user says of a foreign set because its files do not.

    `folder` is a place for what a reader has to put down while it works; it goes away with the conversion.
    """

    folder: str
    images: int | None = None
    classes: int | None = None
    height: int | None = None  # of the source images
    width: int | None = None
    size: int | None = None  # of the views; 224 unless the set says otherwise
    seed: int = 42  # of the order of the images
    tail: str | None = None  # what is known of classes that are not told: "drop" or "uniform"
    keep_going: bool = False
    say: Callable[[str], None] = lambda words: None

    @property
    def view_size(self) -> int:
        """Pixels of a side of a view."""
        return USUAL_SIZE if self.size is None else self.size

    def spool(self, name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """An array of zeros in a file, for what may be larger than memory."""
        if 0 in shape:
            return np.zeros(shape, dtype)
        return np.memmap(os.path.join(self.folder, name), dtype, "w+", shape=shape)


@dataclass
class Imported:
    """A foreign set, opened: every file was looked into, no label was read yet.

    Rows are numbered epoch * images + image, as everywhere; rows that are `missing` read as zeros.
    """

    kind: str  # a name of vqlabel.convert.KINDS
    source: Source  # rows
    images: int
    codec: Codec  # that keeps the labels as they are
    exact: bool = True  # whether it does so to the last bit
    tensors: dict[str, NDArray[Any]] = field(default_factory=dict)  # views.*, images.*, sequences.*: FORMAT.md
    metadata: dict[str, Any] = field(default_factory=dict)  # replay, teacher, x.…
    missing: NDArray[np.bool_] | None = None  # [N]; None if every row is there
    faults: list[str] = field(default_factory=list)  # files that are damaged or not there, and why
    labels_bytes: int = 0  # of all its files, augmentation and all
    explain: Callable[[], str] = lambda: ""  # which file holds labels that cannot be; asked when they were refused


def check_options(against: list[str], files: int) -> None:
    """ValueError if more files are against what the user says than damage explains: these are not to be passed over."""
    if len(against) > max(1, files // 100):
        raise ValueError(f"{len(against)} of {files} files contradict what is said of the set; the first, {against[0]}")


def check_faults(faults: list[str], keep_going: bool) -> None:
    """ValueError that names damaged and missing files, unless the rest is to be converted."""
    if faults and not keep_going:
        shown = "; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")
        raise ValueError(f"not everything can be read: {ADVICE}. {shown}")
