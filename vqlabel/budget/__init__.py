"""Where the bytes of a distilled data set are: images, labels, augmentation, containers, for every method.

>>> found = budget("sre2l", "imagenet-1k", 50)
>>> f"{found.label_set / 2**30:.2f} GiB beside {found.images / 2**30:.2f} GiB of images"
'28.33 GiB beside 0.75 GiB of images'
>>> ours = budget("vqlabel", "imagenet-1k", 50, bytes=8)
>>> f"{ours.per_label:.2f} bytes a label, {ours.ratio:.0f} times less"
'8.10 bytes a label, 250 times less'
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from vqlabel.arguments import check_word
from vqlabel.budget import stores
from vqlabel.budget.ask import DATA_SETS, AnyDataSet, Ask, DataSet, Store
from vqlabel.budget.file import label_file

__all__ = ["DATA_SETS", "METHODS", "PARTS", "Budget", "DataSet", "budget"]

# CDA takes SRe2L's program for its labels.
METHODS: dict[str, Callable[[Ask], Store]] = {
    "sre2l": stores.sre2l,
    "cda": stores.sre2l,
    "rded": stores.rded,
    "fkd": stores.fkd,
    "lpld": stores.lpld,
    "lpqld": stores.lpqld,
    "tinyvit": stores.tinyvit,
    "one-label": stores.one_label,
    "vqlabel": label_file,
}
PARTS = ("images", "labels", "tables", "augmentation", "index", "containers")


@dataclass(frozen=True)
class Budget:
    """Bytes of a distilled data set, by what they are for: `PARTS`."""

    method: str
    dataset: str
    rows: int  # labels that are stored
    files: int  # that they are in
    images: int
    labels: int
    tables: int  # books, decoder and prior of a codec
    augmentation: int
    index: int  # lists and keys by which a label is found
    containers: int  # archives, headers, checksums, and what is left empty of disk blocks
    sre2l: int  # what SRe2L stores beside the images in fp16
    teacher: int  # a ResNet-18 in fp16, if training needs it
    note: str = ""

    @property
    def total(self) -> int:
        """Everything."""
        return sum(getattr(self, part) for part in PARTS)

    @property
    def label_set(self) -> int:
        """Everything but the images."""
        return self.total - self.images

    @property
    def per_label(self) -> float:
        """Bytes beside the images for each label that is stored; 0 if none is."""
        return self.label_set / self.rows if self.rows else 0.0

    @property
    def ratio(self) -> float | None:
        """How many times less than SRe2L's, beside the images; None if nothing is stored."""
        return self.sre2l / self.label_set if self.label_set else None

    def to_json(self) -> dict[str, Any]:
        """Fields, and what follows from them."""
        derived = ("total", "label_set", "per_label", "ratio")
        return asdict(self) | {name: getattr(self, name) for name in derived}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Budget:
        """Budget of these fields."""
        return cls(**{field.name: found[field.name] for field in fields(cls)})


def budget(method: str, dataset: AnyDataSet, ipc: int | None = None, **options: Any) -> Budget:
    """Bytes that a method takes for a data set, a name of `DATA_SETS` or one of your own.

    options are the fields of vqlabel.budget.ask.Ask: epochs, batch, keep, k, bytes, prior, dtype, block; and images,
    where they are not ipc for each class.
    """
    check_word("method", method, METHODS)
    if not isinstance(dataset, DataSet):
        check_word("data set", dataset, DATA_SETS)
        dataset = DATA_SETS[dataset]
    ask = Ask(dataset, ipc, **options)
    base = Ask(dataset, ipc, images=ask.images, epochs=ask.epochs, block=ask.block)
    return Budget(
        method=method,
        dataset=dataset.name,
        images=ask.count * dataset.image_bytes,
        sre2l=_stored(stores.sre2l(base)),
        teacher=_resnet18(dataset.classes) if method == "rded" else 0,
        **asdict(METHODS[method](ask)),
    )


def _stored(store: Store) -> int:
    return store.labels + store.augmentation + store.containers


def _resnet18(classes: int) -> int:
    return 2 * (11_176_512 + 513 * classes)
