"""Test renderings that a face to learn from has too: found, tested apart from the others, and told of."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT

sys.path.insert(0, str(ROOT))  # examples are run from the repository

from examples.glyphs import data, retention_headline, run, training, unseen_table
from examples.glyphs.retention import Cell
from examples.glyphs.retention_sources import Source, sources
from examples.glyphs.settings import TEST_VIEWS, Settings

TINY = Settings(classes=20, ipc=2, epochs=4, batch=20, teacher_steps=24)


@pytest.fixture(scope="module", autouse=True)
def cache(glyphs_cache: Path) -> Path:
    return glyphs_cache


def test_a_rendering_is_unseen_if_no_face_to_learn_from_has_it_pixel_by_pixel() -> None:
    glyphs = TINY.glyphs
    slow = [
        [not any((face[y] == other[y]).all() for other in glyphs.train) for y in range(glyphs.classes)]
        for face in glyphs.test
    ]
    assert glyphs.unseen.tolist() == slow
    assert 0 < glyphs.unseen.mean() < 1
    train = np.zeros((2, 3, 32, 32), np.uint8)
    test = train[:1].copy()
    test[0, 1, 31, 31] = 1
    train[1, 2, 0, 0] = 1  # one of two faces differs
    assert data.Glyphs(np.arange(3), train, test).unseen.tolist() == [[False, True, False]]


def test_views_of_new_renderings_are_counted_by_themselves() -> None:
    class Net(torch.nn.Module):
        """Says class 0 of every view."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(len(x))
            return torch.eye(20)[torch.zeros(len(x), dtype=torch.int64)]

    seen: list[int] = []
    unseen = TINY.glyphs.unseen
    found = training.accuracy(Net(), TINY)
    assert found.whole == 100 / 20
    assert found.unseen == pytest.approx(100 * unseen[:, 0].sum() / unseen.sum())
    assert sum(seen) == TEST_VIEWS * 4 * 20


def test_each_view_counts_for_its_own_rendering() -> None:
    class Net(torch.nn.Module):
        """Is right of new renderings alone, in whichever batches they come."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            ids = np.arange(self.done, self.done + len(x)) % unseen.size
            self.done += len(x)
            wrong = ids % 20 + np.where(unseen.ravel()[ids], 0, 1)
            return torch.eye(21)[torch.from_numpy(wrong)]

    unseen, net = TINY.glyphs.unseen, Net()
    net.done = 0
    assert training.accuracy(net, TINY) == (100 * unseen.mean(), 100)


def results(**more: dict[int, tuple[float, ...]]) -> dict[str, Any]:
    """Accuracies by seed of fp16 and hard labels, of all renderings and of new ones."""
    said = {"fp16": {0: (80.0, 70.0), 1: (90.0,)}, "hard": {0: (60.0, 35.0)}, **more}
    cells = {}
    for scheme, each in said.items():
        for seed, reached in each.items():
            facts = Cell(Source(scheme), 20.0, seed, TINY).facts()
            cells[f"{scheme} {seed}"] = {**facts, **dict(zip(unseen_table.TESTS, reached, strict=False))}
    return {"cells": cells}


def test_the_table_compares_the_same_seeds() -> None:
    lines = list(unseen_table.table(results(), 20))
    assert lines[3:-1] == [
        "| random | 2 | fp16 | 20 | 80.00 (1); 100.0 | 70.00 (1); 100.0 |",
        "| random | 2 | hard | 20 | 60.00 (1); 75.0 | 35.00 (1); 50.0 |",
    ]
    assert not list(unseen_table.table(results(), 1000))
    assert not list(unseen_table.table(results(fp16={2: (1.0,)}, hard={}), 20))
    alone = list(unseen_table.table(results(fp16={5: (1.0,)}), 20))
    assert alone[3:-1] == ["| random | 2 | hard | 20 | 60.00 (1); -- | 35.00 (1); -- |"]


def test_what_the_others_add_is_told_of_soft_and_of_hard_labels() -> None:
    found = results(fp16={0: (80.0, 70.0), 1: (75.0, 72.5), 2: (90.0,)})
    assert list(unseen_table.easier(found, 20)) == [
        "of fp16 labels 2.5 to 10.0 points",
        "of hard labels 25.0 to 25.0 points",
    ]
    assert not list(unseen_table.easier(found, 1000))


def test_labels_of_one_temperature_have_students_of_it_and_are_shown_at_it() -> None:
    assert {s.name: s.temperatures for s in sources() if 1 in s.temperatures} == {
        **{f"TinyViT, k = {k}": (20, 4, 2, 1) for k in (10, 50, 100)},
        **{s.name: (20, 4, 2, 1) for s in sources() if s.scheme == "one"},
    }
    found: dict[str, Any] = {}
    tinyvit = Source("tinyvit", k=100)
    for source, temperature, accuracy in (
        (Source("fp16"), 20.0, 90.0),
        (Source("hard"), 20.0, 40.0),
        (tinyvit, 20.0, 42.0),
        (tinyvit, 1.0, 80.0),
    ):
        size = dict.fromkeys(("labels", "augmentation", "all", "many"), 5.0)
        facts = {**Cell(source, temperature, 0, TINY).facts(), "machine": "1 of X"}
        found[f"{source} {temperature}"] = {**facts, "accuracy": accuracy, "bytes": size}
    lines = list(retention_headline.headline({"cells": found}, TINY))
    assert "| TinyViT, k = 100, T = 1 | 5 | 5 | 80.00 | 88.9 | 80 |" in lines
    del found[f"{tinyvit} 1.0"]
    assert "| TinyViT, k = 100 | 5 | 5 | 42.00 | 46.7 | 4 |" in retention_headline.headline({"cells": found}, TINY)


def test_a_baseline_of_another_teacher_is_not_mixed_with(tmp_path: Path) -> None:
    arguments = ["baseline", "--classes", "20", "--epochs", "4", "--batch", "20", "--teacher-steps", "24"]
    kept = {"renderer": data.renderer(), "cells": {}, "seconds": {}, "teacher": "another"}
    (tmp_path / "baseline.json").write_text(json.dumps(kept))
    with pytest.raises(SystemExit, match="holds students of another teacher's labels; move it away to begin again"):
        run.main([*arguments, "--results", str(tmp_path)])
