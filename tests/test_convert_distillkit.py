"""Sets of DistillKit: what is read is what the description of the format says, and what is wrong is named."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import distillkit_sets as sets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from distillkit_sets import Config, budget, open_set, recommended, small

from vqlabel.convert import distillkit, distillkit_files
from vqlabel.convert.distillkit_bytes import Layout, unpack_msb_first
from vqlabel.convert.distillkit_config import read_config

pytestmark = pytest.mark.usefixtures("one_thread")


def bins(*entries: tuple[str, int, int]) -> list[dict[str, Any]]:
    return [dict(zip(("scale_dtype", "num_elements", "element_bits"), entry, strict=True)) for entry in entries]


CONFIGS: dict[str, Config] = {
    "recommended": recommended(50_257),
    "budget": budget(100_000),
    "delta": recommended(150_000, exact_k=32, exact_dtype="float32", polynomial_terms=[0, 1, 2], delta_encoding=True),
    "delta of a few": small(delta_encoding=True, error_diffusion=True),
    "short names of types": small(exact_dtype="bf16", term_dtype="f64"),
    "one bin": small(residual_bins=bins(("float32", 6, 4))),
    "bins of all widths": recommended(
        700,
        residual_bins=bins(
            *((kind, 5, b) for b, kind in zip((1, 2, 7, 8, 9, 17, 33, 63, 64), 9 * ["f16"], strict=True))
        ),
    ),
    "bins of other types": small(residual_bins=bins(("bfloat16", 1, 3), ("float64", 2, 12), ("float16", 1, 1))),
    "coarse coefficients": small(term_dtype="bfloat16", exact_dtype="float16"),
    "normalised ranks": small(normalize_t=True, polynomial_terms=[0, 1, "exp", "sqrt"]),
    "no curve": small(polynomial_terms=[], residual_bins=bins(("float32", 6, 8))),
    "nothing exact": small(exact_k=0),
    "all exact": small(exact_k=8, exact_dtype="float64"),
    "a single one": small(k=1, exact_k=1),
    "a single one on a curve": small(k=1, exact_k=0, polynomial_terms=[0], normalize_t=True),
    "every token": small(d=5, k=5),
    "two tokens": small(d=2, k=2, exact_k=1, polynomial_terms=[0]),
}


def full(config: Config) -> Config:
    """A config with the long names of types."""
    text = yaml.safe_dump(config)
    for short, name in (("bf16", "bfloat16"), ("f64", "float64"), ("f16", "float16")):
        text = text.replace(f": {short}\n", f": {name}\n")
    found: Config = yaml.safe_load(text)
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_labels_are_those_that_a_slow_reader_finds(name: str, tmp_path: Path) -> None:
    config = full(CONFIGS[name])
    made = sets.sequences(config, [3, 2])
    sets.save(tmp_path / "set", CONFIGS[name], [made])
    found = open_set(tmp_path / "set", classes=config["d"])
    ids, values = found.source.kept(range(5))  # type: ignore[attr-defined]
    for row, position in enumerate(itertools.chain(*made)):
        expected = sets.decode(config, position)
        assert ids[row].tolist() == expected[0] == sets.teacher(config, row)[0]
        np.testing.assert_allclose(values[row].numpy(), expected[1], rtol=3e-7, atol=1e-6)
    assert (found.source.rows, found.source.classes, found.images, found.faults) == (5, config["d"], 5, [])
    assert found.missing is None


def test_what_is_read_is_as_near_to_the_teacher_as_a_step_of_the_residuals(tmp_path: Path) -> None:
    config = recommended(5_000, residual_bins=bins(("float32", 112, 8)))
    made = sets.sequences(config, [4])
    sets.save(tmp_path / "set", config, [made])
    steps = [sets.read_number(bytes(position[0][56:60]), "float32") for position in made[0]]
    assert max(steps) < 0.1
    _, values = open_set(tmp_path / "set").source.kept(range(4))  # type: ignore[attr-defined]
    expected = [sets.teacher(config, row)[1] for row in range(4)]
    np.testing.assert_allclose(values.numpy()[:, :16], np.array(expected)[:, :16], rtol=2**-8)
    assert (np.abs(values.numpy()[:, 16:] - np.array(expected)[:, 16:]).max(1) <= np.array(steps) * 1.01).all()


@pytest.mark.parametrize(
    ("make", "sizes"),
    [(recommended, (312, 328, 344)), (budget, (114, 121, 127))],
)
def test_a_position_has_the_published_size(make: Any, sizes: tuple[int, ...], tmp_path: Path) -> None:
    for d, size in zip((50_257, 128_256, 151_936), sizes, strict=True):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(make(d)))
        assert Layout(read_config(str(tmp_path / "config.yaml")), legacy=False).record_bytes == size
        assert sum(map(len, sets.encode(make(d), *sets.teacher(make(d), 0)))) == size


@pytest.mark.parametrize("nbits", range(1, 65))
def test_integers_of_every_width_are_unpacked(nbits: int) -> None:
    rng = np.random.default_rng(nbits)
    for count in (0, 1, 2, 7, 8):
        values = [[int(v) >> (64 - nbits) for v in rng.integers(0, 2**64, count, np.uint64)] for _ in range(3)]
        values[0] = [2**nbits - 1] * count
        packed = np.array([list(sets.pack(row, nbits)) for row in values], np.uint8).reshape(3, -1)
        assert unpack_msb_first(packed, nbits, count).tolist() == values


def test_sequences_of_any_length_follow_each_other(tmp_path: Path) -> None:
    config = small()
    lengths = [[3, 0, 1], [], [0], [2, 5, 0, 0, 4]]
    made = [sets.sequences(config, part, seed) for seed, part in enumerate(lengths)]
    tokens = sets.save(tmp_path / "set", config, made, row_group_size=2)
    found = open_set(tmp_path / "set")
    flat = [sets.decode(config, position) for sequence in itertools.chain(*made) for position in sequence]
    assert found.tensors["sequences.starts"].tolist() == [0, 3, 3, 4, 4, 6, 11, 11, 11, 15]
    assert found.tensors["sequences.starts"].dtype == np.uint64
    assert found.tensors["sequences.tokens"].tolist() == tokens == list(range(15))
    assert found.tensors["sequences.tokens"].dtype == np.uint32
    assert found.labels_bytes == sum(path.stat().st_size for path in (tmp_path / "set").glob("*.parquet"))
    for rows in ([0, 14], [3, 4, 5, 6], [], list(range(15)), [7]):
        ids, values = found.source._kept(np.array(rows, np.int64))  # type: ignore[attr-defined]
        assert ids.tolist() == [flat[row][0] for row in rows]
        np.testing.assert_allclose(values.numpy(), np.array([flat[row][1] for row in rows]).reshape(-1, 8), rtol=1e-6)


def test_more_labels_than_are_worked_on_together_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small()
    sets.save(tmp_path / "set", config, [sets.sequences(config, [5, 1, 0, 9])])
    once = open_set(tmp_path / "set").source.kept(range(15))  # type: ignore[attr-defined]
    monkeypatch.setattr(distillkit_files, "LEAVES", 1)
    monkeypatch.setattr("vqlabel.convert.distillkit_records.DECODED", 20)
    again = open_set(tmp_path / "set").source.kept(range(15))  # type: ignore[attr-defined]
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


def test_exact_halves_come_out_to_the_last_bit(tmp_path: Path) -> None:
    config = small(exact_k=8, exact_dtype="float16")
    made = sets.sequences(config, [6])
    sets.save(tmp_path / "set", config, [made])
    found = open_set(tmp_path / "set")
    assert found.exact
    assert found.codec.as_given
    assert found.codec.takes(found.source)  # type: ignore[attr-defined]
    decoded = found.codec.decode(found.codec.encode_kept(*found.source.kept(range(6))))  # type: ignore[attr-defined]
    for row, position in enumerate(made[0]):
        ids, values = sets.decode(config, position)
        assert decoded[row, ids].tolist() == values
    for other in (small(), small(exact_k=8), small(exact_k=8, exact_dtype="float16", delta_encoding=True)):
        sets.save(tmp_path / "other", other, [sets.sequences(other, [1])])
        found = open_set(tmp_path / "other")
        assert (found.exact, found.codec.as_given) == (False, False)


def test_what_is_missing_is_spread_over_the_other_tokens_if_asked_for(tmp_path: Path) -> None:
    config = small(k=6, exact_k=6)
    made = sets.sequences(config, [4])
    sets.save(tmp_path / "set", config, [made])
    found = open_set(tmp_path / "set", tail="uniform")
    labels = found.source.read(range(4)).softmax(1)
    rows = found.codec.encode_kept(*found.source.kept(range(4)))  # type: ignore[attr-defined]
    assert found.codec.takes(found.source)  # type: ignore[attr-defined]
    decoded = found.codec.decode(rows).softmax(1)
    for row, position in enumerate(made[0]):
        ids, values = sets.decode(config, position)
        expected = np.full(50, (1 - np.exp(values).sum()) / 44)
        expected[ids] = np.exp(values)
        np.testing.assert_allclose(labels[row].numpy(), expected, rtol=1e-4)
        np.testing.assert_allclose(decoded[row].numpy(), expected, atol=2e-4)
    sets.save(tmp_path / "logits", config, [[[sets.encode(config, list(range(6)), [9.0, 5.0, 4.0, 3.0, 2.0, 1.0])]]])
    with pytest.raises(ValueError, match="position 0: its probabilities sum to .* those are no log-probabilities"):
        open_set(tmp_path / "logits", tail="uniform")
    assert open_set(tmp_path / "logits").source.rows == 1


@pytest.mark.parametrize(("d", "k"), [(2, 1), (1_000, 128), (129_280, 33), (2**18 + 1, 4)])
def test_the_legacy_form_is_read(d: int, k: int, tmp_path: Path) -> None:
    config = small(d=d, k=k, exact_k=k // 4, polynomial_terms=[0, -1, -2, "sqrt"])
    positions = [sets.legacy_position(config, seed) for seed in range(5)]
    sets.save_legacy(tmp_path / "set", config, positions, [2, 0, 3])
    found = open_set(tmp_path / "set")
    ids, values = found.source.kept(range(5))  # type: ignore[attr-defined]
    for row, (exact, coefficients, _) in enumerate(positions):
        pairs = list(zip(coefficients, config["polynomial_terms"], strict=True))
        curve = [sum(c * sets.term(name, t + 1.0) for c, name in pairs) for t in range(k - k // 4)]
        assert ids[row].tolist() == sets.teacher(config, row)[0]
        np.testing.assert_allclose(values[row].numpy(), exact + curve, rtol=3e-7, atol=1e-6)
    assert not found.exact
    with pytest.raises(ValueError, match="nothing of the others: --tail is drop"):
        open_set(tmp_path / "set", tail="uniform")
    sets.save_legacy(tmp_path / "set", {**config, "delta_encoding": True}, positions, [5])
    with pytest.raises(ValueError, match="config.yaml: a set with packed_indices has no residual_bins, delta"):
        open_set(tmp_path / "set")


def test_a_folder_is_known_by_its_config(tmp_path: Path) -> None:
    assert not distillkit.knows(str(tmp_path))
    sets.save(tmp_path / "set", small(), [sets.sequences(small(), [1])])
    assert distillkit.knows(str(tmp_path / "set"))


@pytest.mark.parametrize("module", ["yaml", "pyarrow"])
def test_a_package_that_is_not_there_is_named(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets.save(tmp_path / "set", small(), [sets.sequences(small(), [1])])
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=r"need (PyYAML|pyarrow): pip install 'vqlabel\[convert\]'"):
        open_set(tmp_path / "set")


def test_a_set_without_positions_is_refused(tmp_path: Path) -> None:
    sets.save(tmp_path / "set", small(), [])
    with pytest.raises(ValueError, match=r"not one data file can be read\n  there is no data_0.parquet"):
        open_set(tmp_path / "set")
    sets.save(tmp_path / "set", small(), [[[], []]])
    with pytest.raises(ValueError, match="set holds no position that can be read"):
        open_set(tmp_path / "set")
    with pq.ParquetWriter(tmp_path / "set" / "data_0.parquet", pq.read_schema(tmp_path / "set" / "data_0.parquet")):
        pass  # no row group either
    with pytest.raises(ValueError, match="set holds no position that can be read"):
        open_set(tmp_path / "set")
    with pytest.raises(ValueError, match="config.yaml says d: 50, not 51 classes"):
        open_set(tmp_path / "set", classes=51)


def test_a_file_of_floats_must_say_which_kind(tmp_path: Path) -> None:
    (tmp_path / "data_0.parquet").write_bytes(b"")
    pq.write_table(pa.table({"input_ids": [[1]], "compressed_logprobs": [[[1]]]}), tmp_path / "data_0.parquet")
    (tmp_path / "compression_config.yaml").write_text(yaml.safe_dump(small()))
    with pytest.raises(ValueError, match=r"data_0.parquet: its column compressed_logprobs is list<.*list<.*int64>>"):
        open_set(tmp_path)
