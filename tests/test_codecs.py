"""The plain codecs: bounds, ties, tails, the same bytes for ever, and no trust in what a file says."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, largest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vqlabel import Corrupt, LabelFile, NewerVersion
from vqlabel.codecs import CODECS, Codec, checks, load_codec
from vqlabel.codecs.checks import check_logits
from vqlabel.codecs.raw import Int8, Raw
from vqlabel.codecs.topk import DROPPED, TAILS, TopK

VALUES = ("F16", "U8")  # of logits; P16 is in tests/test_codecs_given.py
WIDTHS = [2, 3, 7, 8, 9, 1000, 65537]
KINDS = ["raw", "int8", *(f"topk-{k}-{tail}-{values}" for k in ("1", "10", "C") for tail in TAILS for values in VALUES)]


def make(kind: str, classes: int) -> Codec:
    name, *rest = kind.split("-")
    if name == "topk":
        k, tail, values = rest
        return TopK(classes, classes if k == "C" else min(int(k), classes), tail=tail, values=values)
    return Raw(classes) if name == "raw" else Int8(classes)


def logits(rows: int, classes: int, seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed)) * scale + 5


def halfway(found: torch.Tensor, wanted: torch.Tensor, step: torch.Tensor | float) -> bool:
    """Whether everything is off by at most half a step, but for what float32 and fp16 near 0 are off themselves."""
    slack = (wanted.amax(1, keepdim=True) - wanted.amin(1, keepdim=True)) * 2.0**-22 + 2.0**-25
    return bool(((found - wanted).abs() <= step / 2 + slack).all())


def step_of(rows: np.ndarray[Any, Any], at: int) -> torch.Tensor:
    return torch.from_numpy(rows[:, at + 2 : at + 4].copy().view(np.float16).astype(np.float32))


# The contract


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", WIDTHS)
def test_rows_have_the_size_that_was_promised(kind: str, classes: int) -> None:
    codec = make(kind, classes)
    for count in (0, 1, 3):
        rows = codec.encode(logits(count, classes))
        assert (rows.dtype, rows.shape) == (np.uint8, (count, codec.row_bytes))
        decoded = codec.decode(rows)
        assert (decoded.dtype, decoded.shape) == (torch.float32, (count, classes))
        assert decoded.isfinite().all()
    assert codec.row_bytes == (codec.row_bits + 7) // 8
    assert codec.fixed_bytes == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [9, 1000, 65537])
def test_a_row_has_the_same_bytes_whatever_stands_beside_it(kind: str, classes: int) -> None:
    codec, x = make(kind, classes), logits(7, classes)
    whole = codec.encode(x)
    for parts in ([1] * 7, [2, 5]):
        np.testing.assert_array_equal(np.concatenate([codec.encode(part) for part in x.split(parts)]), whole)
    np.testing.assert_array_equal(
        codec.encode(x.T.contiguous().T), whole, "a transposed tensor is summed in another order"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_logits_are_held_in_does_not_matter(kind: str) -> None:
    codec, x = make(kind, 100), logits(5, 100).half()
    rows = codec.encode(x)
    for same in (x.float(), x.double(), x.float().requires_grad_()):
        np.testing.assert_array_equal(codec.encode(same), rows)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [2, 1000, 65537])
def test_a_gpu_makes_the_same_bytes(kind: str, classes: int) -> None:
    codec, x = make(kind, classes), logits(64, classes).half()
    np.testing.assert_array_equal(codec.encode(x.cuda()), codec.encode(x))


@pytest.mark.parametrize("kind", KINDS)
def test_a_codec_comes_back_from_its_config(kind: str) -> None:
    codec = make(kind, 50)
    again = type(codec).load(50, codec.config(), lambda _: np.empty(0), [])
    assert again.config() == codec.config()
    np.testing.assert_array_equal(again.encode(logits(3, 50)), codec.encode(logits(3, 50)))


# What is checked before a codec works


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["raw", "int8", "topk-10-drop-F16"])
def test_the_first_bad_logit_is_named(kind: str, bad: float) -> None:
    x = logits(5, 20)
    x[3, 17], x[4, 0] = bad, bad
    with pytest.raises(ValueError, match=rf"logits\[3, 17\] is {bad}, but logits must be finite"):
        make(kind, 20).encode(x)
    x[3, 2], x[3, 4] = np.inf, -np.inf
    with pytest.raises(ValueError, match=r"logits\[3, 2\] is inf"):
        make(kind, 20).encode(x)
    with pytest.raises(ValueError, match=r"logits\[0, 1\] is 1e\+35, but logits must be below 8e34"):
        check_logits(torch.tensor([[0.0, 1e35]]), 2)


def test_wrong_logits_are_described() -> None:
    for wrong in (torch.zeros(2, 4), torch.zeros(3), torch.zeros(1, 2, 3)):
        with pytest.raises(ValueError, match=r"logits must be \[B, 3\], got \["):
            check_logits(wrong, 3)
    with pytest.raises(TypeError, match=r"logits must be a torch tensor of floats \[B, 3\], got torch.int64"):
        check_logits(torch.zeros(2, 3, dtype=torch.int64), 3)
    with pytest.raises(TypeError, match="got ndarray"):
        check_logits(np.zeros((2, 3)), 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["raw", "int8", "topk-C-drop-F16", "topk-C-uniform-U8"])
def test_what_fp16_cannot_hold_is_refused(kind: str) -> None:
    codec, x = make(kind, 4), torch.zeros(3, 4)
    x[1] = torch.tensor([0.0, 0, 0, -65504])
    x[2] = x[1] + 1e6
    error = 1e6 * 2.0**-23 + (65504 / 255 if kind[-1] in "8" else 16)
    assert (codec.decode(codec.encode(x)).diff(dim=1) - x.diff(dim=1)).abs().max() <= 2 * error
    x[1, 3] *= 4
    with pytest.raises(
        ValueError, match=r"row 1 has a logit of magnitude (196512|262016) after centring.*65504; divide"
    ):
        codec.encode(x)


def test_centring_is_exact_up_to_a_constant() -> None:
    x = logits(20, 1000)
    found = check_logits(x, 1000)
    off = found.double() - (x.double() - x.double().mean(1, keepdim=True))
    assert found.mean(1).abs().max() <= 0.5 / checks.GRID + 1e-6
    assert (off - off[:, :1]).abs().max() <= 2e-6
    offset = (torch.arange(20) * 1024.0)[:, None]
    x = (x * 64).round() / 64
    off = check_logits(x + offset, 1000) - check_logits(x, 1000)
    assert (off - off[:, :1]).abs().max() <= 2e-6


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_rows_are_described(kind: str) -> None:
    codec = make(kind, 20)
    for wrong in (np.zeros((2, codec.row_bytes + 1), np.uint8), np.zeros(codec.row_bytes, np.uint8)):
        with pytest.raises(ValueError, match=rf"rows must be uint8 \[B, {codec.row_bytes}\], got uint8 \["):
            codec.decode(wrong)
    with pytest.raises(ValueError, match="got int64"):
        codec.decode(np.zeros((2, codec.row_bytes), int))  # type: ignore[arg-type]


# Bounds


@pytest.mark.parametrize("classes", WIDTHS)
def test_raw_is_the_fp16_of_the_centred_logits(classes: int) -> None:
    x = logits(9, classes)
    wanted = check_logits(x, classes).half().float()
    torch.testing.assert_close(Raw(classes).decode(Raw(classes).encode(x)), wanted, rtol=0, atol=0)


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1.0, 1e4])
@pytest.mark.parametrize("classes", WIDTHS)
def test_int8_is_off_by_half_a_step(classes: int, scale: float) -> None:
    codec, x = Int8(classes), check_logits(logits(9, classes, scale=scale), classes)
    rows = codec.encode(x)
    step = step_of(rows, 0)
    assert halfway(codec.decode(rows), check_logits(x, classes), step)
    assert (step <= (x.amax(1) - x.amin(1))[:, None] / 250 + 2.0**-24).all(), "and the steps are not wasted"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e-9, 60000.0])
def test_constant_rows_stay_constant(kind: str, value: float) -> None:
    codec = make(kind, 9)
    decoded = codec.decode(codec.encode(torch.full((2, 9), value)))
    kept = decoded[decoded != DROPPED].reshape(2, -1)
    assert (kept == kept[:, :1]).all() or ("uniform" in kind and np.ptp(kept.numpy()) < 1e-3)


elements = st.floats(-3e4, 3e4, width=32) | st.sampled_from([0.0, -0.0, 1.0, 3e4, -3e4, 1e-40])


@given(arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(2, 20)), elements=elements), st.data())
def test_any_logits_come_back_within_the_bounds(data: np.ndarray[Any, Any], pick: st.DataObject) -> None:
    x, classes = torch.from_numpy(data), data.shape[1]
    wanted = check_logits(x, classes)
    assert halfway(Raw(classes).decode(Raw(classes).encode(x)), wanted, wanted.abs() * 2.0**-10 + 2.0**-24)
    rows = Int8(classes).encode(x)
    assert halfway(Int8(classes).decode(rows), wanted, step_of(rows, 0))
    k = pick.draw(st.integers(1, classes))
    tail, values = pick.draw(st.sampled_from(TAILS)), pick.draw(st.sampled_from(VALUES))
    codec = TopK(classes, k, tail=tail, values=values)
    rows = codec.encode(x)
    at = 2 if tail == "uniform" else 0
    ids = torch.from_numpy(largest(wanted, k))
    kept = wanted.gather(1, ids) - wanted.amax(1, keepdim=True)
    step = kept.abs() * 2.0**-10 + 2.0**-24 if values == "F16" else step_of(rows, at)
    found = codec.decode(rows).gather(1, ids)
    slack = found.abs() * 2.0**-22 + 2.0**-20
    differ = (found - found.gather(1, kept.argmax(1, keepdim=True))) - kept
    assert (differ.abs() <= step / 2 + step.amax(1, keepdim=True) / 2 + slack).all()


def test_wrong_settings_are_named() -> None:
    for k in (0, 6, -1):
        with pytest.raises(ValueError, match=f"k must be 1 to 5, the number of classes, got {k}"):
            TopK(5, k)
    with pytest.raises(ValueError, match="tail must be one of drop, uniform, got 'none'"):
        TopK(5, 2, tail="none")
    with pytest.raises(ValueError, match="values must be one of F16, U8, P16, got 'F32'"):
        TopK(5, 2, values="F32")
    with pytest.raises(ValueError, match="classes must be 2 to 16777216, got 1"):
        Raw(1)


# The bytes, for ever: CODECS.md shows the same


GOLDEN = {
    "raw": (Raw(5), "00bc 0040 00c0 003c 0000"),
    "int8": (Int8(5), "00c0 0524 40 ff 00 bf 7f"),
    "topk drop F16": (TopK(5, 2), "0000 00bc 19"),
    "topk uniform U8": (TopK(5, 2, tail="uniform", values="U8"), "61c1 00bc 051c ff 00 19"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_bytes_are_these(name: str) -> None:
    codec, text = GOLDEN[name]
    rows = codec.encode(torch.tensor([[0.0, 3.0, -1.0, 2.0, 1.0]]))
    assert rows.tobytes().hex() == text.replace(" ", "")
    page = (ROOT / "CODECS.md").read_text()
    assert f"`{text}`" in page


# Files


def write(path: Path, rows: np.ndarray[Any, Any], **metadata: Any) -> LabelFile:
    with LabelFile.create(path, rows=len(rows), row_bytes=rows.shape[1], metadata=metadata) as writer:
        writer.write(0, rows)
    return LabelFile(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_needs_nothing_but_itself(kind: str, tmp_path: Path) -> None:
    codec, x = make(kind, 30), logits(20, 30)
    file = write(tmp_path / "labels", codec.encode(x), codec=codec.config(), classes=30)
    assert CODECS[codec.id] == (type(codec).__module__, type(codec).__name__)
    loaded = load_codec(file)
    assert type(loaded) is type(codec)
    wanted = codec.decode(codec.encode(x))[[7, 0]]
    torch.testing.assert_close(loaded.decode(file.gather([7, 0])), wanted, rtol=0, atol=0)


def test_files_without_a_codec_to_be_had_say_why(tmp_path: Path) -> None:
    rows, raw = np.zeros((2, 8), np.uint8), {"id": "raw", "dtype": "F16"}
    with pytest.raises(
        NewerVersion, match=r"a: codec 'vq9' is not one that this vqlabel knows \(raw, int8, topk, vq, vq\+top\)"
    ):
        load_codec(write(tmp_path / "a", rows, codec={"id": "vq9"}, classes=4))
    with pytest.raises(
        Corrupt, match=r"b: metadata key 'classes' is missing: the rows can be gathered, but not decoded"
    ):
        load_codec(write(tmp_path / "b", rows, codec=raw))
    with pytest.raises(Corrupt, match=r"c: rows have 8 bytes, but those of codec .*raw.* have 6"):
        load_codec(write(tmp_path / "c", rows, codec=raw, classes=3))
    for number, classes in enumerate((0, 1, 2**24 + 1)):
        with pytest.raises(Corrupt, match=f"classes is {classes}, but a label has 2 to 16777216"):
            load_codec(write(tmp_path / f"d{number}", rows, codec=raw, classes=classes))


TOPK = {"id": "topk", "k": 2, "tail": "drop", "values": "F16"}
HOSTILE: list[tuple[type[Codec], dict[str, Any], str]] = [
    (Raw, {"id": "raw"}, "codec 'raw' has no setting 'dtype'"),
    (Raw, {"id": "raw", "dtype": "F64"}, "dtype is 'F64', not one of F16, F32"),
    (Raw, {"id": "raw", "dtype": ["F16"]}, "dtype is"),
    (Raw, {"id": "raw", "dtype": "F16", "G": 3}, "has a setting 'G', which it does not know"),
    (Int8, {"id": "int8", "zero": 0}, "has a setting 'zero'"),
    *((TopK, {**TOPK, "k": k}, "k is .*, not a whole number") for k in (None, True, 2.0, "2", [2], {})),
    *((TopK, {**TOPK, "k": k}, "k must be 1 to 5") for k in (0, 6, -1, 10**30)),
    *((TopK, {**TOPK, "tail": tail}, "tail is .*, not one of drop, uniform") for tail in ("", None, 1, ["drop"])),
    *((TopK, {**TOPK, "values": values}, "values is .*, not one of F16, U8") for values in ("f16", 16, None)),
    *((TopK, {k: v for k, v in TOPK.items() if k != key}, f"no setting '{key}'") for key in ("k", "tail", "values")),
    (TopK, {**TOPK, "ids": "rice"}, "has a setting 'ids', which it does not know"),
]


@pytest.mark.parametrize(("codec", "config", "words"), HOSTILE)
def test_hostile_configs_are_corrupt(codec: type[Codec], config: dict[str, Any], words: str) -> None:
    with pytest.raises(Corrupt, match=words):
        codec.load(5, config, lambda _: np.empty(0), [])


@pytest.mark.parametrize("classes", [0, 1, 2**24 + 1])
def test_hostile_class_counts_are_corrupt(classes: int) -> None:
    for codec, config in ((Raw, {"id": "raw", "dtype": "F16"}), (Int8, {"id": "int8"}), (TopK, TOPK)):
        with pytest.raises(Corrupt, match="classes must be 2 to 16777216"):
            codec.load(classes, config, lambda _: np.empty(0), [])


@pytest.mark.parametrize("name", ["raw", "topk"])
def test_docstrings_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(f"vqlabel.codecs.{name}")).failed == 0
