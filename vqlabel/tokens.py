"""Side information of language: the reader has the text, so it knows the tokens around each position."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vqlabel.arguments import check_whole
from vqlabel.known import Information, Side
from vqlabel.sequences import KEY, TOKENS, Sequences

if TYPE_CHECKING:
    import torch

OUTSIDE = -1  # where a sequence has no token
TEXT = "text"  # of the metadata: which text the labels are of


@dataclass(frozen=True)
class TokenSide(Side):
    """Side information of B positions."""

    tokens: torch.Tensor  # int64 [B, before + after] OUTSIDE where the sequence has none

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def regime(self) -> torch.Tensor:
        """0 for each [B]: nothing is mixed."""
        return self.tokens.new_zeros(len(self.tokens))


class TokenInformation(Information):
    """Side information of all rows of a label set whose rows are positions of a text.

    A label at position t is what a model says about token t + 1. The prior sees `before` tokens up to and with token t,
    and `after` tokens from t + 1 on, which the reader knows as well as the writer. tokens are those of all positions,
    one sequence after the other [sequences.total]. store=False leaves them out of label files: whoever reads those has
    the text, and gives it to LabelDecoder(tokens=).

    >>> side = TokenInformation([5, 6, 7, 8], Sequences([3, 1]), before=2, after=1)
    >>> side.of([0, 2, 3]).tokens.tolist()
    [[-1, 5, 6], [6, 7, -1], [-1, 8, -1]]
    """

    def __init__(
        self, tokens: ArrayLike, sequences: Sequences, *, before: int = 3, after: int = 2, store: bool = True
    ) -> None:
        numbers = sequences.text(tokens)
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < 2**31:
            raise ValueError(f"tokens must be 0 to {2**31 - 1}, got {numbers.min()} to {numbers.max()}")
        self.before, self.after = check_whole("before", before, 1, 64), check_whole("after", after, 0, 64)
        self.tokens, self.sequences, self._store = numbers, sequences, store

    @property
    def features(self) -> int:
        """Tokens that are seen around a position."""
        return self.before + self.after

    def of(self, rows: ArrayLike, *, tier: str = "tokens") -> TokenSide:
        """Side information of rows [B]."""
        import torch

        return TokenSide(torch.from_numpy(self.window(rows)))

    def window(self, rows: ArrayLike) -> NDArray[np.int64]:
        """Tokens around rows [B, before + after]."""
        sequence, place = self.sequences.places(rows)
        offsets = self.sequences.offsets
        around = (offsets[sequence] + place)[:, None] + np.arange(1 - self.before, 1 + self.after)
        inside = (around >= offsets[sequence, None]) & (around < offsets[sequence + 1, None])
        if not len(self.tokens):
            return np.full(around.shape, OUTSIDE, np.int64)
        found = self.tokens[np.clip(around, 0, len(self.tokens) - 1)].astype(np.int64)
        return np.where(inside, found, OUTSIDE)

    def check(self, classes: int) -> None:
        """ValueError if a token is beyond the vocabulary that the logits are of."""
        if self.tokens.size and self.tokens.max() >= classes:
            bad = int(self.tokens.argmax())
            raise ValueError(
                f"token {self.tokens[bad]} at position {bad} is beyond the {classes} classes of the logits: is it a "
                "text of another tokenizer?"
            )

    def check_rows(self, rows: int) -> None:
        """ValueError if the logits have another number of rows."""
        if rows != self.sequences.rows_total:
            raise ValueError(
                f"the sequences have {self.sequences.rows_total} rows, but the logits have {rows}: is it another text, "
                "or is it not said which positions have a label?"
            )

    def facts(self, rows: int) -> dict[str, Any]:
        """Metadata by which a reader finds it again."""
        if rows:
            self.check_rows(rows)
        window = {"before": self.before, "after": self.after}
        if rows < self.sequences.rows_total:  # an encoder is kept: it may meet another text
            return {KEY: window}
        return {KEY: self.sequences.facts() | window, TEXT: fingerprint(self.tokens)}

    def tensors(self, rows: int) -> dict[str, NDArray[Any]]:
        """Tensors by which a reader finds it again."""
        if rows < self.sequences.rows_total:
            return {}
        text: dict[str, NDArray[Any]] = {TOKENS: self.tokens.astype(np.uint32)} if self._store else {}
        return {**self.sequences.tensors(), **text}


def fingerprint(tokens: ArrayLike) -> str:
    """Which text this is: SHA-256 of its tokens as U32.

    >>> fingerprint([1, 2, 3])
    '4636993d3e1da4e9'
    """
    return hashlib.sha256(np.ascontiguousarray(tokens, "<u4").tobytes()).hexdigest()[:16]
