"""LabelWriter: rows in any order, from several processes, into a file that appears when it is whole."""

from __future__ import annotations

import errno
import operator
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqlabel import _native
from vqlabel.errors import Corrupt, Unfinished
from vqlabel.format import CHUNK_CRCS, CODES, Header, checksum
from vqlabel.metadata import codes_of
from vqlabel.storage import PARTIAL, joined, read_chunk_table, region_checksum, spelled, unsound_tensors


class LabelWriter:
    """Fills `path.partial`; `close` makes it `path`.

    Rows come as ranges, in any order and each once. A chunk counts as written when all its rows are there and its
    checksum is; what a stopped writer leaves behind is whole chunks and nothing else that counts.

    Several processes may write one file: pickle the writer to them, or let each call `LabelFile.resume`. Give each
    whole chunks (multiples of `rows_per_chunk`) of one list of rows: two that ask for `missing` at different times get
    different lists. When all are done, one of them calls `close`, the others `detach`.

    As a context manager, for the one that closes, it closes at the end, or leaves the .partial file to be resumed if
    the block failed.
    """

    def __init__(self, path: str, header: Header) -> None:
        self.path = path
        self.header = header
        self._fd: int | None = None
        self._begun: dict[int, NDArray[np.bool_]] = {}  # which rows of a chunk this process has written

    @property
    def rows_per_chunk(self) -> int:
        """Rows under one checksum: split work at its multiples."""
        return self.header.rows_per_chunk

    def __repr__(self) -> str:
        return f"LabelWriter({os.path.basename(self.path)!r}, rows={self.header.rows})"

    def write(self, start: int, rows: NDArray[np.uint8]) -> None:
        """Rows start, start + 1, ... of the set: uint8 [n, row_bytes]."""
        start = operator.index(start)  # of NumPy's narrow integers a sum would wrap
        rows = _checked_rows(rows, start, self.header)
        if len(rows) == 0:
            return
        size = self.rows_per_chunk
        for index in range(start // size, -(-(start + len(rows)) // size)):
            chunk = self.header.chunk(index)
            first, stop = max(start, chunk.start), min(start + len(rows), chunk.stop)
            self._write_in_chunk(index, range(first, stop), rows[first - start : stop - start])

    def write_codes(self, start: int, codes: NDArray[Any]) -> None:
        """Codes [n, G] of rows start, start + 1, ...: uint8 up to 8 bits, uint16 up to 16, uint32 above."""
        G, nbits = codes_of(self.header.metadata["codec"])
        if isinstance(codes, np.ndarray) and codes.ndim == 2 and codes.shape[1] != G:
            raise ValueError(f"codes must have shape [n, {G}], got {list(codes.shape)}")
        self.write(start, _native.pack(codes, nbits))

    def _write_in_chunk(self, index: int, span: range, rows: NDArray[np.uint8]) -> None:
        chunk = self.header.chunk(index)
        written = self._begun.get(index, np.zeros(len(chunk), bool))
        inside = slice(span.start - chunk.start, span.stop - chunk.start)
        if written[inside].any() or self._stored_crc(index):
            raise ValueError(f"{spelled([span])} hold rows that are already written; each row is written once")
        put(self._file(), self._codes_offset(span.start), rows, self.path)
        written[inside] = True
        self._begun[index] = written
        if written.all():
            crc = checksum(rows) if len(span) == len(chunk) else self._checksum_of(chunk)
            put(self._file(), self._crc_offset(index), np.array([crc], "<u4"), self.path)
            del self._begun[index]

    def _checksum_of(self, chunk: range) -> int:
        """Of a chunk that came in parts."""
        return region_checksum(self._file(), self._codes_offset(chunk.start), len(chunk) * self.header.row_bytes)

    def read(self, rows: range) -> NDArray[np.uint8]:
        """Rows [n, row_bytes] as they are in the file; those of chunks that are missing mean nothing."""
        width = self.header.row_bytes
        data = os.pread(self._file(), len(rows) * width, self._codes_offset(rows.start))
        return np.frombuffer(data, np.uint8).reshape(len(rows), width)

    def missing(self) -> list[range]:
        """Rows still to be written, in whole chunks: what other processes have finished counts as written."""
        table = read_chunk_table(self._file(), self.header)
        return joined(self.header.chunk(int(index)) for index in np.flatnonzero(table == 0))

    def close(self) -> None:
        """Check that every row is there, make the file durable and give it its name."""
        if not os.path.exists(self.path + PARTIAL):
            if os.path.exists(self.path):
                return  # closed before, here or by another process
            raise FileNotFoundError(f"{self.path}{PARTIAL} was deleted while it was written; begin again")
        damaged = unsound_tensors(self._file(), self.header)
        if damaged:
            raise Corrupt(
                f"{self.path}{PARTIAL}: tensor {damaged[0]!r:.80} is damaged; delete the file and begin again"
            )
        missing = self.missing()
        if missing:
            self.detach()
            raise Unfinished(f"{self.path}{PARTIAL}: {spelled(missing)} are not written; go on with LabelFile.resume")
        if os.path.exists(self.path):
            raise FileExistsError(f"{self.path} appeared while {self.path}{PARTIAL} was written; move one of them")
        os.fsync(self._file())
        self.detach()
        os.rename(self.path + PARTIAL, self.path)
        sync_directory(self.path)

    def detach(self) -> None:
        """Let go of the file in this process; rows of chunks that are not whole yet will be missing."""
        if self._fd is not None:
            os.close(self._fd)
        self._fd = None
        self._begun.clear()

    def __enter__(self) -> LabelWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is None:
            self.close()
        else:
            self.detach()

    def __del__(self) -> None:
        if self._fd is not None:
            os.close(self._fd)

    def __reduce__(self) -> tuple[Any, ...]:
        return LabelWriter, (self.path, self.header)

    def _file(self) -> int:
        if self._fd is None:
            fd = os.open(self.path + PARTIAL, os.O_RDWR)
            if os.pread(fd, len(self.header.raw), 0) != self.header.raw:
                os.close(fd)
                raise Corrupt(f"{self.path}{PARTIAL} is not the file that this writer was made for; resume it anew")
            self._fd = fd
        return self._fd

    def _codes_offset(self, row: int) -> int:
        return self.header.tensors[CODES].offset + row * self.header.row_bytes

    def _crc_offset(self, index: int) -> int:
        return self.header.tensors[CHUNK_CRCS].offset + 4 * index

    def _stored_crc(self, index: int) -> int:
        return int.from_bytes(os.pread(self._file(), 4, self._crc_offset(index)), "little")


def put(fd: int, offset: int, array: NDArray[Any], path: str) -> None:
    """Write an array at this offset; an OSError says that the .partial file of `path` waits to be resumed."""
    data = memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    try:
        while data:
            count = os.pwrite(fd, data, offset)
            offset, data = offset + count, data[count:]
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "make room" if full else "when that is mended"
        words = f"{error.strerror}; {path}{PARTIAL} is kept: {advice} and go on with LabelFile.resume"
        raise OSError(error.errno, words) from error


def _checked_rows(rows: NDArray[np.uint8], start: int, header: Header) -> NDArray[np.uint8]:
    if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8:
        found = rows.dtype if isinstance(rows, np.ndarray) else type(rows).__name__
        raise TypeError(f"rows must be a uint8 array [n, {header.row_bytes}], got {found}")
    if rows.ndim != 2 or rows.shape[1] != header.row_bytes:
        raise ValueError(f"rows must have shape [n, {header.row_bytes}], got {list(rows.shape)}")
    if not 0 <= start <= header.rows - len(rows):
        raise ValueError(f"rows {start} to {start + len(rows) - 1} do not fit a set of {header.rows}")
    return np.ascontiguousarray(rows)


def sync_directory(path: str) -> None:
    """Make the names in the folder of this file durable."""
    directory = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
