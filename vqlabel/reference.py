"""Slow, obvious twins of every fast path: the truth in tests. Same names, same arguments, NumPy only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def code_dtype(nbits: int) -> type[np.unsignedinteger[Any]]:
    """The dtype that holds codes of this width."""
    return np.uint8 if nbits <= 8 else np.uint16 if nbits <= 16 else np.uint32


def pack(codes: NDArray[Any], nbits: int) -> NDArray[np.uint8]:
    """Codes [N, count] to rows [N, ceil(count * nbits / 8)], least significant bit first.

    >>> pack(np.array([[1, 2, 3]], np.uint8), 4)
    array([[33,  3]], dtype=uint8)
    """
    bits = codes[:, :, None].astype(np.uint32) >> np.arange(nbits, dtype=np.uint32) & 1
    return np.packbits(bits.reshape(len(codes), codes.shape[1] * nbits).astype(np.uint8), axis=1, bitorder="little")


def unpack(packed: NDArray[np.uint8], nbits: int, count: int) -> NDArray[Any]:
    """Rows [N, ceil(count * nbits / 8)] to codes [N, count].

    >>> unpack(np.array([[33, 3]], np.uint8), 4, 3)
    array([[1, 2, 3]], dtype=uint8)
    """
    bits = np.unpackbits(packed, axis=1, count=count * nbits, bitorder="little").reshape(len(packed), count, nbits)
    codes: NDArray[Any] = (bits.astype(np.uint32) << np.arange(nbits, dtype=np.uint32)).sum(2)
    return codes.astype(code_dtype(nbits))


def gather_unpack(buffer: Any, row_bytes: int, indices: NDArray[np.int64], nbits: int, count: int) -> NDArray[Any]:
    """Codes [B, count] of the rows of these indices in a buffer of packed rows."""
    rows = np.frombuffer(buffer, np.uint8).reshape(-1, row_bytes)
    return unpack(rows[indices, : (count * nbits + 7) // 8], nbits, count)
