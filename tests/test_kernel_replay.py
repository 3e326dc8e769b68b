"""Side information drawn by the kernel: to the last bit what `SideInformation` draws on the CPU, for every recipe."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decoder_parts import FITTED, file_of, views_of
from interpret import DEVICE, INTERPRETED
from vqlabel.kernels import replay

from vqlabel import LabelDecoder
from vqlabel.keys import Keys
from vqlabel.law import law_of
from vqlabel.paths import KernelPath
from vqlabel.replay import USER_STREAM, ReplayRecipe
from vqlabel.side import ImageSide, SideInformation

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = 1000
RECIPE = ReplayRecipe(
    seed=2**63 + 7, images=IMAGES, height=48, width=40, size=32, cutmix=0.4, mixup=0.3, mixup_alpha=0.4
)
DRAWS = [[USER_STREAM, 0], [2**32 - 1, 2**32 - 1]]
HERE = torch.device(DEVICE)
NUMBERS = [field.name for field in dataclasses.fields(ImageSide) if field.name != "views"]


@pytest.fixture
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter takes a program at a time, and as long for a small one as for a large one."""
    if INTERPRETED:
        monkeypatch.setattr(replay, "BM", 2**15)


def info_of(recipe: ReplayRecipe | None, draws: Any = ()) -> SideInformation:
    return SideInformation(np.arange(recipe.images if recipe else IMAGES) * 7 % 37, recipe, draws=draws)


def by_kernel(info: SideInformation, rows: np.ndarray[Any, Any], features: int) -> ImageSide:
    return ImageSide(*replay.side(torch.from_numpy(rows).to(HERE), law_of(info, HERE), features), None)  # type: ignore[call-arg]


def assert_same(found: ImageSide, truth: ImageSide) -> None:
    for name in NUMBERS:
        torch.testing.assert_close(getattr(found, name).cpu(), getattr(truth, name), rtol=0, atol=0, msg=name)


@pytest.mark.usefixtures("few_programs")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"scale": (0.9, 1.0), "ratio": (0.2, 5.0)},  # most crops do not fit
        {"scale": (0.999, 1.0), "ratio": (9.0, 10.0)},  # none does
        {"scale": (0.999, 1.0), "ratio": (0.1, 0.11)},
        {"height": 1, "width": 1, "size": 1},
        {"height": 2**15, "width": 3, "size": 4095},
        {"images": 1, "cutmix": 1.0, "mixup": 0.0, "flip": 0.0},
        {"cutmix": 0.0, "mixup": 1.0, "flip": 1.0},
        {"cutmix": 0.0, "mixup": 0.0, "seed": 0},
        {"seed": 2**64 - 1},
        {"seed": 2**32},
    ],
)
def test_every_number_is_that_of_the_cpu(changes: dict[str, Any]) -> None:
    """Equal features are equal boxes: each whole pixel is another number of float32."""
    info = info_of(dataclasses.replace(RECIPE, **changes), DRAWS)
    rows = np.random.default_rng(1).integers(0, 2**32 * info.images, 10_000)
    assert_same(by_kernel(info, rows, info.features), info.of(rows))


@pytest.mark.parametrize("B", [0, 1, 31, 32, 33])
@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_any_number_of_rows_is_drawn(B: int, kind: type[np.signedinteger[Any]]) -> None:
    info = info_of(RECIPE)
    rows = np.random.default_rng(B).integers(0, 2**31, B).astype(kind)
    assert_same(by_kernel(info, rows, 17), info.of(rows))
    assert_same(by_kernel(info, rows, 0), info.of(rows, tier="classes"))


def test_keys_stand_for_the_same_with_the_kernel_and_without() -> None:
    rows = np.array([0, 3 * IMAGES + 5, 2**31 - 1])
    for recipe, draws in ((RECIPE, DRAWS), (None, [])):
        for tier in ("classes", "replay", "image"):
            keys = Keys(info_of(recipe, draws), tier, 2**31)
            packed = torch.from_numpy(keys.of(rows)).to(HERE)
            found, truth = keys.side(packed, by_kernel=True), keys.side(packed.cpu())
            assert found is not None
            assert truth is not None
            assert_same(found, truth)


@pytest.mark.parametrize("kind", [kind for kind in FITTED if FITTED[kind].get("prior")])
def test_labels_of_a_gpu_take_their_side_information_from_the_kernel(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, drawn, side = np.array([0, 299, 61, 7]), [], replay.side
    monkeypatch.setattr(replay, "side", lambda *args: drawn.append(len(args[0])) or side(*args))
    decoder, images = LabelDecoder(file_of(kind)), views_of(kind, rows)
    packed, expected = decoder.read(rows), decoder(rows, images=images)
    assert not drawn
    decoder._paths[HERE] = KernelPath(decoder._codec_here(), HERE)  # which elsewhere than on a GPU decodes by torch
    found = packed.to(HERE).probs(images=images)
    assert drawn == [len(rows)]
    torch.testing.assert_close(found.cpu(), expected, rtol=0.01, atol=1e-3)


@pytest.mark.skipif(not find_spec("triton"), reason="Triton is made for Linux only")
def test_compiled_code_rounds_every_step_as_the_cpu_does() -> None:
    code = (
        "from compiled import compile_for; from vqlabel.kernels.replay import compile_cases\n"
        "print(*(compile_for(case, 90).asm['ptx'] for case in compile_cases()[2:3]))"
    )
    paths = {**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": str(Path(__file__).parent)}
    ptx = subprocess.run([sys.executable, "-c", code], env=paths, capture_output=True, text=True, check=True).stdout
    steps = re.findall(r"\b(?:fma|mul|add|sub|div|sqrt)\.\S*f(?:64|32)\b", ptx)
    # Named so, a step is never fused with another, nor taken for one that is near enough.
    assert set(steps) == {f"{step}.rn.f64" for step in ("mul", "add", "sub", "div", "sqrt")}
