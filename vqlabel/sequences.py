"""Label sets of language: a row is a position of one of many sequences. FORMAT.md, "Sequences"."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vqlabel.kept import kept_of

STARTS, TOKENS, MASK = "sequences.starts", "sequences.tokens", "sequences.kept"  # tensors
KEY = "sequences"  # of the metadata
MOST_POSITIONS = 2**10  # for each byte of a file: nobody shall draw or count further than a file bears out


class Sequences:
    """Sequences of any lengths, whose positions are numbered through; the row of a label is its position.

    Where not all positions have a label, `keep` says which: {"every": k, "first": f} those that lie k apart,
    {"share": p, "seed": s} a random share, drawn again by every reader, or a mask with a boolean for each position.
    Rows then number those that have one.

    >>> sequences = Sequences([3, 0, 4], keep={"every": 2})
    >>> len(sequences), sequences.total, sequences.rows_total
    (3, 7, 4)
    >>> sequences.rows([0, 2], [2, 1]), [part.tolist() for part in sequences.places([1, 2])]
    (array([1, 2]), [[0, 2], [2, 1]])
    """

    def __init__(self, lengths: ArrayLike, *, keep: Any = None) -> None:
        counts = np.asarray(lengths)
        if counts.ndim != 1 or (counts.size and counts.dtype.kind not in "iu"):
            raise TypeError(f"lengths must be whole numbers [sequences], got {counts.dtype} {list(counts.shape)}")
        if counts.size and counts.min() < 0:
            raise ValueError(f"sequence {int(counts.argmin())} has the length {counts.min()}")
        total = counts.sum(dtype=np.float64)  # which does not wrap
        if total >= 2**62:
            raise ValueError(f"the sequences have {total:.3g} positions, more than can be numbered")
        self.offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
        if isinstance(keep, (list, np.ndarray)) and np.asarray(keep).dtype != np.uint8:
            keep = self._packed(np.asarray(keep))
        elif isinstance(keep, dict):  # which goes into the metadata of a file
            keep = {name: value.item() if isinstance(value, np.generic) else value for name, value in keep.items()}
        self.keep = keep
        self._kept = kept_of(keep, self.total)

    def _packed(self, mask: NDArray[Any]) -> NDArray[np.uint8]:
        if mask.dtype != np.bool_ or mask.shape != (self.total,):
            raise ValueError(f"a mask must be boolean [{self.total}], got {mask.dtype} {list(mask.shape)}")
        return np.packbits(mask, bitorder="little")

    def __len__(self) -> int:
        """How many sequences."""
        return len(self.offsets) - 1

    def __repr__(self) -> str:
        return f"Sequences({len(self):,}, {self.total:,} positions, {self.rows_total:,} rows)"

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Positions of each sequence [S]."""
        return np.diff(self.offsets)

    @property
    def total(self) -> int:
        """Positions of all sequences."""
        return int(self.offsets[-1])

    @property
    def rows_total(self) -> int:
        """N, positions that have a label."""
        return self._kept.rows

    def text(self, tokens: ArrayLike) -> NDArray[Any]:
        """The tokens [total] of all positions, one sequence after the other; TypeError if they are not that."""
        numbers = np.asarray(tokens)
        if numbers.shape != (self.total,) or (numbers.size and numbers.dtype.kind not in "iu"):
            raise TypeError(
                f"tokens must be whole numbers [{self.total}], one for each position of the sequences, got "
                f"{numbers.dtype} {list(numbers.shape)}"
            )
        return numbers

    def rows(self, sequences: ArrayLike, positions: ArrayLike) -> NDArray[np.int64]:
        """Rows [B] of positions in their sequences; IndexError for one that is not there, or has no label."""
        numbers, places = self._checked(sequences, positions)
        found = self.offsets[numbers] + places
        gone = np.flatnonzero(~self._kept.has(found))
        if gone.size:
            raise IndexError(
                f"position {places[gone[0]]} of sequence {numbers[gone[0]]} has no label: {self._rule()}; has() tells "
                "of each position whether it has one"
            )
        return self._kept.row_of(found)

    def has(self, sequences: ArrayLike, positions: ArrayLike) -> NDArray[np.bool_]:
        """Whether these positions [B] have a label."""
        numbers, places = self._checked(sequences, positions)
        return self._kept.has(self.offsets[numbers] + places)

    def places(self, rows: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Sequences [B] and positions in them [B] of rows."""
        numbers = np.asarray(rows).reshape(-1)
        if numbers.size and numbers.dtype.kind not in "iu":
            raise TypeError(f"rows must be whole numbers, got {numbers.dtype}")
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < self.rows_total:
            bad = numbers.max() if numbers.max() >= self.rows_total else numbers.min()
            raise IndexError(f"row {bad} was asked for, but there are {self.rows_total} rows")
        positions = self._kept.position_of(numbers.astype(np.int64))
        found = np.searchsorted(self.offsets, positions, side="right") - 1
        return found, positions - self.offsets[found]

    def rows_of(self, sequence: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All rows of a sequence, and the positions in it that they are of."""
        self._checked([sequence], [])
        first, stop = self.offsets[sequence : sequence + 2].tolist()
        found = np.arange(first, stop)
        found = found[self._kept.has(found)]
        rows = self._kept.row_of(found[:1]) + np.arange(len(found))  # those of a sequence follow each other
        return rows, found - first

    def batch(self, numbers: ArrayLike, length: int | None = None) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """All rows of some sequences [B], one after the other, and a mask [B, length] of the places they are of.

        length is that of the longest of them unless given; rows beyond it are left out.

        >>> rows, mask = Sequences([3, 2], keep={"every": 2}).batch([1, 0], length=2)
        >>> rows.tolist(), mask.tolist()
        ([2, 0], [[False, True], [True, False]])
        """
        chosen = np.asarray(numbers).reshape(-1)
        parts = [self.rows_of(number) for number in chosen.tolist()]
        if length is None:
            length = int(self._lengths_of(chosen.astype(np.int64)).max()) if len(parts) else 0
        mask = np.zeros((len(parts), length), np.bool_)
        for line, (_, places) in zip(mask, parts, strict=True):
            line[places[places < length]] = True
        rows = [found[places < length] for found, places in parts]
        return np.concatenate([np.zeros(0, np.int64), *rows]), mask

    def _checked(self, sequences: ArrayLike, positions: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        numbers, places = (np.atleast_1d(np.asarray(part)) for part in (sequences, positions))
        for what, part in (("sequences", numbers), ("positions", places)):
            if part.size and part.dtype.kind not in "iu":
                raise TypeError(f"{what} must be whole numbers, got {part.dtype}")
        bad = np.flatnonzero((numbers < 0) | (numbers >= len(self)))
        if bad.size:
            raise IndexError(f"sequence {numbers[bad[0]]} is not there: there are {len(self)}, from 0 on")
        numbers, places = numbers.astype(np.int64), places.astype(np.int64)
        if places.size:
            numbers, places = np.broadcast_arrays(numbers, places)
            far = np.flatnonzero((places < 0) | (places >= self._lengths_of(numbers)))
            if far.size:
                bad, place = numbers[far[0]], places[far[0]]
                length = self.offsets[bad + 1] - self.offsets[bad]
                raise IndexError(f"sequence {bad} has {length} positions, and none of number {place}")
        return numbers, places

    def _lengths_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Lengths of some sequences, without looking at millions of others."""
        return self.offsets[numbers + 1] - self.offsets[numbers]

    def _rule(self) -> str:
        return f"kept are {self.keep}" if isinstance(self.keep, dict) else "its mask leaves it out"

    def facts(self) -> dict[str, Any]:
        """The metadata key `sequences`."""
        keep = "mask" if isinstance(self.keep, np.ndarray) else self.keep
        return {"keep": keep} if keep is not None else {}

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What a file holds of them."""
        found: dict[str, NDArray[Any]] = {STARTS: self.offsets.astype(np.uint64)}
        return {**found, MASK: self.keep} if isinstance(self.keep, np.ndarray) else found
