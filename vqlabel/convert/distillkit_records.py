"""The labels of a DistillKit set as records of one size, in a file where any of them is quickly found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqlabel.codecs.values import LARGEST_HALF
from vqlabel.convert.distillkit_bytes import Column, Layout
from vqlabel.convert.distillkit_files import TOKENS, VOTES, DataFile, numbers, unnested
from vqlabel.convert.imported import Options
from vqlabel.convert.spooled import let_go
from vqlabel.convert.torch_files import UnreadableFile
from vqlabel.sequences import Sequences

DECODED = 2**19  # labels that are decoded in one go
MOST_MASS = 2.0  # a curve that misses the log-probabilities a little makes more than 1, what is none makes anything


class Records:
    """Records U8 [P, record_bytes] and tokens U32 [P] of all positions, in files of the spool.

    `sequences` says where each sequence begins and which positions have a label and so are rows: all, or all but the
    last of each.
    """

    def __init__(self, layout: Layout, tail: str, files: list[DataFile], options: Options) -> None:
        self.layout, self._uniform = layout, tail == "uniform"
        lengths = np.concatenate([np.zeros(0, np.int64), *(group for file in files for group in file.lengths)])
        self._spare = _spare(files, layout.columns)
        self.sequences = Sequences(lengths, keep=_labelled(lengths, 1) if self._spare else None)
        self._first_rows = np.concatenate([np.zeros(1, np.int64), np.maximum(lengths - self._spare, 0)]).cumsum()
        P = self.sequences.total
        self._data = options.spool("distillkit.records", (P, layout.record_bytes), np.uint8)
        self.tokens = options.spool("distillkit.tokens", (P,), np.uint32)
        self._missing = options.spool("distillkit.missing", (P,), np.bool_)
        self._added = 0  # sequences

    @property
    def missing(self) -> NDArray[np.bool_]:
        """Rows [N] that cannot be read."""
        return self._missing[_labelled(self.sequences.lengths, 1)] if self._spare else self._missing

    def add(self, file: DataFile, advance: Callable[[int], object]) -> str | None:
        """Copy the labels of the next file; what is wrong with it, in words. Labels that are wrong are missing."""
        words: list[str] = []
        offsets, number = self.sequences.offsets[self._added :], 0
        for group, lengths in enumerate(file.lengths):
            starts, done = offsets[number : number + len(lengths) + 1], 0
            try:
                for done, batch in file.batches(group, self.layout.columns):
                    span = starts[done : done + batch.num_rows + 1]
                    words += self._copied(batch, span, number + done)
                    done += batch.num_rows
                    advance(int(span[-1] - span[0]))
            except UnreadableFile as error:
                self._missing[starts[done] : starts[-1]] = True
                words.append(f"sequence {number + done} and on: {error}")
            number += len(lengths)
        self._added += number
        lost = int(self._missing[offsets[0] : offsets[number]].sum())
        return f"{lost} of {file.positions} positions cannot be read: {words[0]}" if words else None

    def take(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Classes and log-probabilities [n, k] of rows; different classes and nothing for those that are missing."""
        sequence = np.searchsorted(self._first_rows, rows, side="right") - 1
        positions = rows - self._first_rows[sequence] + self.sequences.offsets[sequence]
        records, missing = self._data[positions], self._missing[positions]
        let_go(self._data)
        ids, values = self.layout.ids(records), self.layout.values(records)
        ids[missing], values[missing] = np.arange(self.layout.config.k), -np.inf if self._uniform else 0
        return ids, values

    def parts(self, count: int) -> Iterator[slice]:
        """Rows in parts that are decoded in one go."""
        step = max(1, DECODED // self.layout.config.k)
        return (slice(start, start + step) for start in range(0, count, step))

    def _copied(self, batch: Any, starts: NDArray[np.int64], number: int) -> list[str]:
        """Copy labels of sequences, the first of which has this number in its file, and say what is wrong with them."""
        lengths, tokens = unnested(batch.column(TOKENS))
        if not np.array_equal(lengths, np.diff(starts)):
            raise UnreadableFile("the file changed while it was read")
        found, at = _Positions(lengths, number, self.layout.record_bytes, self._spare), 0
        for column in self.layout.columns:
            found.fill(column, batch.column(column.name), at)
            at += column.bytes
        read = numbers(tokens, "u8")
        found.note(np.asarray(read > np.iinfo(np.uint32).max), lambda i: f"token {read[i]} is beyond 32 bits")
        for part in self.parts(len(read)):
            self._check(found, part)
        here = slice(int(starts[0]), int(starts[-1]))
        self._data[here], self.tokens[here], self._missing[here] = found.records, read.astype(np.uint32), found.wrong
        for array in (self._data, self.tokens, self._missing):
            let_go(array)
        return found.words

    def _check(self, found: _Positions, part: slice) -> None:
        """Note what is wrong with decoded labels."""
        d, records = self.layout.config.d, found.records[part]
        ids, values = self.layout.ids(records), self.layout.values(records)
        ordered = np.sort(ids, axis=1)
        same = ordered[:, 1:] == ordered[:, :-1]
        with np.errstate(all="ignore"):
            span, mass = values.max(1) - values.min(1), np.exp(values).sum(1)

        def note(wrong: Any, what: Callable[[int], str]) -> None:
            everywhere = np.zeros(len(found.wrong), bool)
            everywhere[part] = wrong & found.labelled[part]
            found.note(everywhere, lambda i: what(i - part.start))

        note(~np.isfinite(values).all(1), lambda i: f"a log-probability is {values[i][~np.isfinite(values[i])][0]}")
        note(ordered[:, -1] >= d, lambda i: f"it tells of token {ordered[i, -1]}, but d is {d}")
        note(same.any(1), lambda i: "it tells of a token twice")
        note(span > LARGEST_HALF, lambda i: f"its log-probabilities are {span[i]:.0f} apart, more than fp16 can hold")
        if self._uniform:
            note(mass > MOST_MASS, lambda i: f"its probabilities sum to {mass[i]:.3g}: those are no log-probabilities")


class _Positions:
    """Positions of some sequences of these lengths [S], as records [P, record_bytes], the `labelled` ones [P] of them.

    `wrong` [P] are those that cannot be read, and `words` say why the first of them cannot.
    """

    def __init__(self, lengths: NDArray[np.int64], number: int, record_bytes: int, spare: int) -> None:
        self._lengths, self._number, self._spare = lengths, number, spare
        self.labelled = _labelled(lengths, spare)
        self.records = np.zeros((len(self.labelled), record_bytes), np.uint8)
        self.wrong = np.zeros(len(self.labelled), bool)
        self.words: list[str] = []

    def note(self, wrong: NDArray[np.bool_], what: Callable[[int], str]) -> None:
        """Add positions that cannot be read, for a reason that they have in common."""
        fresh = np.flatnonzero(wrong & ~self.wrong)
        if len(fresh):
            first = int(fresh[0])
            stops = self._lengths.cumsum()
            sequence = int(np.searchsorted(stops, first, side="right"))
            position = first - (stops - self._lengths)[sequence]
            self.words.append(f"sequence {self._number + sequence}, position {position}: {what(first)}")
            self.wrong |= wrong

    def fill(self, column: Column, array: Any, at: int) -> None:
        """Put what a column holds into bytes at and on of the records, where it has the right length."""
        outer, items = unnested(array)
        inner, leaves = unnested(items)
        unequal = outer != np.maximum(self._lengths - self._spare, 0)
        if unequal.any():
            sequence = int(unequal.argmax())
            told = f"{column.name} has {outer[sequence]} positions, {TOKENS} {self._lengths[sequence]}"
            told += ", and in this set the last of them has no label" if self._spare else ""
            self.words.append(f"sequence {self._number + sequence}: {told}")
            self.wrong |= np.repeat(unequal, self._lengths)
        there = np.repeat(~unequal, outer)  # of the positions that the column has: those that are positions of ours
        good, sizes = there & (inner == column.count), inner[there]
        rows = np.flatnonzero(np.repeat(~unequal, self._lengths) & self.labelled)
        self.records[rows[sizes == column.count], at : at + column.bytes] = _bytes(column, leaves, good, inner)
        short = np.full(len(self.wrong), column.count)
        short[rows] = sizes
        self.note(short != column.count, lambda i: f"{short[i]} numbers of {column.name}, not {column.count}")


def _spare(files: list[DataFile], columns: list[Column]) -> int:
    """Tokens at the end of each sequence that have no label, 0 or 1: as most of the first ones have it."""
    votes = np.zeros(2, np.int64)
    for file in files:
        if votes.sum() < VOTES:
            votes += file.votes(columns)
    return int(votes[1] > votes[0])


def _labelled(lengths: NDArray[np.int64], spare: int) -> NDArray[np.bool_]:
    """Which positions [P] of sequences have a label: all, or with one to spare all but the last of each."""
    found = np.ones(int(lengths.sum()), np.bool_)
    found[lengths.cumsum()[lengths > 0] - 1] = not spare
    return found


def _bytes(column: Column, leaves: Any, good: NDArray[np.bool_], inner: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Bytes [n, column.bytes] of the positions that are good."""
    found = numbers(leaves, column.dtype)
    if not good.all():
        found = found[np.repeat(good, inner)]
    return found.view(np.uint8).reshape(int(good.sum()), column.bytes)
