"""The rate benchmark on small made-up labels: what is kept, what is counted, what the tables say."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from encoder_parts import teacher_logits

sys.path.insert(0, str(ROOT))  # examples are run from the repository

from examples import shared
from examples.glyphs import rate, rate_bound, rate_cells, rate_figures, rate_measure, rate_table, rivals
from examples.glyphs.rate_bench import Bench
from examples.glyphs.rate_cells import Cell
from vqlabel import LabelEncoder
from vqlabel.codecs.fitting import fit
from vqlabel.codecs.foundation import build
from vqlabel.codecs.options import FitOptions
from vqlabel.codecs.sample import Sample
from vqlabel.measure import measure
from vqlabel.replay import ReplayRecipe
from vqlabel.side import SideInformation

CLASSES, IMAGES, ROWS = 12, 60, 1800
CELLS = [
    Cell("bound", "classes"),
    Cell("codec", "classes", 0),
    Cell("codec", "classes", 2),
    Cell("codec", "classes", 2, stored="fp16"),
    Cell("codec", "classes", 2, temperature=4.0),
    Cell("rival", name="LPQLD MR-10"),
    Cell("rival", name="fp16, zlib"),
]


@pytest.fixture(scope="module")
def labels() -> rate_measure.Labels:
    logits = torch.from_numpy(teacher_logits(ROWS, CLASSES)).half()
    recipe = ReplayRecipe(seed=1, images=IMAGES, height=32, width=32, size=32, cutmix=0.5)
    info = SideInformation(np.arange(IMAGES) % CLASSES, recipe)
    return rate_measure.Labels(logits - logits.mean(1, keepdim=True), info, "teacher")


@pytest.fixture(scope="module")
def results(labels: rate_measure.Labels, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("rate") / "rate.json"
    rate.measure(Bench(labels, effort=0.02), CELLS, path)
    return rate.read(path)


def test_cells_are_kept_and_not_run_again(
    labels: rate_measure.Labels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    monkeypatch.setattr(Bench, "measure", lambda self, cell: ran.append(cell.name) or {"kl": None})
    path, cells = tmp_path / "rate.json", [Cell("rival", name="int8"), Cell("rival", name="fp16")]
    rate.measure(Bench(labels), cells[:1], path)
    assert list(json.loads(path.read_text())["cells"]) == ["C = 12, p = 0.5, rival int8"]
    rate.measure(Bench(labels), cells, path)
    assert ran == ["int8", "fp16"]
    assert [file.name for file in tmp_path.iterdir()] == ["rate.json"]


def test_an_interrupted_run_keeps_what_was_done(
    labels: rate_measure.Labels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stops(_: Bench, cell: Cell) -> dict[str, Any]:
        if cell.name == "fp16":
            raise KeyboardInterrupt
        return {"kl": None}

    monkeypatch.setattr(Bench, "measure", stops)
    with pytest.raises(KeyboardInterrupt):
        rate.measure(Bench(labels), [Cell("rival", name="int8"), Cell("rival", name="fp16")], tmp_path / "rate.json")
    assert len(rate.read(tmp_path / "rate.json")["cells"]) == 1


def test_results_of_another_teacher_are_not_added_to(labels: rate_measure.Labels, tmp_path: Path) -> None:
    path = tmp_path / "rate.json"
    shared.write(path, {"labels": {"C = 12, p = 0.5": "another"}, "cells": {}})
    with pytest.raises(ValueError, match="labels of another teacher; move it away"):
        rate.measure(Bench(labels), CELLS, path)


def test_every_cell_has_a_key_of_its_own() -> None:
    cells = list(rate_cells.cells())
    assert len({cell.key(1000, 0.5, 1.0) for cell in cells}) == len(cells)
    asked = {(cell.prior, cell.bytes) for cell in cells if cell.kind == "codec" and cell.temperature == 20}
    assert set(rate_cells.MUST_REACH) <= asked


def test_held_out_rows_are_a_tenth_and_fitted_by_nobody(labels: rate_measure.Labels) -> None:
    fitted, held_out = (labels.sample("classes", held_out=held) for held in (False, True))
    assert (len(fitted), len(held_out)) == (ROWS - ROWS // 10, ROWS // 10)
    both = torch.cat([fitted.logits, held_out.logits]).sort(0).values
    assert torch.equal(both, labels.logits.sort(0).values)


@pytest.mark.parametrize("prior", ["none", "replay"])
def test_bytes_are_those_of_a_file_that_is_really_written(
    labels: rate_measure.Labels, tmp_path: Path, prior: str
) -> None:
    sample = labels.sample(prior, held_out=False).part(0, 600)
    codec = fit(sample, FitOptions(prior=prior, bytes_per_label=2, nbits=4, effort=0), sample)
    facts, rows = rate_measure.judge(codec, labels.sample(prior, held_out=True))
    facts |= rate_measure.code_use(rows, codec.layout.G, codec.layout.nbits)
    counted = rate_measure.file_bytes(codec, labels, facts)["overhead"]
    path = tmp_path / "labels.safetensors"
    encoder = LabelEncoder(codec, labels.info, measure(codec, labels.sample(prior, held_out=True)))
    encoder.temperatures = (20.0,)
    encoder.encode(labels.logits, path, progress=False)
    assert counted + ROWS * codec.row_bytes == os.path.getsize(path)


@pytest.mark.parametrize(
    ("name", "size", "fixed"),
    [
        ("PQ4x4", 2, 16 * CLASSES),
        ("OPQ5_10,PQ5x4", 3, 10 * (CLASSES + 3) + 16 * 10),  # five books do not divide 12 classes: zeros make it 15
        ("PCA8,RQ3x4", 2, 8 * CLASSES + 8 + 3 * 16 * 8),
    ],
)
def test_faiss_gives_the_bytes_it_says(name: str, size: int, fixed: int) -> None:
    pytest.importorskip("faiss")
    logits = torch.from_numpy(teacher_logits(700, CLASSES))
    rival = rivals.make(name, Sample(logits, None, 700))
    rows = rival.encode(logits[:9])
    assert rows.dtype == np.uint8
    assert rows.shape == (9, rival.row_bytes) == (9, size)
    assert rival.fixed_bytes == 4 * fixed
    assert rival.decode(rows).shape == (9, CLASSES)
    assert float((rival.decode(rows) - logits[:9]).square().mean()) < float(logits.var())


def test_faiss_takes_classes_that_its_books_do_not_divide() -> None:
    pytest.importorskip("faiss")
    logits = torch.from_numpy(teacher_logits(700, CLASSES))
    assert rivals.make("PQ5x4", Sample(logits, None, 700)).decode(np.zeros((2, 3), np.uint8)).shape == (2, CLASSES)


def test_principal_components_of_int8_are_close() -> None:
    logits = torch.from_numpy(teacher_logits(700, CLASSES))
    rival = rivals.make("PCA8,int8", Sample(logits, None, 700))
    assert rival.encode(logits).shape == (700, 8)
    assert float((rival.decode(rival.encode(logits)) - logits).std()) < 0.1 * float(logits.std())


def test_bound_is_never_above_what_is_measured_on_gaussian_data() -> None:
    generator = torch.Generator().manual_seed(3)
    scale = torch.linspace(3, 0.1, CLASSES)
    logits = torch.randn(4000, CLASSES, generator=generator) * scale
    logits -= logits.mean(1, keepdim=True)
    sample, held_out = Sample(logits[:3000], None, 3000), Sample(logits[3000:], None, 1000)
    curve = rate_bound.curve(build(sample, FitOptions(width=CLASSES), lambda _: None), held_out)
    power = float(held_out.logits.double().square().sum(1).mean())
    assert curve["shared"]["0"] == pytest.approx(power, rel=1e-3)
    for size in (1, 2, 3):
        options = FitOptions(bytes_per_label=size, nbits=4, width=CLASSES, effort=0, stored="fp16")
        facts, _ = rate_measure.judge(fit(sample, options, held_out), held_out)
        assert curve["shared"][str(size)] <= facts["squared_error"] < 3 * curve["shared"][str(size)]
    assert list(curve["shared"].values()) == sorted(curve["shared"].values(), reverse=True)


def test_bound_of_a_few_variances_is_what_the_formula_says() -> None:
    source = [(0.5, torch.tensor([4.0, 4.0])), (0.5, torch.tensor([1.0, 1.0]))]
    # A shared level of 1 costs the first regime a bit for each of its two dimensions, and the second one nothing.
    assert rate_bound.shared_level(source, 1) == pytest.approx(2.0, rel=1e-6)
    assert rate_bound.fixed_rate(source, 1) == pytest.approx((4 + 1) / 2, rel=1e-6)
    assert rate_bound.shared_level(source, 0) == pytest.approx(5.0)


def test_entropy_counts_what_is_used() -> None:
    rows = np.array([[0x10], [0x32], [0x10], [0x32]], np.uint8)  # codes (0, 1) and (2, 3), of 4 bits each
    assert rate_measure.code_use(rows, 2, 4) == {"entropy": 1.0, "used": 2 / 16}
    assert rate_measure.code_use(np.zeros((4, 0), np.uint8), 0, 8) == {}


def test_what_is_found_makes_sense(results: dict[str, Any]) -> None:
    by_name = {key.split("p = 0.5, ")[1]: entry for key, entry in results["cells"].items()}
    few, many = (by_name[f"prior classes, {size} B, fit at T = 20, auto, int8, effort 0.02"] for size in (0, 2))
    assert many["kl"]["20"] < few["kl"]["20"]
    assert set(many["seconds"]) >= {"prior", "books", "refit"}
    assert many["overhead_many"] >= many["overhead"] > 0
    assert by_name["rival LPQLD MR-10, effort 0.02"]["kl"] is None
    assert by_name["rival fp16, zlib, effort 0.02"]["row_bytes"] < 2 * CLASSES


def test_tables_name_their_command(results: dict[str, Any], tmp_path: Path) -> None:
    text = "\n".join(rate_table.tables(results, CLASSES, 0.02))
    titles = [line for line in text.splitlines() if line.startswith("**")]
    assert len(titles) == 8
    assert all("`python -m examples.glyphs.rate measure --mixing 0.5" in title for title in titles)
    widths = [line.count(" | ") for line in text.splitlines() if line.startswith("|")]
    assert widths
    page = tmp_path / "page.md"
    page.write_text(f"Before.\n{rate_table.BEGIN}\nold\n{rate_table.END}\nAfter.\n")
    rate_table.write(text, page)
    once = page.read_text()
    rate_table.write(text, page)
    assert page.read_text() == once
    assert once.startswith("Before.")
    assert once.endswith("After.\n")
    assert "old" not in once


def rival(name: str, size: int, kl: float) -> dict[str, Any]:
    return {"kind": "rival", "name": name, "row_bytes": size, "kl": {"20": kl}}


def test_missed_and_met_are_told_apart() -> None:
    def entry(size: int, kl: float) -> dict[str, Any]:
        about = {"kind": "codec", "prior": "none", "bytes": size, "temperature": 20.0, "stored": "int8", "form": "auto"}
        return {**about, "kl": {"20": kl}}

    found = [entry(4, 3.8e-3), entry(8, 1.6e-3), rival("OPQ4_64,PQ4x8", 4, 5e-3), rival("PCA64,RQ4x8", 4, 3.7e-3)]
    lines = list(rate_table._must([*found, rival("PCA4,int8", 4, 1e-3)], "`command`"))
    assert "| none | 4 | 3.90e-03 | 3.80e-03 | met | 0.97 | PCA64,RQ4x8: 3.70e-03, **not below** |" in lines
    assert "| none | 8 | 1.50e-03 | 1.60e-03 | **missed** | 1.07 | -- |" in lines


def test_the_closest_of_faiss_is_of_any_of_its_indices() -> None:
    found = [
        rival("PQ4x8", 4, 3.0),
        rival("OPQ4_64,PQ4x8", 4, 2.0),
        rival("PCA64,RQ4x8", 4, 1.0),
        rival("int8", 4, 0.5),
    ]
    closest = rate_table.closest_faiss(found, 4, "20")
    assert closest is not None
    assert closest["name"] == "PCA64,RQ4x8"
    assert rate_table.closest_faiss(found, 8, "20") is None


def test_every_second_of_a_fit_is_in_the_table(results: dict[str, Any]) -> None:
    text = list(rate_table.tables(results, CLASSES, 0.02))
    head = next(line for line in text if line.startswith("| prior | bytes | threads |")).split(" | ")
    whole = next(e for e in rate_table.codecs([*results["cells"].values()], bytes=2, stored="int8", temperature=20.0))
    assert set(whole["seconds"]) <= {"measure", *rate_table.PHASES}
    row = text[text.index(" | ".join(head)) + 3].split(" | ")
    spent = sum(seconds for phase, seconds in whole["seconds"].items() if phase != "measure")
    assert row[head.index("all of the fit")] == f"{spent:.0f}"


def test_rivals_that_were_not_run_are_named(results: dict[str, Any]) -> None:
    line = next(line for line in rate_table.tables(results, CLASSES, 0.02) if line.startswith("Not run: "))
    assert "`PCA64,RQ4x8`" in line
    assert "`fp16, zlib`" not in line


def test_figure_is_the_same_every_time(results: dict[str, Any], tmp_path: Path) -> None:
    for name in ("one.svg", "two.svg"):
        rate_figures.plot(results, tmp_path / name, classes=CLASSES, effort=0.02)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_page_has_the_place_for_the_tables() -> None:
    page = (ROOT / "examples" / "glyphs" / "RATE.md").read_text()
    assert page.count(rate_table.BEGIN) == page.count(rate_table.END) == 1
