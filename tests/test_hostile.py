"""Damaged and malicious files: each is a FormatError of the right kind, at once, in little memory."""

from __future__ import annotations

import io
import json
import os
import pickle
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from vqlabel import Corrupt, FormatError, LabelFile, NewerVersion, NotALabelFile, Truncated, Unfinished

MIB = 2**20


def use_everything(path: Path) -> bool:
    """Open the file, read all of it; whether it holds what it promises."""
    file = LabelFile(path, load="copy")
    for name in file.tensor_names:
        file.tensor(name)
    file.gather(np.arange(len(file)))
    return bool(file.verify())


def test_cut_at_every_byte_is_truncated(golden_copy: Path) -> None:
    whole = golden_copy.read_bytes()
    for size in range(len(whole)):
        os.truncate(golden_copy, size) if size == 0 else golden_copy.write_bytes(whole[:size])
        with pytest.raises(Truncated, match="bytes"):
            LabelFile(golden_copy)


def test_every_flipped_bit_of_the_header_is_found(golden_copy: Path) -> None:
    whole = bytearray(golden_copy.read_bytes())
    with golden_copy.open("r+b", buffering=0) as file:
        for byte in range(8 + int.from_bytes(whole[:8], "little")):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([whole[byte] ^ 1 << bit]), byte)
                with pytest.raises(FormatError):
                    LabelFile(golden_copy)
            os.pwrite(file.fileno(), whole[byte : byte + 1], byte)
    assert use_everything(golden_copy)


def test_every_flipped_bit_after_the_header_is_found(golden_copy: Path) -> None:
    whole = bytearray(golden_copy.read_bytes())
    start = 8 + int.from_bytes(whole[:8], "little")
    with golden_copy.open("r+b", buffering=0) as file:
        for byte in range(start, len(whole)):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([whole[byte] ^ 1 << bit]), byte)
                with pytest.raises(FormatError):
                    use_everything(golden_copy)
            os.pwrite(file.fileno(), whole[byte : byte + 1], byte)


def write_header(path: Path, entries: Any, data: bytes = b"", length: int | None = None) -> None:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)


def sound_entries() -> dict[str, Any]:
    """A header of four rows of two bytes in two chunks, whose tensors follow one another."""
    return {
        "__metadata__": {
            "format": "vqlabel",
            "format_version": "1",
            "rows_per_chunk": "2",
            "codec": '{"id":"vq","G":2,"nbits":8}',
        },
        "codes.crc32": {"dtype": "U32", "shape": [2], "data_offsets": [0, 8]},
        "crc32": {"dtype": "U32", "shape": [2], "data_offsets": [8, 16]},
        "bias": {"dtype": "F64", "shape": [1], "data_offsets": [16, 24]},
        "codes": {"dtype": "U8", "shape": [4, 2], "data_offsets": [24, 32]},
    }


def write_entries(path: Path, entries: dict[str, Any]) -> None:
    """Put codes on a page, as a writer would, so that only what the test changed is wrong."""
    text = json.dumps(entries).encode()
    text += b" " * (-(8 + len(text) + 24) % 4096)
    write_header(path, text, bytes(32))


def test_sound_entries_fail_only_by_their_checksum(tmp_path: Path) -> None:
    write_entries(tmp_path / "file", sound_entries())
    with pytest.raises(Corrupt, match="the header does not match its checksum"):
        LabelFile(tmp_path / "file")


def metadata(**change: str | None) -> Callable[[dict[str, Any]], None]:
    def apply(entries: dict[str, Any]) -> None:
        for key, value in change.items():
            entries["__metadata__"][key] = value
            if value is None:
                del entries["__metadata__"][key]

    return apply


def tensor(name: str, **change: Any) -> Callable[[dict[str, Any]], None]:
    return lambda entries: entries.setdefault(name, {}).update(change)


def drop(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda entries: entries.pop(name) and None


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (metadata(format="pt"), NotALabelFile, "does not say format=vqlabel"),
        (drop("__metadata__"), NotALabelFile, "does not say format=vqlabel"),
        (metadata(format_version="2"), NewerVersion, "format version 2, but this vqlabel reads up to 1; upgrade"),
        (metadata(format_version="two"), Corrupt, "format_version is 'two'"),
        (metadata(format_version="01"), Corrupt, "format_version is '01'"),
        (metadata(format_version="²"), Corrupt, "format_version is '²'"),
        (metadata(format_version="9" * 5000), Corrupt, "format_version is '9999"),
        (metadata(format_version=None), Corrupt, "format_version is None"),
        (metadata(requires='["teleport"]'), NewerVersion, "requires 'teleport', which this vqlabel cannot do"),
        (metadata(requires="[[]]"), Corrupt, "'requires' must be a JSON list of texts"),
        (metadata(requires="{}"), Corrupt, "'requires' is '{}', not a JSON list"),
        (metadata(codec=None), Corrupt, "'codec' is missing"),
        (metadata(codec="[" * 100_000), Corrupt, "'codec' is not JSON: too deeply nested"),
        (metadata(codec='{"id":"a","id":"b"}'), Corrupt, "'id' appears twice"),
        (metadata(codec='{"id":NaN}'), Corrupt, "NaN is not JSON"),
        (metadata(codec='{"id":"\\ud800"}'), Corrupt, "'codec' is not JSON"),
        (metadata(codec='{"id":7}'), Corrupt, "'codec' has no id"),
        (metadata(codec='{"id":"vq","nbits":true}'), Corrupt, "codec nbits is True"),
        (metadata(codec='{"id":"vq","G":2.0,"nbits":8}'), Corrupt, "codec G is 2.0"),
        (metadata(codec='{"id":"vq","G":3,"nbits":8}'), Corrupt, "3 codes of 8 bits do not fill rows of 2 bytes"),
        (metadata(rows_per_chunk="0"), Corrupt, "rows_per_chunk is 0"),
        (metadata(rows_per_chunk="-2"), Corrupt, "'-2', not a whole number"),
        (metadata(rows_per_chunk="1"), Corrupt, r"codes.crc32 must be U32 \[4\], not uint32 \[2\]"),
        (metadata(rows_per_chunk="9" * 4000), Corrupt, "not a whole number"),
        (metadata(epochs="3", images="2"), Corrupt, "3 epochs of 2 images are not 4 rows"),
        (metadata(teacher=7), Corrupt, "'teacher' is not text"),  # type: ignore[arg-type]
        (drop("codes"), Corrupt, "tensor 'codes' is missing"),
        (
            tensor("codes", shape=[2**32 + 1, 0], data_offsets=[24, 24]),
            Corrupt,
            "4294967297 rows of no bytes, more than",
        ),
        (tensor("x", dtype="U8", shape=[0, 2**62, 2**62], data_offsets=[0, 0]), Corrupt, "which no array can have"),
        (tensor("codes", shape=[0, 2**62], data_offsets=[24, 24]), Corrupt, "rows have 4611686018427387904 bytes"),
        (metadata(measured='{"kl":1e999}'), Corrupt, "'measured' is not JSON"),
        (tensor("n" * 200_000, dtype="F128", shape=[], data_offsets=[0, 0]), Corrupt, "dtype 'F128'"),
        (tensor("codes", dtype="I8"), Corrupt, "codes must be U8"),
        (tensor("codes", shape=[8]), Corrupt, "codes must be U8"),
        (tensor("codes", shape=[4, 3]), Corrupt, r"'codes' of shape \(4, 3\) needs 12 bytes, not 8"),
        (tensor("codes", shape=[2**62, 2**62]), Corrupt, "which no array can have"),
        (tensor("codes", shape=[2**64, 2]), Corrupt, "whole numbers"),
        (tensor("codes", shape=[-4, -2]), Corrupt, "whole numbers"),
        (tensor("codes", shape=[True, 8]), Corrupt, "whole numbers"),
        (tensor("codes", shape=[1] * 9), Corrupt, "at most 8 whole numbers"),
        (tensor("codes", shape="42"), Corrupt, "whole numbers"),
        (tensor("codes", data_offsets=[24, 2**70]), Corrupt, "data_offsets"),
        (tensor("codes", data_offsets=[32, 24]), Corrupt, "data_offsets"),
        (tensor("codes", data_offsets=[24]), Corrupt, "data_offsets"),
        (tensor("codes", extra=1), Corrupt, "and nothing else"),
        (tensor("bias", data_offsets=[12, 20]), Corrupt, "'bias' starts at 12, but the one before it ends at 16"),
        (tensor("bias", data_offsets=[17, 25]), Corrupt, "'bias' starts at 17, but the one before it ends at 16"),
        (tensor("bias", data_offsets=[8, 16]), Corrupt, "starts at 8, but the one before it ends at 16"),
        (tensor("bias", dtype="F128"), Corrupt, "dtype 'F128', not one of U8"),
        (tensor("bias", dtype=["U8"]), Corrupt, r"dtype \['U8'\]"),
        (drop("bias"), Corrupt, "'codes' starts at 24, but the one before it ends at 16"),
        (tensor("crc32", dtype="I32"), Corrupt, r"crc32 must be U32 \[2\], not int32 \[2\]"),
        (tensor("more", dtype="F32", shape=[2], data_offsets=[32, 40]), Corrupt, "codes must come last"),
    ],
)
def test_contradictions_are_named(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], kind: type[FormatError], words: str
) -> None:
    entries = sound_entries()
    change(entries)
    write_entries(tmp_path / "file", entries)
    tracemalloc.start()
    begin = time.monotonic()
    with pytest.raises(kind, match=words) as caught:
        LabelFile(tmp_path / "file")
    seconds, peak = time.monotonic() - begin, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert type(caught.value) is kind
    assert str(tmp_path / "file") in str(caught.value)
    assert len(str(caught.value)) < 500
    assert peak < 8 * MIB, f"{peak} bytes"
    assert seconds < 5


def test_misaligned_tensors_are_refused(tmp_path: Path) -> None:
    for spaces, words in ((1, "'codes.crc32' is misaligned: uint32"), (8, "start at a multiple of 4096")):
        text = json.dumps(sound_entries()).encode()
        text += b" " * (-(8 + len(text) + 24) % 4096 + spaces)
        write_header(tmp_path / "file", text, bytes(32))
        with pytest.raises(Corrupt, match=words):
            LabelFile(tmp_path / "file")


def test_repeated_tensor_is_refused(tmp_path: Path) -> None:
    text = json.dumps(sound_entries()).encode()
    write_header(tmp_path / "file", text[:-1] + b',"codes":{}}', bytes(32))
    with pytest.raises(Corrupt, match="'codes' appears twice"):
        LabelFile(tmp_path / "file")


def test_repeat_among_many_names_is_found_at_once(tmp_path: Path) -> None:
    names = [f"{number:x}" for number in range(48_000)]
    text = "{" + ",".join(f'"{name}":0' for name in [*names, names[-1]]) + "}"
    write_header(tmp_path / "file", text.encode())
    begin = time.monotonic()
    with pytest.raises(Corrupt, match="'bb7f' appears twice"):
        LabelFile(tmp_path / "file")
    assert time.monotonic() - begin < 5, "by looking at every pair it takes 20 seconds"


def torch_archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.pkl", b"\x80\x02.")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (b"", Truncated, "has 0 bytes"),
        (b"\0" * 7, Truncated, "has 7 bytes"),
        (b"\0" * 8, NotALabelFile, "no JSON object"),
        ((2**63).to_bytes(8, "little"), NotALabelFile, "not a label file"),
        (b"\xff" * 4096, NotALabelFile, "not a label file"),
        ((2**19 + 1).to_bytes(8, "little") + b" " * (2**19 + 1), NotALabelFile, "at most 524288 bytes"),
        ((2**19).to_bytes(8, "little") + b"{", Truncated, "524288 bytes, but only 1 follow"),
        (pickle.dumps({"labels": [1.0] * 100}), NotALabelFile, "looks like a pickle"),
        (torch_archive(), NotALabelFile, "looks like a pickle or a torch.save archive"),
        (safetensors.numpy.save({"a": np.zeros(3)}), NotALabelFile, "does not say format=vqlabel"),
        ((4).to_bytes(8, "little") + b"[{}]", NotALabelFile, "no JSON object"),
        ((4).to_bytes(8, "little") + b"{\xff\xff}", Corrupt, "the header is not JSON"),
        ((8).to_bytes(8, "little") + b'{"a":1,}', Corrupt, "the header is not JSON"),
        ((500_000).to_bytes(8, "little") + b'{"a":' * 100_000, Corrupt, "too deeply nested"),
        ((400_006).to_bytes(8, "little") + b'{"a":' + b"1" * 400_000 + b"}", Corrupt, "the header is not JSON"),
        ((400_006).to_bytes(8, "little") + b'{"a":"' + b"1" * 400_000, Corrupt, "the header is not JSON"),
        ((9).to_bytes(8, "little") + b'{"a":NaN}', Corrupt, "NaN is not JSON"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, data: bytes, kind: type[FormatError], words: str) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(kind, match=words) as caught:
        LabelFile(tmp_path / "file")
    assert type(caught.value) is kind


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(NotALabelFile, match="not a regular file"):
            LabelFile(path)
    with pytest.raises(FileNotFoundError):
        LabelFile(tmp_path / "absent")


def test_bytes_behind_the_codes_are_refused(golden_copy: Path) -> None:
    with golden_copy.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(Corrupt, match="1 bytes follow the last tensor"):
        LabelFile(golden_copy)


def test_partial_file_is_unfinished_under_any_name(tmp_path: Path) -> None:
    writer = LabelFile.create(
        tmp_path / "file", rows=10, row_bytes=1, metadata={"codec": {"id": "raw"}, "rows_per_chunk": 2}
    )
    writer.write(0, np.zeros((4, 1), np.uint8))
    partial = tmp_path / "file.partial"
    with pytest.raises(Unfinished, match="rows 4 to 9 were never written; go on with LabelFile.resume"):
        LabelFile(partial)
    (tmp_path / "renamed").write_bytes(partial.read_bytes())
    with pytest.raises(Unfinished, match="rows 4 to 9 were never written"):
        LabelFile(tmp_path / "renamed")
    writer.write(4, np.zeros((6, 1), np.uint8))
    with pytest.raises(Unfinished, match="its writer was not closed"):
        LabelFile(partial)
    writer.close()
    assert LabelFile(tmp_path / "file").verify()
