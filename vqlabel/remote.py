"""Label files that lie elsewhere: fetched whole into a cache of this machine, then opened like any other."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from vqlabel.errors import Corrupt, NotALabelFile, about
from vqlabel.storage import PARTIAL, fingerprint, opened, read_chunk_table, read_sound_header
from vqlabel.verify import check

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # two letters at least: C:// is a drive
# By which file systems tell one version of a file from the next; what an info says beside these may change by itself.
# Copies are named after them in this order.
VERSION = (
    *("ETag", "etag", "blob_id", "xet_hash", "checksum", "md5Hash", "Content-MD5", "content_md5", "generation"),
    *("mtime", "LastModified", "last_modified", "Last-Modified", "updated", "created"),
    *("CRC", "date_time", "sha", "hex", "Digest", "md5Checksum", "content_hash"),
    *("modify", "modified", "modificationTime", "modifiedTime"),
)


def local_path(path: str) -> str:
    """Where a file can be opened: `path` itself, or the copy of what `scheme://` names, fetched if it is not there.

    A copy belongs to a URL and to a version of what lies there, and is complete and checked. Processes that ask for the
    same one wait for the first; where nothing tells versions apart, each fetches its own. Only the copy's path goes on
    from here, into pickles too: those are for this machine.

    >>> local_path("labels.safetensors")
    'labels.safetensors'
    """
    return _copy(path) if SCHEME.match(path) else path


def cache_folder() -> str:
    """$VQLABEL_CACHE, or a folder in the user's cache."""
    return os.path.abspath(os.path.expanduser(os.environ.get("VQLABEL_CACHE") or "~/.cache/vqlabel/remote"))


def _copy(url: str) -> str:
    system, name, info = _located(url)
    if info.get("type") == "directory":
        raise NotALabelFile(f"{url}: not a regular file")
    version = _version(url, info)
    path = _place(url, [f"size {info.get('size')}", *(version or [])], name)
    if version is None or not os.path.exists(path):
        with _alone(path):
            if version is None or not os.path.exists(path):  # another process may have fetched it meanwhile
                path = _fetch(system, name, path, url, by_content=version is None)
    return path


def _located(url: str) -> tuple[Any, str, Mapping[str, Any]]:
    """The file system of a URL, the name in it, and what it says of that."""
    try:
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]
    except ImportError:
        raise ValueError(f"{url} is read through fsspec: pip install 'vqlabel[hub]'") from None
    with _about_url(url):
        # An instance of its own: a shared one remembers what was in a folder when it looked last.
        system, name = url_to_fs(url, skip_instance_cache=True)
        return system, name, system.info(name)


def _version(url: str, info: Mapping[str, Any]) -> list[str] | None:
    """What tells this version of a file from others of its size; None if nothing does.

    Of a file in a file, zip://a::s3://b, both have to tell it: in an archive a date may be that of no day.
    """
    found = [f"{key} {info[key]}" for key in VERSION if info.get(key) is not None]
    _, chained, around = url.partition("::")
    if not found or not chained:
        return found or None
    try:
        outer = _version(around, _located(around)[2])
    except OSError:  # it may be a folder that cannot be asked about
        return None
    return None if outer is None else found + outer


def _place(url: str, version: list[str], name: str) -> str:
    """Where the copy of a version of this URL is kept."""
    key = hashlib.sha256("\n".join([url, *version]).encode()).hexdigest()[:32]
    return os.path.join(cache_folder(), key, _readable(name))


def _readable(name: str) -> str:
    """Name of a copy: what a person recognises, and nothing that means something to the system."""
    last = name.partition("?")[0].rstrip("/").rpartition("/")[2]
    return re.sub(r"[^\w.-]", "_", last).lstrip(".")[-100:] or "labels"


def _fetch(system: Any, name: str, path: str, url: str, *, by_content: bool) -> str:
    """Fetch and check it; where it lies then. by_content keeps other labels apart: somebody may be reading the old."""
    partial = path + PARTIAL
    with suppress(FileNotFoundError):
        os.unlink(partial)  # of a process that was killed
    try:
        with _about_url(url):
            system.get_file(name, partial)
        with about(url), opened(partial) as fd:
            header = read_sound_header(fd)
            verdict = check(fd, header, read_chunk_table(fd, header), None)
            if not verdict:
                raise Corrupt(f"{verdict}; fetched and not kept")
            os.fsync(fd)
            content = f"content {fingerprint(fd, header):08x}"
        if by_content:
            path = _place(url, [content], name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
        os.replace(partial, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(partial)
    return path


@contextmanager
def _alone(path: str) -> Iterator[None]:
    """One process and one thread at a time. The lock's file stays: another may be waiting for it."""
    import fcntl  # not at the top: local files need none, and not every system has it

    os.makedirs(os.path.dirname(path), exist_ok=True)
    fd = os.open(os.path.join(os.path.dirname(path), ".lock"), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)  # which also unlocks it


@contextmanager
def _about_url(url: str) -> Iterator[None]:
    """Every file system has errors of its own; here they become a line about the URL."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{url} does not exist: {error}") from error
    except Exception as error:
        raise OSError(f"{url} cannot be fetched: {type(error).__name__}: {error}") from error
