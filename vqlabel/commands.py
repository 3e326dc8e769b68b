"""`vqlabel fit`, `encode` and `decode`."""

from __future__ import annotations

import argparse
import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from vqlabel import told
from vqlabel.arguments import check_number
from vqlabel.codecs.base import Codec
from vqlabel.encoder import LabelEncoder
from vqlabel.file import LabelFile
from vqlabel.fit_once import fitted_once, forget, mark
from vqlabel.inspection import label_facts
from vqlabel.kernels._checks import COLDEST
from vqlabel.known import Information
from vqlabel.outputs import check_free, check_not_begun, made_whole
from vqlabel.progress import bar
from vqlabel.ranks import Ranks
from vqlabel.sources import Source, SparseSource
from vqlabel.terminal import one_line, say

FIT_OPTIONS = (
    "bytes", "max_kl", "prior", "like", "temperatures", "form", "beam", "top", "effort", "seed", "rows", "memory",
)  # fmt: skip
DECODED_AT_ONCE = 2**22  # logits
MOST_TEMPERATURE = 1000  # above those that labels are made for


@contextmanager
def ranks() -> Iterator[Ranks]:
    """All processes that torchrun started, as one; this one alone without it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
        yield Ranks()
        return
    import torch.distributed as distributed

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    # A rank that dies is noticed at once; one that is only slower than the others may take its time.
    distributed.init_process_group(backend, timeout=datetime.timedelta(days=1))
    yield Ranks.here()
    distributed.destroy_process_group()  # not after an error: the others may be waiting in it


def fit(options: argparse.Namespace) -> int:
    """Fit a codec and keep it."""
    with ranks() as here:
        if here.rank == 0:
            check_free(options.out)
            check_not_begun(options.out)
        encoder = fitted(options, told.source(options, options.logits), told.side(options))
        if here.rank == 0:
            encoder.save(options.out)
        here.wait()
    report(options.out, here)
    return 0


def encode(options: argparse.Namespace) -> int:
    """Encode all logits, fitting a codec first unless one is given."""
    with ranks() as here:
        if here.rank == 0:
            check_free(options.out)
        source = told.source(options, options.logits)
        words: dict[str, Any] = {"metadata": told.metadata(options, source), "tensors": told.tensors(options, source)}
        encoder = _encoder(options, source)
        encoder.encode(source, options.out, **words)
        if here.rank == 0:
            forget(options.out)
    report(options.out, here)
    return 0


def report(path: str, here: Ranks) -> None:
    """Say what a label costs in the file that was made."""
    if here.rank == 0:
        file = LabelFile(path)
        print(f"{one_line(file.path)}: {len(file):,} rows")
        for what, text in label_facts(file):
            print(f"  {what}: {one_line(text)}")


def _check_format(options: argparse.Namespace) -> str:
    """What --format says, or means; ValueError for options that would be ignored."""
    kind: str = options.format or "vq"
    if options.codec and options.format:
        raise ValueError(f"--format {kind} says how to store a label, and --codec that {options.codec} does: say one")
    asked = [name for name in FIT_OPTIONS if getattr(options, name) is not None and name != "like"]
    if asked and (options.codec or kind != "vq"):
        given = "--codec" if options.codec else f"--format {kind}"
        raise ValueError(f"--{asked[0].replace('_', '-')} says how to fit a codec, but with {given} none is fitted")
    if options.k is not None and (options.codec or kind != "topk"):
        raise ValueError(f"--k is how many logits topk keeps, but the codec is {options.codec or kind}")
    return kind


def _encoder(options: argparse.Namespace, source: Source) -> LabelEncoder:
    kind = _check_format(options)
    if isinstance(source, SparseSource) and (options.codec or kind != "topk"):
        source.check_dense()
    if options.codec:
        return LabelEncoder.load(options.codec, side=told.codec_side(options, LabelFile(options.codec)))
    if kind == "vq":
        asked_for = {name: getattr(options, name) for name in FIT_OPTIONS}
        side = told.side(options)
        asked_for |= {"logits": options.logits, "text": told.facts(side), "rows_are": mark(source)}
        asked_for["shape"] = [source.rows, source.classes]
        return fitted_once(options.out, asked_for, lambda: fitted(options, source, side), side)
    from vqlabel.codecs.raw import Int8, Raw

    kinds = {"raw": Raw, "int8": Int8}
    codec = _topk(source, options.k) if kind == "topk" else kinds[kind](source.classes)
    return LabelEncoder(codec, told.side(options))


def _topk(source: Source, k: int | None) -> Codec:
    """The k largest logits; of a source that tells of some classes only, all that it tells, as it tells it."""
    from vqlabel.codecs.topk import TopK

    if isinstance(source, SparseSource) and not source.tells_all:
        if k is not None and k > source.k:
            source.check_dense()
        return TopK(source.classes, source.k if k is None else k, values="P16" if source.probabilities else "F16")
    if isinstance(source, SparseSource) and source.tells_all and k in (None, source.k):
        if source.tail == "typical":
            raise ValueError("topk stores what is told, and no typical distribution: leave it out of the file")
        return TopK(source.classes, source.k, tail="uniform", values="P16")
    return TopK(source.classes, 10 if k is None else k)


def fitted(options: argparse.Namespace, source: Source, side: Information | None) -> LabelEncoder:
    """Codec fitted as the command line asks."""
    names = {"bytes": "bytes_per_label", **{name: name for name in FIT_OPTIONS if name not in ("bytes", "like")}}
    asked = {key: getattr(options, name) for name, key in names.items() if getattr(options, name) is not None}
    if options.max_kl is None:
        asked.setdefault("bytes_per_label", 4)
    return LabelEncoder.fit(source, side=side, progress=say, **asked)


def decode(options: argparse.Namespace) -> int:
    """Write the labels of some rows as .npy."""
    check_free(options.out)
    source = told.labels(LabelFile(options.file), told.tokens(options))
    rows, temperature = _rows(options.rows, len(source)), options.temperature
    if temperature is not None:
        check_number("--temperature", temperature, COLDEST, MOST_TEMPERATURE)
    step = max(1, DECODED_AT_ONCE // source.classes)
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(rows), source.classes)}
    shown = bar("decoding", len(rows), shown=True)
    with made_whole(options.out) as partial, open(partial, "wb") as out, shown as advance:
        np.lib.format.write_array_header_1_0(out, header)
        for start in range(rows.start, rows.stop, step):
            part = source.read(range(start, min(start + step, rows.stop)))
            if temperature is not None:  # less the largest first: what overflows then has no probability anyway
                part = torch.softmax((part - part.amax(1, keepdim=True)) / temperature, dim=1)
            out.write(part.numpy().astype("<f4", copy=False).tobytes())
            advance(len(part))
        out.flush()
        os.fsync(out.fileno())
    return 0


def _rows(text: str, count: int) -> range:
    first, colon, stop = text.partition(":")
    parts = (first or "0", stop or str(count))
    if not colon or not all(part.isascii() and part.isdigit() for part in parts):
        raise ValueError(f"--rows is A:B, such as 0:1000, got {text!r}")
    rows = range(int(parts[0]), int(parts[1]))
    if not rows.start <= rows.stop <= count:
        raise ValueError(f"--rows {text} is not within the {count} rows of the file")
    return rows
