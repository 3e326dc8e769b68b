"""Rows without a label: a file says of each row whether it has one. FORMAT.md, "Gaps"."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vqlabel.errors import Corrupt

if TYPE_CHECKING:
    from vqlabel.format import Header

MISSING = "rows.missing"  # the tensor
FEATURE = "gaps"  # what a reader must know, in `requires`


def bitmap(missing: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Bit n mod 8 of byte n / 8 for each row [ceil(N / 8)].

    >>> bitmap(np.array([True, False, False, True])).tolist()
    [9]
    """
    return np.packbits(missing, bitorder="little")


def is_missing(stored: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether rows [B] have no label."""
    found: NDArray[np.bool_] = (stored[rows >> 3] >> (rows & 7).astype(np.uint8)) & 1 != 0
    return found


def count_missing(stored: NDArray[np.uint8], rows: int) -> int:
    """How many of all rows have no label.

    >>> count_missing(bitmap(np.array([True, False, False, True])), 4)
    2
    """
    return int(np.count_nonzero(np.unpackbits(stored, count=rows, bitorder="little")))


def check_gaps(header: Header) -> None:
    """Corrupt if a file says that rows are missing, but not which."""
    found, size = header.tensors.get(MISSING), -(-header.rows // 8)
    sound = found is not None and found.dtype == np.uint8 and found.shape == (size,)
    if FEATURE in header.metadata.get("requires", []) and not sound:
        there = "not there" if found is None else f"{found.dtype} {list(found.shape)}"
        raise Corrupt(f"rows without a label are to be told by tensor {MISSING!r}, U8 [{size}], which is {there}")


def complain(path: str, row: int) -> IndexError:
    """What to say to those who ask for a row that has no label."""
    return IndexError(
        f"{os.path.basename(path)} has no label for row {row}: it was not there when the file was made. "
        "LabelFile.missing(rows) tells which there are, and a ReplaySampler passes over the others"
    )
