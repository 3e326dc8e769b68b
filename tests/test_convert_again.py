"""`vqlabel convert` that was stopped, or runs twice: it goes on, and never in a place that another works in."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import exit_status
from foreign import QUICK

from vqlabel.convert import Options
from vqlabel.convert.asked import workplace
from vqlabel.encoding import Blocks


def test_an_interrupted_conversion_goes_on_and_gives_the_same_bytes(
    sre2l: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole.safetensors", tmp_path / "a.safetensors"
    assert exit_status("convert", sre2l, whole, "--size", 32) == 0
    encoded = Blocks.encoded

    def stops(self: Blocks, index: int) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Blocks, "encoded", stops)
    assert exit_status("convert", sre2l, out, "--size", 32) == 130
    monkeypatch.setattr(Blocks, "encoded", encoded)
    assert Path(f"{out}.partial").exists()
    assert exit_status("convert", sre2l, out, "--size", 32) == 0
    assert out.read_bytes() == whole.read_bytes()


def test_another_order_is_another_fit(sre2l: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, asked = tmp_path / "a.safetensors", []

    def stops(out: str, words: dict[str, Any], *rest: Any) -> Any:
        asked.append(words)
        raise ValueError("enough")

    monkeypatch.setattr("vqlabel.convert.command.fitted_once", stops)
    for options in ((), ("--seed-of-order", 7), ("--keep-going",), ("--teacher", "x")):
        assert exit_status("convert", sre2l, out, "--size", 32, "--bytes", 2, *QUICK, *options) == 1
    assert asked[0] != asked[1]
    assert asked[0] != asked[2]
    assert asked[0] == asked[3]


def test_two_runs_for_one_label_file_do_not_share_a_place_to_work_in(tmp_path: Path) -> None:
    out = str(tmp_path / "a.safetensors")
    with workplace(out, 0) as folder:
        mine = Options(folder).spool("places", (4,), np.uint32)
        mine[:] = 7
        with pytest.raises(OSError, match="another run works in .*wait for it"), workplace(out, 0):
            pass
        assert mine.tolist() == [7] * 4
        with workplace(out, 1) as other:
            assert other != folder
        Options(folder).spool("seeds", (4,), np.uint32)
    assert not list(tmp_path.iterdir())


def test_what_a_killed_run_left_is_cleared_away(tmp_path: Path) -> None:
    left = tmp_path / ".a.safetensors.converting-0"
    left.mkdir()
    for name in (".lock", "tinyvit.places"):
        (left / name).write_bytes(b"old")
    with workplace(str(tmp_path / "a.safetensors"), 0) as folder:
        assert sorted(path.name for path in Path(folder).iterdir()) == [".lock"]
    assert not left.exists()


def test_a_place_that_goes_away_while_it_is_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    folder, lock, gone = tmp_path / ".a.safetensors.converting-0", fcntl.flock, []

    def late(fd: int, how: int) -> None:
        lock(fd, how)
        if not gone:  # the run before removes its folder between our two looks
            gone.append(shutil.rmtree(folder))

    monkeypatch.setattr(fcntl, "flock", late)
    with workplace(str(tmp_path / "a.safetensors"), 0), pytest.raises(OSError, match="another run works in"):
        workplace(str(tmp_path / "a.safetensors"), 0).__enter__()
