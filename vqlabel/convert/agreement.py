"""Whether labels belong to the images that they are said to belong to: the teacher names their class, or another."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from vqlabel.convert.imported import Imported
from vqlabel.sampling import present
from vqlabel.side import SideInformation
from vqlabel.sources import SparseSource

LOOKED_AT = 2_000  # rows


def agreement(found: Imported, side: SideInformation) -> float:
    """Part of some labels whose first class is that of their image or of its partner; NaN if there are none."""
    rows = present(found.missing, np.arange(min(_labelled(found), LOOKED_AT)))
    if not len(rows):
        return float("nan")
    known, first = side.of(rows, tier="classes"), _first(found, rows)
    return float(((first == known.own) | (first == known.other)).float().mean())


def _labelled(found: Imported) -> int:
    return len(found.source) if found.missing is None else int((~found.missing).sum())


def _first(found: Imported, rows: NDArray[np.int64]) -> torch.Tensor:
    if isinstance(found.source, SparseSource):
        ids, told = found.source.kept(rows)
        return ids.gather(1, told.float().argmax(1, keepdim=True))[:, 0]
    return found.source.take(rows).float().argmax(1)


def in_words(share: float, classes: int) -> str:
    """What the share means."""
    words = f"the teacher names the class of the image or of its partner in {share:.0%} of the labels looked at"
    if share > min(0.5, 20 / classes) or math.isnan(share):
        return words
    return (
        f"{words}: so few look like chance. Are these the images, in this order, and their classes numbered as the "
        "teacher's? --seed-of-order and --images say otherwise"
    )
