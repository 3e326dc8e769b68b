"""Sets of DistillKit that are damaged, incomplete or made to do harm: each fault is named, and the rest can be kept."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
from pathlib import Path
from typing import Any

import distillkit_sets as sets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from distillkit_sets import Config, Position, check_kept, open_set

from vqlabel.convert import distillkit_files

pytestmark = pytest.mark.usefixtures("one_thread")
CONFIG = sets.exact()
LENGTHS = [[2, 0, 3], [4], [1, 2]]
MADE = [sets.sequences(CONFIG, part, seed) for seed, part in enumerate(LENGTHS)]
FLAT = [position for file in MADE for sequence in file for position in sequence]


def with_value(position: Position, value: float) -> Position:
    return [*position[0][:6], *sets.number(value, "float16"), *position[0][8:]], position[1]


WRONG: list[tuple[Any, str]] = [
    (lambda p: (p[0][:-1], p[1]), "15 numbers of compressed_logprobs, not 16"),
    (lambda p: ([*p[0], 0], p[1]), "17 numbers of compressed_logprobs, not 16"),
    (lambda p: ([], p[1]), "0 numbers of compressed_logprobs, not 16"),
    (lambda p: (p[0], p[1][1:]), "5 numbers of bytepacked_indices, not 6"),
    (lambda p: (p[0], None), "0 numbers of bytepacked_indices, not 6"),
    (lambda p: with_value(p, math.inf), "a log-probability is inf"),
    (lambda p: with_value(p, -math.inf), "a log-probability is -inf"),
    (lambda p: with_value(p, math.nan), "a log-probability is nan"),
    (lambda p: sets.with_ids(p, 50), "it tells of token 50, but d is 50"),
    (lambda p: sets.with_ids(p, 3, 3), "it tells of a token twice"),
    (lambda p: with_value(with_value(p, 65504.0), 65504.0), "its log-probabilities are 655.. apart, more than fp16"),
]


@pytest.mark.parametrize(("spoil", "words"), WRONG)
def test_a_wrong_position_is_named_and_the_others_can_be_kept(spoil: Any, words: str, tmp_path: Path) -> None:
    made = copy.deepcopy(MADE)
    made[0][2][1] = spoil(made[0][2][1])
    sets.save(tmp_path / "set", CONFIG, made)
    where = "data_0.parquet: 1 of 5 positions cannot be read: sequence 2, position 1"
    with pytest.raises(ValueError, match=f"{where}: {words}"):
        open_set(tmp_path / "set")
    found = open_set(tmp_path / "set", keep_going=True)
    check_kept(found, [None if row == 3 else position for row, position in enumerate(FLAT)])
    assert len(found.faults) == 1


def test_labels_of_another_number_of_tokens_are_named(tmp_path: Path) -> None:
    made = copy.deepcopy(MADE)
    sets.save(tmp_path / "set", CONFIG, made)
    columns = pq.read_table(tmp_path / "set" / "data_0.parquet").to_pydict()
    columns["compressed_logprobs"][0].append(columns["compressed_logprobs"][0][0])
    columns["bytepacked_indices"][1] = [columns["bytepacked_indices"][0][0]]
    columns["bytepacked_indices"][2] = None
    sets.write(tmp_path / "set" / "data_0.parquet", columns)
    words = "5 of 5 positions cannot be read: sequence 0: compressed_logprobs has 3 positions, input_ids 2"
    with pytest.raises(ValueError, match=words):
        open_set(tmp_path / "set")
    check_kept(open_set(tmp_path / "set", keep_going=True), [None] * 5 + FLAT[5:])


@pytest.mark.parametrize("cut", [0, 3, 4, 100, -9, -1])
def test_a_file_that_is_cut_off_is_named_and_left_out(cut: int, tmp_path: Path) -> None:
    sets.save(tmp_path / "set", CONFIG, MADE)
    path = tmp_path / "set" / "data_1.parquet"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match="data_1.parquet: it is cut off or damaged, or no Parquet file"):
        open_set(tmp_path / "set")
    found = open_set(tmp_path / "set", keep_going=True)
    check_kept(found, FLAT[:5] + FLAT[9:])
    assert found.tensors["sequences.starts"].tolist() == [0, 2, 2, 5, 6, 8]
    assert found.tensors["sequences.tokens"].tolist() == [0, 1, 2, 3, 4, 9, 10, 11]


def test_gaps_in_the_numbers_of_files_are_named(tmp_path: Path) -> None:
    sets.save(tmp_path / "set", CONFIG, MADE)
    (tmp_path / "set" / "data_1.parquet").rename(tmp_path / "set" / "data_900000000.parquet")
    faults = r"data_1.parquet: not there(?s:.*)data_3.parquet to data_899999999.parquet: not there"
    with pytest.raises(ValueError, match=faults):
        open_set(tmp_path / "set")
    check_kept(open_set(tmp_path / "set", keep_going=True), FLAT[:5] + FLAT[9:] + FLAT[5:9])


def test_damage_to_a_row_group_leaves_the_others(tmp_path: Path) -> None:
    sets.save(tmp_path / "set", CONFIG, MADE, row_group_size=1, write_page_checksum=True)
    path = tmp_path / "set" / "data_0.parquet"
    column = pq.ParquetFile(path).metadata.row_group(0).column(1)
    data = bytearray(path.read_bytes())
    data[column.data_page_offset + column.total_compressed_size - 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        ValueError, match="data_0.parquet: 2 of 5 positions cannot be read: sequence 0 and on: it is cut"
    ):
        open_set(tmp_path / "set")
    check_kept(open_set(tmp_path / "set", keep_going=True), [None, None, *FLAT[2:]])


def test_no_damaged_byte_ends_more_than_the_reading(tmp_path: Path) -> None:
    sets.save(tmp_path / "set", CONFIG, [MADE[0]], write_page_checksum=True)
    path = tmp_path / "set" / "data_0.parquet"
    data = path.read_bytes()
    for at in range(0, len(data), 13):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
        with contextlib.suppress(ValueError):
            assert len(open_set(tmp_path / "set").source) == 5


def test_a_config_that_does_not_fit_is_an_error_even_if_the_rest_may_be_kept(tmp_path: Path) -> None:
    sets.save(tmp_path / "set", {**CONFIG, "exact_k": 7}, MADE)
    words = (
        "holds no position that can be read.*\n.*data_0.parquet: 5 of 5 .*: 16 numbers of compressed_logprobs, not 14"
    )
    with pytest.raises(ValueError, match=words):
        open_set(tmp_path / "set", keep_going=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": 1}, "the config has kind, but what is known of it is d, k, exact_k, "),
        ({"d": None}, "the config does not say d"),
        ({"term_dtype": None, "k": None}, "the config does not say k, term_dtype"),
        ({"d": 1}, "d must be a whole number from 2 to 16777216, got 1"),
        ({"d": 2**40}, "d must be a whole number"),
        ({"d": [1]}, "d must be a number or a word, got a list"),
        ({"k": 51}, "k must be a whole number from 1 to 50, got 51"),
        ({"k": 0}, "k must be a whole number from 1 to 50, got 0"),
        ({"k": True}, "k must be a whole number from 1 to 50, got True"),
        ({"exact_k": 9}, "exact_k must be a whole number from 0 to 8, got 9"),
        ({"exact_k": 2.0}, "exact_k must be a whole number from 0 to 8, got 2.0"),
        ({"exact_dtype": "int8"}, "exact_dtype must be one of float16, bfloat16, float32, float64, got 'int8'"),
        ({"polynomial_terms": 3}, "polynomial_terms must be a list of at most 64 entries, got a int"),
        ({"polynomial_terms": ["log"]}, "polynomial_terms must be one of sqrt, exp, got 'log'"),
        ({"polynomial_terms": [[0]]}, "polynomial_terms must be a number or a word, got a list"),
        ({"polynomial_terms": [-1], "exact_k": 2}, "the term -1 of polynomial_terms is not finite at all of 6 ranks"),
        ({"delta_encoding": "yes"}, "delta_encoding must be true or false, got 'yes'"),
        ({"residual_bins": [1]}, "an entry of residual_bins is a int, not names and values"),
        ({"residual_bins": [{"element_bits": 1}]}, "an entry of residual_bins does not say scale_dtype, num_elements"),
        (
            {"residual_bins": [{"scale_dtype": "float32", "num_elements": 1, "element_bits": 65}]},
            "element_bits must be a whole number from 1 to 64, got 65",
        ),
        (
            {"residual_bins": [{"scale_dtype": "float32", "num_elements": 1, "element_bits": 4}]},
            "residual_bins hold 1 residuals, but only k - exact_k = 0 logits have one",
        ),
    ],
)
def test_a_config_that_says_nonsense_is_refused(change: Config, words: str, tmp_path: Path) -> None:
    config = {name: value for name, value in {**CONFIG, **change}.items() if value is not None}
    sets.save(tmp_path / "set", CONFIG, MADE)
    (tmp_path / "set" / "compression_config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=f"compression_config.yaml: {words}"):
        open_set(tmp_path / "set")


def laughs() -> str:
    """A list that is endless when written out."""
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join(9 * [f'*a{i - 1}'])}]" for i in range(1, 30)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("!!python/object/apply:os.mkdir [SPOIL]", "is no plain YAML"),
        (f"{laughs()}\nd: *a29", "the config has a0, a1, a2, a3, a4"),
        ("[" * 50_000, "is no plain YAML"),
        ("d: [", "is no plain YAML"),
        ("\0", "is no plain YAML"),
        ("", "the config is a NoneType, not names and values"),
        ("- d", "the config is a list"),
        ("d: 0x" + "f" * 10_000, "d must|config does not say"),
        ("#" * 2**17, "has 131072 bytes, but such a file has at most 65536"),
    ],
)
def test_a_config_made_to_do_harm_does_none(text: str, words: str, tmp_path: Path) -> None:
    sets.save(tmp_path / "set", CONFIG, MADE)
    (tmp_path / "set" / "compression_config.yaml").write_text(text.replace("SPOIL", str(tmp_path / "spoil")))
    with pytest.raises(ValueError, match=f"compression_config.yaml.* {words}"):
        open_set(tmp_path / "set")
    assert not (tmp_path / "spoil").exists()
    (tmp_path / "set" / "compression_config.yaml").unlink()
    with pytest.raises(ValueError, match="compression_config.yaml is not there: it says how the labels became bytes"):
        open_set(tmp_path / "set")


def test_absurd_sizes_are_refused_before_room_is_made_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets.save(tmp_path / "set", CONFIG, [MADE[0]])
    path = tmp_path / "set" / "data_0.parquet"
    columns = pq.read_table(path).to_pydict()
    sets.write(path, {**columns, "input_ids": [[0] * 2**20, [], []]})
    with pytest.raises(
        ValueError, match=r"data_0.parquet: its \d{4} bytes cannot hold the labels of the 1048576 positions"
    ):
        open_set(tmp_path / "set")
    monkeypatch.setattr(distillkit_files, "MAX_LEAVES", 44)
    sets.write(path, columns)
    with pytest.raises(ValueError, match="it has a sequence of 3 positions, but only up to 2 can be read"):
        open_set(tmp_path / "set")


def column(items: list[Any], kind: Any) -> pa.Array:
    return pa.array(items, kind)


BYTES = pa.list_(pa.list_(pa.uint8()))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"compressed_logprobs": None}, "it has no column compressed_logprobs, but input_ids, bytepacked_indices"),
        ({"input_ids": None}, "it has no column input_ids, but compressed_logprobs"),
        ({"input_ids": column([1], pa.int64())}, "its column input_ids is int64"),
        ({"input_ids": column([["a"]], pa.list_(pa.string()))}, "its column input_ids is list<.*string>"),
        ({"bytepacked_indices": column([[0]], pa.list_(pa.uint8()))}, "its column bytepacked_indices is list<.*uint8>"),
        ({"input_ids": column([[2**32]], pa.list_(pa.uint64()))}, "position 0: token 4294967296 is beyond 32 bits"),
        ({"input_ids": column([[None]], pa.list_(pa.uint64()))}, "sequence 0 and on: 1 of its numbers are null"),
        ({"compressed_logprobs": column([[[None] * 16]], BYTES)}, "sequence 0 and on: 16 of its numbers are null"),
        ({"packed_indices": column([[[0]]], pa.list_(pa.list_(pa.uint64())))}, "it has no column exact_values"),
    ],
)
def test_a_column_of_another_kind_is_named(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    position = MADE[0][0][0]
    sets.save(tmp_path / "set", CONFIG, [[[position]], *MADE[1:]])
    path = tmp_path / "set" / "data_0.parquet"
    table = pq.read_table(path)
    arrays = {name: table[name] for name in table.column_names} | change
    pq.write_table(pa.table({name: array for name, array in arrays.items() if array is not None}), path)
    with pytest.raises(ValueError, match=f"data_0.parquet: (.* cannot be read: )?.*{words}"):
        open_set(tmp_path / "set")


def test_files_in_lists_of_any_size_are_the_same(tmp_path: Path) -> None:
    sets.save(tmp_path / "set", CONFIG, MADE)
    for path in (tmp_path / "set").glob("*.parquet"):
        table, large = pq.read_table(path), pa.large_list(pa.large_list(pa.uint8()))
        kinds = {"input_ids": pa.large_list(pa.int64()), "compressed_logprobs": large, "bytepacked_indices": large}
        pq.write_table(table.cast(pa.schema(kinds)), path, compression="zstd", use_dictionary=False)
    check_kept(open_set(tmp_path / "set"), list(itertools.chain(FLAT)))
    assert np.array_equal(open_set(tmp_path / "set").tensors["sequences.tokens"], np.arange(12))
