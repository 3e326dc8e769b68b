"""The rows that a codec is fitted on: this rank's share of a sample of the label set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from vqlabel.known import Side
from vqlabel.ranks import Ranks

if TYPE_CHECKING:
    import torch

BLOCK = 4096  # rows that are worked on at a time: bounds memory, and fixes the order of every sum


@dataclass(frozen=True)
class Sample:
    """Centred logits [n, C] of float16 or float32 and what is known of their rows.

    Of `total` rows in a random order, rank r of w holds those at r, r + w, r + 2w, ...: any leading part of the sample
    is a random sample too, and is spread evenly over the ranks.
    """

    logits: torch.Tensor
    side: Side | None
    total: int
    ranks: Ranks = field(default_factory=Ranks)
    images: int = 1  # of the whole set, where side information names them

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def classes(self) -> int:
        """C."""
        return int(self.logits.shape[1])

    def part(self, first: int, stop: int) -> Sample:
        """Rows first to stop of all ranks' rows together."""
        numbers = self.ranks.own(self.total)
        low, high = np.searchsorted(numbers, [first, stop])
        side = None if self.side is None else self.side[slice(int(low), int(high))]
        # The rank that holds row `first` counts as the first one from here on.
        ranks = replace(self.ranks, rank=(self.ranks.rank - first) % self.ranks.world)
        return Sample(self.logits[low:high], side, stop - first, ranks, self.images)

    def blocks(self) -> Iterator[tuple[torch.Tensor, Side | None]]:
        """Logits float32 [b, C] and side information, block by block."""
        for start in range(0, len(self), BLOCK):
            rows = slice(start, start + BLOCK)
            yield self.logits[rows].float(), None if self.side is None else self.side[rows]
