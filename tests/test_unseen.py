"""Test renderings that a face to learn from has too: found, left out where that is asked for, and told of."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT

sys.path.insert(0, str(ROOT))  # examples are run from the repository

from examples.glyphs import data, large, retention_headline, run, training, unseen_table
from examples.glyphs.retention import Cell
from examples.glyphs.retention_sources import Source, sources
from examples.glyphs.settings import TEST_VIEWS, Settings

TINY = Settings(classes=20, ipc=2, epochs=4, batch=20, teacher_steps=24)
UNSEEN = dataclasses.replace(TINY, unseen=True)


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


def test_the_test_without_them_is_that_of_the_others() -> None:
    class Net(torch.nn.Module):
        """Says class 0 of every view."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(len(x))
            return torch.eye(20)[torch.zeros(len(x), dtype=torch.int64)]

    seen: list[int] = []
    assert training.accuracy(Net(), TINY) == 100 / 20
    assert sum(seen) == TEST_VIEWS * 4 * 20
    seen.clear()
    unseen = TINY.glyphs.unseen
    assert training.accuracy(Net(), UNSEEN) == pytest.approx(100 * unseen[:, 0].sum() / unseen.sum())
    assert sum(seen) == TEST_VIEWS * unseen.sum()


def test_what_is_made_is_the_same_for_both_tests_and_students_are_not() -> None:
    assert (TINY.teacher_path(), TINY.labels_path()) == (UNSEEN.teacher_path(), UNSEEN.labels_path())
    assert "unseen" not in TINY.facts()  # results that are older than the question keep their keys
    keys = [Cell(Source("fp16"), 20.0, 0, settings).key("t") for settings in (TINY, UNSEEN)]
    assert keys[0] != keys[1]
    assert large.LARGE.unseen


def results(**more: dict[int, float]) -> dict[str, Any]:
    """Accuracies by seed of fp16 and hard labels, with and without."""
    said = {"fp16": {0: 80.0, 1: 90.0}, "fp16_unseen": {0: 70.0}, "hard": {0: 60.0}, "hard_unseen": {0: 35.0}, **more}
    cells = {}
    for name, each in said.items():
        scheme, _, unseen = name.partition("_")
        for seed, accuracy in each.items():
            facts = Cell(Source(scheme), 20.0, seed, UNSEEN if unseen else TINY).facts()
            cells[f"{name} {seed}"] = {**facts, "accuracy": accuracy}
    return {"cells": cells}


def test_the_table_compares_the_same_seeds() -> None:
    lines = list(unseen_table.table(results(), 20, "command"))
    assert lines[4:-1] == [
        "| random | 2 | fp16 | 20 | 80.00 (1); 100.0 | 70.00 (1); 100.0 |",
        "| random | 2 | hard | 20 | 60.00 (1); 75.0 | 35.00 (1); 50.0 |",
    ]
    assert not list(unseen_table.table(results(), 1000, "command"))
    assert not list(unseen_table.table(results(fp16_unseen={2: 1.0}, hard_unseen={}), 20, "command"))
    alone = list(unseen_table.table(results(fp16={5: 1.0}), 20, "command"))
    assert alone[4:-1] == ["| random | 2 | hard | 20 | 60.00 (1); -- | 35.00 (1); -- |"]


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
