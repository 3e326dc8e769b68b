"""Files of the codecs `vq` and `vq+top` that were written once decode to the same logits for ever."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from conftest import GOLDEN, script

from vqlabel import LabelFile
from vqlabel.codecs import load_codec
from vqlabel.text import information_of

FOLDER = GOLDEN / "codecs"
NAMES = [
    "v1_vq_product_int8",
    "v1_vq_residual_fp16",
    "v1_vq_hidden_alone",
    "v1_vq_classes",
    "v1_vq_replay",
    "v1_vq_tokens",
    "v1_vq_image",
    "v1_vq_top",
]


@pytest.fixture(scope="module")
def made() -> ModuleType:
    """tests/golden/codecs/make.py as a module."""
    return script(FOLDER / "make.py")


def test_every_golden_codec_is_tested(made: ModuleType) -> None:
    assert list(made.CODECS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_golden_codecs_decode_to_what_they_did(made: ModuleType, name: str) -> None:
    file = LabelFile(FOLDER / f"{name}.safetensors")
    codec, side = load_codec(file), information_of(file, made.views)
    assert side is not None
    rows = np.arange(len(file))
    decoded = codec.decode(file.gather(rows), side.of(rows, tier=codec.tier))
    expected = file.tensor(made.EXPECTED)
    assert np.ptp(expected, axis=0).min() > 0.01  # the rows differ: something is decoded
    np.testing.assert_allclose(decoded.numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_codecs_are_still_stored_in_the_golden_bytes(made: ModuleType, name: str) -> None:
    file = LabelFile(FOLDER / f"{name}.safetensors")
    codec, rows = made.codec(name)
    assert codec.config() == file.metadata["codec"]
    np.testing.assert_array_equal(file.gather(np.arange(len(file))), rows)
    stored = {name for name in file.tensor_names if not name.startswith(("images.", "sequences.", "x."))}
    assert set(codec.tensors()) == stored
    for name, tensor in codec.tensors().items():
        np.testing.assert_array_equal(file.tensor(name), tensor)
