"""Folders of shards as one source, and labels of files that are encoded anew."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run
from safetensors.torch import save_file

from vqlabel import LabelDecoder, LabelEncoder, LabelFile
from vqlabel.codecs.raw import Raw
from vqlabel.codecs.topk import TopK
from vqlabel.joined import JoinedSparse
from vqlabel.sources import open_source

N, C, K = 300, 100, 12
LOGITS = np.random.default_rng(0).normal(0, 3, (N, C)).astype(np.float32)


def encoded(path: Path, codec: Any, source: Any = LOGITS) -> LabelFile:
    return LabelEncoder(codec).encode(source, path, progress=False)


def rows_of(file: LabelFile) -> list[Any]:
    return file.gather(np.arange(len(file))).tolist()


def dump(path: Path, rows: slice, k: int = K) -> Path:
    likeliest = torch.from_numpy(LOGITS[rows]).log_softmax(1).topk(k)
    np.savez(path, ids=likeliest.indices.numpy(), log_probs=likeliest.values.numpy())
    return path


# --- labels that are encoded anew


@pytest.mark.parametrize("k", [K, 5, 1])
@pytest.mark.parametrize("values", ["F16", "P16"])
def test_fewer_of_the_largest_are_those_of_the_logits_themselves(k: int, values: str, tmp_path: Path) -> None:
    encoded(tmp_path / "many.safetensors", TopK(C, K, values=values))
    again = encoded(tmp_path / "again", TopK(C, k, values=values), open_source(tmp_path / "many.safetensors"))
    assert rows_of(again) == rows_of(encoded(tmp_path / "direct", TopK(C, k, values=values)))


def test_labels_with_an_even_tail_are_encoded_anew_to_the_last_bit(tmp_path: Path) -> None:
    codec = TopK(C, K, tail="uniform", values="P16")
    first = encoded(tmp_path / "first.safetensors", codec)
    assert rows_of(encoded(tmp_path / "again", codec, open_source(first.path))) == rows_of(first)


def test_the_command_line_keeps_what_is_there_unless_told(run: Run, tmp_path: Path) -> None:
    many = encoded(tmp_path / "many.safetensors", TopK(C, K))
    for name, k in (("all", ()), ("few", ("--k", 5))):
        status, _, err = run("encode", many.path, "-o", tmp_path / name, "--format", "topk", *k)
        assert (status, err) == (0, "")
    assert rows_of(LabelFile(tmp_path / "all")) == rows_of(many)
    assert rows_of(LabelFile(tmp_path / "few")) == rows_of(encoded(tmp_path / "direct", TopK(C, 5)))


@pytest.mark.parametrize("asked", [("--bytes", 1), ("--format", "raw"), ("--format", "topk", "--k", K + 1)])
def test_nobody_knows_what_was_left_out(asked: Any, run: Run, tmp_path: Path) -> None:
    many = encoded(tmp_path / "many.safetensors", TopK(C, K))
    status, _, err = run("encode", many.path, "-o", tmp_path / "out.safetensors", *asked)
    assert status != 0
    assert f"tell of {K} of {C} classes, and nothing of the others: they can be stored as topk only, of {K} or" in err


def test_read_whole_they_are_what_their_decoder_says(tmp_path: Path) -> None:
    for codec in (TopK(C, K), TopK(C, K, tail="uniform", values="P16"), TopK(C, K, tail="uniform"), Raw(C)):
        file = encoded(tmp_path / f"{codec!r}.safetensors".replace("/", " "), codec)
        wanted = LabelDecoder(file.path)(np.arange(N), output="logits")
        torch.testing.assert_close(open_source(file.path).read(range(N)).float(), wanted)


# --- shards


@pytest.mark.parametrize("cuts", [(0, 120, N), (0, 0, 7, N), (0, N)])
def test_dumps_in_a_folder_tell_what_one_dump_tells(cuts: tuple[int, ...], run: Run, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    dump(tmp_path / "whole.npz", slice(N))
    for number, part in enumerate(itertools.pairwise(cuts)):
        dump(tmp_path / "parts" / f"{number}.npz", slice(*part))
    made = []
    for name in ("whole.npz", "parts"):
        out = tmp_path / f"{name}.safetensors"
        status, _, err = run("encode", tmp_path / name, "-o", out, "--classes", C, "--format", "topk")
        assert (status, err) == (0, "")
        made.append(LabelFile(out))
    assert made[0].metadata["codec"] == made[1].metadata["codec"]
    assert (made[0].metadata["codec"]["k"], made[0].metadata["codec"]["tail"]) == (K, "uniform")
    assert rows_of(made[0]) == rows_of(made[1])
    one, several = (open_source(tmp_path / name, classes=C) for name in ("whole.npz", "parts"))
    assert isinstance(several, JoinedSparse)
    picks = np.array([0, 6, 7, 119, 120, N - 1])
    assert torch.equal(one.take(picks), several.take(picks))
    assert torch.equal(one.read(range(5, 130)), several.read(range(5, 130)))
    assert several.kept(np.zeros(0, np.int64))[0].shape == (0, K)


def test_dumps_of_other_k_are_joined_by_what_they_say_of_all_classes(tmp_path: Path) -> None:
    dump(tmp_path / "0.npz", slice(100))
    dump(tmp_path / "1.npz", slice(100, N), k=5)
    source = open_source(tmp_path, classes=C)
    one = open_source(tmp_path / "1.npz", classes=C)
    assert torch.equal(source.read(range(100, N)), one.read(range(N - 100)))


def test_labels_that_leave_out_more_or_fewer_classes_are_no_set(tmp_path: Path) -> None:
    encoded(tmp_path / "a.safetensors", TopK(C, K))
    encoded(tmp_path / "b.safetensors", TopK(C, K + 1))
    with pytest.raises(ValueError, match=r"a.safetensors says nothing of some classes, and .*: encode them apart"):
        open_source(tmp_path)


def test_labels_among_logits_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", LOGITS)
    encoded(tmp_path / "labels.safetensors", Raw(C))
    with pytest.raises(ValueError, match=r"labels.safetensors is a label file, but a.npy is none: keep labels apart"):
        open_source(tmp_path)


def test_endings_may_be_written_large(tmp_path: Path) -> None:
    np.save(tmp_path / "0.npy", LOGITS[:100])
    with (tmp_path / "1.NPY").open("wb") as file:
        np.save(file, LOGITS[100:])
    np.testing.assert_array_equal(open_source(tmp_path).read(range(N)).numpy(), LOGITS)


def test_a_shard_that_is_unfinished_is_not_passed_over(tmp_path: Path) -> None:
    np.save(tmp_path / "0.npy", LOGITS)
    (tmp_path / "1.safetensors.partial").touch()
    with pytest.raises(ValueError, match=r"1.safetensors.partial is unfinished: wait until it is whole"):
        open_source(tmp_path)


# --- tensors


def test_a_tensor_of_that_name_is_the_one_that_is_meant(tmp_path: Path) -> None:
    save_file({"logits": torch.zeros(4, 3, dtype=torch.int64), "a": torch.zeros(4, 3)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"tensor 'logits' is I64 \[4, 3\], but logits are \[rows, classes\] of F16"):
        open_source(tmp_path / "x.safetensors")


@pytest.mark.parametrize(("shape", "offsets"), [([4.0, 3.0], [0, 48]), ([4, 3], [0.0, 48.0]), ([-4, -3], [0, 48])])
def test_sizes_that_are_no_whole_numbers_are_refused(shape: list[Any], offsets: list[Any], tmp_path: Path) -> None:
    header = json.dumps({"logits": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(48))
    with pytest.raises(ValueError, match="contradicts its shape; fetch the file again"):
        open_source(path)
