"""The first look at a set of batches: is every file whole, and how were its views made."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray

from vqlabel.codecs.raw import Raw
from vqlabel.codecs.topk import TopK
from vqlabel.convert.batch_files import FLOATS, BatchFile, read_batch
from vqlabel.convert.batches import Batches, BatchSource, SparseBatchSource, check_labels
from vqlabel.convert.imported import Imported, Options, check_faults
from vqlabel.convert.torch_files import UnreadableFile
from vqlabel.convert.view_columns import ViewColumns, pixels_of
from vqlabel.stored import BOXES
from vqlabel.view_layout import ViewLayout

MANY_BOXES = 30  # of which each touches the far edge of a view about every other time


def imported_batches(kind: str, batches: Batches, options: Options, faults: list[str]) -> Imported:
    """A set of batches, once all its files were looked into; those that cannot be read are taken out of it."""
    example = _example(batches)
    layout = _layout(batches, example, options)
    columns = ViewColumns(batches, layout, example, options)
    columns.fill(faults)
    check_faults(faults, options.keep_going)
    _check_size(columns.tensors, layout, options)
    missing = batches.missing()
    source, codec = _labels(batches, example, options)
    found = Imported(kind, source, batches.images, codec, tensors=columns.tensors, faults=faults)
    found.metadata, found.labels_bytes = {"replay": {"stored": layout.to_json()}}, columns.bytes
    found.missing = missing if missing.any() else None
    found.explain = lambda: _wrong_labels(batches, options)
    return found


def _example(batches: Batches) -> BatchFile:
    for _, _, path in batches.files():
        try:
            return read_batch(path)
        except (UnreadableFile, FileNotFoundError):
            continue
    raise ValueError("not one of its files can be read")


def _labels(batches: Batches, example: BatchFile, options: Options) -> tuple[BatchSource | SparseBatchSource, Any]:
    if options.tail not in (None, "drop") or (options.tail and len(example.labels) == 1):
        raise ValueError(f"--tail {options.tail} is for probabilities of a few classes, but these labels are logits")
    if len(example.labels) == 1:
        source = BatchSource(batches, example)
        if options.classes not in (None, source.classes):
            raise ValueError(f"the labels have {source.classes} classes, not {options.classes}")
        return source, Raw(source.classes, dtype=FLOATS[example.labels[0].dtype], as_given=True)
    if options.classes is None:
        k = example.labels[0].shape[1]
        raise ValueError(f"the labels tell of {k} classes each, but not how many there are: say --classes")
    sparse, half = SparseBatchSource(batches, example, options.classes), example.labels[0].dtype == torch.float16
    return sparse, TopK(options.classes, sparse.k, tail="drop", as_given=half)


def _wrong_labels(batches: Batches, options: Options) -> str:
    """The first file whose labels cannot be, and why; nothing if there is none."""
    for _, _, path in batches.files():
        try:
            check_labels(read_batch(path).labels, options.classes)
        except UnreadableFile as error:
            return f"{path}: {error}"
    return ""


def _check_size(tensors: dict[str, NDArray[Any]], layout: ViewLayout, options: Options) -> None:
    """ValueError if the boxes of many batches never come near the edge of views whose size nobody has said."""
    if options.size is not None:
        return
    options.say(f"taking views to be {layout.size} x {layout.size} pixels; --size says otherwise")
    if layout.mix != "cutmix":
        return
    boxes = tensors[BOXES].astype(int)
    reach = int((boxes[:, :2] + boxes[:, 2:]).max(initial=0))
    if (boxes[:, 2] > 0).sum() >= MANY_BOXES and reach < layout.size:
        raise ValueError(f"its boxes reach no further than {reach} pixels, so its views are smaller: say --size")


def _layout(batches: Batches, example: BatchFile, options: Options) -> ViewLayout:
    height, width = (options.view_size if side is None else side for side in (options.height, options.width))
    known = bool(height and width) and pixels_of(example.crops, height, width) is not None
    if not known and options.height:
        raise ValueError(f"its crops are not of images of {height} x {width} pixels; --image-size 0 keeps fractions")
    facts: dict[str, Any] = {"images": batches.images, "size": options.view_size, "batch": batches.batch}
    facts |= {"height": height, "width": width} if known else {"height": 0, "width": 0}
    crops = "pixels" if known else FLOATS[example.crops.dtype]
    return ViewLayout(**facts, crops=crops, flips=example.flips is not None, mix=example.mix)
