"""Packing: equal to the reference at every width, on every path, inside its buffers, and clear about wrong input."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from conftest import ticks_inside
from hypothesis import given
from hypothesis import strategies as st

from vqlabel import _native, reference

WIDTHS = range(1, 25)
COUNTS = (0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100)


def random_codes(rows: int, count: int, nbits: int, seed: int = 0) -> np.ndarray[Any, Any]:
    codes = np.random.default_rng(seed).integers(0, 1 << nbits, (rows, count))
    return codes.astype(reference.code_dtype(nbits))


@pytest.mark.parametrize("nbits", WIDTHS)
@pytest.mark.parametrize("count", COUNTS)
def test_every_width_and_count_equals_the_reference(simd: str, nbits: int, count: int) -> None:
    for rows in (0, 1, 2, 5):
        codes = random_codes(rows, count, nbits)
        packed = _native.pack(codes, nbits)
        np.testing.assert_array_equal(packed, reference.pack(codes, nbits), strict=True)
        np.testing.assert_array_equal(_native.unpack(packed, nbits, count), codes, strict=True)
        np.testing.assert_array_equal(reference.unpack(packed, nbits, count), codes, strict=True)


@pytest.mark.parametrize("nbits", WIDTHS)
def test_largest_codes_survive(simd: str, nbits: int) -> None:
    codes = np.full((3, 41), (1 << nbits) - 1, reference.code_dtype(nbits))
    packed = _native.pack(codes, nbits)
    np.testing.assert_array_equal(_native.unpack(packed, nbits, 41), codes)
    assert np.unpackbits(packed).sum() == codes.size * nbits, "padding bits are not zero"


@pytest.mark.parametrize("nbits", WIDTHS)
def test_layout_is_that_of_faiss(simd: str, nbits: int) -> None:
    faiss = pytest.importorskip("faiss")
    codes = random_codes(50, 33, nbits)
    np.testing.assert_array_equal(_native.pack(codes, nbits), faiss.pack_bitstrings(codes.astype(np.int32), nbits))


def test_bytes_of_the_documented_example(simd: str) -> None:
    packed = _native.pack(np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.uint8), 4)
    assert packed.tobytes() == bytes.fromhex("21 03 54 06 87 09")


@given(
    nbits=st.integers(1, 24),
    rows=st.integers(0, 40),
    count=st.integers(0, 70),
    threads=st.integers(1, 5),
    path=st.sampled_from(["scalar", "best"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_pack_unpack_gather_round_trip(nbits: int, rows: int, count: int, threads: int, path: str, seed: int) -> None:
    best = _native.simd()
    _native.use_simd("scalar" if path == "scalar" else best)
    try:
        codes = random_codes(rows, count, nbits, seed)
        packed = _native.pack(codes, nbits, threads=threads)
        np.testing.assert_array_equal(packed, reference.pack(codes, nbits))
        np.testing.assert_array_equal(_native.unpack(packed, nbits, count, threads=threads), codes)
        if rows and count:
            picks = np.random.default_rng(seed).integers(0, rows, 30)
            row_bytes = packed.shape[1]
            gathered = _native.gather_unpack(packed.tobytes(), row_bytes, picks, nbits, count, threads=threads)
            np.testing.assert_array_equal(gathered, codes[picks], strict=True)
            np.testing.assert_array_equal(gathered, reference.gather_unpack(packed, row_bytes, picks, nbits, count))
    finally:
        _native.use_simd(best)


@pytest.mark.parametrize("nbits", [1, 4, 8, 9, 12, 16, 17, 24])
def test_gather_takes_the_head_of_longer_rows(simd: str, nbits: int) -> None:
    codes = random_codes(20, 11, nbits)
    packed = reference.pack(codes, nbits)
    rows = np.concatenate([packed, np.full((20, 3), 0xFF, np.uint8)], axis=1)
    picks = np.array([19, 0, 0, 7])
    np.testing.assert_array_equal(_native.gather_unpack(rows, rows.shape[1], picks, nbits, 11), codes[picks])


@pytest.mark.parametrize("nbits", [3, 8, 11, 16])
@pytest.mark.parametrize("shift", [0, 1, 8, 16, 24])
def test_large_outputs_are_right_at_any_alignment(nbits: int, shift: int) -> None:
    """Outputs from 32 MiB on are written past the caches, which needs aligned addresses."""
    dtype = reference.code_dtype(nbits)
    rows = (33 << 20) // dtype().itemsize // 64
    packed = np.random.default_rng(0).integers(0, 256, (rows, 8 * nbits)).astype(np.uint8)
    memory = np.zeros(rows * 64 + 64, dtype)
    start = (shift - memory.ctypes.data) % 64 // memory.itemsize
    out = memory[start : start + rows * 64].reshape(rows, 64)
    _native.unpack(packed, nbits, 64, out=out)
    assert not memory[:start].any()
    assert not memory[start + out.size :].any()
    for part in (slice(0, 500), slice(rows // 2, rows // 2 + 500), slice(-500, None)):
        np.testing.assert_array_equal(out[part], reference.unpack(packed[part], nbits, 64))


class Fence:
    """A buffer that ends where readable memory does: one byte too far is a crash, not a wrong answer."""

    def __init__(self, size: int) -> None:
        pages = -(-size // mmap.PAGESIZE)
        self.memory = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.guard = ctypes.c_void_p(address + pages * mmap.PAGESIZE)
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mprotect(self.guard, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0, os.strerror(ctypes.get_errno())
        self.array = np.frombuffer(self.memory, np.uint8, size, pages * mmap.PAGESIZE - size)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mprotect"), reason="needs mprotect")
@pytest.mark.parametrize("nbits", WIDTHS)
def test_nothing_beyond_the_end_of_a_buffer_is_touched(simd: str, nbits: int) -> None:
    dtype = np.dtype(reference.code_dtype(nbits))
    for count in COUNTS[1:]:
        codes = random_codes(3, count, nbits)
        packed = reference.pack(codes, nbits)
        fenced_packed = Fence(packed.size).array.reshape(packed.shape)
        fenced_codes = Fence(codes.nbytes).array.view(dtype).reshape(codes.shape)
        fenced_packed[:] = packed
        _native.unpack(fenced_packed, nbits, count, out=fenced_codes)
        np.testing.assert_array_equal(fenced_codes, codes)
        _native.pack(fenced_codes, nbits, out=fenced_packed)
        np.testing.assert_array_equal(fenced_packed, packed)
        picks = np.array([2, 2, 0])
        _native.gather_unpack(fenced_packed, packed.shape[1], picks, nbits, count, out=fenced_codes)
        np.testing.assert_array_equal(fenced_codes, codes[picks])


def test_threads_write_their_own_rows_only() -> None:
    for nbits, count in ((5, 3), (9, 7), (12, 2), (20, 5)):
        codes = random_codes(1001, count, nbits)
        expected = reference.pack(codes, nbits)
        for _ in range(20):
            np.testing.assert_array_equal(_native.pack(codes, nbits, threads=8), expected)


@pytest.mark.parametrize("name", ["pack", "unpack", "gather_unpack"])
def test_lock_is_released(name: str) -> None:
    packed = np.zeros((1 << 22, 12), np.uint8)
    codes = np.zeros((1 << 22, 8), np.uint16)
    calls = {
        "pack": lambda: _native.pack(codes, 12, out=packed),
        "unpack": lambda: _native.unpack(packed, 12, 8, out=codes),
        "gather_unpack": lambda: _native.gather_unpack(packed, 12, np.arange(1 << 22), 12, 8, out=codes),
    }
    assert ticks_inside(calls[name])


def test_environment_chooses_the_path() -> None:
    code = "import vqlabel._native as n; print(n.simd())"
    for name in ("scalar", _native.simd()):
        environment = {**os.environ, "VQLABEL_SIMD": name}
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert run.stdout.strip() == name
    environment = {**os.environ, "VQLABEL_SIMD": "avx1024"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert "'avx1024' is not one of those this processor has: scalar" in run.stderr


U8 = np.zeros((4, 3), np.uint8)
INDEX = np.zeros(2, np.int64)
READ_ONLY = np.zeros((4, 8), np.uint8)
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: _native.pack(U8, 0), ValueError, "nbits must be 1 to 24, got 0"),
        (lambda: _native.pack(U8, 2**40), ValueError, "nbits must be 1 to 24, got 1099511627776"),
        (lambda: _native.pack(U8, 25), ValueError, "nbits must be 1 to 24, got 25"),
        (lambda: _native.pack(U8, 9), TypeError, "codes must be uint16, got uint8; convert with .astype"),
        (lambda: _native.pack(U8.astype(np.int64), 4), TypeError, "codes must be uint8, got int64"),
        (lambda: _native.pack(U8.astype(">u2"), 12), TypeError, "codes must be uint16, got >u2"),
        (lambda: _native.pack([[1]], 4), TypeError, "codes must be a numpy array, got list"),
        (lambda: _native.pack(U8[0], 4), ValueError, r"codes must have 2 dimensions, got shape \(3,\)"),
        (lambda: _native.pack(U8[:, ::2], 4), ValueError, "codes must be contiguous"),
        (lambda: _native.pack(U8.T, 4), ValueError, "codes must be contiguous"),
        (lambda: _native.pack(U8 + 16, 4), ValueError, r"codes\[0, 0\] is 16, but 4 bits hold at most 15"),
        (lambda: _native.pack(U8, 4, out=U8), ValueError, r"out must have shape \(4, 2\), got \(4, 3\)"),
        (lambda: _native.pack(U8, 4, threads=0), ValueError, "threads must be 1 to 256, got 0"),
        (lambda: _native.unpack(U8, 4, 7), ValueError, "7 codes of 4 bits need rows of 4 bytes, got 3"),
        (lambda: _native.unpack(U8, 4, -1), ValueError, "count, the codes in a row, must be 0 to 2"),
        (lambda: _native.unpack(U8, 4, 2**40), ValueError, "count, the codes in a row, must be 0 to 2"),
        (lambda: _native.unpack(U8, 3, 8, out=READ_ONLY), ValueError, "out is read-only"),
        (lambda: _native.unpack(U8, 4, 6, out=np.zeros((4, 6), np.uint16)), TypeError, "out must be uint8"),
        (lambda: _native.gather_unpack(U8, 5, INDEX, 4, 6), ValueError, "12 bytes, not a whole number of rows of 5"),
        (lambda: _native.gather_unpack(U8, 2, INDEX, 4, 6), ValueError, "need rows of at least 3 bytes"),
        (lambda: _native.gather_unpack(U8, 0, INDEX, 4, 0), ValueError, "need rows of at least 1 bytes"),
        (lambda: _native.gather_unpack(U8, -3, INDEX, 4, 6), ValueError, "got row_bytes=-3"),
        (lambda: _native.gather_unpack(U8, 3, INDEX + 4, 4, 6), IndexError, r"indices\[0\] is 4, but there are 4 rows"),
        (lambda: _native.gather_unpack(U8, 3, INDEX - 1, 4, 6), IndexError, r"indices\[0\] is -1"),
        (lambda: _native.gather_unpack(U8, 3, INDEX + 2**62, 4, 6), IndexError, "4611686018427387904"),
        (lambda: _native.gather_unpack(b"", 3, INDEX, 4, 6), IndexError, "there are 0 rows"),
        (lambda: _native.gather_unpack(U8, 3, INDEX.astype(np.int32), 4, 6), TypeError, "indices must be int64"),
        (lambda: _native.gather_unpack(U8, 3, INDEX[::2][:, None], 4, 6), ValueError, "indices must have 1 dim"),
        (lambda: _native.gather_unpack("text", 3, INDEX, 4, 6), TypeError, "bytes-like"),
        (lambda: _native.gather_unpack(U8[:, ::2], 2, INDEX, 4, 4), ValueError, "not C-contiguous"),
        (lambda: _native.use_simd("mmx"), ValueError, "'mmx' is not one of"),
    ],
)
def test_wrong_arguments_are_named(call: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        call()


@pytest.mark.parametrize("nbits", [1, 4, 7, 9, 12, 15, 17, 23])
def test_code_out_of_range_is_found_anywhere(simd: str, nbits: int) -> None:
    for position in (0, 6, 7, 8, 31, 32, 40, 98):
        codes = random_codes(1, 99, nbits)
        codes[0, position] = 1 << nbits
        with pytest.raises(ValueError, match=rf"codes\[0, {position}\] is {1 << nbits}, but {nbits} bits"):
            _native.pack(codes, nbits)


def test_bad_index_is_found_by_any_thread() -> None:
    packed = np.zeros((10, 3), np.uint8)
    for position in range(16):
        indices = np.zeros(16, np.int64)
        indices[position] = 10
        with pytest.raises(IndexError, match=rf"indices\[{position}\] is 10"):
            _native.gather_unpack(packed, 3, indices, 8, 3, threads=4)
