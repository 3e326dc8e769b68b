"""LabelEncoder with the codec that it is there for: fitted, kept, encoded, by one process and by two."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_parts import ranks, teacher_logits

from vqlabel import LabelDecoder, LabelEncoder, LabelFile
from vqlabel.label_source import LabelSource
from vqlabel.replay import ReplayRecipe
from vqlabel.side import SideInformation

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS, CLASSES, IMAGES = 6000, 20, 60
SIDE = SideInformation(
    np.arange(IMAGES) % CLASSES, ReplayRecipe(seed=7, images=IMAGES, height=48, width=48, size=32, cutmix=0.5)
)
FIT = {"bytes_per_label": 2, "nbits": 4, "effort": 0.1, "rows": 2000, "held_out": 500, "width": 16}


@pytest.fixture(scope="module")
def fitted() -> LabelEncoder:
    """Encoder that leans on the classes of the images."""
    return LabelEncoder.fit(teacher_logits(ROWS, CLASSES), side=SIDE, prior="classes", progress=False, **FIT)


def test_the_file_decodes_as_well_as_was_measured(fitted: LabelEncoder, tmp_path: Path) -> None:
    data = teacher_logits(ROWS, CLASSES)
    file = fitted.encode(data, tmp_path / "labels")
    assert file.row_bytes == 2
    decoded = LabelSource(LabelFile(file.path)).read(range(ROWS)).numpy()
    centred = data - data.mean(1, keepdims=True)
    assert np.square(decoded - decoded.mean(1, keepdims=True) - centred).mean() < 0.7 * np.square(centred).mean()
    assert fitted.measured is not None
    assert file.metadata["measured"] == json.loads(json.dumps(fitted.measured))


def test_a_kept_fit_encodes_to_the_same_bytes(fitted: LabelEncoder, tmp_path: Path) -> None:
    fitted.save(tmp_path / "codec")
    data = teacher_logits(ROWS, CLASSES)
    files = [
        encoder.encode(data, tmp_path / name)
        for name, encoder in (("fitted", fitted), ("loaded", LabelEncoder.load(tmp_path / "codec")))
    ]
    assert Path(files[0].path).read_bytes() == Path(files[1].path).read_bytes()
    with pytest.raises(ValueError, match="what encoding needs; use the saved encoder"):
        LabelEncoder.load(files[0].path).encode(data, tmp_path / "from labels")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["codec", "fitted", "loaded"]


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Numbers of this type, unless one is named."""
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SETTINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no gradients": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64": lambda: default_dtype(torch.float64),
    "another device": lambda: torch.device("meta"),
}


def every_byte(folder: Path, options: dict[str, Any]) -> tuple[bytes, ...]:
    """Files and labels of a fit."""
    data = teacher_logits(600, CLASSES)
    encoder = LabelEncoder.fit(data, side=SIDE, progress=False, **options)
    encoder.save(folder / "codec")
    file = LabelEncoder.load(folder / "codec").encode(data, folder / "labels")
    decoder = LabelDecoder(file.path)
    labels = decoder.read(np.arange(9)).probs(4.0)
    return *(Path(folder / name).read_bytes() for name in ("codec", "labels")), labels.numpy().tobytes()


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(
    "options",
    [{"prior": "replay", "form": "residual"}, {"prior": "classes", "form": "product"}, {"form": "vqae"}],
    ids=["residual", "product", "vqae"],
)
def test_what_a_loop_has_set_for_all_of_torch_changes_no_byte(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    options = {"bytes_per_label": 2, "nbits": 4, "effort": 0.05, "held_out": 100, "width": 8, **options}
    found = []
    for folder, setting in (("before", nullcontext), ("within", SETTINGS[name])):
        (tmp_path / folder).mkdir()
        with setting():
            found.append(every_byte(tmp_path / folder, options))
    assert found[0] == found[1]


def test_two_ranks_fit_what_one_fits(tmp_path: Path) -> None:
    script = f"""
    from encoder_parts import teacher_logits
    from vqlabel import LabelEncoder
    data = teacher_logits({ROWS}, {CLASSES})
    encoder = LabelEncoder.fit(data, progress=False, **{FIT!r})
    encoder.encode(data, folder + "/two")
    distributed.destroy_process_group()
    """
    assert ranks(script, tmp_path) == [0, 0]
    alone = LabelEncoder.fit(teacher_logits(ROWS, CLASSES), progress=False, **FIT)
    assert alone.measured is not None
    measured = LabelFile(tmp_path / "two").metadata["measured"]
    assert measured["rows"] == alone.measured["rows"] == 500
    assert measured["kl"]["20"] == pytest.approx(alone.measured["kl"]["20"], rel=0.1)
