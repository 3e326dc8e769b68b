"""Bytes of a label file: read with a bound on every size, and checked."""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from vqlabel.errors import Corrupt, NotALabelFile, Truncated
from vqlabel.format import CHUNK_CRCS, CODES, CRCS, Header, Tensor, checksum, read_header

PARTIAL = ".partial"  # ends the name of a file that is still being written
PIECE_BYTES = 2**20  # read at a time where nothing else sets the size

Array = np.ndarray[Any, Any]


def full_path(path: str | bytes | os.PathLike[Any]) -> str:
    """Where a file is to be, from the root on; ValueError for the name of nothing, which would stand for the folder."""
    name = os.fsdecode(path)
    if not name:
        raise ValueError("the path of a label file is empty: give it a name")
    return os.path.abspath(name)


@contextmanager
def opened(path: str, flags: int = os.O_RDONLY) -> Iterator[int]:
    """Descriptor of a regular file; anything else is not even opened: a pipe would block, a device never end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise NotALabelFile("not a regular file")
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def read_into(fd: int, offset: int, target: memoryview) -> None:
    """Fill target from offset on; Truncated if the file ends first."""
    while target:
        count = os.preadv(fd, [target], offset)
        if count == 0:
            raise Truncated(f"the file ends at byte {offset}, {len(target)} bytes too early; fetch it again")
        offset += count
        target = target[count:]


def read_exactly(fd: int, offset: int, size: int) -> bytes:
    """`size` bytes from offset on. The caller has compared size with the file's."""
    data = bytearray(size)
    read_into(fd, offset, memoryview(data))
    return bytes(data)


def read_tensor(fd: int, tensor: Tensor) -> Array:
    """A tensor, not yet checked."""
    array = np.empty(tensor.shape, tensor.dtype)
    read_into(fd, tensor.offset, memoryview(array.reshape(-1).view(np.uint8)))
    return array


def read_sound_header(fd: int) -> Header:
    """Header that agrees with its checksum and with the size of the file."""
    size = os.fstat(fd).st_size
    header = read_header(lambda offset, count: read_exactly(fd, offset, count), size)
    if size < header.file_bytes:
        raise Truncated(f"the file has {size} bytes of {header.file_bytes}; fetch it again")
    if size > header.file_bytes:
        raise Corrupt(f"{size - header.file_bytes} bytes follow the last tensor")
    if read_tensor(fd, header.tensors[CRCS])[0] != checksum(header.raw):
        raise Corrupt("the header does not match its checksum; fetch the file again")
    return header


def fingerprint(fd: int, header: Header) -> int:
    """Checksum of the header and of all checksums: of everything in the file."""
    tables = [read_tensor(fd, header.tensors[name]) for name in (CRCS, CHUNK_CRCS)]
    return checksum(b"".join([header.raw, *(table.tobytes() for table in tables)]))


def region_checksum(fd: int, offset: int, size: int) -> int:
    """The format's checksum of a region of the file, in constant memory."""
    crc = 0
    for start in range(offset, offset + size, PIECE_BYTES):
        crc = zlib.crc32(read_exactly(fd, start, min(PIECE_BYTES, offset + size - start)), crc)
    return crc or 1


def unsound_tensors(fd: int, header: Header, names: Iterable[str] | None = None) -> list[str]:
    """Which of the codec's tensors (all, if none are named) do not agree with their checksums."""
    stored = dict(zip(header.summed(), read_tensor(fd, header.tensors[CRCS])[1:].tolist(), strict=True))
    regions = {name: header.tensors[name] for name in (stored if names is None else names)}
    return [n for n, tensor in regions.items() if stored[n] != region_checksum(fd, tensor.offset, tensor.nbytes)]


def chunk_is_sound(fd: int, header: Header, index: int, stored: int) -> bool:
    """Whether the rows of a chunk agree with the checksum that was stored for them."""
    rows = header.chunk(index)
    offset = header.tensors[CODES].offset + rows.start * header.row_bytes
    return stored == region_checksum(fd, offset, len(rows) * header.row_bytes)


def read_chunk_table(fd: int, header: Header) -> Array:
    """Checksums [chunks] of the chunks of codes; 0 where a chunk was never written."""
    return read_tensor(fd, header.tensors[CHUNK_CRCS])


def joined(ranges: Iterable[range]) -> list[range]:
    """Ranges in order, neighbours made one."""
    result: list[range] = []
    for rows in ranges:
        if result and result[-1].stop == rows.start:
            result[-1] = range(result[-1].start, rows.stop)
        else:
            result.append(rows)
    return result


def spelled(ranges: list[range]) -> str:
    """Rows as people name them: 'rows 0 to 1023, 4096 to 5119', cut after five."""
    shown = ", ".join(f"{rows.start} to {rows.stop - 1}" for rows in ranges[:5])
    return f"rows {shown}" + (f" and {len(ranges) - 5} more ranges" if len(ranges) > 5 else "")
