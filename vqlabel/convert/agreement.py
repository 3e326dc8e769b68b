"""Whether labels belong to the images that they are said to belong to: the teacher names their class, or another."""

from __future__ import annotations

import numpy as np
import torch

from vqlabel.convert.imported import Imported
from vqlabel.side import SideInformation
from vqlabel.sources import SparseSource

LOOKED_AT = 2_000  # rows


def agreement(found: Imported, side: SideInformation) -> float:
    """Part of some labels whose first class is that of their image or of its partner; NaN if there are none."""
    rows = np.arange(min(len(found.source), found.images, LOOKED_AT))
    first = _first(found, range(len(rows)))
    there = np.ones(len(rows), bool) if found.missing is None else ~found.missing[: len(rows)]
    known = side.of(rows, tier="classes")
    named = ((first == known.own) | (first == known.other)).numpy()[there]
    return float(named.mean()) if len(named) else float("nan")


def _first(found: Imported, rows: range) -> torch.Tensor:
    if isinstance(found.source, SparseSource):
        ids, told = found.source.kept(rows)
        return ids.gather(1, told.float().argmax(1, keepdim=True))[:, 0]
    return found.source.read(rows).float().argmax(1)


def in_words(share: float, classes: int) -> str:
    """What the share means."""
    words = f"the teacher names the class of the image or of its partner in {share:.0%} of the labels looked at"
    if share > min(0.5, 20 / classes):
        return words
    return (
        f"{words}: so few look like chance. Are these the images, in this order, and their classes numbered as the "
        "teacher's? --seed-of-order and --images say otherwise"
    )
