"""`vqlabel compare`: label files of one teacher side by side."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run
from encoder_parts import logits

from vqlabel import LabelFile
from vqlabel.gaps import FEATURE, MISSING, bitmap

ROWS = 9000


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """Logits as .npy."""
    np.save(tmp_path / "logits.npy", logits(ROWS))
    return tmp_path / "logits.npy"


def labels_of(rows: np.ndarray[Any, Any], path: Path) -> Path:
    """A label file of fp16 rows, whatever they hold: another program may write what ours refuse to."""
    sizes, metadata = {"rows": len(rows), "row_bytes": 20}, {"codec": {"id": "raw", "dtype": "F16"}, "classes": 10}
    with LabelFile.create(path, **sizes, metadata=metadata) as writer:
        writer.write(0, rows.astype("<f2").view(np.uint8))
    return path


def test_compare_puts_files_side_by_side(run: Run, teacher: Path, tmp_path: Path) -> None:
    for name in ("raw", "int8", "topk"):
        k = ("--k", 3) if name == "topk" else ()
        run("encode", teacher, "-o", tmp_path / name, "--format", name, *k)
    files = [tmp_path / name for name in ("raw", "int8", "topk")]
    status, out, err = run("compare", *files, "--teacher", teacher, "--rows", 500, "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found["rows"] == 500
    assert [entry["file"] for entry in found["files"]] == [str(tmp_path / name) for name in ("topk", "int8", "raw")]
    for entry in found["files"]:
        assert entry["all_in"] == os.path.getsize(tmp_path / entry["file"]) / ROWS
        assert entry["ratio"] == 20 / entry["all_in"]
    topk, int8, raw = found["files"]
    assert topk["kl"] == {"1": None, "4": None, "20": None}  # classes without any probability
    assert list(raw["kl"]) == ["1", "4", "20"]
    assert all(0 <= raw["kl"][t] < 1e-5 for t in raw["kl"])
    assert raw["kl"]["4"] < int8["kl"]["4"] < 1e-2
    assert raw["top1"] > 0.99
    status, out, _ = run("compare", *files, "--teacher", teacher, "--rows", 500)
    assert status == 0
    for words in (
        "on 500 of 9,000 rows",
        "the 3 largest logits",
        "every logit as float16",
        "KL, T=20",
        "100.00%",
        "infinite",
    ):
        assert words in out


def test_compare_tells_an_infinite_kl(run: Run, teacher: Path, tmp_path: Path) -> None:
    rows = np.load(teacher)
    rows[5, 2] = -np.inf
    _, out, _ = run("compare", labels_of(rows, tmp_path / "labels"), "--teacher", teacher, "--json")
    assert json.loads(out)["files"][0]["kl"] == {"1": None, "4": None, "20": None}


def test_compare_draws(run: Run, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("raw", "topk"):
        run("encode", teacher, "-o", tmp_path / name, "--format", name)
    order = (
        "compare",
        tmp_path / "raw",
        tmp_path / "topk",
        "--teacher",
        teacher,
        "--rows",
        50,
        "--plot",
        tmp_path / "out.png",
    )
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run(*order)[2] == "error: --plot needs matplotlib: pip install 'vqlabel[plots]'\n"
    monkeypatch.undo()
    assert "nowhere is not there: make the folder that out.png" in run(*order[:-1], tmp_path / "nowhere" / "out.png")[2]
    assert run(*order)[0] == 0
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_compare_refuses_what_cannot_be_compared(run: Run, teacher: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "other.npy", logits(100))
    run("encode", tmp_path / "other.npy", "-o", tmp_path / "other", "--format", "raw")
    status, _, err = run("compare", tmp_path / "other", "--teacher", teacher)
    assert (status, "has 100 rows, but the teacher's logits have 9000" in err) == (1, True)


def test_other_rows_are_told_before_gaps_are_looked_for(run: Run, teacher: Path, tmp_path: Path) -> None:
    gaps = {MISSING: bitmap(np.arange(100) == 3)}
    facts = {"codec": {"id": "raw", "dtype": "F16"}, "classes": 10, "requires": [FEATURE]}
    with LabelFile.create(tmp_path / "gaps", rows=100, row_bytes=20, tensors=gaps, metadata=facts) as writer:
        writer.write(0, np.zeros((100, 20), np.uint8))
    status, _, err = run("compare", tmp_path / "gaps", "--teacher", teacher)
    assert (status, f"{tmp_path / 'gaps'} has 100 rows, but the teacher's logits have 9000" in err) == (1, True), err


def test_a_name_that_is_no_text_is_drawn_too(run: Run, teacher: Path, tmp_path: Path) -> None:
    path = labels_of(np.load(teacher), tmp_path / "labels\udcff")
    status, _, err = run("compare", path, "--teacher", teacher, "--rows", 50, "--json", "--plot", tmp_path / "out.png")
    assert (status, err) == (0, "")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    status, _, err = run("compare", path, "--teacher", teacher, "--plot", tmp_path)
    assert (status, f"{tmp_path} is a folder: say the name of a picture in it" in err) == (1, True)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_row_that_is_no_label_is_named(run: Run, teacher: Path, tmp_path: Path, value: float) -> None:
    rows = np.load(teacher)
    labels_of(rows, tmp_path / "good")
    rows[7, 2] = value
    np.save(tmp_path / "broken.npy", rows)
    status, out, err = run("compare", tmp_path / "good", "--teacher", tmp_path / "broken.npy", "--json")
    assert (status, out) == (1, "")
    assert f"error: the teacher's row 7 holds {'NaN' if np.isnan(value) else 'inf'}, but a label is finite" in err
    bad = labels_of(rows, tmp_path / "bad")
    status, out, err = run("compare", bad, "--teacher", teacher, "--json")
    assert (status, out, err) == (1, "", f"error: {bad}: row 7 decodes to NaN or inf: make its label again\n")


def test_a_dropped_class_counts_where_the_teacher_gives_it_a_chance(run: Run, teacher: Path, tmp_path: Path) -> None:
    for k in (3, 5):
        run("encode", teacher, "-o", tmp_path / f"{k}.safetensors", "--format", "topk", "--k", k)
    three, five = tmp_path / "3.safetensors", tmp_path / "5.safetensors"
    _, out, _ = run("compare", three, five, "--teacher", three, "--json", "--rows", 300)
    here, more = json.loads(out)["files"]
    assert here["kl"] == {"1": 0, "4": 0, "20": 0}
    assert all(0 < value < 9 for value in more["kl"].values())
    _, out, _ = run("compare", three, "--teacher", five, "--json", "--rows", 300)
    assert json.loads(out)["files"][0]["kl"] == {"1": None, "4": None, "20": None}


def test_files_of_one_name_are_told_apart(run: Run, teacher: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        run("encode", teacher, "-o", tmp_path / name / "labels.safetensors", "--format", "raw")
    files = [str(tmp_path / name / "labels.safetensors") for name in ("one", "two")]
    _, out, _ = run("compare", *files, "--teacher", teacher, "--json", "--rows", 9)
    assert sorted(entry["file"] for entry in json.loads(out)["files"]) == files


def test_a_dump_is_a_teacher_once_its_classes_are_said(run: Run, teacher: Path, tmp_path: Path) -> None:
    run("encode", teacher, "-o", tmp_path / "raw", "--format", "raw")
    rows = np.load(teacher)
    np.savez(
        tmp_path / "dump.npz",
        ids=np.arange(10)[None].repeat(ROWS, 0),
        log_probs=rows - np.log(np.exp(rows).sum(1, keepdims=True)),
    )
    order = ("compare", tmp_path / "raw", "--teacher", tmp_path / "dump.npz", "--json")
    assert "does not tell how many classes there are: say --classes" in run(*order)[2]
    status, out, _ = run(*order, "--classes", 10)
    assert status == 0
    assert 0 <= json.loads(out)["files"][0]["kl"]["1"] < 1e-5
