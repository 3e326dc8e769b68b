"""Pack and unpack of more codes than any cache holds, against NumPy, faiss and the fastest possible copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks import rivals
from benchmarks.race import race
from vqlabel import _native

WIDTHS = (4, 8, 9, 10, 12, 13)
G = 32
OUTPUT_BYTES = 768 * 2**20  # of codes: beyond the largest L3 of today's servers
RIVAL_SHARE = 32  # rivals get this part of the rows: rates are per code, and less data can only help them


@pytest.fixture(scope="module")
def limit() -> Callable[[Any, Any], None]:
    copy = rivals.streaming_copy()
    if copy is None:
        pytest.skip("the limit is an AVX2 copy")
    return copy


@pytest.fixture(params=WIDTHS, ids="{} bits".format)
def data(request: pytest.FixtureRequest) -> tuple[int, Any, Any]:
    """Width, codes [N, G], packed rows."""
    nbits = request.param
    dtype = np.uint8 if nbits <= 8 else np.uint16
    codes = rivals.aligned((OUTPUT_BYTES // np.dtype(dtype).itemsize // G, G), dtype)
    pattern = np.random.default_rng(0).integers(0, 1 << nbits, (8192, G)).astype(dtype)
    codes.reshape(-1, 8192, G)[:] = pattern
    packed = rivals.aligned((len(codes), (G * nbits + 7) // 8), np.uint8)
    _native.pack(codes, nbits, out=packed)
    return nbits, codes, packed


def test_unpack(benchmark: Any, limit: Callable[[Any, Any], None], data: tuple[int, Any, Any]) -> None:
    nbits, codes, packed = data
    out, few = rivals.aligned(codes.shape, codes.dtype), packed[: len(packed) // RIVAL_SHARE]
    runners = {
        "vqlabel": lambda: _native.unpack(packed, nbits, G, out=out),
        "streaming copy of the codes": lambda: limit(out, codes),
        "numpy": lambda: rivals.numpy_unpack(few, nbits, G),
        "faiss": lambda: rivals.faiss_unpack(few, nbits, G),
    }
    out[:] = 0
    np.testing.assert_array_equal(_native.unpack(packed, nbits, G, out=out), codes)
    np.testing.assert_array_equal(rivals.numpy_unpack(few, nbits, G), codes[: len(few)])
    np.testing.assert_array_equal(rivals.faiss_unpack(few, nbits, G), codes[: len(few)])
    whole, part = codes.size, few.shape[0] * G
    units = dict(zip(runners, (whole, whole, part, part), strict=True))
    race(benchmark, {"op": "unpack", "per": "code", "case": f"{nbits} bits", "bytes": codes.nbytes}, runners, units)


def test_pack(benchmark: Any, data: tuple[int, Any, Any]) -> None:
    nbits, codes, packed = data
    out, few = np.empty_like(packed), codes[: len(codes) // RIVAL_SHARE]
    wide = few.astype(np.int32)  # what faiss takes; the conversion is not timed
    runners = {
        "vqlabel": lambda: _native.pack(codes, nbits, out=out),
        "numpy": lambda: rivals.numpy_pack(few, nbits),
        "faiss": lambda: rivals.faiss_pack(wide, nbits),
    }
    np.testing.assert_array_equal(_native.pack(codes, nbits, out=out)[: len(few)], rivals.numpy_pack(few, nbits))
    np.testing.assert_array_equal(out[: len(few)], rivals.faiss_pack(wide, nbits))
    units = dict(zip(runners, (codes.size, few.size, few.size), strict=True))
    race(benchmark, {"op": "pack", "per": "code", "case": f"{nbits} bits", "bytes": codes.nbytes}, runners, units)
