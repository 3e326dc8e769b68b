"""What logits may look like: finite, and no probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

ROWS_LOOKED_AT = 256  # to tell probabilities from logits: chance never makes that many rows sum to one


def check_finite(logits: torch.Tensor, rows: Sequence[int] | NDArray[np.int64]) -> None:
    """ValueError that names the first of these rows of the set whose logits [B, C] are not finite."""
    if logits.sum().isfinite():  # one pass that makes no copy: anything that is not finite spoils a sum
        return
    bad = torch.isfinite(logits).all(1).logical_not().nonzero()[:, 0].tolist()
    if not bad:
        return
    values = logits[bad[0]]
    found = "NaN" if values.isnan().any() else "inf" if values.max() == torch.inf else "-inf"
    more = f", as do {len(bad) - 1} of the {len(logits) - 1} rows read with it" if len(bad) > 1 else ""
    raise ValueError(f"row {int(rows[bad[0]])} holds {found}{more}, but a label is finite logits: {remedy(found)}")


def remedy(value: str) -> str:
    """What to do about a logit that is nan, inf or -inf."""
    if value == "inf":
        return "above 65,504 float16 has no numbers; store the logits as float32, centred"
    if value == "-inf":
        return "replace what stands for a probability of 0 by a low logit, such as -50"
    return "the teacher failed on this view; make the row again"


def check_not_probabilities(logits: torch.Tensor) -> None:
    """ValueError if these rows [B, C] are softened already: none negative, and each sums to 1.

    Logarithms of probabilities are logits: these count up to a constant in each row.
    """
    some = logits[:ROWS_LOOKED_AT].float()
    if len(some) == 0 or (some < 0).any():
        return
    if ((some.sum(1) - 1).abs() < 1e-2).all():
        raise ValueError(
            "these look like probabilities: no value is negative and each row sums to 1; "
            "take their logarithm, or pass the logits"
        )
