"""The main table, over images of every method: what is run, and what the tables say."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT

sys.path.insert(0, str(ROOT))  # examples are run from the repository

from examples.glyphs import (
    large,
    main,
    main_figures,
    main_table,
    rate,
    rate_measure,
    rate_table,
    retention,
    retention_labels,
    run,
    why_table,
)
from examples.glyphs.main_sources import GRIDS, QUICK, Grid, cells, sources, why_cells
from examples.glyphs.retention import Cell
from examples.glyphs.retention_labels import Stored
from examples.glyphs.retention_sources import Source
from examples.glyphs.settings import Settings
from examples.glyphs.training import Accuracy

TINY = dataclasses.replace(QUICK, methods=("random", "lpld", "noise"), ipcs=(1, 2, 3))
pytestmark = pytest.mark.usefixtures("one_thread")
# Made up, like all accuracies here.
GAIN = {"random": 0.0, "rded": -1.0, "sre2l": -1.0, "cda": 1.0, "lpld": 2.0, "noise": -30.0}


def accuracy(cell: Cell) -> float:
    source, settings = cell.source, cell.settings
    base = {"hard": 60.0, "fp16": 80.0, "vq": 79.0, "vqae": 71.0}.get(source.scheme, 65.0)
    return base + GAIN[settings.method] + settings.ipc + cell.seed - source.keep / 10


def results(grid: Grid = TINY, seeds: int = 2) -> dict[str, Any]:
    found = {}
    for make in (cells, why_cells):
        for _, each in make(grid, seeds):
            for cell in each:
                size = {"labels": 1.0, "augmentation": 0.0, "all": 1.0 + cell.source.bytes, "many": 1.0}
                size["all"] += 40 * (cell.source.scheme == "fp16")
                found[cell.key("teacher")] = {**cell.facts(), "accuracy": accuracy(cell), "bytes": size}
    why = {repr(grid.of(method, 2)): {"similarity": 0.5, "rank, T = 4": 7.25} for method in grid.methods}
    return {"labels": {}, "cells": found, "why": why}


@pytest.mark.parametrize(("classes", "vqae", "k"), [(1000, (50, 67), (100, 50, 10)), (100, (5, 7), (10, 5, 1))])
def test_sizes_follow_the_classes(classes: int, vqae: tuple[int, ...], k: tuple[int, ...]) -> None:
    found = sources(classes)
    assert len(found) == len(set(found)) == 15
    assert tuple(s.bytes for s in found if s.scheme == "vqae") == vqae
    assert tuple(s.k for s in found if s.scheme == "lpqld") == k
    assert sorted(s.bytes for s in found if s.scheme == "vq") == [2, 4, 8, 8, 8, 16]
    assert {s.scheme for s in found if s.schedule == "step"} == {"fp16", "vq", "lpqld"}


def test_few_classes_have_no_source_twice() -> None:
    found = sources(20)
    assert len(found) == len(set(found))
    assert all(source.bytes > 0 for source in found if source.fits)
    assert all(source.k > 0 for source in found if source.scheme == "lpqld")


def test_every_student_has_a_key_of_its_own_and_noise_has_two() -> None:
    every = [cell for make in (cells, why_cells) for _, each in make(GRIDS[100], 3) for cell in each]
    kinds = {(str(cell), repr(cell.settings)) for cell in every}
    assert len({cell.key("teacher") for cell in every}) == len(kinds)
    noise = {cell.source.scheme for cell in every if cell.settings.method == "noise"}
    assert noise == {"fp16", "hard"}


def test_retention_and_gap_stand_beside_the_accuracy() -> None:
    text = "\n".join(main_table.tables(results(), TINY))
    assert "| fp16 | 41 | 0.00328 | 81.4 +- 0.5 (2); 100.0; 100 | 83.4 +- 0.5 (2); 100.0; 100 |" in text
    retention_, gap = 100 * 80.4 / 81.4, 100 * 19 / 20
    assert f"| ours, prior replay, 8 B | 9 | 0.00072 | 80.4 +- 0.5 (2); {retention_:.1f}; {gap:.0f} |" in text
    assert "| 2 | random | -- | +2.0 / +2.0 |" in text
    assert "| 2 | noise | +30.0 / +30.0 | +32.0 / +32.0 |" in text


def test_what_was_to_be_kept_says_so_and_what_was_not_run() -> None:
    text = "\n".join(main_table.tables(results(), TINY))
    assert "| 1 | ours, prior replay, 8 B | 96 | -- | -- | -- | 98.8 | so far |" in text
    assert "| 1 | our VQAE, 1 B | 90 | -- | -- | -- | 89.2 | **no** |" in text
    whole = dataclasses.replace(TINY, methods=("rded", "sre2l", "cda", "lpld"), ipcs=(1,))
    text = "\n".join(main_table.tables(results(whole), whole))
    assert "| 1 | ours, prior replay, 8 B | 96 | 98.8 | 98.8 | 98.8 | 98.8 | yes |" in text


def test_losses_that_did_not_fall_enough_stand_out() -> None:
    found, losses = results(), {"steps": 4, "ce": [2.0, 0.5]}
    for ipc, last in ((1, 20.0), (2, 10.0)):
        found.setdefault("images", {})[repr(TINY.of("lpld", ipc))] = {**losses, "bn": [80.0, last]}
    text = "\n".join(main_table.tables(found, TINY))
    assert "| 1 | lpld | 4 | 2.00 to 0.500 | 80.0 to 20.00 | **4.0** |" in text
    assert "| 2 | lpld | 4 | 2.00 to 0.500 | 80.0 to 10.00 | 8.0 |" in text


def test_settings_without_students_have_no_table() -> None:
    assert not list(main_table.tables(results(), GRIDS[1000]))
    assert not list(why_table.tables({"cells": {}}, TINY))


def test_reasons_are_told() -> None:
    text = "\n".join(why_table.tables(results(), TINY))
    assert "| lpld | 0.5 | 7.25 |" in text
    assert "| random | 82.4 | -0.2 (2) | -0.9 (2) | -2.9 (2) |" in text
    assert "| lpld | all but the top k shuffled | 69.4 (2) | 69.4 (2) | 69.4 (2) |" in text
    # 6 sources of a fixed temperature; made-up students follow no law.
    assert "| random | 18 | no law: the best exponent is at an end" in text
    assert f"| {20 * (1024 + 4 * 1) / 1e6:.2f} | " in text  # hard labels of the fewest images are not beaten


def test_measures_are_of_the_images_that_the_students_had(glyphs_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []
    monkeypatch.setattr(main.why_images, "measure", lambda settings, _: measured.append(settings.ipc) or {})
    monkeypatch.setattr(main.rate_measure, "load", lambda _: None)
    monkeypatch.setattr(main, "_train", lambda *_: None)
    main._why(TINY, argparse.Namespace(seeds=1, results=glyphs_cache / "measured.json"))
    assert measured == [2, 2, 2]


def test_measures_of_other_numbers_of_images_do_not_take_the_place() -> None:
    found = results()
    found["why"][repr(TINY.of("lpld", 3))] = {"similarity": 0.9, "rank, T = 4": 1.0}
    text = "\n".join(why_table.tables(found, TINY))
    assert "**Images and their labels, 2 images a class**" in text
    assert "| lpld | 0.5 | 7.25 |" in text


def test_a_set_that_another_one_beats_is_not_on_the_front() -> None:
    front = why_table.pareto(results(), TINY)
    assert front[0] == (20 * (1024 + 4), 67.9, "lpld, 1 a class, one label per image, teacher at 1")
    for ipc, size, accuracy, _ in why_table.points(main_table.every_set(results(), TINY), TINY)["lpld"]:
        whole = ipc * 20 * (1024 + size)
        assert any(other <= whole and reached >= accuracy for other, reached, _ in front)
    assert front == sorted(front)
    assert [accuracy for _, accuracy, _ in front] == sorted({accuracy for _, accuracy, _ in front})


def test_labels_that_the_main_table_has_not_are_on_the_front() -> None:
    settings, size = TINY.of("lpld", 2), {"labels": 0.0, "augmentation": 0.0, "all": 0.5, "many": 0.5}
    cell = TINY.cell(Source("vq", "image", 0, keep=10, schedule="step"), settings, 0)
    found = results()
    found["cells"]["more"] = {**cell.facts(), "effort": 1.0, "accuracy": 99.0, "bytes": size}
    name = "lpld, 2 a class, ours, prior image, 0 B + pruned 10x + DKR"
    assert why_table.pareto(found, TINY)[-1] == (2 * 20 * (1024 + 4 * 0.5), 99.0, name)
    assert name not in {
        name for each in why_table.points(main_table.found_sets(found, TINY), TINY).values() for *_, name in each
    }


def test_tables_of_new_renderings_are_of_students_that_were_tested_on_them() -> None:
    found, grid = results(), dataclasses.replace(TINY, test="unseen")
    assert not list(main_table.tables(found, grid))
    for cell in found["cells"].values():
        cell["unseen"] = cell["accuracy"] - 5
    text = "\n".join(main_table.tables(found, grid))
    assert "| fp16 | 41 | 0.00328 | 76.4 +- 0.5 (2); 100.0; 100 | 78.4 +- 0.5 (2); 100.0; 100 |" in text
    assert "of fp16 labels 5.0 to 5.0 points, of hard labels 5.0 to 5.0 points." in text
    assert "Tested on" not in "\n".join(main_table.tables(found, TINY))
    assert "| random | 77.4 | -0.2 (2) | -0.9 (2) | -2.9 (2) |" in "\n".join(why_table.tables(found, grid))


def test_a_page_may_have_two_tables(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"a\n{main_table.BEGIN}\nold\n{rate_table.END}\nb\n{large.BEGIN}\nold\n{rate_table.END}\nc\n")
    rate_table.write("one", page, main_table.BEGIN)
    rate_table.write("two", page, large.BEGIN)
    expected = f"a\n{main_table.BEGIN}\n\none\n{rate_table.END}\nb\n{large.BEGIN}\n\ntwo\n{rate_table.END}\nc\n"
    assert page.read_text() == expected
    marks = [begin in main.PAGE.read_text() for begin in (main_table.BEGIN, large.BEGIN)]
    assert all(marks)


def test_figures_are_drawn_and_the_same_again(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    paths = [tmp_path / name for name in ("a.svg", "b.svg")]
    for path in paths:
        main_figures.plot(results(), TINY, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with pytest.raises(ValueError, match="there are no students to draw yet"):
        main_figures.plot({"cells": {}}, TINY, tmp_path / "none.svg")


@pytest.mark.parametrize("arguments", [["run", "--method", "lpdl"], ["run", "--ipc", "0"]])
def test_wrong_arguments_are_one_line(arguments: list[str], glyphs_cache: Path) -> None:
    with pytest.raises(SystemExit, match=r"error: (method must be one of random|ipc must be at least 1)"):
        main.main([*arguments, "--quick", "--results", str(glyphs_cache / "wrong.json")])


def test_the_command_runs_what_is_missing_and_nothing_twice(
    glyphs_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []

    def taught(cell: Cell, stored: Stored) -> Accuracy:
        assert stored.epochs
        ran.append(f"{cell.settings.method}: {cell}")
        return Accuracy(accuracy(cell), 1.0)

    monkeypatch.setattr(retention, "taught", taught)
    arguments = ["--quick", "--method", "random", "--method", "noise", "--ipc", "1", "--seeds", "1"]
    few = ["--only", "fp16", "--only", "hard", "--only", "2 B"]
    for _ in range(2):
        main.main(["run", *arguments, *few])
    assert rate.read(QUICK.settings.folder() / "main.json")["images"][repr(QUICK.of("noise", 1))]["steps"] == 0
    labels = ["fp16", "hard", "ours, prior replay, 2 B"]
    expected = [f"random: {name}, T = 20, seed 0" for name in (*labels, "fp16 + DKR")]
    assert ran == expected + [f"noise: {name}, T = 20, seed 0" for name in labels[:2]]
    capsys.readouterr()
    main.main(["list", *arguments, "--only", "16"])
    assert "done     noise, 1 images a class, fp16, T = 20, seed 0" in capsys.readouterr().out
    main.main(["why", *arguments, "--only", "shuffled", "--only", "pruned"])
    main.main(["table", *arguments])
    said = capsys.readouterr().out
    assert "| 1 | noise | +30.0 / +30.0 |" in said
    assert "divergence, T = 20" in said
    assert "| random | all but the top k shuffled | 65.9 (1) |" in said


@pytest.mark.parametrize(("keep", "rows"), [(1, 160), (2, 80), (4, 40), (9, 40)])
def test_pruned_fp16_labels_are_whole_epochs_and_weigh_less(keep: int, rows: int, glyphs_cache: Path) -> None:
    settings = QUICK.of("random", 2)
    stored = retention_labels.make(Source("fp16", keep=keep), settings, rate_measure.load(settings))
    assert stored.bytes.labels == rows * 2 * 20
    assert {batch.stored for part in stored.epochs for batch in part} == set(range(rows // 40))


@pytest.mark.parametrize("scheme", ["shuffled", "swapped"])
def test_broken_labels_weigh_what_whole_ones_do(scheme: str, glyphs_cache: Path) -> None:
    settings = QUICK.of("random", 2)
    labels = rate_measure.load(settings)
    whole, broken = (
        retention_labels.make(source, settings, labels) for source in (Source("fp16"), Source(scheme, k=5))
    )
    assert broken.bytes == whole.bytes
    assert broken.logits is not None
    assert not torch.equal(broken.logits, labels.logits)
    top = labels.logits.float().topk(5, dim=1).indices
    assert torch.equal(broken.logits.gather(1, top), labels.logits.gather(1, top))


def test_run_main_is_the_same_command(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[list[str]] = []
    monkeypatch.setattr(main, "main", told.append)
    run.main(["main", "--quick", "--seeds", "2"])
    run.main(["main", "--classes", "100"])
    assert told == [["run", "--seeds", "2", "--quick"], ["run", "--seeds", "3", "--classes", "100"]]


def test_large_sets_are_timed_and_weighed(
    glyphs_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(retention, "taught", lambda cell, _: Accuracy(99.0, accuracy(cell)))
    monkeypatch.setattr(large, "SOURCES", (Source("hard"), Source("vq", "replay", 2)))
    for _ in range(2):
        large.command(["run", "--quick", "--method", "random"])
    large.command(["table", "--quick"])
    lines = capsys.readouterr().out.splitlines()
    assert sum("ours, prior replay, 2 B, T = 20, seed 0: " in line for line in lines) == 1
    row = next(line for line in lines if line.startswith("| random | ours, prior replay, 2 B |"))
    assert row.endswith(f"| {79 + QUICK.settings.ipc - 0.1:.2f} |")
    assert "| random | hard | 0 | 0 | -- | -- |" in "\n".join(lines)
    assert Settings(**large.LARGE.facts()) == large.LARGE
