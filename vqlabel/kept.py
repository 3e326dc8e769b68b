"""Which positions of a text have a row: all, every k-th, a random share, or those of a mask."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqlabel import _native
from vqlabel.arguments import check_whole

Numbers = NDArray[np.int64]

STREAM = 2**32 - 1  # of the generator: its draws are those of no augmentation
BLOCK = 64  # bytes of a mask whose ones are counted together
DRAWN = 2**20  # positions that are drawn at a time
_OF_A_BYTE = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.uint8)
ONES = np.add.outer(_OF_A_BYTE, _OF_A_BYTE).ravel()  # in two bytes: NumPy counts them itself from 2.0 on only


class Kept(ABC):
    """Rows number the kept ones of `total` positions in rising order."""

    rows: int  # how many there are

    @abstractmethod
    def has(self, positions: Numbers) -> NDArray[np.bool_]:
        """Whether positions [B] are kept."""

    @abstractmethod
    def row_of(self, positions: Numbers) -> Numbers:
        """Rows [B] of positions that are kept."""

    @abstractmethod
    def position_of(self, rows: Numbers) -> Numbers:
        """Positions [B] of rows."""


class Every(Kept):
    """Positions first, first + step, and so on."""

    def __init__(self, total: int, step: int = 1, first: int = 0) -> None:
        self._step, self._first = step, first
        self.rows = max(0, -(-(total - first) // step))

    def has(self, positions: Numbers) -> NDArray[np.bool_]:
        """Whether positions [B] are kept."""
        found: NDArray[np.bool_] = (positions >= self._first) & ((positions - self._first) % self._step == 0)
        return found

    def row_of(self, positions: Numbers) -> Numbers:
        """Rows [B] of positions that are kept."""
        return (positions - self._first) // self._step

    def position_of(self, rows: Numbers) -> Numbers:
        """Positions [B] of rows."""
        return rows * self._step + self._first


class Masked(Kept):
    """Positions whose bit is set: bit n mod 8 of byte n / 8 [ceil(total / 8)]."""

    def __init__(self, mask: NDArray[np.uint8]) -> None:
        self._blocks = np.pad(mask, (0, -len(mask) % BLOCK)).reshape(-1, BLOCK)
        counts = ONES[self._blocks.view(np.uint16)].sum(1, dtype=np.int64)
        self._before = np.concatenate([[0], np.cumsum(counts)])
        self.rows = int(self._before[-1])

    def has(self, positions: Numbers) -> NDArray[np.bool_]:
        """Whether positions [B] are kept."""
        found: NDArray[np.bool_] = (self._blocks.ravel()[positions >> 3] >> (positions & 7).astype(np.uint8)) & 1 != 0
        return found

    def row_of(self, positions: Numbers) -> Numbers:
        """Rows [B] of positions that are kept."""
        block, bit = np.divmod(positions, 8 * BLOCK)
        before = np.arange(8 * BLOCK) < bit[:, None]
        found: Numbers = self._before[block] + (self._bits(block) & before).sum(1)
        return found

    def position_of(self, rows: Numbers) -> Numbers:
        """Positions [B] of rows."""
        block = np.searchsorted(self._before, rows, side="right") - 1
        wanted = rows - self._before[block]
        reached = self._bits(block).cumsum(1, dtype=np.int64) > wanted[:, None]
        found: Numbers = block * 8 * BLOCK + reached.argmax(1)
        return found

    def _bits(self, blocks: Numbers) -> NDArray[np.bool_]:
        """Bits [B, 8 * BLOCK] of some blocks."""
        return np.unpackbits(self._blocks[blocks], axis=1, bitorder="little").astype(bool)


def kept_of(keep: Any, total: int) -> Kept:
    """What `keep` means for so many positions: None, {"every", "first"}, {"share", "seed"} or a mask, one bit each.

    ValueError for anything else.
    """
    if keep is None:
        return Every(total)
    if isinstance(keep, np.ndarray) and keep.dtype == np.uint8 and keep.shape == (-(-total // 8),):
        if total % 8 and keep[-1] >> total % 8:
            raise ValueError(f"the mask has bits beyond its {total} positions")
        return Masked(keep)
    names = set(keep) if isinstance(keep, dict) else set()
    if names and names <= {"every", "first"} and "every" in names:
        first = keep.get("first", 0)
        check_whole("every", keep["every"], 1, 2**31)
        check_whole("first", first, 0, 2**31)
        return Every(total, keep["every"], first)
    if names == {"share", "seed"}:
        share, seed = keep["share"], keep["seed"]
        check_whole("seed", seed, 0, 2**63 - 1)
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {share!r:.40}")
        return Masked(_drawn(total, float(share), seed))
    raise ValueError(
        'keep is None, {"every": k, "first": f}, {"share": p, "seed": s}, or a mask of a boolean for each of the '
        f"{total} positions, got {keep!r:.80}"
    )


def _drawn(total: int, share: float, seed: int) -> NDArray[np.uint8]:
    """Mask where position n has word n mod 4 of the draw with the counter n / 4 below its share of 2^32."""
    below = math.floor(share * 2**32)
    parts = [np.zeros(0, np.uint8)]
    for start in range(0, total, DRAWN):
        count = min(DRAWN, total - start)
        number = np.arange(start // 4, start // 4 + -(-count // 4))
        counters = np.zeros((len(number), 4), np.uint32)
        counters[:, 0], counters[:, 1], counters[:, 2] = number & (2**32 - 1), number >> 32, STREAM
        words = _native.philox(counters, seed).ravel()[:count]
        parts.append(np.packbits(words.astype(np.int64) < below, bitorder="little"))
    return np.concatenate(parts)
