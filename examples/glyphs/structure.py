"""What of a label matters: its tail shuffled, or replaced by that of another row of its class.

Keeping only the top k is LPQLD's MR-k, and TinyViT's where the others share what they had; both are sources already.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

KEPT = (1, 5, 20)  # classes of a label that stay as they are
SCHEMES = {"shuffled": "tail shuffled behind the top", "swapped": "tail of another row of the class behind the top"}


def changed(scheme: str, logits: torch.Tensor, classes: NDArray[np.int64], k: int, *, seed: int = 0) -> torch.Tensor:
    """Logits [N, C] of rows of these classes [N], with all but their k largest changed."""
    random = np.random.default_rng(seed)
    tail = logits.float().argsort(dim=1, descending=True, stable=True)[:, k:]
    if scheme == "swapped":
        values = logits[torch.from_numpy(others(classes, random))].gather(1, tail)
    else:
        order = torch.from_numpy(random.random(tuple(tail.shape), np.float32)).argsort(dim=1)
        values = logits.gather(1, tail.gather(1, order))
    return logits.scatter(1, tail, values)


def others(classes: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    """For each row [N] another one of its class, each taken once; a class of one row has only that."""
    shuffled = random.permutation(len(classes))
    order = shuffled[np.argsort(classes[shuffled], kind="stable")]
    found = np.empty_like(order)
    for rows in np.split(order, np.flatnonzero(np.diff(classes[order])) + 1):
        found[rows] = np.roll(rows, 1)
    return found
