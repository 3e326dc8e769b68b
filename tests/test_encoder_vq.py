"""LabelEncoder with the codec that it is there for: fitted, kept, encoded, by one process and by two."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from encoder_parts import ranks, teacher_logits

from vqlabel import LabelEncoder, LabelFile
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
