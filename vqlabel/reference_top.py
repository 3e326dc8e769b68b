"""Slow, obvious twin of the corrections of codec `vq+top`: the truth in tests, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqlabel.reference import unpack


def correct(logits: NDArray[Any], corrections: NDArray[np.uint8], top: int) -> NDArray[Any]:
    """Logarithms of probabilities [B, C]: those of logits [B, C] with corrections uint8 [B, row_bytes]."""
    classes = logits.shape[1]
    ids = unpack(np.ascontiguousarray(corrections[:, top:]), (classes - 1).bit_length(), top).astype(int)
    found = np.zeros(logits.shape)
    for row, named in enumerate(ids):
        left = 0.0  # logarithm of the probability that is not given away yet
        for value, own in zip(corrections[row], named, strict=False):
            n = int(value) - 128
            odds = n * abs(n) / 512
            found[row, own] = left - np.logaddexp(0, -odds)
            left -= np.logaddexp(0, odds)
        others = np.delete(np.arange(classes), named)
        if len(others):
            found[row, others] = left + logits[row, others] - np.logaddexp.reduce(logits[row, others])
    return found
