"""How a label file begins: a new .partial file with its header, or one that an interrupted writer left."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqlabel._version import __version__
from vqlabel.errors import FormatError, Truncated, about
from vqlabel.format import CHUNK_CRCS, CODES, CRCS, DTYPE_NAMES, FORMAT_VERSION, Header, build_header, checksum
from vqlabel.metadata import format_metadata
from vqlabel.storage import PARTIAL, chunk_is_sound, opened, read_chunk_table, read_sound_header
from vqlabel.writer import LabelWriter, put, resumable

CHUNK_BYTES = 2**16  # about this many bytes of rows share a checksum
MAX_ROW_BYTES = 2**31


def create(
    path: str | os.PathLike[str],
    rows: int,
    row_bytes: int,
    tensors: Mapping[str, NDArray[Any]],
    metadata: Mapping[str, Any],
) -> LabelWriter:
    """Write header and tensors of a new file, claim the room for its rows, and return the writer of these."""
    path = os.path.abspath(os.fspath(path))
    arrays = _checked_tensors(tensors)
    header = _new_header(rows, row_bytes, arrays, metadata)
    if os.path.exists(path):
        raise FileExistsError(f"{path} exists; delete it or choose another name")
    try:
        fd = os.open(path + PARTIAL, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        raise FileExistsError(f"{path}{PARTIAL} exists: go on with LabelFile.resume, or delete it") from None
    try:
        crcs = [header.crc, *(checksum(arrays[name]) for name in header.summed())]
        arrays[CRCS] = np.array(crcs, "<u4")
        arrays[CHUNK_CRCS] = np.zeros(header.chunks, "<u4")
        put(fd, 0, np.frombuffer(header.raw, np.uint8), path)
        for name, array in arrays.items():
            put(fd, header.tensors[name].offset, array, path)
        _claim_room(fd, header, path)
    finally:
        os.close(fd)
    return LabelWriter(path, header)


def resume(path: str | os.PathLike[str]) -> LabelWriter:
    """Writer of a file that `create` began. Chunks that do not match their checksum count as missing again."""
    path = os.path.abspath(os.fspath(path))
    partial = path + PARTIAL
    if not os.path.exists(partial):
        state = "is finished" if os.path.exists(path) else "was never begun with LabelFile.create"
        raise FileNotFoundError(f"{partial} does not exist: {path} {state}")
    with about(partial), opened(partial, os.O_RDWR) as fd:
        try:
            header = read_sound_header(fd, whole=False)
        except Truncated:
            raise Truncated("its writer stopped before the header was complete; delete it and begin again") from None
        _claim_room(fd, header, path)
        for index, crc in enumerate(read_chunk_table(fd, header).tolist()):
            if crc and not chunk_is_sound(fd, header, index, crc):
                put(fd, header.tensors[CHUNK_CRCS].offset + 4 * index, np.zeros(1, "<u4"), path)
    return LabelWriter(path, header)


def _new_header(rows: int, row_bytes: int, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, Any]) -> Header:
    for name, value, most in (("rows", rows, 2**62), ("row_bytes", row_bytes, MAX_ROW_BYTES)):
        if not 0 <= value <= most:
            raise ValueError(f"{name} must be 0 to {most}, got {value}")
    if rows * row_bytes > 2**62:
        raise ValueError(f"{rows} rows of {row_bytes} bytes are more than a file can hold")
    fixed = {"format": "vqlabel", "format_version": FORMAT_VERSION}
    per_chunk = 2 ** max(0, (CHUNK_BYTES // max(row_bytes, 1)).bit_length() - 1)
    filled = {"rows_per_chunk": per_chunk, "created_by": f"vqlabel {__version__}", **metadata, **fixed}
    try:
        return build_header(rows, row_bytes, arrays, format_metadata(filled))
    except FormatError as error:
        raise ValueError(f"no reader would accept this file: {error}") from None


def _checked_tensors(tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    arrays = {}
    for name, tensor in tensors.items():
        if name in (CODES, CHUNK_CRCS, CRCS, "__metadata__"):
            raise ValueError(f"tensor name {name!r} belongs to the format; choose another")
        array = np.asarray(tensor)
        little = array.dtype.newbyteorder("<")
        if little not in DTYPE_NAMES:
            raise ValueError(f"tensor {name!r} is {array.dtype}; a file holds {', '.join(DTYPE_NAMES.values())}")
        arrays[name] = np.array(array, little, order="C")
    return arrays


def _claim_room(fd: int, header: Header, path: str) -> None:
    # A disk that is too small says so now, not in the last hour of the encoding.
    try:
        if hasattr(os, "posix_fallocate") and header.file_bytes > 0:
            os.posix_fallocate(fd, 0, header.file_bytes)
        else:
            os.ftruncate(fd, header.file_bytes)
    except OSError as error:
        raise resumable(error, path) from error
