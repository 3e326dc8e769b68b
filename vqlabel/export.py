"""`vqlabel export`: a label file as a set that DistillKit reads.

What it reads is a folder: compression_config.yaml, and data_0.parquet, data_1.parquet and so on with the k likeliest
tokens of each position, or of each but the last of every sequence. Here each of them keeps its log-probability as fp16,
and none is part of a curve.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from vqlabel import told
from vqlabel.arguments import check_whole
from vqlabel.codecs import load_codec
from vqlabel.codecs.topk import TopK
from vqlabel.codecs.values import LARGEST_HALF
from vqlabel.convert.distillkit_config import NAME, need
from vqlabel.decoder import LabelDecoder
from vqlabel.file import PathLike
from vqlabel.outputs import check_free, made_whole
from vqlabel.progress import bar
from vqlabel.sequences import Sequences
from vqlabel.terminal import one_line

GROUP = 2**14  # positions of a row group, if no sequence is longer
FILE = 2**20  # positions after which another file begins
LOGITS_AT_ONCE = 2**24
USUAL = 50  # tokens of a position
ROUNDED = 2e-3  # how far above 0 rounding to fp16 can bring the logarithm of a sum of probabilities


def export(options: argparse.Namespace) -> int:
    """Write a set of another kind."""
    to_distillkit(options.file, options.out, k=options.k, tokens=told.tokens(options))
    print(f"{one_line(options.out)}: {len(os.listdir(options.out)) - 1} data files")
    return 0


def to_distillkit(path: PathLike, out: PathLike, *, k: int | None = None, tokens: ArrayLike | None = None) -> None:
    """Folder `out` with the k likeliest tokens of each position of a label file: 50, or as many as codec topk has.

    tokens [positions] are those of its text, if the file does not hold it.
    """
    need("pyarrow.parquet")  # better missing now than after the work
    out = os.path.abspath(os.fspath(out))
    check_free(out)
    labels = _Labels(LabelDecoder(path, tokens=tokens), k)
    with made_whole(out) as folder, bar("exporting", labels.sequences.total, shown=True) as advance:
        os.mkdir(folder)
        with open(os.path.join(folder, NAME), "w", encoding="utf-8") as file:
            file.write("".join(f"{name}: {value}\n" for name, value in labels.config.items()))
        for number, groups in enumerate(_files(labels.sequences)):
            _write(labels, groups, os.path.join(folder, f"data_{number}.parquet"), advance)


class _Labels:
    """The k likeliest tokens of each position of a label file; `rows` [S + 1] is where those of each sequence begin."""

    def __init__(self, decoder: LabelDecoder, k: int | None) -> None:
        name, codec = os.path.basename(decoder.file.path), load_codec(decoder.file)
        told = codec.k if isinstance(codec, TopK) else None
        most = told if told is not None and codec.drops else decoder.classes
        self.k = min(USUAL, most) if told is None else told
        if k is not None:
            check_whole("k", k, 1, most)
            self.k = k
        self.sequences, self.tokens = _text(decoder, name)
        spare = int(self.sequences.rows_total < self.sequences.total)
        self.rows = np.concatenate([[0], np.maximum(self.sequences.lengths - spare, 0).cumsum()])
        self._decoder, self._drops = decoder, codec.drops
        self._id_bits = (decoder.classes - 1).bit_length()

    @property
    def config(self) -> dict[str, Any]:
        """How labels become bytes. Nothing is left to a default: those of its readers differ."""
        sizes = {"d": self._decoder.classes, "k": self.k, "exact_k": self.k, "exact_dtype": "float16"}
        switches = dict.fromkeys(("delta_encoding", "error_diffusion", "normalize_t"), "false")
        return {**sizes, "polynomial_terms": [], "term_dtype": "float32", "residual_bins": [], **switches}

    def packed(self, first: int, stop: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Log-probabilities uint8 [n, 2 k] and tokens uint8 [n, bytes] of rows, the likeliest first."""
        step = max(1, LOGITS_AT_ONCE // self._decoder.classes)
        parts = [self._part(np.arange(at, min(at + step, stop))) for at in range(first, stop, step)]
        values, ids = [torch.cat(column).numpy() for column in zip(*parts, strict=True)] if parts else self._nothing()
        bits = (ids[:, :, None] >> np.arange(self._id_bits)[::-1]) & 1  # highest first
        return values.astype("<f2").view(np.uint8), np.packbits(
            bits.astype(np.uint8).reshape(len(ids), self.k * self._id_bits), axis=1
        )

    def _part(self, rows: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self._decoder(rows, output="logits")
        total = logits.logsumexp(1, keepdim=True)
        if self._drops:  # labels that came as log-probabilities stay what they are, to the last bit
            total = total.where(total > ROUNDED, 0)
        values, ids = logits.topk(self.k, dim=1)
        return (values - total).clamp(min=-LARGEST_HALF), ids

    def _nothing(self) -> list[NDArray[Any]]:
        return [np.zeros((0, self.k), np.float32), np.zeros((0, self.k), np.int64)]


def _text(decoder: LabelDecoder, name: str) -> tuple[Sequences, NDArray[Any]]:
    """Sequences and tokens of a file; ValueError if a position has none of what the other side needs."""
    sequences, tokens = decoder.sequences, decoder.tokens
    if sequences is None or tokens is None:
        lacks = "does not say which sequences its rows are of" if sequences is None else "does not hold its text"
        do = "" if sequences is None else ": give it with --text or tokens="
        raise ValueError(f"{name} {lacks}, but a set of DistillKit has the tokens of each sequence{do}")
    lost = int(decoder.file.missing(np.arange(len(decoder))).sum())
    if lost or (sequences.rows_total < sequences.total and not _all_but_the_last(sequences)):
        raise ValueError(
            f"{name} has labels of {sequences.rows_total - lost} of {sequences.total} positions, but a set of "
            "DistillKit has one of each, or of each but the last of every sequence"
        )
    return sequences, tokens


def _all_but_the_last(sequences: Sequences) -> bool:
    filled = np.flatnonzero(sequences.lengths)
    last = sequences.has(filled, sequences.lengths[filled] - 1)
    return not last.any() and sequences.rows_total == sequences.total - len(filled)


def _files(sequences: Sequences) -> Iterator[list[range]]:
    """The sequences of each row group of each file; there is one file at least."""
    groups, positions = list[range](), 0
    first, count = 0, 0
    for number, length in enumerate(sequences.lengths.tolist()):
        count += length
        if count >= GROUP or number == len(sequences) - 1:
            groups.append(range(first, number + 1))
            positions, first, count = positions + count, number + 1, 0
        if positions >= FILE:
            yield groups
            groups, positions = [], 0
    if groups or len(sequences) == 0:
        yield groups


def _write(labels: _Labels, groups: list[range], path: str, advance: Any) -> None:
    arrow, parquet = need("pyarrow"), need("pyarrow.parquet")
    nested = arrow.list_(arrow.list_(arrow.uint8()))
    columns = {"input_ids": arrow.list_(arrow.uint64()), "compressed_logprobs": nested, "bytepacked_indices": nested}
    with parquet.ParquetWriter(path, arrow.schema(columns)) as writer:
        for group in groups:
            here = slice(group.start, group.stop + 1)
            offsets, rows = labels.sequences.offsets[here], labels.rows[here]
            arrays = [_lists(offsets, arrow.array(labels.tokens[offsets[0] : offsets[-1]].astype(np.uint64)))]
            for packed in labels.packed(int(rows[0]), int(rows[-1])):
                starts = np.arange(len(packed) + 1) * packed.shape[1]
                arrays.append(_lists(rows, _lists(starts, arrow.array(packed.reshape(-1)))))
            writer.write_table(arrow.Table.from_arrays(arrays, schema=arrow.schema(columns)))
            advance(int(offsets[-1] - offsets[0]))


def _lists(offsets: NDArray[np.int64], items: Any) -> Any:
    """Items as lists, each of which begins at an offset."""
    arrow = need("pyarrow")
    return arrow.ListArray.from_arrays(arrow.array(offsets - offsets[0], arrow.int32()), items)
