"""The demo in a tiny setting: it ends with a table and a picture, and does nothing twice."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from rich.console import Console

sys.path.insert(0, str(ROOT))  # examples are run from the repository

from examples.glyphs import demo, training
from examples.glyphs.settings import Settings

TINY = Settings(classes=20, ipc=2, epochs=6, batch=20, teacher_steps=24)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQLABEL_CACHE", str(tmp_path / "cache"))


def told(picture: Path) -> str:
    console = Console(file=io.StringIO(), width=100)
    demo.Demo(TINY, console).run(picture)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_demo_ends_with_a_table_and_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = told(tmp_path / "demo.png")
    for words in ("fp16", "vqlabel", "retention", "gap closed", "inspect", "100.0 %", "RETENTION.md"):
        assert words in text
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")

    def again(*_: object) -> None:
        raise AssertionError("a student was trained again")

    monkeypatch.setattr(training, "take_step", again)
    table = text[text.index("┏") :]
    assert told(tmp_path / "demo.png").endswith(table)


def test_an_interrupted_demo_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> float:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo, "learned", interrupted)
        with pytest.raises(KeyboardInterrupt):
            told(tmp_path / "demo.png")
    kept = next((tmp_path / "cache").rglob("demo.json")).read_text()
    assert "hard" in kept
    assert "fp16" not in kept
    assert "vqlabel" in told(tmp_path / "demo.png")


def test_an_interrupt_is_a_line_and_a_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo.Demo, "run", interrupted)
    with pytest.raises(SystemExit, match="130"):
        demo.main()
    assert "Interrupted. Run it again, and it goes on from here." in capsys.readouterr().out
