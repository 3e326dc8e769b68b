"""Logits of a language model that are made when they are asked for, sequence by sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from vqlabel.arguments import check_whole
from vqlabel.sequences import Sequences
from vqlabel.sources import Source, as_logits

Text: TypeAlias = NDArray[np.int64]

EACH = 64  # rows of a sequence in a sample, if there are sequences enough: neighbours tell much the same
REMEDIES = {
    "NaN": "the teacher failed there",
    "inf": "make them in float32",
    "-inf": "clip them, as in logits.clamp(min=-100)",
}


class SequenceSource(Source):
    """What a teacher says at the positions of a text that have a label; its logits are never stored.

    teacher is a function from a list of texts, int64 [length] each, to a list of logits [length, C], or to a tensor
    [texts, longest, C] padded behind. tokens are those of all positions, one sequence after the other
    [sequences.total]. It reads whole sequences, `batch` at a time, and each once while rows are read from front to
    back; the last batch is kept, [batch, length, C] in memory. Under torchrun each rank makes a batch anew wherever
    its own part of the rows begins, so there a small batch wastes less.
    """

    def __init__(
        self,
        teacher: Callable[[list[Text]], Any],
        tokens: ArrayLike,
        sequences: Sequences,
        *,
        classes: int,
        batch: int = 8,
    ) -> None:
        text = sequences.text(tokens)
        super().__init__(sequences.rows_total, classes, torch.float32)
        self._teacher, self._tokens, self._sequences = teacher, text, sequences
        self._batch = check_whole("batch", batch, 1, 2**20)
        self._held: dict[int, torch.Tensor] = {}  # logits of the rows of each sequence that was asked for last
        if self.rows:
            first = self._from(0)
            self._ask(first)  # a teacher that does not fit says so now
            self.dtype = self._held[first[0]].dtype

    def choose(self, count: int, parts: tuple[int, int], random: np.random.Generator) -> NDArray[np.int64]:
        """Up to 64 rows of each of as many random sequences as it takes: a teacher reads whole ones.

        All but one sequence are either for fitting or for judging.
        """
        if self.missing is not None:
            return super().choose(count, parts, random)
        order, wanted, each = random.permutation(len(self._sequences)).tolist(), sum(parts), EACH
        chosen = self._some(order, wanted, each, random)
        while len(chosen) < min(wanted, self.rows):
            each *= 2
            chosen = self._some(order, wanted, each, random)
        return np.concatenate([random.permutation(part) for part in np.split(chosen[:wanted], parts[:1])])

    def _some(self, order: list[int], wanted: int, each: int, random: np.random.Generator) -> NDArray[np.int64]:
        """Up to `each` rows of the first sequences in this order, until they are enough."""
        parts, found = [np.zeros(0, np.int64)], 0
        for number in order:
            if found >= wanted:
                break
            rows, _ = self._sequences.rows_of(number)
            parts.append(random.choice(rows, min(len(rows), each), replace=False))
            found += len(parts[-1])
        return np.concatenate(parts)

    def _read(self, rows: range) -> torch.Tensor:
        return self._gathered(np.arange(rows.start, rows.stop), ahead=True)

    def _take(self, indices: NDArray[np.int64]) -> torch.Tensor:
        return self._gathered(indices, ahead=False)

    def _gathered(self, indices: NDArray[np.int64], *, ahead: bool) -> torch.Tensor:
        """Logits [n, C] of rows in rising order; `ahead` asks for the sequences behind them too, which come next."""
        numbers, _ = self._sequences.places(indices)
        wanted = np.unique(numbers).tolist()
        parts = [torch.empty(0, self.classes, dtype=self.dtype)]
        for at, number in enumerate(wanted):
            first = int(self._sequences.rows_of(number)[0][0])
            if number not in self._held:
                self._ask(self._from(first) if ahead else wanted[at : at + self._batch])
            parts.append(self._held[number][torch.from_numpy(indices[numbers == number] - first)])
        return torch.cat(parts)

    def _from(self, row: int) -> list[int]:
        """The next sequences that have rows, from this row on."""
        found: list[int] = []
        while row < self.rows and len(found) < self._batch:
            found.append(int(self._sequences.places([row])[0][0]))
            row = int(self._sequences.rows_of(found[-1])[0][-1]) + 1
        return found

    def _ask(self, numbers: list[int]) -> None:
        """Hold what the teacher says of these sequences, and nothing else."""
        self._held = {}  # before the next ones need the room
        offsets = self._sequences.offsets
        texts = [self._tokens[offsets[n] : offsets[n + 1]].astype(np.int64) for n in numbers]
        with torch.no_grad():
            answers = self._teacher(texts)
        if not isinstance(answers, (Sequence, np.ndarray, torch.Tensor)):
            raise TypeError(
                f"the teacher must give a list of logits, or a tensor of them, not {type(answers).__name__}"
            )
        if len(answers) != len(texts):
            raise ValueError(f"the teacher was given {len(texts)} texts, and gave logits of {len(answers)}")
        padded = not isinstance(answers, Sequence)
        for number, text, answer in zip(numbers, texts, answers, strict=True):
            self._check_shape(number, len(text), answer, padded)
            self._held[number] = self._of_rows(number, answer)

    def _check_shape(self, number: int, length: int, answer: Any, padded: bool) -> None:
        shape = list(getattr(answer, "shape", []))
        if len(shape) != 2:
            raise ValueError(
                f"the teacher must give logits [{length}, {self.classes}] of sequence {number}, got {shape}"
            )
        if shape[0] < length or (shape[0] > length and not padded):
            raise ValueError(
                f"the teacher gave logits of {shape[0]} positions of sequence {number}, which has {length} tokens: it "
                "must give one row for each token, and what it pads it must pad behind"
            )
        if shape[1] != self.classes:
            cut = "; cut a padded vocabulary as in logits[..., :C]" if shape[1] > self.classes else ""
            raise ValueError(f"the teacher gave logits of {shape[1]} classes, but classes={self.classes} was said{cut}")

    def _of_rows(self, number: int, answer: Any) -> torch.Tensor:
        """Logits [n, C] of the rows of a sequence; ValueError that names a position where they are not finite."""
        _, places = self._sequences.rows_of(number)
        at: Any = places if isinstance(answer, np.ndarray) else torch.from_numpy(places).to(answer.device)
        logits = as_logits(answer[at])
        bad = torch.isfinite(logits).all(1).logical_not().nonzero()[:, 0].tolist()
        if bad:
            row = logits[bad[0]]
            what = "NaN" if row.isnan().any() else str(float(row[row.isinf()][0]))
            do = REMEDIES[what]
            raise ValueError(
                f"the teacher's logits of sequence {number} hold {what} at position {places[bad[0]]}, but a label is "
                f"finite logits: {do}"
            )
        return logits
