"""The command line: what it prints, how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import GOLDEN, Run

from vqlabel import LabelFile, __version__

GOOD = str(GOLDEN / "v1_vq_g3x11.safetensors")


def test_inspect_says_what_the_file_holds(run: Run) -> None:
    status, out, err = run("inspect", GOOD)
    assert (status, err) == (0, "")
    for words in (
        "v1_vq_g3x11.safetensors",
        "100 x 5",
        "books",
        "float16",
        "4,596",
        "résumé-18",
        '{"seed": 7}',
        "45.960",
    ):
        assert words in out, words


def test_inspect_json_is_for_programs(run: Run) -> None:
    status, out, _ = run("inspect", "--json", GOOD)
    summary = json.loads(out)
    assert status == 0
    assert summary["rows"] == 100
    assert summary["row_bytes"] == 5
    assert summary["file_bytes"] == os.path.getsize(GOOD)
    assert summary["metadata"]["codec"] == {"id": "vq", "G": 3, "nbits": 11}
    assert summary["tensors"]["books"] == {"dtype": "float16", "shape": [3, 4, 2], "bytes": 48}


@pytest.mark.parametrize("name", ["v1_zero_rows", "v1_zero_row_bytes"])
def test_empty_sets_are_no_special_case(run: Run, name: str) -> None:
    for command in ("inspect", "verify"):
        status, _, err = run(command, str(GOLDEN / f"{name}.safetensors"))
        assert (status, err.strip()) == (0, "")


def test_verify_of_a_sound_file(run: Run) -> None:
    status, out, _ = run("verify", GOOD)
    assert status == 0
    assert "every checksum matches (100 rows, 5 tensors)" in out


def test_verify_names_the_damage_and_fails(run: Run, golden_copy: Path) -> None:
    data = bytearray(golden_copy.read_bytes())
    data[-1] ^= 1
    golden_copy.write_bytes(data)
    status, out, err = run("verify", str(golden_copy))
    assert (status, out) == (1, "")
    assert err.strip().endswith("damaged: rows 96 to 99; fetch the file again")


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_wrong_files_are_one_line_and_status_1(run: Run, tmp_path: Path, command: str) -> None:
    (tmp_path / "pickle").write_bytes(b"\x80\x04\x95" + bytes(100))
    for path, words in (
        (tmp_path / "absent", "No such file or directory"),
        (tmp_path, "not a regular file"),
        (tmp_path / "pickle", "this looks like a pickle"),
    ):
        status, out, err = run(command, str(path))
        assert (status, out) == (1, "")
        assert err.startswith("error: ")
        assert words in err
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "images", "words"),
    [
        ("im.npz", {"images": np.zeros((2, 3, 4, 4), np.uint8)}, "the magic string is not correct"),
        ("im.npy", np.array(["a", "b"]), "got <U1 [2]"),
        ("im.npy", np.zeros((2, 3, 4, 4), np.int64), "got int64 [2, 3, 4, 4]"),
        ("im.npy", b"", "EOF"),
    ],
)
def test_images_that_are_none_are_one_line(run: Run, tmp_path: Path, name: str, images: Any, words: str) -> None:
    if isinstance(images, bytes):
        (tmp_path / name).write_bytes(images)
    elif isinstance(images, dict):
        np.savez(tmp_path / name, **images)
    else:
        np.save(tmp_path / name, images)
    status, out, err = run("verify", GOOD, "--images", tmp_path / name)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert f"{name}: --images is a .npy file of pixels [N, c, H, W], uint8 or floats" in err
    assert words in err


@pytest.mark.parametrize("arguments", [("inspect", "--json", GOOD), ("verify", GOOD), ("--help",)])
@pytest.mark.parametrize("buffered", [True, False])
def test_it_ends_quietly_when_nobody_reads_on(arguments: tuple[str, ...], buffered: bool) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as out:
        command = [sys.executable, *(() if buffered else ("-u",)), "-m", "vqlabel", *arguments]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
        done: Any = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    assert done.stderr == ""
    assert (
        done.returncode in (0, 141) if arguments == ("--help",) else done.returncode == 141
    )  # argparse passes over it


def test_words_of_a_file_do_not_steer_the_terminal(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "file"
    evil = "\x1b[2J[bold]x[/]\n\u202e"
    with LabelFile.create(
        path, rows=0, row_bytes=1, tensors={evil: np.zeros(1)}, metadata={"codec": {"id": "raw"}, "teacher": evil}
    ) as writer:
        writer.write(0, np.zeros((0, 1), np.uint8))
    status, out, _ = run("inspect", str(path))
    assert status == 0
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert r"\x1b[2J[bold]x[/]\n\u202e" in out


def test_usage_errors_are_status_2(run: Run) -> None:
    for arguments in ((), ("inspect",), ("explode", GOOD), ("verify", GOOD, GOOD)):
        status, _, err = run(*arguments)
        assert status == 2
        assert "usage: vqlabel" in err


def test_installed_command_and_module_are_the_same() -> None:
    for command in ([sys.executable, "-m", "vqlabel"], [str(Path(sys.executable).with_name("vqlabel"))]):
        run: Any = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
        assert run.stdout == f"vqlabel {__version__}\n"
