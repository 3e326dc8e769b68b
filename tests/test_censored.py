"""Labels of which only the likeliest classes are told: filled up, checked, fitted, stored as told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import exit_status
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

from vqlabel import LabelDecoder, LabelEncoder
from vqlabel.censored import SMOOTHED, TopKSource
from vqlabel.codecs.topk import TopK
from vqlabel.sources import Source, open_source

N, C, K = 40, 13, 4
pytestmark = pytest.mark.usefixtures("one_thread")


def told(rows: int = N, classes: int = C, k: int = K, seed: int = 0) -> tuple[Any, Any, torch.Tensor]:
    """Classes and log-probabilities [rows, k], and the truth [rows, classes]."""
    logits = np.random.default_rng(seed).standard_normal((rows, classes)).astype(np.float32) * 2
    truth = torch.from_numpy(logits).log_softmax(1)
    values, ids = truth.topk(k, dim=1)
    return ids.numpy(), values.numpy(), truth


def reference(ids: Any, log_probs: Any, classes: int, typical: Any = None) -> np.ndarray[Any, Any]:
    """Probabilities [rows, classes], a row and a class at a time."""
    weights = np.ones(classes) if typical is None else np.asarray(typical, float)
    weights = (1 - SMOOTHED) * weights / weights.sum() + SMOOTHED / classes
    found = np.zeros((len(ids), classes))
    for row in range(len(ids)):
        known = {int(c): float(np.exp(v)) for c, v in zip(ids[row], log_probs[row], strict=True) if c >= 0}
        others = [c for c in range(classes) if c not in known]
        rest = max(1 - sum(known.values()), 0) / max(sum(weights[c] for c in others), 1e-12)
        for c in range(classes):
            found[row, c] = known[c] if c in known else rest * weights[c]
    return found


def probabilities(source: Source, rows: Any) -> np.ndarray[Any, Any]:
    return source.take(np.asarray(rows)).double().exp().numpy()


TYPICAL = np.arange(C)[::-1] ** 2  # counts, the last of them 0


@pytest.mark.parametrize("typical", [None, TYPICAL], ids=["uniform", "typical"])
@pytest.mark.parametrize("k", [1, 2, K, C - 1, C])
def test_what_is_missing_to_one_is_shared_among_the_classes_that_are_not_told(k: int, typical: Any) -> None:
    ids, log_probs, _ = told(k=k)
    tail = "uniform" if typical is None else "typical"
    source = TopKSource(ids, log_probs, C, tail=tail, typical=typical)
    assert (len(source), source.classes, source.dtype, source.tells_all) == (N, C, torch.float32, True)
    rows = [0, 3, N - 1]
    expected = reference(ids[rows], log_probs[rows], C, typical)
    np.testing.assert_allclose(probabilities(source, rows), expected, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(source.read(range(N)).double().exp().sum(1).numpy(), 1, atol=1e-5)


@pytest.mark.parametrize("typical", [None, TYPICAL], ids=["uniform", "typical"])
@pytest.mark.parametrize("few", [0, 1, 2, K])
def test_rows_may_tell_of_fewer_classes(few: int, typical: Any) -> None:
    ids, log_probs, _ = told()
    ids[5:9, few:], log_probs[5:9, few:] = -1, np.nan
    tail = "uniform" if typical is None else "typical"
    source = TopKSource(ids, log_probs, C, tail=tail, typical=typical)
    expected = reference(ids, log_probs, C, typical)
    np.testing.assert_allclose(probabilities(source, range(N)), expected, rtol=1e-4, atol=1e-7)
    kept, values = source.kept(range(N))
    assert all(len(set(row)) == K for row in kept.tolist())
    np.testing.assert_allclose(values.numpy(), expected[np.arange(N)[:, None], kept.numpy()], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.int32, np.uint32, np.int64, torch.int32, torch.int64])
@pytest.mark.parametrize("precise", [np.float16, np.float32, np.float64, torch.bfloat16, torch.float32])
def test_any_numbers_will_do(kind: Any, precise: Any) -> None:
    ids, log_probs, _ = told()

    def cast(array: Any, dtype: Any) -> Any:
        return torch.from_numpy(array).to(dtype) if isinstance(dtype, torch.dtype) else array.astype(dtype)

    source = TopKSource(cast(ids, kind), cast(log_probs, precise), C)
    np.testing.assert_allclose(probabilities(source, range(N)), reference(ids, log_probs, C), rtol=0.03, atol=3e-3)


def test_a_class_of_probability_zero_keeps_a_finite_logit() -> None:
    source = TopKSource(np.array([[0, 1], [1, 0]]), np.array([[0.0, -np.inf], [-500.0, 0.0]]), 3)
    assert source.read(range(2)).isfinite().all()
    np.testing.assert_allclose(source.read(range(2)).softmax(1).numpy(), [[1, 0, 0], [1, 0, 0]], atol=1e-6)


def change(place: tuple[int, int], *, ids: int | None = None, log_probs: float | None = None) -> TopKSource:
    numbers, values, _ = told()
    if ids is not None:
        numbers[place] = ids
    if log_probs is not None:
        values[place] = log_probs
    return TopKSource(numbers, values, C)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (change((7, 1), ids=C), f"row 7 tells of classes that are not 0 to {C - 1}, nor -1"),
        (change((7, 1), ids=-2), f"row 7 tells of classes that are not 0 to {C - 1}, nor -1"),
        (change((7, 1), ids=told()[0][7, 0]), "row 7 tells of a class twice"),
        (change((7, 2), log_probs=0.5), "row 7 has log-probabilities above 0 .log_softmax"),
        (change((7, 2), log_probs=np.nan), "row 7 has log-probabilities above 0 .*nan"),
        (change((7, 2), log_probs=-0.0001), "row 7 has probabilities that sum to more than 1"),
    ],
)
def test_a_row_that_is_no_label_is_named(source: TopKSource, words: str) -> None:
    source.read(range(7))
    for read in (
        lambda: source.read(range(5, 9)),
        lambda: source.take(np.array([1, 7])),
        lambda: source.kept(range(8)),
    ):
        with pytest.raises(ValueError, match=words):
            read()


@pytest.mark.parametrize(
    ("shapes", "options", "words"),
    [
        (((3,), (3,)), {}, r"shape \[rows, k\], got \[3\]"),
        (((3, 2), (3, 1)), {}, r"got \[3, 2\] and \[3, 1\]"),
        (((3, 0), (3, 0)), {}, "ids has 0 columns, but a row tells of 1 to 13"),
        (((3, 14), (3, 14)), {}, "ids has 14 columns"),
        (((3, 2), (3, 2)), {"tail": "drop"}, "tail must be one of uniform, typical, got 'drop'"),
        (((3, 2), (3, 2)), {"tail": "typical"}, r"typical= \[13\] goes with tail='typical'"),
        (((3, 2), (3, 2)), {"typical": np.ones(C)}, "goes with tail='typical', and only with it"),
        (((3, 2), (3, 2)), {"tail": "typical", "typical": np.ones(C - 1)}, r"counts \[13\], none .* got \[12\]"),
        (((3, 2), (3, 2)), {"tail": "typical", "typical": np.zeros(C)}, "not all 0"),
        (((3, 2), (3, 2)), {"tail": "typical", "typical": np.full(C, np.nan)}, "none negative"),
        (((3, 2), (3, 2)), {"tail": "typical", "typical": -np.ones(C)}, "none negative"),
    ],
)
def test_what_cannot_be_told_is_said_at_once(shapes: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TopKSource(np.zeros(shapes[0], np.int64), np.zeros(shapes[1]), C, **options)


def language(rows: int, classes: int) -> torch.Tensor:
    """Log-probabilities [rows, classes] of a teacher whose rare classes are rare everywhere."""
    random = np.random.default_rng(1)
    context = random.standard_normal((rows, 4)) @ random.standard_normal((4, classes))
    often = -3 * np.log(np.arange(classes) + 2)
    return torch.from_numpy((context * 0.7 + often).astype(np.float32)).log_softmax(1)


def test_a_fit_comes_closer_to_the_truth_when_the_tail_is_typical() -> None:
    truth = language(300, 40)
    log_probs, ids = truth.topk(3, dim=1)
    off = {}
    for tail, typical in (("uniform", None), ("typical", truth.exp().mean(0).numpy())):
        source = TopKSource(ids.numpy(), log_probs.numpy(), 40, tail=tail, typical=typical)
        encoder = LabelEncoder.fit(source, bytes_per_label=2, temperatures=(1.0,), effort=0.02, progress=False)
        decoded = encoder.codec.decode(encoder.codec.encode(source.read(range(300)))).log_softmax(1)
        off[tail] = float((truth.exp() * (truth - decoded)).sum(1).mean())
    assert off["typical"] < 0.7 * off["uniform"]


def dump(folder: Path, suffix: str, **more: Any) -> tuple[Path, Any, Any]:
    ids, log_probs, _ = told()
    arrays = {"ids": ids.astype(np.int32), "log_probs": log_probs, **more}
    path = folder / f"dump.{suffix}"
    np.savez(path, **arrays) if suffix == "npz" else save_file(arrays, path)
    return path, ids, log_probs


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_a_dump_is_a_source(suffix: str, tmp_path: Path) -> None:
    path, ids, log_probs = dump(tmp_path, suffix)
    source = open_source(path, classes=C)
    assert isinstance(source, TopKSource)
    np.testing.assert_allclose(probabilities(source, range(N)), reference(ids, log_probs, C), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(probabilities(source, [2, 30]), reference(ids, log_probs, C)[[2, 30]], rtol=1e-4)
    joined = open_source(tmp_path, classes=C)  # a folder of them
    torch.testing.assert_close(joined.read(range(N)), source.read(range(N)))


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_a_dump_may_say_what_is_typical_and_so_how_many_classes_there_are(suffix: str, tmp_path: Path) -> None:
    path, ids, log_probs = dump(tmp_path, suffix, typical=TYPICAL.astype(np.float32))
    expected = reference(ids, log_probs, C, TYPICAL)
    np.testing.assert_allclose(probabilities(open_source(path), range(N)), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_dump_may_be_of_any_floats(dtype: torch.dtype, tmp_path: Path) -> None:
    ids, log_probs, _ = told()
    path = tmp_path / "dump.safetensors"
    save_tensors({"ids": torch.from_numpy(ids), "log_probs": torch.from_numpy(log_probs).to(dtype)}, path)
    found = probabilities(open_source(path, classes=C), range(N))
    np.testing.assert_allclose(found, reference(ids, log_probs, C), rtol=0.03, atol=3e-3)


def test_topk_stores_what_is_told_as_it_is_told(tmp_path: Path) -> None:
    path, ids, log_probs = dump(tmp_path, "npz")
    assert exit_status("encode", path, "-o", tmp_path / "labels", "--format", "topk", "--classes", C) == 0
    decoder = LabelDecoder(tmp_path / "labels")
    assert decoder.file.metadata["codec"] == {"id": "topk", "k": K, "tail": "uniform", "values": "P16"}
    rows = np.arange(N)
    found = decoder(rows).numpy()
    np.testing.assert_allclose(found[rows[:, None], ids], np.exp(log_probs), rtol=2e-3)
    np.testing.assert_allclose(found, reference(ids, log_probs, C), rtol=0.02, atol=1e-4)


def test_topk_does_not_forget_in_silence_what_is_typical(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, *_ = dump(tmp_path, "npz", typical=TYPICAL)
    assert exit_status("encode", path, "-o", tmp_path / "labels", "--format", "topk") == 1
    assert "no typical distribution: leave it out of the file" in capsys.readouterr().err


def test_the_command_fits_a_codec_on_a_dump(tmp_path: Path) -> None:
    path, *_ = dump(tmp_path, "npz")
    options = ["--bytes", "2", "--effort", "0.01", "--temperatures", "1"]
    assert exit_status("encode", path, "-o", tmp_path / "labels", "--classes", C, *options) == 0
    assert LabelDecoder(tmp_path / "labels").classes == C


def test_of_a_dump_topk_may_keep_fewer(tmp_path: Path) -> None:
    path, *_ = dump(tmp_path, "npz")
    assert exit_status("encode", path, "-o", tmp_path / "labels", "--classes", C, "--format", "topk", "--k", 2) == 0
    assert LabelDecoder(tmp_path / "labels").file.metadata["codec"]["k"] == 2


ARRAYS = {"ids": np.zeros((2, 1), np.int64), "log_probs": np.zeros((2, 1))}


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"logits": np.zeros((2, 3))}, "holds logits, but what is read of .npz files are ids and log_probs"),
        ({}, "holds nothing, but what"),
        ({**ARRAYS, "ids": np.zeros((2, 1))}, "ids is float64, not whole numbers"),
        ({**ARRAYS, "log_probs": np.zeros((2, 1), int)}, "log_probs is int64, not floats"),
        ({**ARRAYS, "ids": np.array([[None], [None]])}, "not a .npz file of numbers"),
        (ARRAYS, "does not tell how many classes there are: say --classes"),
        ({**ARRAYS, "typical": -np.ones(4)}, "dump.npz: typical must be probabilities"),
        ({**ARRAYS, "typical": np.zeros((2, 2))}, "dump.npz: typical must be probabilities"),
    ],
)
def test_an_archive_that_is_no_dump_says_why(arrays: dict[str, Any], words: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "dump.npz", **arrays)
    with pytest.raises(ValueError, match=words):
        open_source(tmp_path / "dump.npz")


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04nothing", b"\x80\x04N."])
def test_what_is_no_archive_is_refused_unread(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "dump.npz").write_bytes(data)
    with pytest.raises(ValueError, match="not a .npz file of numbers"):
        open_source(tmp_path / "dump.npz", classes=3)


def test_a_dump_that_was_cut_off_is_noticed(tmp_path: Path) -> None:
    path, *_ = dump(tmp_path, "safetensors")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="ends before its 40 rows"):
        open_source(path, classes=C)


def test_numbers_of_the_wrong_kind_are_named_in_a_safetensors_dump(tmp_path: Path) -> None:
    save_file(
        {"ids": np.zeros((2, 1), np.float32), "log_probs": np.zeros((2, 1), np.float32)}, tmp_path / "d.safetensors"
    )
    with pytest.raises(ValueError, match="ids is F32, not U8, I8"):
        open_source(tmp_path / "d.safetensors", classes=3)


def test_a_dump_of_a_shape_that_no_dump_has_is_named(tmp_path: Path) -> None:
    sound: dict[str, Any] = {"ids": [0, 1], "log_probs": [0, 1], "typical": [0]}
    wrong: dict[str, Any] = {"ids": [], "log_probs": [2.0, 3], "typical": [2**60, 0]}
    for name, shape in wrong.items():
        shapes = {**sound, name: shape}
        header = {key: {"dtype": "F32", "shape": shapes[key], "data_offsets": [0, 0]} for key in shapes}
        raw = json.dumps({**header, "ids": {**header["ids"], "dtype": "I64"}})
        (tmp_path / "d.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw.encode())
        with pytest.raises(ValueError, match=f"{name} has the shape .*, not"):
            open_source(tmp_path / "d.safetensors", classes=3)


@pytest.mark.parametrize("offsets", [[0.0, 64.0], [0, 64.0], [False, 64], [-8, 56], [0, 63], ["0", 64]])
def test_places_in_a_dump_that_cannot_be_are_refused(offsets: list[Any], tmp_path: Path) -> None:
    header = {"ids": {"dtype": "I64", "shape": [4, 2], "data_offsets": offsets}}
    header["log_probs"] = {"dtype": "F16", "shape": [4, 2], "data_offsets": [64, 80]}
    raw = json.dumps(header)
    (tmp_path / "d.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw.encode() + bytes(80))
    with pytest.raises(ValueError, match=r"the size of tensor 'ids' contradicts its shape"):
        open_source(tmp_path / "d.safetensors", classes=3)


def test_the_codec_takes_as_told_what_has_a_uniform_tail() -> None:
    ids, log_probs, _ = told()
    codec = TopK(C, K, tail="uniform", values="P16")
    assert codec.takes(TopKSource(ids, log_probs, C))
    assert not codec.takes(TopKSource(ids, log_probs, C, tail="typical", typical=TYPICAL))
