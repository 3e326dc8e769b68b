"""How the rows of a file come into memory: copied when they are few, mapped when they are many."""

from __future__ import annotations

import mmap
import resource
import zlib
from contextlib import suppress
from typing import Any

import numpy as np

from vqlabel import _native
from vqlabel.errors import Corrupt
from vqlabel.format import CODES, Header
from vqlabel.storage import Array, read_into, spelled

PROBE_EVERY = 32  # gathers from a cold map before a look at whether it has become warm


class CopiedRows:
    """All rows in anonymous memory, on huge pages where the system has them; checked as they are read."""

    def __init__(self, fd: int, header: Header, crcs: Array) -> None:
        codes, self._row_bytes = header.tensors[CODES], header.row_bytes
        memory = mmap.mmap(-1, max(codes.nbytes, 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        _advise(memory, "MADV_HUGEPAGE")
        self._buffer = memoryview(memory)[: codes.nbytes]
        for index, crc in enumerate(crcs.tolist()):
            rows = header.chunk(index)
            start = rows.start * self._row_bytes
            part = self._buffer[start : rows.stop * self._row_bytes]
            read_into(fd, codes.offset + start, part)
            if (zlib.crc32(part) or 1) != crc:
                raise Corrupt(f"{spelled([rows])} do not match their checksum; fetch the file again")

    def gather_unpack(self, indices: Array, **options: Any) -> Array:
        """Codes of these rows, as `_native.gather_unpack`."""
        return _native.gather_unpack(self._buffer, self._row_bytes, indices, **options)


class MappedRows:
    """A map of the file, shared by all processes that read it.

    While it is cold, the pages of a batch are asked for together instead of one page fault after the other (what that
    gains: benchmarks/README.md). Once it is warm that costs more than the gather itself, so now and then a batch goes
    without, and the page faults that it meets decide about the next ones.
    """

    def __init__(self, fd: int, header: Header) -> None:
        self._map = mmap.mmap(fd, header.file_bytes, access=mmap.ACCESS_READ)
        _advise(self._map, "MADV_RANDOM")
        self._start, self._rows, self._row_bytes = header.tensors[CODES].offset, header.rows, header.row_bytes
        self._buffer = memoryview(self._map)[self._start :]
        self._asks_left = PROBE_EVERY

    def gather_unpack(self, indices: Array, **options: Any) -> Array:
        """Codes of these rows, as `_native.gather_unpack`."""
        if self._asks_left > 0:
            self._asks_left -= 1
            self._ask_for(indices)
            return _native.gather_unpack(self._buffer, self._row_bytes, indices, **options)
        faults = _major_faults()
        codes = _native.gather_unpack(self._buffer, self._row_bytes, indices, **options)
        if _major_faults() - faults > len(indices) // 64:
            self._asks_left = PROBE_EVERY
        return codes

    def _ask_for(self, indices: Array) -> None:
        existing = indices[(indices >= 0) & (indices < self._rows)]  # the gather complains of the others
        for row_start in (self._start + existing * self._row_bytes).tolist():
            page = row_start - row_start % mmap.PAGESIZE
            _advise(self._map, "MADV_WILLNEED", page, row_start + self._row_bytes - page)


def _advise(memory: mmap.mmap, advice: str, *span: int) -> None:
    # A hint: a system that does not know it, or a kernel built without it, goes without.
    if hasattr(mmap, advice):
        with suppress(OSError):
            memory.madvise(getattr(mmap, advice), *span)


def _major_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


class EmptyRows:
    """Rows of no bytes at all: every label comes from its prior."""

    def __init__(self, header: Header) -> None:
        self._rows = header.rows

    def gather_unpack(self, indices: Array, **options: Any) -> Array:
        """Codes [B, 0], once the indices are known to be good."""
        bad = np.flatnonzero((indices < 0) | (indices >= self._rows))
        if bad.size:
            raise IndexError(f"indices[{bad[0]}] is {indices[bad[0]]}, but there are {self._rows} rows")
        return _native.gather_unpack(bytes(1), 1, np.zeros_like(indices), **options)


def load_rows(fd: int, header: Header, crcs: Array, *, copy: bool) -> CopiedRows | MappedRows | EmptyRows:
    """Rows of an open file, as their number asks for."""
    if header.row_bytes == 0:
        return EmptyRows(header)
    return CopiedRows(fd, header, crcs) if copy else MappedRows(fd, header)
