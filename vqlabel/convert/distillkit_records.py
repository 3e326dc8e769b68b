"""The labels of a DistillKit set as records of one size, in a file where any of them is quickly found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqlabel.codecs.values import LARGEST_HALF
from vqlabel.convert.distillkit_bytes import Column, Layout
from vqlabel.convert.distillkit_files import TOKENS, DataFile, numbers, unnested
from vqlabel.convert.imported import Options
from vqlabel.convert.spooled import let_go
from vqlabel.convert.torch_files import UnreadableFile

DECODED = 2**19  # labels that are decoded in one go
MOST_MASS = 2.0  # a curve that misses the log-probabilities a little makes more than 1, what is none makes anything


class Records:
    """Records U8 [N, record_bytes], tokens U32 [N], and which of them are missing [N], in files of the spool.

    starts [S + 1] says at which record each sequence begins.
    """

    def __init__(self, layout: Layout, tail: str, files: list[DataFile], options: Options) -> None:
        self.layout, self._uniform = layout, tail == "uniform"
        lengths = [group for file in files for group in file.lengths]
        self.starts = np.concatenate([np.zeros(1, np.int64), *lengths]).cumsum()
        N = int(self.starts[-1])
        self._data = options.spool("distillkit.records", (N, layout.record_bytes), np.uint8)
        self.tokens = options.spool("distillkit.tokens", (N,), np.uint32)
        self.missing = options.spool("distillkit.missing", (N,), np.bool_)
        self._sequences = 0  # that were added

    def add(self, file: DataFile, advance: Callable[[int], object]) -> str | None:
        """Copy the labels of the next file; what is wrong with it, in words. Labels that are wrong are missing."""
        words: list[str] = []
        begin, number = self._sequences, 0
        for group, lengths in enumerate(file.lengths):
            starts, done = self.starts[begin + number : begin + number + len(lengths) + 1], 0
            try:
                for done, batch in file.batches(group, self.layout.columns):
                    span = starts[done : done + batch.num_rows + 1]
                    words += self._copied(batch, span, number + done)
                    done += batch.num_rows
                    advance(int(span[-1] - span[0]))
            except UnreadableFile as error:
                self.missing[starts[done] : starts[-1]] = True
                words.append(f"sequence {number + done} and on: {error}")
            number += len(lengths)
        self._sequences += number
        lost = int(self.missing[self.starts[begin] : self.starts[begin + number]].sum())
        return f"{lost} of {file.positions} positions cannot be read: {words[0]}" if words else None

    def take(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Classes and log-probabilities [n, k] of records; different classes and 0 for those that are missing."""
        records, missing = self._data[indices], self.missing[indices]
        let_go(self._data)
        ids, values = self.layout.ids(records), self.layout.values(records)
        ids[missing], values[missing] = np.arange(self.layout.config.k), 0
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
        found, at = _Positions(starts - starts[0], number, self.layout.record_bytes), 0
        for column in self.layout.columns:
            found.fill(column, batch.column(column.name), at)
            at += column.bytes
        read = numbers(tokens, "u8")
        found.note(np.asarray(read > np.iinfo(np.uint32).max), lambda i: f"token {read[i]} is beyond 32 bits")
        for part in self.parts(len(read)):
            self._check(found, part)
        rows = slice(int(starts[0]), int(starts[-1]))
        self._data[rows], self.tokens[rows], self.missing[rows] = found.records, read.astype(np.uint32), found.wrong
        for array in (self._data, self.tokens, self.missing):
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
            everywhere[part] = wrong
            found.note(everywhere, lambda i: what(i - part.start))

        note(~np.isfinite(values).all(1), lambda i: f"a log-probability is {values[i][~np.isfinite(values[i])][0]}")
        note(ordered[:, -1] >= d, lambda i: f"it tells of token {ordered[i, -1]}, but d is {d}")
        note(same.any(1), lambda i: "it tells of a token twice")
        note(span > LARGEST_HALF, lambda i: f"its log-probabilities are {span[i]:.0f} apart, more than fp16 can hold")
        if self._uniform:
            note(mass > MOST_MASS, lambda i: f"its probabilities sum to {mass[i]:.3g}: those are no log-probabilities")


class _Positions:
    """Positions of some sequences that begin at starts [S + 1], as records [P, record_bytes].

    `wrong` [P] are those that cannot be read, and `words` say why the first of them cannot.
    """

    def __init__(self, starts: NDArray[np.int64], number: int, record_bytes: int) -> None:
        self._starts, self._number = starts, number
        self.records = np.zeros((int(starts[-1]), record_bytes), np.uint8)
        self.wrong = np.zeros(len(self.records), bool)
        self.words: list[str] = []

    def note(self, wrong: NDArray[np.bool_], what: Callable[[int], str]) -> None:
        """Add positions that cannot be read, for a reason that they have in common."""
        fresh = np.flatnonzero(wrong & ~self.wrong)
        if len(fresh):
            first = int(fresh[0])
            sequence = int(np.searchsorted(self._starts, first, side="right")) - 1
            self.words.append(
                f"sequence {self._number + sequence}, position {first - self._starts[sequence]}: {what(first)}"
            )
            self.wrong |= wrong

    def fill(self, column: Column, array: Any, at: int) -> None:
        """Put what a column holds into bytes at and on of the records, where it has the right length."""
        outer, items = unnested(array)
        inner, leaves = unnested(items)
        lengths = np.diff(self._starts)
        unequal = outer != lengths
        if unequal.any():
            sequence = int(unequal.argmax())
            told = f"{column.name} has {outer[sequence]} positions, {TOKENS} {lengths[sequence]}"
            self.words.append(f"sequence {self._number + sequence}: {told}")
            self.wrong |= np.repeat(unequal, lengths)
        there = np.repeat(~unequal, outer)  # of the positions that the column has: those that are positions of ours
        good, sizes = there & (inner == column.count), inner[there]
        rows = np.flatnonzero(np.repeat(~unequal, lengths))
        self.records[rows[sizes == column.count], at : at + column.bytes] = _bytes(column, leaves, good, inner)
        short = np.zeros(len(self.wrong), np.int64) + column.count
        short[rows] = sizes
        self.note(short != column.count, lambda i: f"{short[i]} numbers of {column.name}, not {column.count}")


def _bytes(column: Column, leaves: Any, good: NDArray[np.bool_], inner: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Bytes [n, column.bytes] of the positions that are good."""
    found = numbers(leaves, column.dtype)
    if not good.all():
        found = found[np.repeat(good, inner)]
    return found.view(np.uint8).reshape(int(good.sum()), column.bytes)
