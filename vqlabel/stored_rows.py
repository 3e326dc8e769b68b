"""Rows of a file, read with system calls."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from vqlabel.storage import opened, read_into

GAP_BYTES = 2**14  # rows no further apart than this are read in one go


class StoredRows:
    """Rows of so many bytes each, one after the other from `offset` on.

    Memory stays bounded: a map would count as our memory, and end the process if the file became shorter.
    """

    def __init__(self, path: str, offset: int, rows: int, row_bytes: int) -> None:
        self._path, self._offset, self.row_bytes = path, offset, row_bytes
        self._file_bytes = os.stat(path).st_size
        if self._file_bytes < offset + rows * row_bytes:
            raise ValueError(f"{path} ends before its {rows} rows of {row_bytes} bytes do; fetch it again")

    def read(self, rows: range) -> NDArray[np.uint8]:
        """Bytes [n, row_bytes] of rows that follow each other."""
        data = np.empty((len(rows), self.row_bytes), np.uint8)
        with opened(self._path) as fd:
            found = os.fstat(fd).st_size
            if found != self._file_bytes:
                raise ValueError(
                    f"{self._path} had {self._file_bytes} bytes when it was opened and has {found} now; "
                    "encode it when it no longer changes"
                )
            read_into(fd, self._offset + rows.start * self.row_bytes, memoryview(data.reshape(-1)))
        return data

    def take(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Bytes [n, row_bytes] of rows in rising order."""
        cuts = np.flatnonzero(np.diff(indices) * self.row_bytes > GAP_BYTES) + 1
        parts = [np.empty((0, self.row_bytes), np.uint8)]
        for run in np.split(indices, cuts):
            if len(run):
                parts.append(self.read(range(int(run[0]), int(run[-1]) + 1))[run - run[0]])
        return np.concatenate(parts)
