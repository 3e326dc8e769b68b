"""`vqlabel push` and `pull`, against a hub in a thread: what is sent, what is kept, how a refusal reads."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import GOLDEN, ROOT, Run, exit_status
from hub_stub import TOKEN, Hub, Repo
from huggingface_hub import constants

from vqlabel import LabelFile
from vqlabel.card import card, section

GOOD = GOLDEN / "v1_vq_g3x11.safetensors"
LABELS = "labels.safetensors"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that huggingface_hub takes for the real one, with a cache and a token of this test's own."""
    server = Hub()
    for name, value in (
        ("ENDPOINT", server.url),
        ("HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"),
        ("HF_HUB_CACHE", str(tmp_path / "cache")),
        ("HF_HUB_OFFLINE", False),
        ("HF_HUB_DISABLE_XET", True),
        ("HF_TOKEN_PATH", str(tmp_path / "token")),
        ("HF_STORED_TOKENS_PATH", str(tmp_path / "stored_tokens")),
    ):
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("VQLABEL_CACHE", str(tmp_path / "copies"))
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Call the command line; get its exit status, output and error output, without huggingface_hub's bars."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        ended = exit_status(*arguments)
        output = capfd.readouterr()
        lines = [line for line in re.split(r"[\r\n]+", output.err) if line and "%|" not in line]
        return ended, output.out, "\n".join(lines)

    return call


def refused(run: Run, *arguments: object) -> str:
    """The one line in which a command fails."""
    status, out, err = run(*arguments)
    assert (status, out) == (1, "")
    assert err.startswith("error: ")
    assert "\n" not in err
    return err


def test_push_makes_a_repository_with_the_file_and_its_card(hub: Hub, run: Run) -> None:
    status, out, err = run("push", GOOD, "me/labels")
    assert (status, err) == (0, "")
    assert out == f"{hub.url}/datasets/me/labels/blob/main/{LABELS}\n"
    files = hub.repos["me/labels"].files
    assert files == {LABELS: GOOD.read_bytes(), "README.md": card(LabelFile(GOOD), "me/labels").encode()}
    assert not hub.repos["me/labels"].private


def test_pull_gives_back_what_push_sent(hub: Hub, run: Run, tmp_path: Path) -> None:
    run("push", GOOD, "labels", "--name", "four/x.safetensors", "--message", "the first")  # "me" is the hub's to add
    cached = run("pull", "me/labels", "four/x.safetensors")[1].strip()
    assert Path(cached).read_bytes() == GOOD.read_bytes()
    assert Path(cached).is_relative_to(tmp_path / "cache")
    out = tmp_path / "mine.safetensors"
    assert run("pull", "me/labels", "four/x.safetensors", "-o", out) == (0, f"{out}\n", "")
    assert out.read_bytes() == GOOD.read_bytes()
    assert not out.is_symlink()
    assert sum(line.startswith("GET /datasets") for line in hub.asked) == 1  # the second pull found it in the cache


def test_pull_takes_the_revision_that_is_asked_for(hub: Hub, run: Run) -> None:
    hub.repos["me/labels"] = Repo()
    first = hub.repos["me/labels"].commit({LABELS: GOOD.read_bytes()})
    hub.repos["me/labels"].commit({LABELS: (GOLDEN / "v1_zero_rows.safetensors").read_bytes()})
    assert len(LabelFile(run("pull", "me/labels")[1].strip())) == 0
    assert len(LabelFile(run("pull", "me/labels", "--revision", first)[1].strip())) == 100
    assert "it has no such revision" in refused(run, "pull", "me/labels", "--revision", "absent")


def test_a_damaged_file_is_not_sent(hub: Hub, run: Run, golden_copy: Path) -> None:
    data = golden_copy.read_bytes()
    golden_copy.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert "damaged: rows 96 to 99" in refused(run, "push", golden_copy, "me/labels")
    golden_copy.write_bytes(data[:-1])
    assert "of 4596; fetch it again" in refused(run, "push", golden_copy, "me/labels")
    assert hub.asked == []


def test_a_name_that_the_hub_cannot_have_is_refused_first(hub: Hub, run: Run) -> None:
    for name in ("README.md", "../x.safetensors", "x"):
        assert "ending in .safetensors" in refused(run, "push", GOOD, "me/labels", "--name", name)
    assert hub.asked == []


def test_text_of_an_existing_card_survives(hub: Hub, run: Run) -> None:
    repo = hub.repos["me/labels"] = Repo()
    mine = "---\nlicense: mit\n---\r\n# Mine — of résumés\r\n"
    repo.commit({"README.md": mine.encode()})
    run("push", GOOD, "me/labels")
    part = section(LabelFile(GOOD), "me/labels", LABELS, "dataset")
    assert repo.files["README.md"].decode() == f"{mine}\n{part}"
    repo.commit({"README.md": f"{mine}{part}\nMore of mine".encode()})
    other = GOLDEN / "v1_zero_rows.safetensors"
    run("push", other, "me/labels")
    new = section(LabelFile(other), "me/labels", LABELS, "dataset")
    assert repo.files["README.md"].decode() == f"{mine}{new}\nMore of mine"
    run("push", GOOD, "me/labels", "--name", "second.safetensors")
    assert repo.files["README.md"].decode().startswith(f"{mine}{new}\nMore of mine\n\n<!-- begin: second.safetensors")


@pytest.mark.parametrize(
    ("readme", "words"),
    [(b"\xff\xfe", "is not UTF-8"), (f"<!-- end: {LABELS} -->".encode(), "repair it")],
    ids=["no text", "half a part"],
)
def test_a_card_that_cannot_be_updated_stops_the_push_unless_it_is_to_stay(
    hub: Hub, run: Run, readme: bytes, words: str
) -> None:
    repo = hub.repos["me/labels"] = Repo()
    repo.commit({"README.md": readme})
    assert words in refused(run, "push", GOOD, "me/labels")
    assert repo.files == {"README.md": readme}
    assert run("push", GOOD, "me/labels", "--no-card")[0] == 0
    assert repo.files == {"README.md": readme, LABELS: GOOD.read_bytes()}


def test_a_card_that_cannot_be_read_is_not_taken_for_none(hub: Hub, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*_: Any, **__: Any) -> None:
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(HfApi, "hf_hub_download", unreachable)
    assert "no connection" in refused(run, "push", GOOD, "me/labels")
    assert hub.repos["me/labels"].files == {}


def test_a_commit_in_between_is_not_overwritten(hub: Hub, run: Run) -> None:
    repo = hub.repos["me/labels"] = Repo()
    hub.before_commit = lambda: repo.commit({"README.md": b"somebody's"})
    assert "changed it meanwhile; push again" in refused(run, "push", GOOD, "me/labels")
    assert repo.files == {"README.md": b"somebody's"}


def test_a_private_push_never_becomes_public(hub: Hub, run: Run) -> None:
    hub.repos["me/public"] = Repo()
    assert "exists and is public: nothing was sent" in refused(run, "push", GOOD, "me/public", "--private")
    assert hub.repos["me/public"].files == {}
    assert run("push", GOOD, "me/private", "--private")[0] == 0
    assert hub.repos["me/private"].private
    assert run("push", GOOD, "me/private")[0] == 0  # private it stays
    assert hub.repos["me/private"].private


def test_warnings_of_the_hub_are_lines(hub: Hub, run: Run) -> None:
    hub.warn = "empty or missing yaml metadata"
    status, _, err = run("push", GOOD, "me/labels")
    assert status == 0
    assert err == r"warning: Warnings while validating metadata in README.md:\n- empty or missing yaml metadata"


def test_refusals_are_one_line_each(hub: Hub, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub.repos["me/labels"] = Repo()
    assert "me/absent: not found, or hidden from you" in refused(run, "pull", "me/absent")
    assert "me/labels: it has no file 'labels.safetensors'" in refused(run, "pull", "me/labels")
    assert "the right to write here" in refused(run, "push", GOOD, "you/labels")
    assert "Repo id" in refused(run, "pull", "not a name")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    for arguments in (("push", GOOD, "me/labels"), ("pull", "me/labels")):
        assert "does not accept your token" in refused(run, *arguments)
    monkeypatch.delenv("HF_TOKEN")
    assert "there is no token: log in with `hf auth login`" in refused(run, "push", GOOD, "me/labels")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert "me/labels: ConnectError" in refused(run, "push", GOOD, "me/labels")


def test_a_server_that_fails_is_quoted(hub: Hub, run: Run) -> None:
    def fail() -> None:
        raise ConnectionResetError

    hub.before_commit = fail
    hub.handle_error = lambda *_: None  # type: ignore[method-assign]
    assert "me/labels: Remote" in refused(run, "push", GOOD, "me/labels")


def test_offline_push_fails_and_pull_takes_what_the_cache_has(
    hub: Hub, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos["me/labels"] = Repo()
    hub.repos["me/labels"].commit({LABELS: GOOD.read_bytes()})
    online = run("pull", "me/labels")[1]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert run("pull", "me/labels") == (0, online, "")
    for arguments in (("pull", "me/other"), ("push", GOOD, "me/labels")):
        assert "HF_HUB_OFFLINE is set" in refused(run, *arguments)


def test_a_damaged_download_is_named_and_not_copied(hub: Hub, run: Run, tmp_path: Path) -> None:
    hub.repos["me/labels"] = Repo()
    data = GOOD.read_bytes()
    hub.repos["me/labels"].commit({LABELS: data[:-1] + bytes([data[-1] ^ 1])})
    out = tmp_path / "out"
    err = refused(run, "pull", "me/labels", "-o", out)
    assert "damaged: rows 96 to 99; delete it and fetch or make it again" in err
    assert not out.exists()


def test_pull_overwrites_nothing(hub: Hub, run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    assert "exists; delete it or choose another name" in refused(run, "pull", "me/labels", "-o", tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "mine"
    assert "gone is not there: make the folder" in refused(run, "pull", "me/labels", "-o", tmp_path / "gone" / "mine")
    assert hub.asked == []


def test_a_copy_that_fails_leaves_nothing(hub: Hub, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: str, target: str) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    run("push", GOOD, "me/labels")
    (tmp_path / "to").mkdir()
    monkeypatch.setattr("shutil.copyfile", full)
    assert "No space left" in refused(run, "pull", "me/labels", "-o", tmp_path / "to" / "out")
    assert list((tmp_path / "to").iterdir()) == []


def test_what_appears_during_a_pull_is_not_written_over(
    hub: Hub, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copyfile = shutil.copyfile

    def slowly(source: str, target: str) -> None:
        copyfile(source, target)
        (tmp_path / "out").write_text("mine")

    run("push", GOOD, "me/labels")
    monkeypatch.setattr("shutil.copyfile", slowly)
    assert "out appeared while" in refused(run, "pull", "me/labels", "-o", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_path_on_the_hub_is_a_path(hub: Hub, run: Run) -> None:
    run("push", GOOD, "me/labels")
    file = LabelFile(f"hf://datasets/me/labels/{LABELS}")
    assert Path(file.path).read_bytes() == GOOD.read_bytes()
    run("push", GOLDEN / "v1_zero_rows.safetensors", "me/labels")
    assert len(LabelFile(f"hf://datasets/me/labels/{LABELS}")) == 0
    with pytest.raises(FileNotFoundError, match="^hf://datasets/me/absent/x does not exist: .*repository not found"):
        LabelFile("hf://datasets/me/absent/x")


def test_without_huggingface_hub_its_name_and_remedy_are_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for arguments in (("push", GOOD, "me/labels"), ("pull", "me/labels")):
        assert "pip install 'vqlabel[hub]'" in refused(run, *arguments)


def test_the_environment_of_huggingface_hub_is_all_it_needs(hub: Hub, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN}
    for arguments in (("push", str(GOOD), "me/labels"), ("pull", "me/labels", "-o", str(out))):
        command = [sys.executable, "-m", "vqlabel", *arguments]
        run = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
    assert out.read_bytes() == GOOD.read_bytes()


def test_the_document_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VQLABEL_CACHE", str(tmp_path / "cache"))
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "hub.md").read_text(), flags=re.S)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "hub.md", "exec"), names)
