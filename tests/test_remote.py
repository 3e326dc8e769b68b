"""Paths with a scheme: fetched once, whole and checked, then opened like any other."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from conftest import GOLDEN
from fsspec.implementations.local import LocalFileSystem

from vqlabel import Corrupt, LabelDecoder, LabelFile, NotALabelFile, Truncated
from vqlabel.remote import cache_folder, local_path

GOOD = (GOLDEN / "v1_vq_g3x11.safetensors").read_bytes()
OTHER = (GOLDEN / "v1_zero_rows.safetensors").read_bytes()


class Slow(LocalFileSystem):  # type: ignore[misc]
    """Local files as slow://, in two halves with a pause between, and a line in `fetches` beside them for each."""

    protocol = "slow"

    def get_file(self, rpath: str, lpath: str, **_: Any) -> None:
        """Copy it slowly."""
        with open(os.path.dirname(rpath) + "/fetches", "a") as log:
            log.write("x\n")
        data = Path(rpath).read_bytes()
        with open(lpath, "wb") as out:
            out.write(data[: len(data) // 2])
            out.flush()
            threading.Event().wait(0.2)
            out.write(data[len(data) // 2 :])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("VQLABEL_CACHE", str(tmp_path / "cache"))
    fsspec.register_implementation("slow", Slow, clobber=True)
    return tmp_path / "cache"


@pytest.fixture
def memory() -> Iterator[Any]:
    """Files of memory://."""
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()


def kept(cache: Path) -> list[Path]:
    """Files in the cache, without locks."""
    return sorted(path for path in cache.rglob("*") if path.is_file() and path.name != ".lock")


def test_a_remote_file_is_opened_like_any_other(memory: Any, cache: Path) -> None:
    memory.pipe("/set/labels.safetensors", GOOD)
    file = LabelFile("memory://set/labels.safetensors")
    assert repr(file) == "LabelFile('labels.safetensors', codec='vq', rows=100, row_bytes=5)"
    assert file.verify()
    assert Path(file.path).read_bytes() == GOOD
    assert [Path(file.path)] == kept(cache)


def test_a_decoder_takes_a_url() -> None:
    path = GOLDEN / "codecs" / "v1_vq_product_int8.safetensors"
    here, there = LabelDecoder(path), LabelDecoder(f"file://{path}")
    assert here([0]).equal(there([0]))
    assert there.file.path != here.file.path


def test_a_copy_is_fetched_once_and_a_changed_file_anew(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "labels.safetensors"
    path.write_bytes(GOOD)
    first = local_path(f"slow://{path}")
    assert local_path(f"slow://{path}") == first
    assert (tmp_path / "fetches").read_text() == "x\n"
    path.write_bytes(OTHER)
    second = local_path(f"slow://{path}")
    assert second != first
    assert Path(first).read_bytes() == GOOD  # somebody may be reading it
    assert Path(second).read_bytes() == OTHER
    assert (tmp_path / "fetches").read_text() == "x\nx\n"


def test_a_changed_file_in_memory_is_noticed_too(memory: Any) -> None:
    memory.pipe("/labels.safetensors", GOOD)
    assert len(LabelFile("memory://labels.safetensors")) == 100
    memory.pipe("/labels.safetensors", OTHER)
    assert len(LabelFile("memory://labels.safetensors")) == 0


def zipped(path: Path, data: bytes) -> str:
    """URL of a label file in an archive, at the same date whatever it holds."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo("labels.safetensors"), data)
    return f"zip://labels.safetensors::slow://{path}"


def in_tar(path: Path, data: bytes) -> str:
    """The same in an archive that keeps no checksum."""
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("labels.safetensors")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return f"tar://labels.safetensors::file://{path}"


def one_shape(path: Path, value: int) -> bytes:
    """A label file whose bytes say the value and whose size does not."""
    with LabelFile.create(path, rows=2, row_bytes=4, metadata={"codec": {"id": "raw"}}) as writer:
        writer.write(0, np.full((2, 4), value, np.uint8))
    return path.read_bytes()


@pytest.mark.parametrize("archived", [zipped, in_tar])
def test_a_changed_file_of_the_same_size_in_an_archive_is_noticed(tmp_path: Path, archived: Any) -> None:
    for value in (1, 2):
        url = archived(tmp_path / "archive", one_shape(tmp_path / f"{value}", value))
        os.utime(tmp_path / "archive", (value, value))  # no test waits for a clock
        assert (LabelFile(url).gather([0]) == value).all()
    assert local_path(url) == local_path(url)


@pytest.mark.parametrize("said", [{}, {"url": "x"}, {"ETag": None}])
def test_a_file_of_which_no_version_is_told_is_fetched_each_time(
    memory: Any, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: dict[str, Any]
) -> None:
    tell = type(memory).info

    def size_only(self: Any, path: str, **_: Any) -> dict[str, Any]:
        return {key: tell(self, path)[key] for key in ("name", "size", "type")} | said

    monkeypatch.setattr(type(memory), "info", size_only)
    files = []
    for value in (1, 2, 2):
        memory.pipe("/labels.safetensors", one_shape(tmp_path / f"{len(files)}", value))
        files.append(LabelFile("memory://labels.safetensors"))
    assert [file.gather([0])[0, 0] for file in files] == [1, 2, 2]  # the first is read after the second came
    assert kept(cache) == sorted({Path(file.path) for file in files})
    assert len(kept(cache)) == 2


@pytest.mark.parametrize("key", ["sha", "modify", "modificationTime", "Digest", "ETag", "hex"])
def test_a_copy_is_known_again_by_what_its_file_system_tells(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    tell, told = type(memory).info, {key: "a"}

    def info(self: Any, path: str, **_: Any) -> dict[str, Any]:
        return {name: tell(self, path)[name] for name in ("name", "size", "type")} | told

    monkeypatch.setattr(type(memory), "info", info)
    for value, version, expected in ((1, "a", 1), (2, "a", 1), (2, "b", 2)):
        (tmp_path / "labels").unlink(missing_ok=True)
        memory.pipe("/labels.safetensors", one_shape(tmp_path / "labels", value))
        told[key] = version
        assert (LabelFile("memory://labels.safetensors").gather([0]) == expected).all()


def test_threads_that_ask_at_once_fetch_once_and_see_no_half(tmp_path: Path) -> None:
    (tmp_path / "labels.safetensors").write_bytes(GOOD)
    found: list[bytes] = []

    def ask() -> None:
        found.append(Path(local_path(f"slow://{tmp_path}/labels.safetensors")).read_bytes())

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [GOOD] * 4
    assert (tmp_path / "fetches").read_text() == "x\n"


def test_processes_that_ask_at_once_fetch_once(tmp_path: Path) -> None:
    (tmp_path / "labels.safetensors").write_bytes(GOOD)
    code = (
        "import test_remote, fsspec, sys; fsspec.register_implementation('slow', test_remote.Slow);"
        "from vqlabel import LabelFile; print(len(LabelFile(sys.argv[1])))"
    )
    command = [sys.executable, "-c", code, f"slow://{tmp_path}/labels.safetensors"]
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=here) for _ in range(2)]
    assert [worker.communicate()[0] for worker in workers] == ["100\n"] * 2
    assert (tmp_path / "fetches").read_text() == "x\n"


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (GOOD[:-1], Truncated, "has 4595 bytes of 4596; fetch it again"),
        (GOOD[:-1] + bytes([GOOD[-1] ^ 1]), Corrupt, "damaged: rows 96 to 99; fetched and not kept"),
        (b"\x80\x04\x95" + bytes(100), NotALabelFile, "pickle"),
        (b"", Truncated, "has 0 bytes"),
    ],
    ids=["short", "damaged", "pickle", "empty"],
)
def test_what_is_not_whole_and_sound_is_not_kept(
    memory: Any, cache: Path, data: bytes, error: type[Exception], words: str
) -> None:
    memory.pipe("/labels.safetensors", data)
    with pytest.raises(error, match=words) as caught:
        LabelFile("memory://labels.safetensors")
    assert str(caught.value).startswith("memory://labels.safetensors: ")
    assert kept(cache) == []


def test_the_half_of_a_killed_process_is_overwritten(memory: Any, cache: Path) -> None:
    memory.pipe("/labels.safetensors", GOOD)
    path = Path(local_path("memory://labels.safetensors"))
    path.rename(f"{path}.partial")
    with open(f"{path}.partial", "ab") as half:
        half.write(bytes(10))
    assert Path(local_path("memory://labels.safetensors")).read_bytes() == GOOD
    assert kept(cache) == [path]


def test_an_interrupted_fetch_leaves_nothing(memory: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(system: Any, rpath: str, lpath: str) -> None:
        Path(lpath).write_bytes(b"half")
        raise KeyboardInterrupt

    memory.pipe("/labels.safetensors", GOOD)
    monkeypatch.setattr(type(memory), "get_file", stop)
    with pytest.raises(KeyboardInterrupt):
        local_path("memory://labels.safetensors")
    assert kept(cache) == []


def test_what_cannot_be_fetched_is_one_clear_error(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError, match="^memory://absent.safetensors does not exist"):
        LabelFile("memory://absent.safetensors")
    memory.mkdir("/folder")
    with pytest.raises(NotALabelFile, match="^memory://folder: not a regular file"):
        LabelFile("memory://folder")
    with pytest.raises(OSError, match="^nobody://x cannot be fetched: .*Protocol not known"):
        LabelFile("nobody://x")

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("no credentials")  # as the libraries of the clouds do, each in its own way

    memory.pipe("/labels.safetensors", GOOD)
    monkeypatch.setattr(type(memory), "get_file", refuse)
    with pytest.raises(OSError, match="^memory://labels.safetensors cannot be fetched: RuntimeError: no credentials"):
        LabelFile("memory://labels.safetensors")


def test_a_missing_fsspec_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(ValueError, match=r"pip install 'vqlabel\[hub\]'"):
        LabelFile("memory://labels.safetensors")


def test_pickles_carry_the_copy(memory: Any) -> None:
    memory.pipe("/labels.safetensors", GOOD)
    file = LabelFile("memory://labels.safetensors")
    memory.rm("/labels.safetensors")  # a worker needs no network
    again = pickle.loads(pickle.dumps(file))
    assert again.path == file.path
    assert (again.codes([5]) == file.codes([5])).all()


@pytest.mark.parametrize(
    "path",
    ["labels.safetensors", "/a/b", "C:\\labels", "C:/labels", "C://labels", "a:b", "s3:/x", "://x", "x/y://z", ""],
)
def test_local_paths_are_no_urls(path: str) -> None:
    assert local_path(path) == path


@pytest.mark.parametrize("name", ["..", ".partial", "a b;$(x).safetensors", "?x=secret", "x" * 300])
def test_names_of_copies_are_harmless(memory: Any, cache: Path, name: str) -> None:
    memory.pipe(f"/set/{name}", GOOD)
    path = Path(local_path(f"memory://set/{name}")) if name != ".." else None
    if path is not None:
        assert path.parent.parent == cache
        assert len(path.name) <= 100
        assert set(path.name) <= set("abcdefghijklmnopqrstuvwxyz_.")


def test_local_files_need_no_fsspec(tmp_path: Path) -> None:
    code = (
        "import sys; from vqlabel import LabelFile; LabelFile(sys.argv[1]);"
        "print({'fsspec', 'huggingface_hub'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, str(GOLDEN / "v1_vq_g3x11.safetensors")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "set()\n"


def test_the_cache_is_where_it_is_said_to_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == str(tmp_path / "cache")
    monkeypatch.delenv("VQLABEL_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == str(tmp_path / ".cache" / "vqlabel" / "remote")
