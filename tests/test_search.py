"""Searching codes: equal to the reference on every path, right on small problems, and clear about wrong input."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from conftest import ticks_inside

from vqlabel import _native, reference

WORDS = (1, 2, 3, 7, 8, 9, 31, 33, 256, 257, 1000)
SIZES = ([1], [5], [1, 1, 1], [3, 1, 9], [8, 8], [1] * 17)


def floats(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ties(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Small whole numbers: exact sums, many of them equal."""
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)


def broken(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Some infinite, some huge, some not numbers."""
    values = floats(*shape, seed=seed)
    odd = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38], np.float32)
    where = np.random.default_rng(seed + 1).random(shape) < 0.2
    values[where] = odd[np.random.default_rng(seed + 2).integers(0, 5, int(where.sum()))]
    return values


MAKERS = pytest.mark.parametrize("make", [floats, ties, broken])


@MAKERS
@pytest.mark.parametrize("words", WORDS)
def test_nearest_equals_the_reference(simd: str, make: Any, words: int) -> None:
    for sizes in SIZES:
        books = make(words, sum(sizes), seed=words)
        for rows in (0, 1, 3, 4, 5, 70):
            h = make(rows, sum(sizes), seed=rows)
            with np.errstate(all="ignore"):
                expected = reference.nearest(h, books, sizes)
            np.testing.assert_array_equal(_native.nearest(h, books, sizes), expected, strict=True)


def test_the_lowest_of_equally_near_words_is_taken(simd: str) -> None:
    books = np.zeros((300, 3), np.float32)
    books[[0, 1, 5, 255, 299]] = 7
    assert _native.nearest(np.zeros((2, 3), np.float32), books, [1, 2]).tolist() == [[2, 2]] * 2
    assert _native.nearest(np.full((1, 3), 9, np.float32), books, np.array([3])).tolist() == [[0]]


def test_nearest_finds_each_word_of_the_largest_book(simd: str) -> None:
    books = np.random.default_rng(0).permutation(1 << 16).astype(np.float32)[:, None]
    picks = np.array([0, 1, 255, 256, 32767, 32768, 65534, 65535])
    np.testing.assert_array_equal(_native.nearest(books[picks], books, [1])[:, 0], picks.astype(np.uint16), strict=True)


@MAKERS
@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("beam", [1, 2, 8, 64])
def test_additive_search_equals_the_reference(simd: str, make: Any, words: int, beam: int) -> None:
    for books in (1, 2, 4) if words < 1000 else (1, 2):
        gram = make(books, books, words, words, seed=books)
        for rows in (0, 1, 3):
            dots = make(rows, books, words, seed=rows)
            with np.errstate(all="ignore"):
                expected = reference.additive_search(dots, gram, beam)
            np.testing.assert_array_equal(_native.additive_search(dots, gram, beam), expected, strict=True)


@pytest.mark.parametrize(("books", "words"), [(1, 64), (2, 8), (3, 4), (6, 2), (5, 1)])
@pytest.mark.parametrize("make", [floats, ties])
def test_a_wide_beam_is_an_exhaustive_search(simd: str, make: Any, books: int, words: int) -> None:
    dots, gram = make(20, books, words), make(books, books, words, words, seed=1)
    choices = np.array(list(itertools.product(range(words), repeat=books)))
    scores = dots[:, np.arange(books), choices].astype(np.float64).sum(2)
    for i, j in itertools.combinations(range(books), 2):
        scores -= gram[i, j, choices[:, i], choices[:, j]]
    found = _native.additive_search(dots, gram, 64)[:, 0]
    if make is floats:
        np.testing.assert_array_equal(found, choices[scores.argmax(1)])
    at = np.ravel_multi_index(tuple(found.T.astype(np.int64)), (words,) * books)
    np.testing.assert_allclose(scores[np.arange(20), at], scores.max(1), rtol=1e-5)


def test_a_beam_of_one_is_greedy(simd: str) -> None:
    dots, gram = floats(50, 3, 40), floats(3, 3, 40, 40, seed=1)
    first = dots[:, 0].argmax(1)
    second = (dots[:, 1] - gram[0, 1, first]).argmax(1)
    third = (dots[:, 2] - gram[0, 2, first] - gram[1, 2, second]).argmax(1)
    found = _native.additive_search(dots, gram, 1)[:, 0]
    np.testing.assert_array_equal(found[:, :2], np.stack([first, second], axis=1))
    assert (found[:, 2] == third).mean() > 0.9  # the sums are rounded in another order


def test_gram_below_the_diagonal_is_ignored(simd: str) -> None:
    dots, gram = floats(9, 4, 20), floats(4, 4, 20, 20, seed=1)
    expected = _native.additive_search(dots, gram, 8)
    for i in range(4):
        gram[i, : i + 1] = np.nan
    np.testing.assert_array_equal(_native.additive_search(dots, gram, 8), expected)


@pytest.mark.parametrize("width", [0, 1, 7, 8, 64])
def test_class_prior_equals_the_reference(simd: str, width: int) -> None:
    tables = (floats(10, width), floats(10, width, seed=1), floats(4, seed=2), floats(4, seed=3), floats(4, width))
    for rows in (0, 1, 33):
        random = np.random.default_rng(rows)
        own, other, regime = random.integers(0, 10, rows), random.integers(0, 10, rows), random.integers(0, 4, rows)
        expected = reference.class_prior(own, other, regime, tables)
        np.testing.assert_array_equal(_native.class_prior(own, other, regime, tables), expected, strict=True)
        out = np.full_like(expected, 7)
        assert _native.class_prior(own, other, regime, tables, out=out, threads=3) is out
        np.testing.assert_array_equal(out, expected)


def test_threads_do_not_matter(simd: str) -> None:
    h, books = floats(1001, 12), floats(40, 12, seed=1)
    dots, gram = floats(301, 3, 40), floats(3, 3, 40, 40, seed=1)
    nearest, additive = _native.nearest(h, books, [4] * 3), _native.additive_search(dots, gram, 5)
    for threads in (2, 3, 8, 256):
        np.testing.assert_array_equal(_native.nearest(h, books, [4] * 3, threads=threads), nearest)
        np.testing.assert_array_equal(_native.additive_search(dots, gram, 5, threads=threads), additive)


@pytest.mark.parametrize("name", ["nearest", "additive_search", "class_prior"])
def test_lock_is_released(name: str) -> None:
    h, books, dots, gram = floats(20000, 32), floats(256, 32), floats(2000, 3, 64), floats(3, 3, 64, 64)
    index, tables = np.zeros(200000, np.int64), (floats(1, 64), floats(1, 64), floats(1), floats(1), floats(1, 64))
    calls = {
        "nearest": lambda: _native.nearest(h, books, [4] * 8),
        "additive_search": lambda: _native.additive_search(dots, gram, 16),
        "class_prior": lambda: _native.class_prior(index, index, index, tables),
    }
    assert ticks_inside(calls[name])


H, BOOKS = floats(4, 6), floats(5, 6)
DOTS, GRAM = floats(4, 2, 3), floats(2, 2, 3, 3)
INDEX, TABLES = np.zeros(3, np.int64), (floats(5, 6), floats(5, 6), floats(2), floats(2), floats(2, 6))


def changed(i: int, table: Any) -> Any:
    return (*TABLES[:i], table, *TABLES[i + 1 :])


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: _native.nearest(H.astype(float), BOOKS, [6]), TypeError, "h must be float32, got float64"),
        (lambda: _native.nearest(H, BOOKS.tolist(), [6]), TypeError, "books must be a numpy array, got list"),
        (lambda: _native.nearest(H[:, ::2], BOOKS, [6]), ValueError, "h must be contiguous"),
        (lambda: _native.nearest(H, BOOKS.T, [6]), ValueError, "books must be contiguous"),
        (lambda: _native.nearest(H[0], BOOKS, [6]), ValueError, r"h must have 2 dimensions, got shape \(6,\)"),
        (lambda: _native.nearest(H, floats(5, 7), [6]), ValueError, r"the 6 columns of h, got shape \(5, 7\)"),
        (lambda: _native.nearest(H, BOOKS[:0], [6]), ValueError, "books must have 1 to 65536 codewords, got 0"),
        (lambda: _native.nearest(H, floats(65537, 6), [6]), ValueError, "1 to 65536 codewords, got 65537"),
        (lambda: _native.nearest(H, BOOKS, []), ValueError, r"sum to the 6 columns of h, got \[\]"),
        (lambda: _native.nearest(H[:, :0].copy(), BOOKS[:, :0].copy(), []), ValueError, "sum to the 0 columns"),
        (lambda: _native.nearest(H, BOOKS, [5]), ValueError, r"sum to the 6 columns of h, got \[5\]"),
        (lambda: _native.nearest(H, BOOKS, [4, 3]), ValueError, r"got \[4, 3\]"),
        (lambda: _native.nearest(H, BOOKS, [6, 0]), ValueError, "at least 1 each"),
        (lambda: _native.nearest(H, BOOKS, [7, -1]), ValueError, "at least 1 each"),
        (lambda: _native.nearest(H, BOOKS, [2**63 - 1, 7]), ValueError, "at least 1 each"),
        (lambda: _native.nearest(H, BOOKS, [2**80]), ValueError, "integer"),
        (lambda: _native.nearest(H, BOOKS, [6.0]), TypeError, "float"),
        (lambda: _native.nearest(H, BOOKS, 6), TypeError, "not iterable"),
        (lambda: _native.nearest(H, BOOKS, itertools.repeat(1)), ValueError, "at least 1 each"),
        (lambda: _native.nearest(H, BOOKS, [6], threads=0), ValueError, "threads must be 1 to 256, got 0"),
        (lambda: _native.additive_search(DOTS, GRAM, 0), ValueError, "beam must be 1 to 64, got 0"),
        (lambda: _native.additive_search(DOTS, GRAM, 65), ValueError, "beam must be 1 to 64, got 65"),
        (lambda: _native.additive_search(DOTS[0], GRAM, 1), ValueError, "dots must have 3 dimensions"),
        (lambda: _native.additive_search(DOTS, GRAM[0], 1), ValueError, "gram must have 4 dimensions"),
        (lambda: _native.additive_search(DOTS.astype(">f4"), GRAM, 1), TypeError, "dots must be float32, got >f4"),
        (lambda: _native.additive_search(DOTS, GRAM.astype("f2"), 1), TypeError, "gram must be float32, got float16"),
        (lambda: _native.additive_search(DOTS, GRAM[:, :1].copy(), 1), ValueError, r"gram must have shape \(2, 2, 3,"),
        (lambda: _native.additive_search(DOTS, floats(2, 2, 3, 2), 1), ValueError, r"got \(2, 2, 3, 2\)"),
        (lambda: _native.additive_search(DOTS[:, :0].copy(), GRAM[:0, :0].copy(), 1), ValueError, "at least one book"),
        (lambda: _native.additive_search(DOTS[:, :, :0].copy(), floats(2, 2, 0, 0), 1), ValueError, "1 to 65536 code"),
        (lambda: _native.additive_search(DOTS, GRAM, 1, threads=257), ValueError, "threads must be 1 to 256, got 257"),
        (lambda: _native.class_prior(INDEX + 5, INDEX, INDEX, TABLES), IndexError, r"own\[0\] is 5, but there are 5 c"),
        (lambda: _native.class_prior(INDEX, INDEX - 1, INDEX, TABLES), IndexError, r"other\[0\] is -1, but there are"),
        (lambda: _native.class_prior(INDEX, INDEX, INDEX + 2, TABLES), IndexError, r"regime\[0\] is 2, but .* 2 reg"),
        (lambda: _native.class_prior(INDEX, INDEX, INDEX[:2], TABLES), ValueError, "same length, got 3, 3 and 2"),
        (lambda: _native.class_prior(INDEX.astype("i4"), INDEX, INDEX, TABLES), TypeError, "own must be int64"),
        (lambda: _native.class_prior(INDEX, INDEX, INDEX, TABLES[:4]), ValueError, "tables must be the 5 arrays"),
        (lambda: _native.class_prior(INDEX, INDEX, INDEX, changed(1, floats(4, 6))), ValueError, "must have shapes"),
        (lambda: _native.class_prior(INDEX, INDEX, INDEX, changed(1, floats(5, 5))), ValueError, "must have shapes"),
        (lambda: _native.class_prior(INDEX, INDEX, INDEX, changed(3, floats(1))), ValueError, "must have shapes"),
        (lambda: _native.class_prior(INDEX, INDEX, INDEX, changed(4, floats(1, 6))), ValueError, "must have shapes"),
        (lambda: _native.class_prior(INDEX, INDEX, INDEX, changed(4, floats(2, 5))), ValueError, "must have shapes"),
        (lambda: _native.class_prior(INDEX, INDEX, INDEX, changed(0, H.astype(int))), TypeError, "A must be float32"),
        (lambda: _native.class_prior(INDEX, INDEX, INDEX, TABLES, out=H), ValueError, r"out must have shape \(3, 6\)"),
    ],
)
def test_wrong_arguments_are_named(call: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        call()


def test_a_bad_class_is_found_by_any_thread() -> None:
    for position in range(16):
        own = np.zeros(16, np.int64)
        own[position] = 2**62
        with pytest.raises(IndexError, match=rf"own\[{position}\] is 4611686018427387904, but there are 5 classes"):
            _native.class_prior(own, own * 0, own * 0, TABLES, threads=4)
