"""`vqlabel convert`: a foreign label set into a label file, and a look at both sides afterwards."""

from __future__ import annotations

import argparse
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqlabel.codecs.base import Codec
from vqlabel.codecs.raw import Int8, Raw
from vqlabel.codecs.topk import TopK
from vqlabel.commands import FIT_OPTIONS, fitted, ranks, report
from vqlabel.convert import open_foreign
from vqlabel.convert.agreement import agreement, in_words
from vqlabel.convert.asked import check_tables, images_told, options_told, workplace
from vqlabel.convert.check import check
from vqlabel.convert.imported import Imported
from vqlabel.encoder import LabelEncoder
from vqlabel.fit_once import fitted_once, forget, mark
from vqlabel.gaps import FEATURE, MISSING, bitmap
from vqlabel.known import Information
from vqlabel.sequences import KEY, MASK, STARTS, TOKENS, Sequences
from vqlabel.side import CLASSES, SideInformation
from vqlabel.sources import SparseSource
from vqlabel.stored import StoredViews
from vqlabel.terminal import one_line, say
from vqlabel.tokens import TokenInformation
from vqlabel.view_layout import ViewLayout

NOT_OF_THE_FIT = ("run", "out", "check", "teacher")  # options that change nothing of what is fitted


def convert(options: argparse.Namespace) -> int:
    """Convert a set, and with --check compare both sides; with --check alone where the file is there already."""
    there = os.path.exists(options.out)
    if there and not options.check:
        raise FileExistsError(f"{options.out} exists; delete it or choose another name, or compare it with --check")
    with ranks() as here, workplace(options.out, here.rank) as folder:
        tables, images = images_told(options.images)
        found = open_foreign(options.set, options_told(options, folder, images), options.kind)
        check_tables(found, tables)
        found.tensors.update(tables)
        if not there:
            _write(options, found)
            if here.rank == 0:
                forget(options.out)
                _say_what_was_found(found)
            report(options.out, here)
            if here.rank == 0:
                times = found.labels_bytes / os.path.getsize(options.out)
                print(f"  times smaller than the {found.labels_bytes:,} bytes of {one_line(options.set)}: {times:,.1f}")
        return check(found, options.out) if options.check and here.rank == 0 else 0


def _write(options: argparse.Namespace, found: Imported) -> None:
    tensors = dict(found.tensors)
    metadata = {"images": found.images, "epochs": len(found.source) // max(found.images, 1), **found.metadata}
    metadata["x.converted_from"] = found.kind
    if options.teacher:
        metadata["teacher"] = options.teacher
    if found.missing is not None:
        tensors[MISSING], metadata["requires"] = bitmap(found.missing), [FEATURE]
        found.source.missing = found.missing
    side = _text(tensors) if options.prior == "tokens" else _side(tensors, found)
    if isinstance(side, SideInformation) and (side.recipe is None or side.recipe.height):
        say(in_words(agreement(found, side), found.source.classes))
    try:
        encoder = _encoder(options, found, side)
        if encoder.codec is found.codec and not found.exact:
            say("the set has finer numbers than are kept of it; --check says what that changes")
        if encoder.side is not None:
            written = encoder.side.tensors(len(found.source))
            tensors = {name: tensor for name, tensor in tensors.items() if name not in written}
        if isinstance(encoder.side, TokenInformation):
            metadata.pop(KEY, None)  # it writes that too
        encoder.encode(found.source, options.out, metadata=metadata, tensors=tensors)
    except ValueError:
        fault = found.explain()
        if fault:
            raise ValueError(f"{fault}: make it again, or convert the rest with --keep-going") from None
        raise


def _side(tensors: dict[str, NDArray[Any]], found: Imported) -> SideInformation | None:
    """What is known of each row besides its label, where the classes of the images are known."""
    if CLASSES not in tensors:
        return None
    stored = found.metadata.get("replay", {}).get("stored")
    views = StoredViews(ViewLayout.from_json(stored), tensors.__getitem__) if stored else None
    return SideInformation(tensors[CLASSES], views)


def _text(tensors: dict[str, NDArray[Any]]) -> TokenInformation | None:
    """The text that the rows are positions of, in a set of language."""
    if TOKENS not in tensors:
        return None
    sequences = Sequences(np.diff(tensors[STARTS].astype(np.int64)), keep=tensors.get(MASK))
    return TokenInformation(tensors[TOKENS], sequences)


def _encoder(options: argparse.Namespace, found: Imported, side: Information | None) -> LabelEncoder:
    said = [name for name in FIT_OPTIONS if getattr(options, name) is not None]
    kind = options.codec or ("vq" if options.bytes is not None or options.max_kl is not None else None)
    if kind != "vq" and said:
        why = f"--codec {kind} needs no fitting" if kind else "none is fitted without --bytes or --max-kl"
        raise ValueError(f"--{said[0].replace('_', '-')} says how to fit a codec, but {why}")
    if options.k is not None and kind not in (None, "topk"):
        raise ValueError(f"--k is how many logits topk keeps, but the codec is {kind}")
    source = found.source
    if isinstance(source, SparseSource) and kind not in (None, "topk"):
        source.check_dense()
    if kind != "vq":
        return LabelEncoder(_codec(kind, options.k, found), side)
    _check_prior(options.prior, found, side, options.set)
    words = {key: value for key, value in sorted(vars(options).items()) if key not in NOT_OF_THE_FIT}
    words |= {"set": os.path.abspath(options.set), "shape": [source.rows, source.classes], "rows_are": mark(source)}
    return fitted_once(options.out, words, lambda: fitted(options, source, side), side)


def _check_prior(prior: str | None, found: Imported, side: Information | None, name: str) -> None:
    """ValueError for a prior that looks at what is not known of this set."""
    if prior in (None, "none"):
        return
    wanted, known = ("a text" if told else "images" for told in (prior == "tokens", TOKENS in found.tensors))
    if wanted != known:
        raise ValueError(f"--prior {prior} is for sets of {wanted}, and {name} is of {known}")
    if side is None:
        raise ValueError(f"--prior {prior} needs the classes of the images: say their folder with --images")
    if isinstance(side, SideInformation) and side.recipe is not None and not side.recipe.height:
        raise ValueError(f"prior {prior!r} needs images of one size: say --image-size")


def _codec(kind: str | None, k: int | None, found: Imported) -> Codec:
    """Codec that was asked for; the one that keeps the labels as they are where it is of that kind, or none was."""
    source = found.source
    if isinstance(source, SparseSource) and kind in (None, "topk"):
        if k not in (None, source.k):
            raise ValueError(f"the labels tell of {source.k} classes each: --k cannot be {k}")
        return found.codec
    if k is not None or kind == "topk":
        return TopK(source.classes, 10 if k is None else k)
    if kind in (None, found.codec.id):
        return found.codec
    return Raw(source.classes) if kind == "raw" else Int8(source.classes)


def _say_what_was_found(found: Imported) -> None:
    for fault in found.faults[:5]:
        say(one_line(f"passed over: {fault}"))
    if len(found.faults) > 5:
        say(f"passed over: {len(found.faults) - 5} more files")
    if found.missing is not None:
        say(f"{int(np.count_nonzero(found.missing)):,} of {len(found.missing):,} rows have no label")
