"""How rows get into a label file: begun or resumed, block by block, by several ranks, always the same bytes."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vqlabel.codecs.base import Codec
from vqlabel.codecs.sample import BLOCK
from vqlabel.codecs.topk import TopK
from vqlabel.file import LabelFile
from vqlabel.format import checksum
from vqlabel.known import Information
from vqlabel.logits import check_finite, check_not_probabilities
from vqlabel.metadata import format_metadata
from vqlabel.progress import bar
from vqlabel.ranks import Ranks
from vqlabel.sampling import view_bytes
from vqlabel.sources import Source, SparseSource
from vqlabel.storage import PARTIAL, opened, region_checksum
from vqlabel.torch_state import as_torch_starts
from vqlabel.writer import LabelWriter

BLOCK_BYTES = 2**26  # of logits, or of what a prior looks at, in a block
MOST_CHANGED = 0.02  # of the rows of a resumed file: another machine may round a sum otherwise, and so a code
OTHERS_SAY = ("format", "format_version", "rows_per_chunk", "created_by", "measured")  # may differ in a resumed file


@dataclass(frozen=True)
class Plan:
    """The file that is to be."""

    path: str
    rows: int
    row_bytes: int
    tensors: dict[str, NDArray[Any]]
    metadata: Mapping[str, Any]


def block_rows(codec: Codec, side: Information | None) -> int:
    """Rows of a block: BLOCK, or a smaller power of two where a row is large."""
    row = max(4 * codec.classes, view_bytes(side, codec.tier))
    return min(BLOCK, 1 << max(0, (BLOCK_BYTES // row).bit_length() - 1))


def begin(plan: Plan, ranks: Ranks) -> LabelWriter:
    """Writer of a new file, or of the .partial that an interrupted run left, the same one in all ranks."""
    if ranks.rank == 0:
        writer = _begun(plan)
        ranks.wait()
    else:
        ranks.wait()
        writer = LabelFile.resume(plan.path)
        _check_same(writer, plan)  # a rank whose codec differs must not write
    return writer


def _begun(plan: Plan) -> LabelWriter:
    if os.path.exists(plan.path):
        raise FileExistsError(f"{plan.path} exists; delete it or choose another name")
    if os.path.exists(plan.path + PARTIAL):
        writer = LabelFile.resume(plan.path)
        _check_same(writer, plan)
        return writer
    sizes = {"rows": plan.rows, "row_bytes": plan.row_bytes}
    return LabelFile.create(plan.path, **sizes, tensors=plan.tensors, metadata=plan.metadata)


def _check_same(writer: LabelWriter, plan: Plan) -> None:
    different = list(_differences(writer, plan))
    if different:
        raise ValueError(
            f"{plan.path}{PARTIAL} was begun with other settings ({', '.join(different[:5])}); "
            "encode with those to finish it, or delete it and begin again"
        )


def _differences(writer: LabelWriter, plan: Plan) -> list[str]:
    header = writer.header
    sizes = (("rows", header.rows, plan.rows), ("row_bytes", header.row_bytes, plan.row_bytes))
    found = [f"{name} {there} instead of {wanted}" for name, there, wanted in sizes if there != wanted]
    there, wanted = format_metadata(header.metadata), format_metadata(plan.metadata)
    found += [key for key in sorted({*there, *wanted} - {*OTHERS_SAY}) if there.get(key) != wanted.get(key)]
    if sorted(header.summed()) != sorted(plan.tensors):
        return [*found, "names of tensors"]
    with opened(plan.path + PARTIAL) as fd:
        for name, tensor in plan.tensors.items():
            stored = header.tensors[name]
            same = (stored.dtype, stored.shape) == (tensor.dtype, tensor.shape)
            if not same or region_checksum(fd, stored.offset, stored.nbytes) != checksum(tensor):
                found.append(f"tensor {name}")
    return found


class Blocks:
    """Packed rows of a source, in blocks whose place and size depend on nothing but the codec.

    A sum of floats depends on how many rows are worked on together, so a block is always computed whole: the last one
    is filled up with its last row. The same rows then get the same bytes whoever encodes them.
    """

    def __init__(self, codec: Codec, source: Source, side: Information | None) -> None:
        self._codec, self._source = codec, source
        self._side = side if codec.tier != "none" else None
        self.size = block_rows(codec, self._side)
        self.any_order = source.any_order
        self._looked = False

    def rows(self, index: int) -> range:
        """Rows of a block."""
        return range(index * self.size, min((index + 1) * self.size, len(self._source)))

    def encoded(self, index: int) -> NDArray[np.uint8]:
        """Packed rows [n, row_bytes] of a block."""
        rows = self.rows(index)
        packed = self._encoded(rows)
        if self._source.missing is not None:
            packed[self._source.missing[rows.start : rows.stop]] = 0
        return packed

    def _encoded(self, rows: range) -> NDArray[np.uint8]:
        if self._codec.row_bytes == 0:  # each label comes from its prior: the logits say nothing more
            return np.empty((len(rows), 0), np.uint8)
        if isinstance(self._source, SparseSource) and isinstance(self._codec, TopK) and self._codec.takes(self._source):
            return self._codec.encode_kept(*self._source.kept(rows))
        logits = self._source.read(rows)
        if not self._looked:
            check_not_probabilities(logits)
            self._looked = True
        if self._codec.as_given:
            return self._codec.encode(logits)
        logits = logits.float()
        check_finite(logits, rows)
        numbers = np.minimum(np.arange(rows.start, rows.start + self.size), rows.stop - 1)
        side = None if self._side is None else self._side.of(numbers, tier=self._codec.tier)
        if len(rows) < self.size:
            logits = logits[torch.from_numpy(numbers - rows.start)]
        with as_torch_starts(), torch.no_grad():
            return self._codec.encode(logits, side)[: len(rows)]


def write_rows(writer: LabelWriter, blocks: Blocks, ranks: Ranks, *, progress: bool) -> None:
    """Encode what is missing; each rank whole chunks of its own."""
    missing = writer.missing()
    ranks.wait()  # all have seen the same list before anybody writes
    own = set(_own_blocks(missing, blocks.size, writer.rows_per_chunk, ranks))
    kept = _kept(missing, writer.header.rows, blocks)
    what = "encoding" if ranks.world == 1 else f"encoding, rank 1 of {ranks.world}"
    with bar(what, sum(len(blocks.rows(index)) for index in own), shown=progress and ranks.rank == 0) as advance:
        for index in sorted({*own, *kept}, key=lambda index: (blocks.any_order and index not in kept, index)):
            rows, packed = blocks.rows(index), blocks.encoded(index)
            if index in kept:
                part = kept[index]
                _check_kept(writer, part, packed[part.start - rows.start : part.stop - rows.start])
            if index in own:
                _write_missing(writer, missing, rows, packed)
                advance(len(rows))


def _write_missing(writer: LabelWriter, missing: list[range], rows: range, packed: NDArray[np.uint8]) -> None:
    for part in missing:
        span = range(max(part.start, rows.start), min(part.stop, rows.stop))
        if span:
            writer.write(span.start, packed[span.start - rows.start : span.stop - rows.start])


def _kept(missing: list[range], total: int, blocks: Blocks) -> dict[int, range]:
    """First and last rows that an interrupted run has written, each within one block."""
    edges = [0, *(row for part in missing for row in (part.start, part.stop)), total]
    written = [range(*part) for part in zip(edges[::2], edges[1::2], strict=True) if part[0] < part[1]]
    found = {}
    for part, row in [(written[0], written[0].start), (written[-1], written[-1].stop - 1)] if written else []:
        rows = blocks.rows(row // blocks.size)
        found[row // blocks.size] = range(max(part.start, rows.start), min(part.stop, rows.stop))
    return found


def _check_kept(writer: LabelWriter, rows: range, packed: NDArray[np.uint8]) -> None:
    """ValueError if an interrupted run has written these rows of other logits than those that give these bytes."""
    changed = float((writer.read(rows) != packed).any(axis=1).mean())
    if changed > MOST_CHANGED:
        raise ValueError(
            f"{writer.path}{PARTIAL} was begun with other logits: of its rows {rows.start} to {rows.stop - 1} "
            f"{changed:.0%} would be others now; finish it with those, or delete it and begin again"
        )


def _own_blocks(missing: list[range], size: int, per_chunk: int, ranks: Ranks) -> list[int]:
    # A group is the least that is both whole blocks and whole chunks: two ranks never share a chunk.
    group = math.lcm(size, per_chunk)
    groups = sorted({g for part in missing for g in range(part.start // group, (part.stop - 1) // group + 1)})
    wanted = {b for part in missing for b in range(part.start // size, (part.stop - 1) // size + 1)}
    own = (groups[i] for i in ranks.own(len(groups)))
    each = group // size
    return [b for g in own for b in range(g * each, (g + 1) * each) if b in wanted]
