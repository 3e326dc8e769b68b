"""How a label file begins: a new .partial file with its header, or one that an interrupted writer left."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqlabel._version import __version__
from vqlabel.errors import Corrupt, FormatError, NewerVersion, Truncated, about
from vqlabel.format import (
    CHUNK_CRCS,
    CODES,
    CRCS,
    DTYPE_NAMES,
    FORMAT_VERSION,
    MAX_ROW_BYTES,
    Header,
    build_header,
    checksum,
)
from vqlabel.gaps import check_gaps
from vqlabel.metadata import format_metadata
from vqlabel.sequences import MOST_POSITIONS, STARTS
from vqlabel.storage import (
    PARTIAL,
    chunk_is_sound,
    full_path,
    opened,
    read_chunk_table,
    read_sound_header,
    unsound_tensors,
)
from vqlabel.writer import LabelWriter, put, sync_directory

CHUNK_BYTES = 2**16  # about this many bytes of rows share a checksum
MAX_CODES_BYTES = 2**62  # of all rows: the end of a file is then an int64


def create(
    path: str | os.PathLike[str],
    rows: int,
    row_bytes: int,
    tensors: Mapping[str, NDArray[Any]],
    metadata: Mapping[str, Any],
) -> LabelWriter:
    """Write header and tensors of a new file, claim the room for its rows, and return the writer of these."""
    path = full_path(path)
    arrays = checked_tensors(tensors)
    header = _new_header(rows, row_bytes, arrays, metadata)
    _check_positions(arrays, header)
    if path.endswith(PARTIAL):
        raise ValueError(f"{path}: names that end in {PARTIAL} are for files that are being written")
    if os.path.exists(path):
        raise FileExistsError(f"{path} exists; delete it or choose another name")
    try:
        fd = os.open(path + PARTIAL, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        raise FileExistsError(f"{path}{PARTIAL} exists: go on with LabelFile.resume, or delete it") from None
    try:
        _claim_room(fd, header.file_bytes)
        _write_head(fd, header, arrays, path)
    except BaseException as error:
        os.unlink(path + PARTIAL)  # no row is in it yet, and it could not be resumed
        if isinstance(error, OSError) and error.errno:
            words = f"{os.strerror(error.errno)}: {path} needs {header.file_bytes:,} bytes; make room and begin again"
            raise OSError(error.errno, words) from error
        raise
    finally:
        os.close(fd)
    sync_directory(path)
    return LabelWriter(path, header)


def _check_positions(arrays: Mapping[str, NDArray[Any]], header: Header) -> None:
    """ValueError for sequences that no reader would take from a file so small."""
    total = int(arrays[STARTS].max(initial=0)) if STARTS in arrays else 0
    if total > MOST_POSITIONS * header.file_bytes:
        raise ValueError(
            f"{header.rows} labels of sequences of {total:,} positions make a file of {header.file_bytes:,} bytes, "
            f"which may be of {MOST_POSITIONS} positions for each byte: leave sequences without labels out"
        )


def _write_head(fd: int, header: Header, arrays: Mapping[str, NDArray[Any]], path: str) -> None:
    # The header's own checksum comes last: a file that has it has everything before its rows.
    put(fd, 0, np.frombuffer(header.raw, np.uint8), path)
    for name, array in arrays.items():
        put(fd, header.tensors[name].offset, array, path)
    put(fd, header.tensors[CHUNK_CRCS].offset, np.zeros(header.chunks, "<u4"), path)
    os.fsync(fd)
    crcs = [header.crc, *(checksum(arrays[name]) for name in header.summed())]
    put(fd, header.tensors[CRCS].offset, np.array(crcs, "<u4"), path)
    os.fsync(fd)


def resume(path: str | os.PathLike[str]) -> LabelWriter:
    """Writer of a file that `create` began. Chunks that do not match their checksum count as missing again."""
    path = full_path(path).removesuffix(PARTIAL)
    partial = path + PARTIAL
    if not os.path.exists(partial):
        state = "is finished" if os.path.exists(path) else "was never begun with LabelFile.create"
        raise FileNotFoundError(f"{partial} does not exist: {path} {state}")
    with about(partial), opened(partial, os.O_RDWR) as fd:
        header = _resumable_header(fd)
        # Other processes may be writing: a checksum is read before its rows, and again before it is taken away.
        for index, crc in enumerate(read_chunk_table(fd, header).tolist()):
            offset = header.tensors[CHUNK_CRCS].offset + 4 * index
            if (
                crc
                and not chunk_is_sound(fd, header, index, crc)
                and os.pread(fd, 4, offset) == crc.to_bytes(4, "little")
            ):
                put(fd, offset, np.zeros(1, "<u4"), path)
    return LabelWriter(path, header)


def _resumable_header(fd: int) -> Header:
    try:
        header = read_sound_header(fd)
    except NewerVersion:
        raise
    except FormatError:
        raise Truncated(
            "its writer stopped before the first row, or it is damaged; delete it and begin again"
        ) from None
    damaged = unsound_tensors(fd, header)
    if damaged:
        raise Corrupt(f"tensor {damaged[0]!r:.80} is damaged; delete the file and begin again")
    return header


def _new_header(rows: int, row_bytes: int, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, Any]) -> Header:
    rows, row_bytes = _whole("rows", rows, 2**62), _whole("row_bytes", row_bytes, MAX_ROW_BYTES)
    if rows * row_bytes > MAX_CODES_BYTES:
        raise ValueError(f"{rows} rows of {row_bytes} bytes are more than a file can hold")
    fixed = {"format": "vqlabel", "format_version": FORMAT_VERSION}
    per_chunk = 2 ** max(0, (CHUNK_BYTES // max(row_bytes, 1)).bit_length() - 1)
    filled = {"rows_per_chunk": per_chunk, "created_by": f"vqlabel {__version__}", **metadata, **fixed}
    try:
        header = build_header(rows, row_bytes, arrays, format_metadata(filled))
        check_gaps(header)
    except FormatError as error:
        raise ValueError(f"no reader would accept this file: {error}") from None
    return header


def _whole(name: str, value: Any, most: int) -> int:
    if not isinstance(value, (int, np.integer)) or not 0 <= value <= most:
        raise ValueError(f"{name} must be a whole number from 0 to {most}, got {value!r:.80}")
    return int(value)


def checked_tensors(tensors: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Tensors as a file holds them, little-endian and in C order; ValueError for what no file holds."""
    arrays = {}
    for name, tensor in tensors.items():
        if not isinstance(name, str) or name in (CODES, CHUNK_CRCS, CRCS, "__metadata__"):
            raise ValueError(f"tensor name {name!r} belongs to the format or is no text; choose another")
        array = np.asarray(tensor)
        little = array.dtype.newbyteorder("<")
        if little not in DTYPE_NAMES:
            raise ValueError(f"tensor {name!r} is {array.dtype}; a file holds {', '.join(DTYPE_NAMES.values())}")
        arrays[name] = np.asarray(array, little, order="C")  # no copy of what may be a map larger than memory
    return arrays


def _claim_room(fd: int, file_bytes: int) -> None:
    # A disk that is too small says so now, not in the last hour of the encoding.
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, file_bytes)
    else:
        os.ftruncate(fd, file_bytes)
