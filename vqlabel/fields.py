"""Records of whole numbers, each field as wide as it has to be: FORMAT.md, "Stored views"."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def bits_for(count: int) -> int:
    """Bits that tell so many values apart; 0 for a single one.

    >>> [bits_for(count) for count in (1, 2, 3, 256, 257)]
    [0, 1, 2, 8, 9]
    """
    return max(count - 1, 0).bit_length()


def record_bytes(widths: Sequence[int]) -> int:
    """Bytes of a record."""
    return -(-sum(widths) // 8)


def pack(columns: Sequence[ArrayLike], widths: Sequence[int]) -> NDArray[np.uint8]:
    """Records [B, record_bytes] of columns [B], the first in the lowest bits; ValueError for one that is too wide.

    >>> pack([[1, 3], [5, 0]], [2, 3]).tolist()
    [[21], [3]]
    """
    values = [np.asarray(column) for column in columns]
    count = len(values[0]) if values else 0
    words = np.zeros((count, sum(widths) // 64 + 1), np.uint64)
    offset = 0
    for index, (value, width) in enumerate(zip(values, widths, strict=True)):
        if count and not 0 <= int(value.min()) <= int(value.max()) < 1 << width:
            raise ValueError(f"field {index} goes from {value.min()} to {value.max()}, but has {width} bits")
        word, shift = divmod(offset, 64)
        wide = value.astype(np.uint64)
        words[:, word] |= wide << np.uint64(shift)
        if shift + width > 64:
            words[:, word + 1] |= wide >> np.uint64(64 - shift)
        offset += width
    return np.ascontiguousarray(words.astype("<u8", copy=False).view(np.uint8)[:, : record_bytes(widths)])


def unpack(records: NDArray[np.uint8], widths: Sequence[int]) -> list[NDArray[np.int64]]:
    """Columns [B] of records [B, record_bytes].

    >>> [column.tolist() for column in unpack(pack([[1, 3], [5, 0]], [2, 3]), [2, 3])]
    [[1, 3], [5, 0]]
    """
    padded = np.zeros((len(records), 8 * (sum(widths) // 64 + 1)), np.uint8)
    padded[:, : records.shape[1]] = records
    words = padded.view("<u8").astype(np.uint64, copy=False)
    columns, offset = [], 0
    for width in widths:
        word, shift = divmod(offset, 64)
        value = words[:, word] >> np.uint64(shift)
        if shift + width > 64:
            value = value | (words[:, word + 1] << np.uint64(64 - shift))
        columns.append((value & np.uint64((1 << width) - 1)).astype(np.int64))
        offset += width
    return columns
