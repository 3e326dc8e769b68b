"""What an interrupted run left is gone on with only by what it was begun for, and nothing else is touched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run, interrupted
from decoder_parts import CLASSES as FITTED_CLASSES
from decoder_parts import codec_of
from encoder_parts import CLASSES, logits, scene

from vqlabel import LabelEncoder, LabelFile
from vqlabel.codecs.base import Codec
from vqlabel.codecs.raw import Int8, Raw
from vqlabel.codecs.sample import BLOCK
from vqlabel.sources import open_source
from vqlabel.writer import LabelWriter

ROWS = 2 * BLOCK + 900


def stop(path: Path, codec: Codec, data: Any, row: int = BLOCK + 5, **more: Any) -> None:
    """An encode that meets a row it cannot take."""
    data = data.copy()
    data[row] = np.nan
    with pytest.raises(ValueError, match=f"row {row} "):
        LabelEncoder(codec).encode(data, path, **more)


def loader(data: Any) -> Iterator[Any]:
    return (data[start : start + 1000] for start in range(0, len(data), 1000))


@pytest.mark.parametrize("codec", [Raw(CLASSES), Int8(CLASSES)], ids=lambda codec: codec.id)
def test_a_file_that_was_begun_with_other_logits_is_not_finished(tmp_path: Path, codec: Codec) -> None:
    path, data = tmp_path / "labels", logits(ROWS)
    stop(path, codec, data)
    begun = Path(f"{path}.partial").read_bytes()
    for other in (logits(ROWS, seed=1), open_source(loader(logits(ROWS, seed=1)), rows=ROWS)):
        with pytest.raises(ValueError, match="was begun with other logits: of its rows 0 to 4095 .*% would be others"):
            LabelEncoder(codec).encode(other, path)
        assert Path(f"{path}.partial").read_bytes() == begun
    LabelEncoder(codec).encode(open_source(loader(data), rows=ROWS), path)
    whole = LabelEncoder(codec).encode(data, tmp_path / "whole")
    assert path.read_bytes() == Path(whole.path).read_bytes()


def test_the_last_rows_of_what_was_begun_are_looked_at_too(tmp_path: Path) -> None:
    stop(tmp_path / "labels", Raw(CLASSES), logits(ROWS), row=2 * BLOCK + 5)
    other = logits(ROWS)
    other[BLOCK:] = logits(ROWS, seed=1)[BLOCK:]
    with pytest.raises(ValueError, match=r"of its rows 4096 to 8191 100% would be others"):
        LabelEncoder(Raw(CLASSES)).encode(other, tmp_path / "labels")


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def test_labels_of_no_bytes_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, rows = LabelEncoder(codec_of("classes, no codes"), scene(FITTED_CLASSES)), logits(300, FITTED_CLASSES)
    with monkeypatch.context() as patch:
        patch.setattr(LabelWriter, "close", interrupt)
        with pytest.raises(KeyboardInterrupt):
            encoder.encode(rows, tmp_path / "labels", progress=False)
    file = encoder.encode(rows, tmp_path / "labels", progress=False)
    whole = encoder.encode(rows, tmp_path / "whole", progress=False)
    assert Path(file.path).read_bytes() == Path(whole.path).read_bytes()


def test_a_few_rows_may_have_been_mended(tmp_path: Path) -> None:
    stop(tmp_path / "labels", Raw(CLASSES), logits(ROWS))
    mended = logits(ROWS)
    mended[[3, 700, BLOCK + 5]] = 0
    file = LabelEncoder(Raw(CLASSES)).encode(mended, tmp_path / "labels")
    assert (file.gather([BLOCK + 5]) == 0).all()


def test_a_finished_file_that_was_not_named_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("vqlabel.writer.LabelWriter.close", lambda writer: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            LabelEncoder(Raw(CLASSES)).encode(logits(9), tmp_path / "labels")
    with pytest.raises(ValueError, match="was begun with other logits"):
        LabelEncoder(Raw(CLASSES)).encode(logits(9, seed=1), tmp_path / "labels")
    assert LabelEncoder(Raw(CLASSES)).encode(logits(9), tmp_path / "labels").verify()


@pytest.mark.parametrize(
    "tensor",
    [np.arange(12.0).reshape(3, 4).T, np.arange(12)[::2], np.arange(3, dtype=">f4"), [1.0, 2.0], np.float32(7)],
    ids=["transposed", "strided", "big-endian", "list", "scalar"],
)
def test_a_run_with_tensors_of_any_kind_can_be_gone_on_with(tmp_path: Path, tensor: Any) -> None:
    more = {"tensors": {"x.mine": tensor}}
    stop(tmp_path / "labels", Raw(CLASSES), logits(ROWS), **more)
    file = LabelEncoder(Raw(CLASSES)).encode(logits(ROWS), tmp_path / "labels", **more)
    assert file.tensor("x.mine").tolist() == np.asarray(tensor).tolist()


@pytest.mark.usefixtures("fitting")
def test_a_fit_for_other_logits_of_the_same_name_is_not_taken(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("logits.npy", logits(ROWS))
    interrupted("encode", "logits.npy", "-o", "labels", "--bytes", 1)
    np.save("logits.npy", logits(ROWS, seed=1))
    status, _, error = run("encode", "logits.npy", "-o", "labels", "--bytes", 1)
    assert status == 1
    assert "labels.partial was begun with other settings, for which labels.fit was fitted" in error.replace(
        f"{tmp_path}/", ""
    )
    np.save("logits.npy", logits(ROWS))
    assert run("encode", "logits.npy", "-o", "labels", "--bytes", 1)[0] == 0
    assert not Path("labels.fit").exists()


@pytest.mark.usefixtures("fitting")
def test_a_file_that_is_named_like_a_kept_codec_is_the_user_s(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("logits.npy", logits(300))
    Path("text.fit").write_text("mine")
    assert run("encode", "logits.npy", "-o", "text", "--format", "raw")[0] == 0
    assert run("fit", "logits.npy", "-o", "labels.fit", "--bytes", 1)[0] == 0
    assert run("encode", "logits.npy", "-o", "labels", "--codec", "labels.fit")[0] == 0
    assert Path("text.fit").read_text() == "mine"
    assert len(LabelFile("labels.fit")) == 0
    Path("labels").unlink()
    for name in ("labels", "text"):
        Path(name).unlink(missing_ok=True)
        status, _, error = run("encode", "logits.npy", "-o", name, "--bytes", 1)
        assert status == 1
        assert error.endswith(f"the codec is kept until {name} is finished, and holds something else: move it\n")
    assert len(LabelFile("labels.fit")) == 0
