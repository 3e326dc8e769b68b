"""The law of images and labels: what it is fitted to, what it misses, and when it is none."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT))  # examples are run from the repository

from examples.glyphs import retention_figures, retention_law
from examples.glyphs.retention import Cell
from examples.glyphs.retention_sources import Source
from examples.glyphs.settings import Settings

TINY = Settings(classes=20, ipc=2, epochs=4, batch=20, teacher_steps=24)
LAW = retention_law.Law(floor=8.0, few=50.0, coarse=20.0, alpha=0.7, beta=0.4, error=0.0, worst=0.0, students=20)


def student(source: Source, accuracy: float, ipc: int = 2) -> dict[str, Any]:
    """One of the results, made up."""
    size = dict.fromkeys(("labels", "augmentation", "all", "many"), float(source.bytes))
    facts = Cell(source, 20.0, 0, dataclasses.replace(TINY, ipc=ipc)).facts()
    return {**facts, "accuracy": accuracy, "bytes": size}


def test_a_law_is_found_again() -> None:
    ipc, label_bytes = (grid.ravel().astype(float) for grid in np.meshgrid([1, 2, 5, 10], [0, 10, 60, 240, 480]))
    found = retention_law.fit(ipc, label_bytes, LAW.accuracy(ipc, label_bytes))
    assert found.error <= found.worst < 1e-6
    np.testing.assert_allclose(dataclasses.astuple(found)[:5], dataclasses.astuple(LAW)[:5], rtol=1e-4)


def test_a_law_tells_its_largest_miss_beside_the_root_mean_square() -> None:
    ipc, label_bytes = (grid.ravel().astype(float) for grid in np.meshgrid([1, 2, 5, 10], [0, 10, 60, 240, 480]))
    reached = LAW.accuracy(ipc, label_bytes)
    reached[7] -= 6
    found = retention_law.fit(ipc, label_bytes, reached)
    missed = np.abs(found.accuracy(ipc, label_bytes) - reached)
    assert found.worst == pytest.approx(missed.max())
    assert found.error == pytest.approx(np.sqrt((missed**2).mean()))
    assert f"misses by {found.error:.2f} points (root mean square), by {found.worst:.1f} at most" in str(found)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"students": 9}, "no law: 9 students are few for 5 parameters"),
        ({"alpha": float(retention_law.EXPONENTS[0])}, "no law: the best exponent is at an end of those tried"),
        (
            {"beta": float(retention_law.EXPONENTS[-1])},
            "no law: the best exponent is at an end of those tried, 0.05 to 2",
        ),
    ],
)
def test_a_law_that_may_be_none_is_not_printed(changed: dict[str, Any], words: str) -> None:
    assert str(LAW).startswith("error = 8.0 + 50.0 I^-0.70 + 20.0 (1 + L)^-0.40; misses by 0.00 points")
    assert str(dataclasses.replace(LAW, **changed)).startswith(words)


@pytest.mark.parametrize(
    "other",
    [
        Source("fp16", schedule="step"),
        Source("fp16", keep=10),
        Source("vq", "replay", 4, keep=10),
        Source("vq", "image", 4),
    ],
)
def test_a_law_is_of_whole_labels_at_one_temperature(other: Source) -> None:
    plain = [Source("hard"), Source("fp16"), Source("vq", "replay", 4)]
    cells = {source.name: student(source, 80.0) for source in (*plain, other)}
    found = [entry.source for *_, entry in retention_law.points({"cells": cells}, TINY)]
    assert found == plain


@pytest.mark.parametrize("sizes", [(4,), (2, 4, 8)])  # of 6 students, and of 12
def test_the_trade_of_images_for_labels_is_drawn(sizes: tuple[int, ...], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = {}
    for ipc in (1, 2, 5):
        accuracies = {Source("hard"): 50.0, **{Source("vq", "replay", size): 60.0 + size for size in sizes}}
        for source, accuracy in accuracies.items():
            found[f"{ipc} {source.name}"] = student(source, accuracy + 3 * ipc, ipc)
    retention_figures.plot({"cells": found}, TINY, tmp_path)
    assert (tmp_path / "tradeoff.svg").stat().st_size > 1000
