"""Rows in blocks, where all of them at once would take too much memory."""

from __future__ import annotations

BLOCK_BYTES = 2**26  # of one [b, C]; what works on a block has up to ten of these


def row_blocks(rows: int, row_bytes: int, size: int | None = None) -> list[slice]:
    """Slices of `rows` rows in order, `size` in each, or as many as BLOCK_BYTES hold, but at least one.

    >>> row_blocks(5, BLOCK_BYTES // 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    step = size or max(1, BLOCK_BYTES // row_bytes)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
