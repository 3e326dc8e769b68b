"""What a budget is asked for, and what a method then stores: data sets, options, parts of the bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, TypeAlias

from vqlabel.arguments import check_whole, check_word, keep_whole
from vqlabel.known import IMAGE_TIERS

BLOCK = 4096  # of most file systems
DTYPES = {"fp16": 2, "fp32": 4}
VIEWS = ("cutmix", "cutout", "plain")
MOST = 2**31


@dataclass(frozen=True)
class DataSet:
    """A data set to distil. view is the augmentation that LPLD and LPQLD store, batch theirs, epochs everybody's."""

    name: str
    classes: int
    image_bytes: int  # of one distilled image
    _: KW_ONLY
    view: str = "cutmix"
    batch: int = 128
    epochs: int = 300

    def __post_init__(self) -> None:
        keep_whole(self, "classes", 2, 2**24)
        keep_whole(self, "image_bytes", 0, MOST)
        check_word("view", self.view, VIEWS)
        keep_whole(self, "batch", 1, MOST)
        keep_whole(self, "epochs", 1, MOST)


# 16,000 bytes are what LPQLD's 2.98 GiB at IPC 200 come to, of JPEGs of 224 pixels; 2,000 those of 64 pixels, a guess.
# Raw pixels for CIFAR.
DATA_SETS = {
    data.name: data
    for data in (
        DataSet("imagenet-1k", 1_000, 16_000),
        DataSet("imagenet-21k", 10_450, 16_000, view="cutout", batch=32),
        DataSet("tiny-imagenet", 200, 2_000, view="plain", batch=64, epochs=100),
        DataSet("cifar-10", 10, 3_072),
        DataSet("cifar-100", 100, 3_072),
    )
}
AnyDataSet: TypeAlias = "str | DataSet"


@dataclass(frozen=True)
class Ask:
    """One question. What is None takes the value that the method has where it was published."""

    dataset: DataSet
    ipc: int | None = None  # images per class
    _: KW_ONLY
    images: int | None = None  # all of them, where they are not ipc for each class
    epochs: int | None = None  # of labels, before any pruning
    batch: int | None = None  # of the methods that keep a batch in a file
    keep: float | None = None  # part of the labels that is stored: lpld, lpqld, vqlabel
    k: int | None = None  # logits kept: lpqld, fkd, tinyvit
    bytes: float = 8  # of codes for a label: vqlabel
    prior: str = "replay"  # vqlabel
    dtype: str = "fp16"  # of whatever is not a code
    block: int = BLOCK  # a file takes whole blocks of the disk; 1: its own size
    as_written: bool = False  # count files as the released writers of lpld and lpqld do, mistakes included

    def __post_init__(self) -> None:
        if (self.ipc is None) == (self.images is None):
            raise ValueError(f"say one of ipc and images, got ipc {self.ipc!r} and images {self.images!r}")
        for name in ("ipc", "images", "epochs", "batch"):
            if getattr(self, name) is not None:
                keep_whole(self, name, 1, MOST)
        check_whole("images", self.count, 1, MOST)
        if self.k is not None:
            keep_whole(self, "k", 1, self.dataset.classes)
        keep_whole(self, "block", 1, MOST)
        check_word("prior", self.prior, IMAGE_TIERS)
        check_word("dtype", self.dtype, DTYPES)
        if self.keep is not None:
            _check_number("keep", self.keep, "above 0 and up to 1", lambda value: 0 < value <= 1)
        _check_number("bytes", self.bytes, "0 to 256", lambda value: 0 <= value <= 256)

    @property
    def count(self) -> int:
        """Images."""
        return self.images if self.images is not None else (self.ipc or 0) * self.dataset.classes

    @property
    def rounds(self) -> int:
        """Epochs of labels."""
        return self.dataset.epochs if self.epochs is None else self.epochs

    @property
    def width(self) -> int:
        """Bytes of a number."""
        return DTYPES[self.dtype]

    def kept(self, usual: int) -> int:
        """Logits of a label that is cut: k, or the method's, but no more than there are."""
        return min(usual, self.dataset.classes) if self.k is None else self.k

    def up(self, size: int) -> int:
        """Bytes on the disk of a file of this size."""
        return -(-size // self.block) * self.block


@dataclass(frozen=True)
class Store:
    """Bytes that a method keeps beside the images, by what they are for."""

    rows: int  # labels
    files: int
    labels: int = 0
    tables: int = 0  # books, decoder and prior of a codec
    augmentation: int = 0
    index: int = 0  # lists and keys by which a row is found
    containers: int = 0  # archives, headers, checksums, and what is left empty of blocks
    note: str = ""


def _check_number(name: str, value: Any, allowed: str, fits: Callable[[float], bool]) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not fits(value):
        raise ValueError(f"{name} must be {allowed}, got {value!r:.80}")
