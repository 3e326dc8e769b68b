"""Where commands put what they make: looked at before the work, and never over what is there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from conftest import Run

from vqlabel import LabelEncoder
from vqlabel.codecs.raw import Raw
from vqlabel.outputs import check_free, check_picture, made_whole


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["", "new/", "new/.", "new/.."])
def test_a_path_that_names_nothing_is_refused(name: str) -> None:
    with pytest.raises(OSError, match=f"{name!r} names no file: say a name"):
        check_free(name)


def test_a_folder_is_no_picture_but_one_that_is_there_may_be_drawn_anew(here: Path) -> None:
    (here / "old.png").write_bytes(b"old")
    check_picture("old.png")
    (here / "folder").mkdir()
    for name, words in (("folder", "folder is a folder: say the name of a picture in it"), (".", "names no file")):
        with pytest.raises(OSError, match=words):
            check_picture(name)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_appeared_during_the_work_is_not_written_over(kind: str, here: Path) -> None:
    work = Path("out.partial", "work") if kind == "folder" else Path("out.partial")

    def make() -> None:
        with made_whole("out") as partial:
            if kind == "folder":
                os.mkdir(partial)
            work.write_text("ours")
            Path("out").write_text("the user's")

    with pytest.raises(FileExistsError, match=r"out appeared while out\.partial was written"):
        make()
    assert Path("out").read_text() == "the user's"
    assert work.read_text() == "ours"  # hours of it, perhaps
    with pytest.raises(FileExistsError, match=r"out\.partial is there: another process is writing it"):
        make()


@pytest.mark.parametrize("command", ["fit", "encode", "decode"])
def test_outputs_that_cannot_be_are_noticed_before_the_work(
    command: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    np.save("logits.npy", logits)
    LabelEncoder(Raw(4)).encode(logits, "labels.safetensors")
    monkeypatch.setattr("vqlabel.codecs.fitting.fit", lambda *given: pytest.fail("fitted for nothing"))
    before = sorted(os.listdir())
    order = (command, "labels.safetensors" if command == "decode" else "logits.npy", "-o")
    for name in ("", "new/"):
        status, out, err = run(*order, name)
        assert (status, out) == (1, "")
        assert f"{name!r} names no file: say a name for what is to be made" in err
    assert sorted(os.listdir()) == before


def test_a_fit_beside_what_another_run_has_begun_is_refused_at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save("logits.npy", np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32))
    Path("codec.partial").write_bytes(b"begun")
    monkeypatch.setattr("vqlabel.codecs.fitting.fit", lambda *given: pytest.fail("fitted for nothing"))
    status, _, err = run("fit", "logits.npy", "-o", "codec")
    assert (status, "codec.partial is there: another process is writing it, or was stopped" in err) == (1, True)
    assert Path("codec.partial").read_bytes() == b"begun"
