"""Labels of a DistillKit set: from the bytes of a position to k tokens and their log-probabilities.

A position is kept as one record: the exact values, the coefficients of the curve, the bins of residuals, the tokens.
The legacy form stores floats and words where the current one stores bytes; its record is made of the same parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqlabel.convert.distillkit_config import FLOATS, Config

WORD_BITS = 64


@dataclass(frozen=True)
class Column:
    """What the records take from a column: so many numbers of each position."""

    name: str
    count: int
    dtype: str

    @property
    def bytes(self) -> int:
        """Bytes in a record."""
        return self.count * np.dtype(self.dtype).itemsize


class Layout:
    """Records of a set, U8 [n, record_bytes].

    >>> config = Config(10, 2, 1, "float16", (0, 1), "float32")  # 2 of 10: one exact, one on a straight line
    >>> [(column.name, column.count) for column in Layout(config, legacy=False).columns]
    [('compressed_logprobs', 10), ('bytepacked_indices', 1)]
    """

    def __init__(self, config: Config, *, legacy: bool) -> None:
        self.config, self.legacy = config, legacy
        self._id_bits = (config.d - 1).bit_length()
        exact, terms = config.exact_k, len(config.polynomial_terms)
        if legacy:
            self._types = "float32", "float32"
            words = -(-config.k // (WORD_BITS // self._id_bits))
            self.columns = [
                Column("exact_values", exact, "<f4"),
                Column("coeffs", terms, "<f4"),
                Column("packed_indices", words, "<u8"),
            ]
        else:
            self._types = config.exact_dtype, config.term_dtype
            size = exact * FLOATS[config.exact_dtype] + terms * FLOATS[config.term_dtype]
            size += sum(FLOATS[b.scale_dtype] + packed_bytes(b.num_bits, b.num_elements) for b in config.residual_bins)
            self.columns = [
                Column("compressed_logprobs", size, "u1"),
                Column("bytepacked_indices", packed_bytes(self._id_bits, config.k), "u1"),
            ]
        self._basis = _basis(config, legacy)

    @property
    def record_bytes(self) -> int:
        """Bytes of a position."""
        return sum(column.bytes for column in self.columns)

    def ids(self, records: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Tokens [n, k] in the order in which they are stored."""
        packed = np.ascontiguousarray(records[:, self.record_bytes - self.columns[-1].bytes :])
        if not self.legacy:
            return unpack_msb_first(packed, self._id_bits, self.config.k).astype(np.int64)
        shifts = np.arange(WORD_BITS // self._id_bits, dtype=np.uint64) * np.uint64(self._id_bits)
        words: NDArray[np.uint64] = packed.view("<u8").astype(np.uint64, copy=False)
        ids = words[:, :, None] >> shifts & np.uint64((1 << self._id_bits) - 1)
        return ids.reshape(len(records), -1)[:, : self.config.k].astype(np.int64)

    def values(self, records: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Their log-probabilities [n, k]; whatever the bytes say, infinities too."""
        config, at = self.config, 0

        def taken(count: int) -> NDArray[np.uint8]:
            nonlocal at
            at += count
            return np.ascontiguousarray(records[:, at - count : at])

        with np.errstate(all="ignore"):
            exact = _floats(taken(config.exact_k * FLOATS[self._types[0]]), self._types[0])
            curve = _floats(taken(len(self._basis) * FLOATS[self._types[1]]), self._types[1]) @ self._basis
            rank = 0
            for b in config.residual_bins:
                scale = _floats(taken(FLOATS[b.scale_dtype]), b.scale_dtype)
                steps = unpack_msb_first(taken(packed_bytes(b.num_bits, b.num_elements)), b.num_bits, b.num_elements)
                curve[:, rank : rank + b.num_elements] += scale * _signed(steps, b.num_bits)
                rank += b.num_elements
            values = np.concatenate([exact, curve], axis=1)
            return (values.cumsum(1) if config.delta_encoding else values).astype(np.float32)


def _basis(config: Config, legacy: bool) -> NDArray[np.float64]:
    """Terms of the curve at each rank [terms, fitted]."""
    if legacy and (config.residual_bins or config.delta_encoding or config.normalize_t):
        raise ValueError("a set with packed_indices has no residual_bins, delta_encoding or normalize_t")
    ranks = np.arange(config.fitted, dtype=np.float64) + legacy
    if config.normalize_t:
        ranks = np.linspace(0, 1, config.fitted)
    made = np.empty((len(config.polynomial_terms), config.fitted))
    with np.errstate(all="ignore"):
        for row, term in zip(made, config.polynomial_terms, strict=True):
            row[:] = {"sqrt": np.sqrt, "exp": np.exp}[term](ranks) if isinstance(term, str) else ranks**term
    wrong = np.flatnonzero(~np.isfinite(made).all(1))
    if len(wrong):
        term = config.polynomial_terms[wrong[0]]
        raise ValueError(f"the term {term!r} of polynomial_terms is not finite at all of {config.fitted} ranks")
    return made


def packed_bytes(nbits: int, count: int) -> int:
    """Bytes of a vector of packed integers."""
    return -(-nbits * count // 8)


def unpack_msb_first(packed: NDArray[np.uint8], nbits: int, count: int) -> NDArray[np.uint64]:
    """Integers [n, count] of nbits each (1 to 64), highest bit first and one after the other.

    >>> unpack_msb_first(np.array([[0b101_01100, 0b1_0000000]], np.uint8), 3, 3).tolist()
    [[5, 3, 1]]
    """
    bits = np.unpackbits(packed, axis=1, count=nbits * count).reshape(len(packed), count, nbits)
    width = next(size for size in (8, 16, 32, 64) if size >= nbits)
    wide = np.zeros((len(packed), count, width), np.uint8)
    wide[:, :, width - nbits :] = bits
    return np.packbits(wide).view(f">u{width // 8}").reshape(len(packed), count).astype(np.uint64)


def _signed(steps: NDArray[np.uint64], nbits: int) -> NDArray[np.float64]:
    """Steps of a residual: from -2^(nbits - 1) on; a single bit is -1 or 1."""
    if nbits == 1:
        return steps.astype(np.float64) * 2 - 1
    spare = np.uint64(WORD_BITS - nbits)
    shifted = steps << spare ^ np.uint64(1 << (WORD_BITS - 1))
    return (shifted.view(np.int64) >> np.int64(spare)).astype(np.float64)


def _floats(data: NDArray[np.uint8], dtype: str) -> NDArray[np.float64]:
    """Numbers [n, count] of bytes [n, bytes]; NumPy has no bfloat16, which is the upper half of a float32."""
    found: Any
    if dtype == "bfloat16":
        found = (data.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
    else:
        found = data.view(f"<f{FLOATS[dtype]}")
    wide: NDArray[np.float64] = found.astype(np.float64)
    return wide
