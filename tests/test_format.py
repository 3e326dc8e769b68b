"""The format: FORMAT.md is true, golden files are read for ever, and safetensors opens what we write."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from conftest import GOLDEN, ROOT
from hypothesis import given
from hypothesis import strategies as st

from vqlabel import LabelFile, format
from vqlabel.metadata import KINDS, REQUIRED

FORMAT_MD = (ROOT / "FORMAT.md").read_text()
NAMES = ["v1_example", "v1_imported", "v1_vq_g3x11", "v1_zero_row_bytes", "v1_zero_rows"]


def test_every_golden_file_is_tested(golden: ModuleType) -> None:
    on_disk = sorted(path.stem for path in GOLDEN.glob("*.safetensors"))
    assert on_disk == sorted(NAMES)
    assert sorted(golden.GOLDEN) == sorted(NAMES)


@pytest.mark.parametrize("load", ["copy", "map"])
@pytest.mark.parametrize("name", NAMES)
def test_golden_files_decode_to_what_they_were_made_from(golden: ModuleType, name: str, load: str) -> None:
    parts = golden.GOLDEN[name]
    file = LabelFile(GOLDEN / f"{name}.safetensors", load=load)
    labelled = ~file.missing(np.arange(len(file)))
    np.testing.assert_array_equal(file.gather(np.flatnonzero(labelled)), parts["rows"][labelled], strict=True)
    assert file.tensor_names == sorted(parts.get("tensors", {}), key=lambda n: (parts["tensors"][n].itemsize, n))
    for tensor, array in parts.get("tensors", {}).items():
        np.testing.assert_array_equal(file.tensor(tensor), array, strict=True)
    for key, value in parts["metadata"].items():
        assert file.metadata[key] == value
    assert file.verify()


@pytest.mark.parametrize("name", NAMES)
def test_writer_still_writes_the_golden_bytes(golden: ModuleType, name: str, tmp_path: Path) -> None:
    golden.write(name, tmp_path / name)
    assert (tmp_path / name).read_bytes() == (GOLDEN / f"{name}.safetensors").read_bytes()


def test_documented_example_is_the_file() -> None:
    example = FORMAT_MD.split("## Example")[1].split("```")[1]
    parts = dict(re.findall(r"^([0-9a-f]{4})  (.*?)(?=^[0-9a-f]{4}  |\Z)", example, flags=re.M | re.S))
    text, spaces = parts["0008"].split("without the line breaks, then ")
    header = re.sub(r"\n\s*", "", text).encode() + b" " * int(spaces.split()[0])
    pieces = {8: header} | {
        int(offset, 16): bytes.fromhex(re.match(r"([0-9a-f]{2} )*[0-9a-f]{2}", parts[offset])[0])  # type: ignore[index]
        for offset in ("0000", "0ff4", "0ffc", "1000")
    }
    assert b"".join(pieces[offset] for offset in sorted(pieces)) == (GOLDEN / "v1_example.safetensors").read_bytes()
    assert "4,102 bytes" in FORMAT_MD


def test_documented_tables_are_those_of_the_code() -> None:
    assert f"dtype` is one of {' '.join(format.DTYPES)}." in FORMAT_MD
    assert f"at most {format.MAX_HEADER_BYTES:,}" in FORMAT_MD
    table = FORMAT_MD.split("## Metadata")[1].split("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    documented = list(itertools.chain(*(re.findall(r"`([\w.…]+)`", row.split("|")[1]) for row in rows)))
    assert documented == [*KINDS, "x.…"]
    assert [key for key in KINDS if re.search(rf"`{key}`.*required", table)] == list(REQUIRED)


@pytest.mark.parametrize("name", NAMES)
def test_safetensors_opens_golden_files(golden: ModuleType, name: str) -> None:
    check_with_safetensors(GOLDEN / f"{name}.safetensors", golden.GOLDEN[name])


def check_with_safetensors(path: Path, parts: dict[str, Any]) -> None:
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata()["format"] == "vqlabel"
        np.testing.assert_array_equal(file.get_tensor("codes"), parts["rows"], strict=True)
        for name, array in parts.get("tensors", {}).items():
            np.testing.assert_array_equal(file.get_tensor(name), array, strict=True)
    assert "codes.crc32" in safetensors.numpy.load_file(path)


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(
    lambda name: name not in ("codes", "codes.crc32", "crc32", "__metadata__")
)
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@given(
    rows=st.integers(0, 40),
    row_bytes=st.integers(0, 9),
    specs=st.dictionaries(names, st.tuples(st.sampled_from(list(format.DTYPES)), shapes), max_size=6),
    notes=st.dictionaries(names.map(lambda name: f"x.{name}"), st.text(st.characters(codec="utf-8")), max_size=3),
    per_chunk=st.integers(1, 50),
)
def test_what_is_written_is_read_by_us_and_by_safetensors(
    tmp_path_factory: pytest.TempPathFactory,
    rows: int,
    row_bytes: int,
    specs: dict[str, Any],
    notes: dict[str, str],
    per_chunk: int,
) -> None:
    path = tmp_path_factory.mktemp("files") / "labels.safetensors"
    random = np.random.default_rng(0)
    tensors = {
        name: random.integers(0, 100, shape).astype(format.DTYPES[dtype]) for name, (dtype, shape) in specs.items()
    }
    data = random.integers(0, 256, (rows, row_bytes)).astype(np.uint8)
    metadata = {"codec": {"id": "raw"}, "rows_per_chunk": per_chunk, **notes}
    with LabelFile.create(path, rows=rows, row_bytes=row_bytes, tensors=tensors, metadata=metadata) as writer:
        writer.write(0, data)
    check_with_safetensors(path, {"rows": data, "tensors": tensors})
    file = LabelFile(path)
    np.testing.assert_array_equal(file.gather(np.arange(rows)), data)
    assert {name: file.tensor(name).tolist() for name in file.tensor_names} == {
        name: array.tolist() for name, array in tensors.items()
    }
    assert {key: value for key, value in file.metadata.items() if key.startswith("x.")} == notes
    for tensor in file.header.tensors.values():
        assert tensor.offset % tensor.dtype.itemsize == 0
    assert file.header.tensors["codes"].offset % 4096 == 0
    assert file.verify()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rows": -1}, "rows must be a whole number from 0 to"),
        ({"row_bytes": 2**40}, "row_bytes must be a whole number from 0 to"),
        ({"rows": 2**61, "row_bytes": 2**20}, "more than a file can hold"),
        ({"metadata": {}}, "metadata key 'codec' is missing"),
        ({"metadata": {"codec": {}}}, "metadata 'codec' has no id"),
        ({"metadata": {"codec": "vq"}}, "metadata 'codec' must be a JSON object, got 'vq'"),
        ({"metadata": {"codec": {"id": "vq", "G": 3, "nbits": 9}}}, "3 codes of 9 bits do not fill rows of 2 bytes"),
        ({"metadata": {"codec": {"id": "vq", "nbits": 25}}}, "codec nbits is 25, not 1 to 24"),
        ({"metadata": {"codec": {"id": "raw"}, "epochs": 2, "images": 3}}, "2 epochs of 3 images are not 4 rows"),
        ({"metadata": {"codec": {"id": "raw"}, "epochs": -2}}, "'epochs' must be a whole number, got -2"),
        ({"metadata": {"codec": {"id": "raw"}, "epochs": True}}, "'epochs' must be a whole number, got True"),
        ({"metadata": {"codec": {"id": "raw"}, "rows_per_chunk": 0}}, "rows_per_chunk is 0"),
        ({"metadata": {"codec": {"id": "raw"}, "colour": "red"}}, "'colour' is not known; known are format, "),
        ({"metadata": {"codec": {"id": "raw"}, "x.n": 3}}, "'x.n' must be text, got 3"),
        ({"metadata": {"codec": {"id": "raw"}, "x.n": "a" * 2**20}}, "shorten the metadata"),
        ({"metadata": {"codec": {"id": "raw"}, "requires": ["magic"]}}, "requires 'magic'"),
        ({"metadata": {"codec": {"id": "raw"}, "temperatures": [float("nan")]}}, "not JSON compliant"),
        ({"tensors": {"codes": np.zeros(1)}}, "'codes' belongs to the format"),
        ({"tensors": {1: np.zeros(1)}}, "1 belongs to the format or is no text"),
        ({"rows": 10.0}, "rows must be a whole number from 0 to"),
        ({"metadata": {"codec": {"id": "raw", "books": object()}}}, "which JSON has no word for"),
        ({"tensors": {"a": np.zeros(1, complex)}}, "'a' is complex128; a file holds U8, I8"),
        ({"tensors": {"a": np.zeros((1,) * 9)}}, "at most 8 whole numbers"),
    ],
)
def test_no_file_is_begun_with_wrong_arguments(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    arguments = {"rows": 4, "row_bytes": 2, "metadata": {"codec": {"id": "raw"}}, **change}
    with pytest.raises(ValueError, match=words):
        LabelFile.create(tmp_path / "labels", **arguments)
    assert not list(tmp_path.iterdir())


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    metadata = {
        "codec": {"id": "vq", "G": np.int64(2), "nbits": np.uint8(8)},
        "classes": np.int32(1000),
        "temperatures": [np.float32(4)],
        "measured": {"kl": np.arange(2)},
    }
    rows = np.zeros((3, 2), np.uint8)
    with LabelFile.create(tmp_path / "file", rows=np.int64(3), row_bytes=np.int64(2), metadata=metadata) as writer:
        writer.write(np.int64(0), rows)
    found = LabelFile(tmp_path / "file").metadata
    assert (found["codec"]["G"], found["classes"], found["temperatures"], found["measured"]) == (
        2,
        1000,
        [4],
        {"kl": [0, 1]},
    )
