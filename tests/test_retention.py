"""What labels are worth to students, in a tiny setting: what is run, kept, counted and told."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT

sys.path.insert(0, str(ROOT))  # examples are run from the repository

from examples import shared
from examples.glyphs import (
    rate,
    rate_measure,
    retention,
    retention_cost,
    retention_figures,
    retention_headline,
    retention_labels,
    retention_table,
    student,
)
from examples.glyphs.retention import Cell
from examples.glyphs.retention_labels import Stored
from examples.glyphs.retention_sources import Source, sources
from examples.glyphs.retention_student import Soft
from examples.glyphs.settings import Settings
from examples.glyphs.training import Accuracy
from vqlabel.schedules import GridAlignment, SmoothAlignment

TINY = Settings(classes=20, ipc=2, epochs=4, batch=20, teacher_steps=24)
IMAGES, ROWS = 40, 160


@pytest.fixture(scope="module")
def labels(glyphs_cache: Path) -> rate_measure.Labels:
    return rate_measure.load(TINY)


def made(source: Source, labels: rate_measure.Labels) -> Stored:
    return retention_labels.make(source, TINY, labels, 0.0)


def cell(source: Source, **more: Any) -> Cell:
    return Cell(source, 20.0, 0, TINY, effort=0.0, **more)


def test_every_source_has_a_name_of_its_own_and_comes_once() -> None:
    names = [source.name for source in sources()]
    assert len(set(names)) == len(names)
    known = {(s.prior, s.bytes, s.keep) for s in sources() if s.scheme == "vq"}
    assert set(retention_table.MUST_REACH) <= known


def test_all_that_matters_is_in_the_key_of_a_cell() -> None:
    first = cell(Source("vq", "replay", 8))
    others = [
        dataclasses.replace(first, source=Source("vq", "replay", 8, keep=3)),
        dataclasses.replace(first, temperature=4.0),
        dataclasses.replace(first, seed=1),
        dataclasses.replace(first, settings=dataclasses.replace(TINY, mixing=1.0)),
        dataclasses.replace(first, effort=1.0),
    ]
    keys = {each.key("teacher") for each in [first, *others]} | {first.key("another")}
    assert len(keys) == len(others) + 2


def test_a_grid_keeps_what_is_done_and_reports_what_fails(
    labels: rate_measure.Labels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def taught(cell: Cell, _: Stored) -> Accuracy:
        if cell.source.name == "int8" and "int8" not in ran:
            ran.append("int8")
            raise FloatingPointError("the loss was nan")
        ran.append(cell.source.name)
        return Accuracy(50.0, 40.0)

    monkeypatch.setattr(retention, "taught", taught)
    path, wanted = tmp_path / "results.json", [cell(Source(scheme)) for scheme in ("hard", "int8", "fp16")]
    assert retention.work(labels, wanted, path) == ["int8, T = 20, seed 0: the loss was nan"]
    assert retention.work(labels, wanted, path) == []
    assert ran == ["hard", "int8", "fp16", "int8"]
    kept = rate.read(path)["cells"].values()
    assert [found["name"] for found in kept] == ["hard", "fp16", "int8"]
    assert {(found["accuracy"], found["unseen"]) for found in kept} == {(50.0, 40.0)}


def test_an_interrupted_grid_goes_on(
    labels: rate_measure.Labels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, wanted = tmp_path / "results.json", [cell(Source("hard")), cell(Source("fp16"))]
    accuracies = iter([Accuracy(50.0, 40.0), KeyboardInterrupt()])

    def taught(*_: object) -> Accuracy:
        found = next(accuracies)
        if isinstance(found, BaseException):
            raise found
        return found

    monkeypatch.setattr(retention, "taught", taught)
    with pytest.raises(KeyboardInterrupt):
        retention.work(labels, wanted, path)
    assert len(rate.read(path)["cells"]) == 1


def test_a_loss_that_is_no_number_stops_the_student_with_its_seed() -> None:
    def broken(found: torch.Tensor, *_: object) -> torch.Tensor:
        return found.sum() * float("nan")

    with pytest.raises(FloatingPointError, match=r"the loss was nan in step 0 of 8, seed 3: Settings\(classes=20"):
        student.train(TINY, broken, seed=3)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_students_learn_in_either_precision(precision: torch.dtype) -> None:
    before = [torch.zeros(())]

    def loss(found: torch.Tensor, *_: object) -> torch.Tensor:
        before.append(found.detach().mean())
        return (found - 1).square().mean()  # a target that only changing weights can reach

    student.train(TINY, loss, seed=0, epochs=student.plan(TINY) * 3, precision=precision)
    assert abs(float(before[-1]) - 1) < abs(float(before[1]) - 1) / 2


@pytest.mark.parametrize("keep", [1, 2, 3, 10])
def test_pruned_epochs_are_the_first_and_every_image_comes_once_an_epoch(keep: int) -> None:
    epochs = retention_labels.kept_epochs(TINY, keep)
    assert len(epochs) == TINY.epochs
    for part in epochs:
        np.testing.assert_array_equal(np.sort(np.concatenate([batch.images for batch in part])), np.arange(IMAGES))
    assert {batch.stored for part in epochs for batch in part} == set(range(max(1, TINY.epochs // keep)))


@pytest.mark.parametrize(("keep", "again"), [(1, True), (2, True), (2, False), (4, False), (8, True)])
def test_drawn_batches_are_those_that_are_stored(keep: int, again: bool) -> None:
    epochs, stored = retention_labels.pooled(TINY, keep, again=again)
    whole = [batch for part in student.plan(TINY) for batch in part]
    pool = {(batch.stored, tuple(batch.images)) for batch in stored}
    assert [tuple(batch.images) for batch in stored] == [tuple(batch.images) for batch in whole[: len(stored)]]
    assert len(stored) == max(1, len(whole) // keep)
    for part in epochs:
        drawn = [(batch.stored, tuple(batch.images)) for batch in part]
        assert set(drawn) <= pool
        assert len(drawn) == len(whole) // TINY.epochs
        assert again or len(set(drawn)) == len(drawn)


@pytest.mark.parametrize(
    "source",
    [
        Source("vq", "classes", 2),
        Source("vq", "image", 0),
        Source("vq", "replay", 2, keep=2),
        Source("vqae", bytes=2),
    ],
    ids=lambda source: source.name,
)
def test_bytes_of_ours_are_those_of_the_file(source: Source, labels: rate_measure.Labels) -> None:
    stored = made(source, labels)
    rows = ROWS // source.keep
    assert stored.logits is not None
    assert stored.logits.shape == (rows, 20)
    path = retention_labels.file_path(source, TINY, labels, 0.0)
    assert stored.bytes.labels + stored.bytes.other == path.stat().st_size
    each = stored.bytes.each(ROWS)
    assert each["labels"] == source.bytes / source.keep
    assert each["all"] > each["many"] > 0


def test_a_fitted_file_is_made_once(labels: rate_measure.Labels) -> None:
    made(Source("vq", "classes", 1), labels)
    before = {path.name: os.stat(path).st_mtime_ns for path in TINY.folder().glob("*.safetensors")}
    made(Source("vq", "classes", 1), labels)
    assert {path.name: os.stat(path).st_mtime_ns for path in TINY.folder().glob("*.safetensors")} == before


@pytest.mark.parametrize(
    ("source", "size", "augmentation"),
    [
        (Source("fp16"), 40.0, 25.0),
        (Source("lpld", keep=4), 10.0, 25.0 / 4),
        (Source("lpqld", k=5), 20.0, 10.03),
        (Source("lpqld", k=5, keep=2), 10.0, 10.03 / 2),
        (Source("tinyvit", k=5), 20.0, 4.0),
        (Source("one"), 10.0, 0.0),
        (Source("hard"), 0.0, 0.0),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_bytes_of_rivals_are_what_they_store(
    source: Source, size: float, augmentation: float, labels: rate_measure.Labels
) -> None:
    each = made(source, labels).bytes.each(ROWS)
    assert each["labels"] == size
    assert each["augmentation"] == pytest.approx(augmentation)
    assert each["all"] >= size + augmentation
    if source.scheme == "one":  # a longer training has more views, and no more labels
        assert each["many"] == pytest.approx(size * ROWS / rate_measure.MANY_ROWS)


def test_labels_of_the_file_are_what_a_student_meets(labels: rate_measure.Labels) -> None:
    stored, parameters = made(Source("fp16"), labels), TINY.distilled_recipe.parameters(2, np.array([7, 3]))
    expected = (labels.logits[[2 * IMAGES + 7, 2 * IMAGES + 3]].float() / 4).softmax(1)
    loss = Soft(Source("fp16"), stored, TINY, 4.0)
    assert float(loss(4 * expected.log(), parameters, 0)) == pytest.approx(0, abs=1e-6)
    assert float(loss(4 * expected.flip(0).log(), parameters, 0)) > 1e-3


def test_single_labels_are_mixed_as_the_images_are(labels: rate_measure.Labels) -> None:
    stored, parameters = made(Source("one"), labels), TINY.distilled_recipe.parameters(1, np.arange(IMAGES))
    assert (parameters.shares < 1).any()
    assert stored.logits is not None
    each = stored.logits.float().softmax(1)
    share = torch.from_numpy(parameters.shares.astype(np.float32))[:, None]
    mixed = share * each + (1 - share) * each[torch.from_numpy(parameters.partners)]
    assert float(Soft(Source("one"), stored, TINY, 1.0)(mixed.log(), parameters, 0)) == pytest.approx(0, abs=1e-6)


def results() -> dict[str, Any]:
    """Made up: hard 60, fp16 80, and ours with the replay prior."""
    found = {}
    sizes = [(Source("hard"), 60.0, 0), (Source("fp16"), 80.0, 2000), (Source("vq", "replay", 4), 79.0, 5),
             (Source("vq", "replay", 2), 70.0, 3), (Source("faiss", index="OPQ2"), 71.0, 2)]  # fmt: skip
    for source, accuracy, size in sizes:
        for seed in (0, 1):
            facts = Cell(source, 20.0, seed, TINY).facts()
            each = {"labels": size, "augmentation": 0.0, "all": size + 1.0, "many": size + 0.1}
            found[f"{source.name} {seed}"] = {**facts, "accuracy": accuracy + seed - 0.5, "bytes": each}
    return {"cells": found}


def test_tables_say_retention_and_gap_and_what_was_missed() -> None:
    text = "\n".join(retention_table.tables(results(), TINY))
    assert "| ours, prior replay, 4 B | 98.2 / 90 | 98.75 / 95.0 | 2 | yes |" in text
    assert "| ours, prior replay, 2 B | 96.5 / 81 | 87.50 / 50.0 | 2 | **no** |" in text
    assert "| 79.00 +- 0.50 (2) | 98.8 | 95.0 |" in text
    assert "- here: faiss OPQ2 (3 B, 71.00 %) against ours, prior replay, 2 B (4 B, 70.00 %)" in text
    assert not list(retention_table.tables(results(), Settings()))


def test_the_headline_has_the_rows_that_were_run() -> None:
    cells = {key: {**cell, "machine": "1 threads on 2 cores of X, torch 2"} for key, cell in results()["cells"].items()}
    lines = list(retention_headline.headline({"cells": cells}, TINY))
    assert "seeds: 2, on X, torch 2." in lines[1]
    assert lines[4].startswith("| the teacher instead of labels | ")
    assert lines[5:] == [
        "| fp16 | 2001 | 2000 | 80.00 | 100.0 | 100 |",
        "| ours, prior replay, 4 B | 6 | 5.1 | 79.00 | 98.8 | 95 |",
        "| ours, prior replay, 2 B | 4 | 3.1 | 70.00 | 87.5 | 50 |",
        "| hard | 1 | 0.1 | 60.00 | 75.0 | 0 |",
    ]
    assert not list(retention_headline.headline({"cells": cells}, Settings()))


def test_costs_are_measured_and_the_teacher_is_a_rival(labels: rate_measure.Labels) -> None:
    made(Source("vq", "image", 0), labels)
    made(Source("vq", "classes", 2), labels)
    costs = retention_cost.measure(TINY, labels, 0.0)
    assert {"the teacher instead of labels", "ours, prior image, 0 B"} <= set(costs["cells"])
    teacher = costs["cells"]["the teacher instead of labels"]
    assert teacher["parameters"] > costs["cells"]["ours, prior image, 0 B"]["parameters"] > 0
    text = "\n".join(retention_table.tables({**results(), "costs": costs}, TINY))
    size = 2 * teacher["parameters"] / ROWS
    assert f"| the teacher instead of labels | 0 | 0 | {size:.0f} |" in text
    assert f"| ours, prior classes, 2 B | {costs['cells']['ours, prior classes, 2 B']['parameters']:,} |" in text


def test_each_source_is_judged_at_its_own_best_temperature() -> None:
    found = results()
    for source, accuracy in ((Source("fp16"), 90.0), (Source("vq", "replay", 4), 78.0)):
        facts = {**Cell(source, 4.0, 0, TINY).facts(), "accuracy": accuracy}
        found["cells"][f"{source.name} cool"] = {**facts, "bytes": found["cells"][f"{source.name} 0"]["bytes"]}
    text = "\n".join(retention_table.tables(found, TINY))
    assert "| 79.00 +- 0.50 (2) | 98.8 | 95.0 | 79.00 +- 0.50 (2), T = 20 | 87.2 | 62.3 |" in text
    assert "| 4 | ours, prior replay, 4 B | 98.2 / 90 | 86.67 / 60.7 | 1 | **no** |" in text


def test_students_are_compared_seed_against_seed() -> None:
    found = results()
    del found["cells"]["faiss OPQ2 1"]  # its other student had 70.5, with bad luck
    found["cells"]["ours, prior replay, 2 B 0"]["accuracy"] = 70.6
    text = "\n".join(retention_table.tables(found, TINY))
    assert "| 70.50 (1) | 88.7 | 55.0 |" in text  # of 79.5, not of 80
    assert "faiss OPQ2 (3 B" not in text


def test_other_efforts_and_teachers_are_kept_apart(labels: rate_measure.Labels, tmp_path: Path) -> None:
    assert not retention_table.entries(results(), TINY, effort=0.5)
    path = tmp_path / "results.json"
    facts = {**cell(Source("fp16")).facts(), "teacher": "another"}
    shared.write(path, {"labels": {}, "cells": {"x": facts}})
    with pytest.raises(ValueError, match="students of another teacher's labels"):
        retention.work(labels, [cell(Source("hard"))], path)


def test_figures_are_drawn_and_the_same_again(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    drawn = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        retention_figures.plot(results(), TINY, folder)
        drawn.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) == {"retention.svg", "bytes.svg"}


def test_the_front_is_what_nothing_beats() -> None:
    points = [(4.0, 80.0), (2.0, 70.0), (3.0, 69.0), (4.0, 81.0), (8.0, 81.0)]
    assert retention_figures.front(points) == [(2.0, 70.0), (4.0, 81.0)]


@pytest.mark.parametrize("part", ["2/2", "1", "a/b", "0/0", "-1/2"])
def test_a_part_that_is_none_is_refused(part: str) -> None:
    options = argparse.Namespace(part=part, only=[], temperature=None, seeds=1, effort=1.0)
    with pytest.raises(ValueError, match="--part must be a number from 0 and how many there are"):
        list(retention.cells(TINY, options))


def test_parts_share_the_sources_out() -> None:
    options = {"only": [], "temperature": None, "seeds": 1, "effort": 1.0}
    whole, *parts = (
        [str(each) for each in retention.cells(TINY, argparse.Namespace(part=part, **options))]
        for part in ("0/1", "0/2", "1/2")
    )
    assert sorted(parts[0] + parts[1]) == sorted(whole)
    assert sum("hard" in name for name in whole) == 1


def test_smooth_alignment_moves_with_every_batch(labels: rate_measure.Labels) -> None:
    source = Source("lpqld", k=5, schedule="step", alignment="smooth")
    stored, images = made(source, labels), np.arange(20)
    soft, kl, align = Soft(source, stored, TINY, 20.0), torch.nn.functional.kl_div, SmoothAlignment()
    assert stored.logits is not None
    found, wanted = labels.logits[:20].float() / 50, (stored.logits[:20].float() / 14).softmax(1)
    for _ in range(3):
        expected = kl((found / align.temperature).log_softmax(1), wanted, reduction="batchmean")
        torch.testing.assert_close(soft(found, TINY.distilled_recipe.parameters(0, images), 0), expected)
        align.update(found, wanted)
    assert align.temperature < 0.9


def test_moving_temperatures_follow_the_epoch_and_the_last_batch(labels: rate_measure.Labels) -> None:
    source = Source("lpqld", k=5, schedule="step", alignment="grid")
    stored, images = made(source, labels), np.arange(20)
    assert stored.logits is not None
    soft, kl = Soft(source, stored, TINY, 20.0), torch.nn.functional.kl_div
    first, later = (stored.logits[epoch * IMAGES : epoch * IMAGES + 20].float() for epoch in (0, 3))
    found = labels.logits[:20].float() / 50  # as the student would have it, but far too flat
    # T falls in every epoch, because a tenth of four is less than one
    wanted = (first / 14).softmax(1)
    expected = kl(found.log_softmax(1), wanted, reduction="batchmean")
    torch.testing.assert_close(soft(found, TINY.distilled_recipe.parameters(0, images), 0), expected)
    own = GridAlignment().update(found, wanted)
    assert own < 1
    expected = kl((found / own).log_softmax(1), (later / (20 * 0.7**4)).softmax(1), reduction="batchmean")
    torch.testing.assert_close(soft(found, TINY.distilled_recipe.parameters(3, images), 3), expected)
