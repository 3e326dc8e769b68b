"""`vqlabel convert`: a foreign label set into a label file, and a look at both sides afterwards."""

from __future__ import annotations

import argparse
import os
import tempfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqlabel.codecs.base import Codec
from vqlabel.codecs.raw import Int8, Raw
from vqlabel.codecs.topk import TopK
from vqlabel.commands import FIT_OPTIONS, fitted, ranks, report
from vqlabel.convert import open_foreign
from vqlabel.convert.agreement import agreement, in_words
from vqlabel.convert.check import check
from vqlabel.convert.folder import image_tables
from vqlabel.convert.imported import Imported, Options
from vqlabel.encoder import LabelEncoder
from vqlabel.fit_once import fitted_once, forget
from vqlabel.gaps import FEATURE, MISSING, bitmap
from vqlabel.scene import CLASSES
from vqlabel.side import SideInformation
from vqlabel.sources import SparseSource
from vqlabel.stored import StoredViews
from vqlabel.terminal import one_line, say
from vqlabel.view_layout import ViewLayout


def convert(options: argparse.Namespace) -> int:
    """Convert a set, and with --check compare both sides; with --check alone where the file is there already."""
    there = os.path.exists(options.out)
    if there and not options.check:
        raise FileExistsError(f"{options.out} exists; delete it or choose another name, or compare it with --check")
    parent = os.path.dirname(os.path.abspath(options.out))
    with ranks() as here, tempfile.TemporaryDirectory(dir=parent, prefix=".converting-") as folder:
        tables, told = _images(options.images)
        found = open_foreign(options.set, _told(options, folder, told), options.kind)
        _check_tables(found, tables)
        if not there:
            _write(options, found, tables)
            if here.rank == 0:
                forget(options.out)
                _say_what_was_found(found)
            report(options.out, here)
            if here.rank == 0:
                times = found.labels_bytes / os.path.getsize(options.out)
                print(f"  times smaller than the {found.labels_bytes:,} bytes of {one_line(options.set)}: {times:,.1f}")
        return check(found, options.out) if options.check and here.rank == 0 else 0


def _images(said: str | None) -> tuple[dict[str, NDArray[Any]], int | None]:
    """Tables of the images and their number, from --images: a folder, or the number."""
    if said is None:
        return {}, None
    if said.isascii() and said.isdigit():
        return {}, int(said)
    if not os.path.isdir(said):
        raise ValueError(f"--images is their number, or their folder; {said} is neither")
    tables = image_tables(said)
    return tables, len(tables[CLASSES])


def _told(options: argparse.Namespace, folder: str, images: int | None) -> Options:
    sides = options.image_size.lower().split("x") if options.image_size else []
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() for side in sides):
        raise ValueError(f"--image-size is the side of the images, or HxW, such as 224, got {options.image_size!r:.40}")
    height, width = (int(sides[0]), int(sides[-1])) if sides else (None, None)
    return Options(
        folder,
        images=images,
        classes=options.classes,
        height=height,
        width=width,
        size=options.size,
        seed=options.seed_of_order,
        tail=options.tail,
        keep_going=options.keep_going,
        say=say,
    )


def _check_tables(found: Imported, tables: dict[str, NDArray[Any]]) -> None:
    if tables and len(tables[CLASSES]) != found.images:
        raise ValueError(f"--images holds {len(tables[CLASSES])} images, but the labels are of {found.images}")


def _write(options: argparse.Namespace, found: Imported, tables: dict[str, NDArray[Any]]) -> None:
    tensors = {**found.tensors, **tables}
    metadata = {"images": found.images, "epochs": len(found.source) // max(found.images, 1), **found.metadata}
    metadata["x.converted_from"] = found.kind
    if options.teacher:
        metadata["teacher"] = options.teacher
    if found.missing is not None:
        tensors[MISSING], metadata["requires"] = bitmap(found.missing), [FEATURE]
        found.source.missing = found.missing
    side = _side(tensors, found)
    if side is not None and (side.recipe is None or side.recipe.height):
        say(in_words(agreement(found, side), found.source.classes))
    encoder = _encoder(options, found, side)
    if encoder.codec is found.codec and not found.exact:
        say("the set has finer numbers than are kept of it; --check says what that changes")
    if encoder.side is not None:
        tensors.pop(CLASSES)  # the encoder writes it
    encoder.encode(found.source, options.out, metadata=metadata, tensors=tensors)


def _side(tensors: dict[str, NDArray[Any]], found: Imported) -> SideInformation | None:
    """What is known of each row besides its label, where the classes of the images are known."""
    if CLASSES not in tensors:
        return None
    stored = found.metadata.get("replay", {}).get("stored")
    views = StoredViews(ViewLayout.from_json(stored), tensors.__getitem__) if stored else None
    return SideInformation(tensors[CLASSES], views)


def _encoder(options: argparse.Namespace, found: Imported, side: SideInformation | None) -> LabelEncoder:
    asked = {name: getattr(options, name) for name in FIT_OPTIONS}
    kind = options.codec or ("vq" if options.bytes is not None or options.max_kl is not None else None)
    said = [name for name, value in asked.items() if value is not None]
    if kind != "vq" and said:
        raise ValueError(f"--{said[0].replace('_', '-')} says how to fit a codec, but --codec {kind} needs no fitting")
    if kind == "vq":
        words = {**asked, "set": os.path.abspath(options.set), "shape": [found.source.rows, found.source.classes]}
        return fitted_once(options.out, words, lambda: fitted(options, found.source, side), side)
    return LabelEncoder(_codec(kind, options.k, found), side)


def _codec(kind: str | None, k: int | None, found: Imported) -> Codec:
    """Codec that was asked for; the one that keeps the labels as they are where it is of that kind, or none was."""
    if kind in (None, found.codec.id) and k is None:
        return found.codec
    if kind == "topk" or kind is None:
        if isinstance(found.source, SparseSource) and k not in (None, found.source.k):
            raise ValueError(f"the labels tell of {found.source.k} classes each: --k cannot be {k}")
        return TopK(found.source.classes, k or 10)
    return Raw(found.source.classes) if kind == "raw" else Int8(found.source.classes)


def _say_what_was_found(found: Imported) -> None:
    for fault in found.faults[:5]:
        say(one_line(f"passed over: {fault}"))
    if len(found.faults) > 5:
        say(f"passed over: {len(found.faults) - 5} more files")
    if found.missing is not None:
        say(f"{int(np.count_nonzero(found.missing)):,} of {len(found.missing):,} rows have no label")
