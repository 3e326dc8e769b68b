"""Label files as sets of DistillKit: what is written is what is read back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import distillkit_sets as sets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from conftest import exit_status

from vqlabel import Corrupt, LabelDecoder, LabelEncoder, export
from vqlabel.codecs.raw import Raw
from vqlabel.codecs.topk import TopK
from vqlabel.convert.distillkit_config import read_config
from vqlabel.gaps import FEATURE, MISSING, bitmap
from vqlabel.sequences import Sequences
from vqlabel.tokens import TokenInformation

C = 37
LENGTHS = [3, 0, 1, 6, 0]
P = sum(LENGTHS)
TOKENS = np.random.default_rng(0).integers(0, C, P)
LOGITS = torch.from_numpy(np.random.default_rng(1).standard_normal((P, C)).astype(np.float32) * 3)
BUT_LAST = ~np.isin(np.arange(P), np.cumsum(LENGTHS) - 1)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """A function from a codec to the path of a label file."""

    def make(codec: Any, keep: Any = None, *, store: bool = True, missing: Any = None) -> Path:
        sequences, path = Sequences(LENGTHS, keep=keep), tmp_path / "labels.safetensors"
        side, more = TokenInformation(TOKENS, sequences, store=store), {}
        if missing is not None:
            more = {"tensors": {MISSING: bitmap(missing)}, "metadata": {"requires": [FEATURE]}}
        LabelEncoder(codec, side).encode(LOGITS[: sequences.rows_total], path, progress=False, **more)
        return path

    return make


def read_back(path: Path, folder: Path, *options: object) -> LabelDecoder:
    """A file of the set that was made of a file."""
    assert exit_status("export", path, "--to", "distillkit", folder / "set", *options) == 0
    assert exit_status("convert", "--from", "distillkit", folder / "set", folder / "back.safetensors") == 0
    return LabelDecoder(folder / "back.safetensors")


@pytest.mark.parametrize("k", [1, 5, C])
def test_what_is_exported_is_converted_back(make: Callable[..., Path], k: int, tmp_path: Path) -> None:
    back = read_back(make(Raw(C, dtype="F32")), tmp_path, "--k", k)
    values, ids = LOGITS.log_softmax(1).topk(k, dim=1)
    stored = back(np.arange(P), output="logits")
    assert torch.equal(stored.gather(1, ids), values.half().float())
    assert (stored > -1e5).sum(1).tolist() == [k] * P
    assert back.file.column("sequences.starts").tolist() == np.cumsum([0, *LENGTHS]).tolist()
    assert back.file.column("sequences.tokens").tolist() == TOKENS.tolist()


def test_what_has_no_label_at_the_end_of_sequences_is_exported_and_converted_back(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    back, N = read_back(make(Raw(C, dtype="F32"), BUT_LAST), tmp_path, "--k", 5), 7
    table = pq.read_table(tmp_path / "set" / "data_0.parquet").to_pydict()
    assert [len(tokens) for tokens in table["input_ids"]] == LENGTHS
    for name in ("compressed_logprobs", "bytepacked_indices"):
        assert [len(labels) for labels in table[name]] == [2, 0, 0, 5, 0]
    values, ids = LOGITS[:N].log_softmax(1).topk(5, dim=1)
    assert torch.equal(back(np.arange(N), output="logits").gather(1, ids), values.half().float())
    assert back.sequences is not None
    assert back.sequences.keep.tolist() == Sequences(LENGTHS, keep=BUT_LAST).keep.tolist()
    assert back.file.column("sequences.tokens").tolist() == TOKENS.tolist()
    (tmp_path / "again").mkdir()
    again = read_back(tmp_path / "back.safetensors", tmp_path / "again")
    assert (again.file.gather(np.arange(N)) == back.file.gather(np.arange(N))).all()
    assert again.file.metadata["sequences"] == back.file.metadata["sequences"] == {"keep": "mask"}


def test_slow_decoding_reads_the_bytes_too(make: Callable[..., Path], tmp_path: Path) -> None:
    export.to_distillkit(make(Raw(C, dtype="F32")), tmp_path / "set", k=4)
    config = yaml.safe_load((tmp_path / "set" / "compression_config.yaml").read_text())
    table = pq.read_table(tmp_path / "set" / "data_0.parquet").to_pydict()
    assert [len(tokens) for tokens in table["input_ids"]] == LENGTHS
    values, ids = LOGITS.log_softmax(1).topk(4, dim=1)
    columns = [[found for part in table[name] for found in part] for name in list(table)[1:]]
    for row, position in enumerate(zip(*columns, strict=True)):
        found_ids, found_values = sets.decode(config, position)
        assert found_ids == ids[row].tolist()
        assert found_values == values[row].half().tolist()


@pytest.mark.parametrize("spare", [0, 1])
def test_labels_of_distillkit_survive_the_way_there_and_back_to_the_last_bit(spare: int, tmp_path: Path) -> None:
    config = sets.exact()
    made = [sets.sequences(config, [2, 0, 3, 1]), sets.sequences(config, [4])]
    sets.save(tmp_path / "first", config, made, spare=spare)
    assert exit_status("convert", tmp_path / "first", tmp_path / "labels.safetensors") == 0
    back, first = read_back(tmp_path / "labels.safetensors", tmp_path), LabelDecoder(tmp_path / "labels.safetensors")
    rows = np.arange(10 - 4 * spare)
    assert len(back) == len(first) == len(rows)
    assert (back.file.gather(rows) == first.file.gather(rows)).all()
    assert back.file.column("sequences.tokens").tolist() == first.file.column("sequences.tokens").tolist()
    parts = [pq.read_table(tmp_path / "first" / f"data_{number}.parquet") for number in range(2)]
    assert pq.read_table(tmp_path / "set" / "data_0.parquet").to_pylist() == [
        *parts[0].to_pylist(),
        *parts[1].to_pylist(),
    ]


@pytest.mark.parametrize(
    "codec",
    [TopK(C, 5), TopK(C, 5, tail="uniform"), TopK(C, 5, tail="uniform", values="P16"), TopK(C, 5, values="U8")],
    ids=["dropped", "uniform", "probabilities", "8 bits"],
)
def test_topk_is_exported_with_all_that_it_has(make: Callable[..., Path], codec: TopK, tmp_path: Path) -> None:
    path = make(codec)
    back, first = read_back(path, tmp_path), LabelDecoder(path)
    assert read_config(str(tmp_path / "set" / "compression_config.yaml")).k == 5
    expected = first(np.arange(P), output="log_probs")
    ids = LOGITS.topk(5, dim=1).indices
    found = back(np.arange(P), output="logits").gather(1, ids)
    torch.testing.assert_close(found, expected.gather(1, ids), atol=8e-3, rtol=0)


def test_fifty_tokens_of_a_position_are_usual(tmp_path: Path) -> None:
    sequences, logits = Sequences([4]), np.random.default_rng(0).standard_normal((4, 90)).astype(np.float32)
    side = TokenInformation([1, 2, 3, 4], sequences)
    LabelEncoder(Raw(90), side).encode(logits, tmp_path / "labels", progress=False)
    export.to_distillkit(tmp_path / "labels", tmp_path / "set")
    config = read_config(str(tmp_path / "set" / "compression_config.yaml"))
    assert (config.d, config.k, config.exact_k, config.exact_dtype) == (90, 50, 50, "float16")
    table = pq.read_table(tmp_path / "set" / "data_0.parquet").to_pydict()
    assert {len(found) for found in table["compressed_logprobs"][0]} == {100}
    assert {len(found) for found in table["bytepacked_indices"][0]} == {(50 * 7 + 7) // 8}


def test_nothing_in_the_config_is_left_to_a_default(make: Callable[..., Path], tmp_path: Path) -> None:
    export.to_distillkit(make(Raw(C)), tmp_path / "set")
    config = yaml.safe_load((tmp_path / "set" / "compression_config.yaml").read_text())
    assert config == {
        "d": C,
        "k": C,
        "exact_k": C,
        "exact_dtype": "float16",
        "polynomial_terms": [],
        "term_dtype": "float32",
        "residual_bins": [],
        "delta_encoding": False,
        "error_diffusion": False,
        "normalize_t": False,
    }


@pytest.mark.parametrize("keep", [None, BUT_LAST], ids=["all", "all but the last"])
def test_large_sets_are_many_files_and_groups(
    make: Callable[..., Path], keep: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "GROUP", 1)
    monkeypatch.setattr(export, "FILE", 4)
    monkeypatch.setattr(export, "LOGITS_AT_ONCE", 2 * C)
    back = read_back(make(Raw(C, dtype="F32"), keep), tmp_path, "--k", 3)
    names = sorted(path.name for path in (tmp_path / "set").iterdir())
    assert names == ["compression_config.yaml", "data_0.parquet", "data_1.parquet", "data_2.parquet"]
    assert pq.ParquetFile(tmp_path / "set" / "data_0.parquet").num_row_groups == 2
    values, ids = LOGITS[: len(back)].log_softmax(1).topk(3, dim=1)
    assert torch.equal(back(np.arange(len(back)), output="logits").gather(1, ids), values.half().float())
    assert len(back) == (P if keep is None else 7)


@pytest.mark.parametrize("lengths", [[], [0], [0, 0]])
def test_a_text_without_positions_is_a_set_without_any(lengths: list[int], tmp_path: Path) -> None:
    starts, tokens = np.zeros(len(lengths) + 1, np.uint64), np.zeros(0, np.uint32)
    tensors = {"sequences.starts": starts, "sequences.tokens": tokens}
    LabelEncoder(Raw(C)).encode(LOGITS[:0], tmp_path / "labels", tensors=tensors, progress=False)
    export.to_distillkit(tmp_path / "labels", tmp_path / "set")
    assert pq.read_table(tmp_path / "set" / "data_0.parquet")["input_ids"].to_pylist() == [[]] * len(lengths)


def test_single_tokens_without_labels_are_a_set_without_labels(tmp_path: Path) -> None:
    side = TokenInformation([4, 2], Sequences([1, 1], keep=np.zeros(2, np.bool_)))
    LabelEncoder(Raw(C), side).encode(LOGITS[:0], tmp_path / "labels", progress=False)
    export.to_distillkit(tmp_path / "labels", tmp_path / "set")
    table = pq.read_table(tmp_path / "set" / "data_0.parquet").to_pydict()
    assert table == {"input_ids": [[4], [2]], "compressed_logprobs": [[], []], "bytepacked_indices": [[], []]}


LOST = np.isin(np.arange(P), [2, 5])


@pytest.mark.parametrize(
    ("codec", "about", "options", "words"),
    [
        (
            Raw(C),
            {"keep": {"every": 3}},
            [],
            "has labels of 4 of 10 positions, but a set of DistillKit has one of each, ",
        ),
        (Raw(C), {"keep": np.roll(BUT_LAST, 1)}, [], "has labels of 7 of 10 positions"),
        (Raw(C), {"keep": BUT_LAST & (np.arange(P) > 0)}, [], "has labels of 6 of 10 positions"),
        (Raw(C), {"keep": BUT_LAST | (np.arange(P) == 3)}, [], "has labels of 8 of 10 positions"),
        (Raw(C), {"keep": BUT_LAST, "missing": LOST[:7]}, [], "has labels of 5 of 10 positions"),
        (Raw(C), {"missing": LOST}, [], "has labels of 8 of 10 positions"),
        (Raw(C), {"store": False}, [], "labels.safetensors does not hold its text"),
        (TopK(C, 5), {}, ["--k", 6], "k must be a whole number from 1 to 5, got 6"),
        (Raw(C), {}, ["--k", 0], "k must be a whole number from 1 to 37, got 0"),
    ],
)
def test_what_cannot_be_exported_says_why(
    make: Callable[..., Path],
    codec: Any,
    about: dict[str, Any],
    options: list[Any],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_status("export", make(codec, **about), "--to", "distillkit", tmp_path / "set", *options) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_labels_of_images_are_no_set_of_a_text(tmp_path: Path) -> None:
    LabelEncoder(Raw(C)).encode(LOGITS, tmp_path / "images.safetensors", progress=False)
    with pytest.raises(ValueError, match="images.safetensors does not say which sequences its rows are of"):
        export.to_distillkit(tmp_path / "images.safetensors", tmp_path / "set")


def test_a_folder_that_exists_is_left_alone(make: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with pytest.raises(FileExistsError, match="set exists; delete it or choose another name"):
        export.to_distillkit(make(Raw(C)), tmp_path / "set")


def test_an_export_that_fails_leaves_nothing_behind(
    make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(Raw(C))
    sound = path.read_bytes()
    path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    with pytest.raises(Corrupt, match="do not match their checksum"):
        export.to_distillkit(path, tmp_path / "set")
    path.write_bytes(sound)
    for package in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=r"need pyarrow: pip install 'vqlabel\[convert\]'"):
        export.to_distillkit(path, tmp_path / "set")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == [path]
    export.to_distillkit(path, tmp_path / "set")


def test_what_an_export_left_that_was_killed_is_named_and_kept(make: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "set.partial").mkdir()
    path = make(Raw(C))
    with pytest.raises(FileExistsError, match=r"set.partial is there: another process is writing it, or was stopped; "):
        export.to_distillkit(path, tmp_path / "set")
    assert (tmp_path / "set.partial").is_dir()
    with pytest.raises(FileNotFoundError, match="nowhere is not there: make the folder that set is to lie in"):
        export.to_distillkit(path, tmp_path / "nowhere" / "set")
