"""Which rows a codec is fitted on and which ones judge it, and how they come into memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from vqlabel.codecs.sample import BLOCK, Sample
from vqlabel.codecs.values import LARGEST_HALF
from vqlabel.known import Information, Side, joined
from vqlabel.logits import check_finite, check_not_probabilities
from vqlabel.ranks import Ranks
from vqlabel.sources import Source

GIB = 2**30
LOGITS_AT_ONCE = 2**24
HALVES = (torch.float16, torch.bfloat16)  # what is kept as float16: centring costs less than they have lost already


def share_out(count: int, rows: int, held_out: int, room: int) -> tuple[int, int]:
    """How many of `count` rows are fitted and how many are held out, when `room` of them fit into memory.

    Where there are too few for both, a tenth is held out.
    """
    room = min(count, room)
    if rows + held_out > room:
        held_out = min(held_out, max(room // 10, 1))
    held_out = min(held_out, max(count - 1, 0))
    return min(rows, max(room - held_out, 1)), held_out


def draw(
    source: Source,
    side: Information | None,
    *,
    tier: str,
    rows: int,
    held_out: int,
    seed: int,
    say: Callable[[str], None],
    memory: float = 1.0,
) -> tuple[Sample, Sample]:
    """Rows to fit on and rows to judge by, disjoint, drawn by the seed; this rank's share of both.

    memory, in GiB, is of all ranks together, so that more ranks do not mean another sample.
    """
    known = side if tier != "none" else None
    room = int(memory * GIB) // _bytes_of_a_row(source, known, tier)
    count = len(source) if source.missing is None else int((~source.missing).sum())
    fitted, held = share_out(count, rows, held_out, room)
    if (fitted, held) != (rows, held_out):
        too_few = room < min(count, rows + held_out)
        why = f"what fits into {memory:g} GiB: memory= is for more" if too_few else f"of {count:,}"
        say(f"fitting on {fitted:,} rows and holding out {held:,}, {why}")
    chosen = present(source.missing, source.choose(count, (fitted, held), np.random.default_rng(seed)))
    ranks = Ranks.here()
    own = np.concatenate([chosen[:fitted][ranks.own(fitted)], chosen[fitted:][ranks.own(held)]])
    logits, split = read_rows(source, own), len(ranks.own(fitted))
    about = None if known is None else side_of_rows(known, own, tier)
    parts = [slice(0, split), slice(split, len(own))]
    samples = [
        Sample(logits[part], None if about is None else about[part], total, ranks, known.images if known else 1)
        for part, total in zip(parts, (fitted, held), strict=True)
    ]
    return samples[0], samples[1]


def present(missing: NDArray[np.bool_] | None, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows that these numbers count, where rows that are missing do not count."""
    if missing is None:
        return numbers
    starts = np.arange(0, len(missing), BLOCK)
    there = np.add.reduceat(~missing, starts, dtype=np.int64) if len(starts) else np.zeros(0, np.int64)
    before = np.cumsum(there) - there
    blocks = np.searchsorted(before, numbers, side="right") - 1
    found = np.empty_like(numbers)
    for block in np.unique(blocks).tolist():
        own = blocks == block
        rows = np.flatnonzero(~missing[starts[block] : starts[block] + BLOCK])
        found[own] = starts[block] + rows[numbers[own] - before[block]]
    return found


def _bytes_of_a_row(source: Source, side: Information | None, tier: str) -> int:
    size = source.classes * (2 if source.dtype in HALVES else 4)
    return size + view_bytes(side, tier)


def view_bytes(side: Information | None, tier: str) -> int:
    """Bytes of what a prior looks at for one row."""
    views = getattr(side.of([0], tier=tier), "views", None) if side is not None and tier == "image" else None
    return 0 if views is None else int(views.nbytes)


def read_rows(source: Source, numbers: NDArray[np.int64]) -> torch.Tensor:
    """Centred logits [n, C] of these rows in this order: float16 where the source is no finer, else float32."""
    dtype = torch.float16 if source.dtype in HALVES else torch.float32
    kept = torch.empty(len(numbers), source.classes, dtype=dtype, device="cpu")
    order = np.argsort(numbers)  # each source likes to be read from front to back
    step = min(BLOCK, max(1, LOGITS_AT_ONCE // source.classes))
    for start in range(0, len(numbers), step):
        places = order[start : start + step]
        part = source.take(numbers[places]).float()
        check_finite(part, numbers[places])
        if start == 0:
            check_not_probabilities(part)
        part = part - part.mean(1, keepdim=True)
        if kept.dtype == torch.float16 and part.abs().max() > LARGEST_HALF:
            kept = kept.float()  # a row of extreme halves, once centred, has left their range
        kept[torch.from_numpy(places)] = part.to(kept.dtype)
    return kept


def side_of_rows(side: Information, numbers: NDArray[np.int64], tier: str) -> Side:
    """Side information of these rows, made in parts: views take room while they are made."""
    starts = range(0, max(len(numbers), 1), BLOCK)
    return joined([side.of(numbers[start : start + BLOCK], tier=tier) for start in starts])
