"""The bytes of every method: against what was published, against files that are really written, and by themselves."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, exit_status
from hypothesis import given, settings
from hypothesis import strategies as st

from vqlabel import LabelEncoder
from vqlabel.budget import DATA_SETS, METHODS, PARTS, Budget, DataSet, budget
from vqlabel.budget import stores as stores
from vqlabel.budget.ask import Ask
from vqlabel.budget.file import choose, prior_shape, shapes
from vqlabel.budget.published import BEGIN, END, PUBLISHED, Published, table, write
from vqlabel.codecs import choose as choosing
from vqlabel.codecs import foundation
from vqlabel.codecs.model import Decoder
from vqlabel.codecs.options import FitOptions
from vqlabel.codecs.stored import store
from vqlabel.known import IMAGE_TIERS
from vqlabel.replay import ReplayRecipe
from vqlabel.side import SideInformation

BATCHED = ("sre2l", "cda", "lpld", "lpqld")


# What was published


@pytest.mark.parametrize("entry", PUBLISHED, ids=lambda entry: entry.what)
def test_published_sizes_are_ours_to_the_printed_digit_but_for_those_named(entry: Published) -> None:
    pairs = zip(entry.printed.split(), entry.ours(), strict=True)
    assert [printed for printed, ours in pairs if printed != ours] == entry.apart.split()
    assert entry.why


def test_the_disagreements_are_what_the_page_says() -> None:
    assert f"{10 * budget('sre2l', 'imagenet-1k', 20).label_set / 2**30:.2f}" == "113.33"
    full, pruned = budget("lpld", "imagenet-21k", 10, keep=1), budget("lpld", "imagenet-21k", 10)
    assert full.label_set - full.index == 165 * 4096 * full.files - 300 * 4096 * (165 - 103)  # the last has 20 rows
    assert round(172 * 4096 * full.files / 2**30) == 643
    assert round(172 * 4096 * pruned.files / 2**30) == 16
    at_2_7 = [budget("lpqld", "imagenet-21k", 20, keep=0.025, k=400, as_written=wrong) for wrong in (False, True)]
    assert [f"{entry.label_set / 2**30:.1f}" for entry in at_2_7] == ["2.6", "2.8"]
    assert f"{budget('lpqld', 'imagenet-21k', 20, keep=0.025, k=200).label_set / 2**30:.1f}" == "1.5"


def test_files_as_written_are_those_that_the_released_writers_leave() -> None:
    counts = [budget("lpqld", "imagenet-1k", ipc, as_written=True).files for ipc in (10, 20, 50, 100, 200)]
    assert counts == [2310, 4650, 11670, 23400, 46830]
    sizes = {"keep": 0.05, "as_written": True}
    assert budget("lpld", "imagenet-21k", 10, **sizes).files == 52_240
    assert budget("lpld", "imagenet-21k", 10, keep=0.05).files == 48_975
    assert budget("lpld", "imagenet-1k", 200, keep=1).files == 468_900
    full = {"keep": 1, "epochs": 3}
    assert budget("lpld", "imagenet-1k", 1, **full, as_written=True).files == 4 * 8
    assert budget("lpld", "imagenet-1k", 1, **full).files == 3 * 8


def test_the_table_of_the_page_is_what_the_code_finds(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "budget.md").read_text()
    assert text.count("\n") <= 150
    assert "\n".join(table()) in text
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write(page)
    assert page.read_text() == f"before\n{BEGIN}\n\n" + "\n".join(table()) + f"\n{END}\nafter\n"


def test_the_example_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "budget.md").read_text(), flags=re.S)
    exec(compile(code, "budget.md", "exec"), {})
    assert capsys.readouterr().out.startswith("59")


# Files of others, really written


def saved(folder: Path, items: list[Any]) -> int:
    path = folder / "batch_12.tar"
    torch.save(items, path)
    return os.path.getsize(path)


def views(view: str, B: int, dtype: torch.dtype) -> list[Any]:
    boxes: list[Any] = [torch.rand(B, 4).to(dtype), torch.rand(B) > 0.5]
    return boxes if view != "cutout" else [boxes[0], torch.rand(B, 7)]


@pytest.mark.parametrize("view", ["cutmix", "cutout", "plain"])
@pytest.mark.parametrize("B", [1, 33, 128])
def test_files_of_torch_are_as_large_as_counted(view: str, B: int, tmp_path: Path) -> None:
    data = DataSet("any", 10, 0, view=view, batch=B)
    boxes = [np.int64(n) for n in (1, 200, 3, 150)]
    mix = [torch.randperm(B), 0.3, boxes] if view == "cutmix" else [None, None, None]
    logits = saved(tmp_path, [*views(view, B, torch.float32), *mix, torch.rand(B, 10).half()])
    small = [torch.tensor(n, dtype=torch.uint8) for n in (1, 2, 3, 4)]
    mix = [torch.zeros(B, dtype=torch.uint8), 0.3, small] if view == "cutmix" else [None, None, None]
    kept = [torch.rand(B, 5).half(), torch.zeros(B, 5, dtype=torch.int16)]
    topk = saved(tmp_path, [*views(view, B, torch.float16), *mix, *kept])
    for method, real in (("lpld", logits), ("lpqld", topk)):
        counted = budget(method, data, images=B, epochs=1, keep=1, k=5, block=1)
        assert counted.files == 1
        assert abs(counted.label_set - counted.index - real) <= 400, (
            method
        )  # archives of other versions differ a little


@pytest.mark.parametrize(("dtype", "crops", "k"), [("fp16", 500, 5), ("fp32", 300, 10), ("fp16", 1, 5)])
def test_files_of_fkd_are_as_large_as_counted(dtype: str, crops: int, k: int, tmp_path: Path) -> None:
    rng, kind = np.random.default_rng(0), {"fp16": np.float16, "fp32": np.float32}[dtype]
    chances = np.sort(rng.dirichlet(np.full(200, 0.1), crops))[:, -k:]
    output = np.stack([rng.integers(0, 1000, (crops, k)), chances], 1).astype(kind)
    real = saved(tmp_path, [rng.random((crops, 4)).astype(kind), rng.random(crops) > 0.5, output])
    counted = budget("fkd", "imagenet-1k", images=1, epochs=crops, k=k, dtype=dtype, block=1)
    assert abs(counted.label_set - real) <= max(400, 0.05 * real)


@pytest.mark.parametrize("images", [1, 9, 10, 11, 100, 1_001])
def test_lists_of_image_numbers_are_as_long_as_their_json(images: int) -> None:
    real = len(json.dumps(list(range(images)))) - len("[]") + len(", ")  # a list ends without a comma
    assert stores._list_bytes(Ask(DATA_SETS["imagenet-1k"], images=images), images) == real


def test_whole_blocks_are_taken() -> None:
    for method in METHODS:
        found = budget(method, "tiny-imagenet", 3, epochs=2)
        if method not in ("lpld", "lpqld"):  # their list is no file of whole blocks
            assert (found.label_set % 4096, found.files * 4096 <= found.label_set) == (0, True), method
        assert budget(method, "tiny-imagenet", 3, epochs=2, block=1).label_set <= found.label_set


# Our own file


@pytest.mark.parametrize(("prior", "size"), [("none", 4), ("classes", 0), ("replay", 2), ("replay", 12)])
def test_our_file_has_the_size_that_is_counted(prior: str, size: int, tmp_path: Path, one_thread: None) -> None:
    images, epochs, C = 101, 7, 30
    rng = np.random.default_rng(0)
    logits = (rng.normal(size=(images * epochs, 8)) @ rng.normal(size=(8, C))).astype(np.float16)
    recipe = ReplayRecipe(seed=7, images=images, height=256, width=256, size=224, cutmix=1.0)
    side = SideInformation(np.arange(images) % C, recipe)
    sizes = {"rows": 400, "held_out": 100, "effort": 0.001, "beam": 1}
    encoder = LabelEncoder.fit(logits, bytes_per_label=size, prior=prior, side=side, progress=False, **sizes)
    encoder.encode(logits, tmp_path / "labels.safetensors", progress=False)
    counted = budget("vqlabel", DataSet("any", C, 0), images=images, epochs=epochs, bytes=size, prior=prior, block=1)
    assert counted.label_set == os.path.getsize(tmp_path / "labels.safetensors")
    assert (counted.rows, counted.labels) == (images * epochs, images * epochs * encoder.codec.row_bytes)


@pytest.mark.parametrize("C", [2, 10, 64, 1_000, 10_450])
@pytest.mark.parametrize("tier", IMAGE_TIERS)
def test_codecs_are_chosen_as_a_fit_chooses_them(tier: str, C: int) -> None:
    assert [choosing.BYTES_PER_CLASS[tier], foundation.PRIOR_WIDTH.get(tier, 0)] == [
        {"none": 285, "classes": 285, "replay": 780, "image": 755}[tier],
        {"none": 0, "classes": 40, "replay": 64, "image": 64}[tier],
    ]
    for size in (0, 1, 2, 4, 8, 9, 16, 100):
        ask = Ask(DataSet("any", C, 0), images=77, bytes=size, prior=tier)
        shape = prior_shape(ask)
        layout, options = choose(ask, shape), FitOptions(bytes_per_label=size, prior=tier)
        sample = SimpleNamespace(classes=C, total=3, ranks=SimpleNamespace(sum=lambda value: value))
        width = min(options.width, C - 1)
        base: Any = SimpleNamespace(sample=sample, width=width, shape=shape, points=torch.rand(3, width))
        base.width = min(width, choosing.choose_width(base, options))
        base.points = base.points[:, : base.width]
        wanted = choosing.choose_layout(base, options)
        assert asdict(layout) | {"owner": 0} == asdict(wanted) | {"owner": 0}
        with torch.device("meta"):
            decoder = Decoder(C, layout, shape)
        assert shapes(C, layout, shape) == {name: tuple(w.shape) for name, w in decoder.named_parameters()}


def test_tensors_are_stored_as_a_codec_stores_them() -> None:
    ask = Ask(DATA_SETS["cifar-100"], 1, prior="image", bytes=3)
    shape = prior_shape(ask)
    arrays = store(dict(Decoder(100, choose(ask, shape), shape).named_parameters()), "int8")
    classes = 2 * 100  # a uint16 for each image
    assert budget("vqlabel", "cifar-100", 1, prior="image", bytes=3).tables == classes + sum(
        array.nbytes for array in arrays.values()
    )


def test_a_budget_needs_no_torch(tmp_path: Path) -> None:
    code = "import sys; from vqlabel.budget import *; [budget(m, 'cifar-10', 1) for m in METHODS]"
    code += "; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


# Whatever is asked


@settings(max_examples=60)
@given(
    method=st.sampled_from(sorted(METHODS)),
    data=st.sampled_from(sorted(DATA_SETS)),
    ipc=st.integers(1, 60),
    epochs=st.integers(1, 40),
    block=st.sampled_from([1, 512, 4096]),
)
def test_totals_are_sums_of_parts_and_json_tells_all(method: str, data: str, ipc: int, epochs: int, block: int) -> None:
    found = budget(method, data, ipc, epochs=epochs, block=block)
    parts = [getattr(found, part) for part in PARTS]
    assert all(isinstance(part, int) and part >= 0 for part in parts)
    assert found.total == sum(parts) == found.images + found.label_set
    assert math.isclose(found.per_label * found.rows, found.label_set)
    assert found.ratio is None or math.isclose(found.ratio * found.label_set, found.sre2l)
    assert Budget.from_json(json.loads(json.dumps(found.to_json()))) == found
    more = budget(method, data, ipc + 1, epochs=epochs, block=block)
    assert (more.images, more.label_set, more.rows) >= (found.images, 0, found.rows)
    assert more.total >= found.total


@pytest.mark.parametrize(
    ("methods", "option", "values"),
    [
        (("lpqld", "tinyvit", "fkd"), "k", [1, 10, 50, 100, 199, 200]),
        (("lpld", "lpqld", "vqlabel"), "keep", [0.01, 0.1, 0.5, 1]),
        (("sre2l", "lpld", "fkd", "tinyvit", "vqlabel"), "epochs", [1, 2, 99, 300]),
        (("sre2l", "lpld", "lpqld", "fkd", "tinyvit", "one-label"), "dtype", ["fp16", "fp32"]),
        (("vqlabel",), "bytes", [0, 1, 2.5, 4, 8, 16, 64]),
    ],
)
def test_more_of_anything_takes_more_bytes(methods: tuple[str, ...], option: str, values: list[Any]) -> None:
    for method in methods:
        sizes = [budget(method, "tiny-imagenet", 50, **{option: value}).label_set for value in values]
        assert all(a <= b for a, b in itertools.pairwise(sizes)), method
        assert sizes[0] < sizes[-1], method


@pytest.mark.parametrize("method", BATCHED)
def test_larger_batches_need_fewer_files(method: str) -> None:
    counts = [budget(method, "imagenet-1k", 1, batch=batch).files for batch in (1, 7, 128, 1_000, 5_000)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1] >= 1


def test_sre2l_in_fp16_is_its_own_measure() -> None:
    assert budget("sre2l", "imagenet-1k", 50).ratio == 1
    assert budget("sre2l", "imagenet-1k", 50, dtype="fp32", batch=7).sre2l == budget("cda", "imagenet-1k", 50).sre2l


def test_rded_stores_nothing_and_says_what_it_needs() -> None:
    found = budget("rded", "imagenet-1k", 50)
    assert (found.label_set, found.rows, found.per_label, found.ratio) == (0, 0, 0, None)
    assert found.teacher == 2 * 11_689_512  # ResNet-18
    assert "teacher" in found.note


def test_numbers_that_do_not_fit_are_told() -> None:
    many = DataSet("many", 40_000, 0)
    assert "int16" in budget("tinyvit", many, 1).note
    assert "int16" in budget("lpqld", many, 1).note
    assert "2,048" in budget("fkd", many, 1).note
    assert "uint8" in budget("lpqld", "imagenet-1k", 1, batch=257).note
    assert not any(budget(method, "imagenet-1k", 1).note for method in METHODS if method != "rded")


# Errors and the command


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sre3l", "imagenet-1k", 1), "method must be one of sre2l, .* got 'sre3l'"),
        (("sre2l", "mnist", 1), "data set must be one of imagenet-1k, .* got 'mnist'"),
        (("sre2l", "cifar-10", 0), "ipc must be a whole number from 1 to .* got 0"),
        (("sre2l", "cifar-10", None), "say one of ipc and images"),
    ],
)
def test_wrong_questions_are_told_what_is_allowed(arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        budget(*arguments)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("images", 3), ("epochs", 0), ("batch", 0), ("keep", 0), ("keep", 1.1), ("keep", math.nan), ("keep", True)),
        *(("k", 11), ("bytes", -1), ("bytes", 257), ("prior", "x"), ("dtype", "int8"), ("block", 0)),
    ],
)
def test_options_out_of_range_are_refused(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=option):
        budget("vqlabel", "cifar-10", 1, **{option: value})


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, output and error output of the command line."""
    ended = exit_status("budget", *arguments)
    output = capsys.readouterr()
    return ended, output.out, output.err


def test_the_command_shows_every_method_on_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    status, out, err = run(capsys, "imagenet-1k", "--ipc", "50")
    assert (status, err) == (0, "")
    for words in (*METHODS, "30.4G", "28.331", "2,028", "23.4 MB", "800 MB", "GiB"):
        assert words in out, words
    assert "…" not in out


def test_the_command_asks_what_it_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--keep", "0.2", "--k", "9", "--bytes", "2", "--epochs", "11", "--prior", "none", "--as-written"]
    methods = ["--method", "lpqld", "--method", "vqlabel"]
    status, out, _ = run(capsys, "cifar-10", "--ipc", "50", *methods, *options, "--json")
    asked = {"keep": 0.2, "k": 9, "bytes": 2, "epochs": 11, "prior": "none", "as_written": True}
    assert status == 0
    assert json.loads(out) == [budget(m, "cifar-10", 50, **asked).to_json() for m in ("lpqld", "vqlabel")]
    own = ("[b]$x$[/]", "--classes", "7", "--image-bytes", "9", "--images", "30", "--method", "sre2l")
    assert json.loads(run(capsys, *own, "--json")[1])[0]["images"] == 270
    assert "[b]$x$[/]" in run(capsys, *own)[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("mnist", "--ipc", "1"), "say --classes of another, got 'mnist'"),
        (("mnist", "--ipc", "1", "--image-bytes", "7"), "say --classes of another, got 'mnist'"),
        (("cifar-10", "--ipc", "1", "--plot", "nowhere/x.svg"), "nowhere is not there: make the folder"),
        (("cifar-10", "--ipc", "1", "--plot", "."), "'.' names no file: say a name"),
        (("cifar-10", "--ipc", "1", "--method", "x"), "method must be one of"),
        (("--ipc", "1"), "say a data set"),
        (("cifar-10", "--classes", "3", "--ipc", "1"), "leave out --classes"),
        (("cifar-10", "--image-bytes", "3", "--ipc", "1"), "--image-bytes go with --classes"),
        (("cifar-10",), "say one of ipc and images"),
        (
            ("cifar-10", "--images", str(2**31), "--epochs", str(2**31)),
            "rows (2,147,483,648 epochs of 2,147,483,648 images) of 8 bytes were asked for, but a file holds",
        ),
    ],
)
def test_commands_that_make_no_sense_are_one_line_and_status_1(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    status, out, err = run(capsys, *arguments)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert words in err


def test_the_figure_is_the_same_each_time(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("a.svg", "b.svg", "c.png"):
        status, _, err = run(capsys, "$x", "--classes", "7", "--ipc", "1", "--plot", str(tmp_path / name))
        assert (status, err) == (0, "")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert b"<svg" in (tmp_path / "a.svg").read_bytes()


def test_a_figure_without_matplotlib_says_how_to_get_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    status, out, err = run(capsys, "cifar-10", "--ipc", "1", "--plot", str(tmp_path / "a.svg"))
    assert (status, out) == (1, "")
    assert "pip install 'vqlabel[plots]'" in err
