"""The GPU's search for codewords: as near as float64 finds them, or equal to the reference where it is to be exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from interpret import DEVICE, INTERPRETED
from vqlabel.kernels import search

from vqlabel import reference
from vqlabel.codecs.layout import Layout
from vqlabel.codecs.search import padded, search_product

EXCESS = 1e-5  # of the least possible distortion
SHAPES = [  # N, G, K, D: each path, and each way in which a size is not that of its tile
    (1, 1, 1, 1),
    (1, 3, 2, 2),
    (65, 2, 3, 3),
    (300, 2, 256, 8),
    (300, 1, 200, 13),
    (130, 2, 100, 14),
    (100, 1, 17, 29),
    (100, 1, 256, 32),
    (200, 2, 257, 8),
    (200, 1, 1000, 3),
    (130, 1, 700, 32),
    (70, 1, 130, 64),
    (70, 1, 130, 100),
    (40, 1, 70, 200),
    (40, 1, 65, 256),
]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal numbers, the same everywhere."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def distances(z: torch.Tensor, books: torch.Tensor) -> torch.Tensor:
    """Squared distances [N, G, K] in float64."""
    apart = z.double()[:, :, None] - books.double()[None]
    return apart.square().sum(3)


def excess(codes: torch.Tensor, z: torch.Tensor, books: torch.Tensor) -> float:
    """How far the distortion is above the least possible, as a part of it."""
    all_of_them = distances(z, books)
    least = all_of_them.amin(2).sum()
    return float((all_of_them.gather(2, codes.long()[:, :, None]).sum() - least) / least)


def expected(z: torch.Tensor, books: torch.Tensor) -> np.ndarray[Any, Any]:
    """Codes [N, G] of the reference."""
    with np.errstate(all="ignore"):
        found = [
            reference.nearest(z[:, g].float().cpu().numpy(), books[g].float().cpu().numpy(), [z.shape[2]])
            for g in range(z.shape[1])
        ]
    return np.concatenate(found, axis=1)


@pytest.mark.parametrize(("N", "G", "K", "D"), SHAPES)
def test_distortion_is_the_least_possible_but_for_a_stated_excess(N: int, G: int, K: int, D: int) -> None:
    z, books = draw(N, G, D), draw(G, K, D, seed=1)
    codes = search.nearest(z, books)
    assert codes.dtype == (torch.uint8 if K <= 256 else torch.int32)
    assert excess(codes, z, books) < EXCESS


@pytest.mark.parametrize(("N", "G", "K", "D"), SHAPES)
def test_exact_search_equals_the_reference(N: int, G: int, K: int, D: int) -> None:
    z, books = draw(N, G, D), draw(G, K, D, seed=1)
    np.testing.assert_array_equal(search.nearest(z, books, exact=True).cpu().numpy(), expected(z, books))


def test_there_are_as_many_codes_as_rows_even_if_there_are_none() -> None:
    books = draw(2, 5, 3)
    for exact in (False, True):
        assert search.nearest(draw(0, 2, 3), books, exact=exact).shape == (0, 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rows_and_books_of_half_the_bits_are_as_good(dtype: torch.dtype) -> None:
    z, books = draw(200, 2, 8).to(dtype), draw(2, 256, 8, seed=1).to(dtype)
    assert excess(search.nearest(z, books), z, books) < EXCESS
    np.testing.assert_array_equal(search.nearest(z, books, exact=True).cpu().numpy(), expected(z, books))


@pytest.mark.parametrize("K", [256, 700])
@pytest.mark.parametrize("D", [2, 8, 32])
def test_data_far_from_the_origin_of_any_size_is_searched_as_well(K: int, D: int) -> None:
    z = draw(300, 1, D)
    books = draw(1, K, D, seed=1)
    for offset, size in ((8.0, 1.0), (1000.0, 1.0), (0.0, 1e-6), (0.0, 1e6), (0.0, 1e-18)):
        rows, words = (z + offset) * size, (books + offset) * size
        assert excess(search.nearest(rows, words), rows, words) < EXCESS


def test_words_as_near_to_the_rows_as_a_fit_can_bring_them_are_told_apart() -> None:
    # D = 2 is the hardest: 11 bits of a coordinate are not much finer than the gaps between 256 words
    z = draw(300, 1, 2)
    books = z[:256].transpose(0, 1) + 0.1 * draw(1, 256, 2, seed=1)
    assert excess(search.nearest(z, books), z, books) < 1e-4
    books = torch.cat([books, books + 5], 1)  # several tiles, so that float32 decides between two
    assert excess(search.nearest(z, books), z, books) < 1e-3


def test_rows_far_beyond_all_words_and_words_beyond_all_others_are_searched_as_well() -> None:
    z, books = draw(200, 1, 8), draw(1, 256, 8, seed=1)
    z[::10] *= 1000
    assert excess(search.nearest(z, books), z, books) < EXCESS
    books[0, 7] *= 10
    assert excess(search.nearest(z[1:10], books), z[1:10], books) < 100 * EXCESS


@pytest.mark.parametrize("K", [6, 256, 700])
@pytest.mark.parametrize("exact", [False, True])
def test_the_lowest_of_equal_words_is_taken(K: int, exact: bool) -> None:
    books = draw(1, K, 8)
    books[0, K // 2 :] = books[0, : K - K // 2]
    codes = search.nearest(draw(130, 1, 8, seed=1), books, exact=exact)
    assert (codes < K // 2).all()
    assert (search.nearest(draw(130, 1, 8, seed=1), books[:, :1].expand(1, K, 8), exact=exact) == 0).all()


@pytest.mark.parametrize(("D", "exact"), [(4, False), (2, True)])
def test_each_word_of_the_largest_book_is_found(D: int, exact: bool) -> None:
    books = draw(1, 65_536, D)
    picks = torch.tensor([0, 1, 127, 128, 255, 256, 32_767, 32_768, 65_534, 65_535], device=DEVICE)
    z = books[:, picks].transpose(0, 1)
    assert search.nearest(z, books, exact=exact)[:, 0].tolist() == picks.tolist()


def test_no_row_reads_or_writes_beyond_its_own() -> None:
    z, books = draw(131, 3, 5), draw(3, 9, 5, seed=1)
    together = search.nearest(z, books)
    for g in range(3):
        alone = search.nearest(z[:, g : g + 1], books[g : g + 1])
        assert torch.equal(alone[:, 0], together[:, g])
    assert torch.equal(search.nearest(z.flip(0), books).flip(0), together)


@pytest.mark.parametrize("K", [100, 300])
def test_codes_are_below_k_whatever_the_rows_are(K: int) -> None:
    z = draw(70, 1, 8)
    z[0], z[1], z[2], z[3], z[4, 0, 0] = torch.nan, torch.inf, -torch.inf, 3e38, torch.nan
    with np.errstate(all="ignore"):
        codes = search.nearest(z, draw(1, K, 8, seed=1))
    assert (codes.int() >= 0).all()
    assert (codes.int() < K).all()


def test_exact_search_skips_what_is_not_finite_as_the_reference_does() -> None:
    z, books = draw(64, 2, 5), draw(2, 70, 5, seed=1)
    for tensor in (z, books):
        odd = torch.tensor([torch.nan, torch.inf, -torch.inf, 3e38, -3e38], device=DEVICE)
        where = draw(*tensor.shape, seed=2) > 1.5
        tensor[where] = odd[torch.arange(int(where.sum()), device=DEVICE) % 5]
    books[0] = torch.nan
    with np.errstate(all="ignore"):
        codes = search.nearest(z, books, exact=True)
    np.testing.assert_array_equal(codes.cpu().numpy(), expected(z, books))


def test_prepared_books_are_searched_the_same() -> None:
    z, books = draw(100, 2, 8), draw(2, 64, 8, seed=1)
    prepared = search.prepare(books)
    for exact in (False, True):
        assert torch.equal(search.nearest(z, prepared, exact=exact), search.nearest(z, books, exact=exact))


def test_rows_need_not_be_contiguous_and_may_want_gradients() -> None:
    z, books = draw(2, 8, 50).requires_grad_(), draw(2, 64, 8, seed=1).requires_grad_()
    turned = z.permute(2, 0, 1)
    codes = search.nearest(turned, books)
    assert torch.equal(codes, search.nearest(turned.detach().contiguous(), books.detach()))


def test_a_compiled_step_has_no_graph_break() -> None:
    def step(z: torch.Tensor, books: torch.Tensor) -> torch.Tensor:
        return search.nearest(z * 2, books).long() * 100 + search.nearest(z * 2, books, exact=True)

    z, books = draw(70, 2, 8), draw(2, 64, 8, seed=1)
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(z, books), step(z, books))


def test_groups_of_unequal_size_are_padded_without_changing_a_code() -> None:
    layout = Layout("product", 3, 5, 9, owner=(2, 0, 2, 1, 2, 2, 0, 1, 2))
    points, books = draw(90, 9).cpu(), draw(9, 32, seed=1).cpu()
    z, words = padded(points, books, layout)
    assert (z.shape, words.shape) == ((90, 3, 5), (3, 32, 5))
    codes = search.nearest(z.to(DEVICE), words.to(DEVICE), exact=True).cpu()
    assert torch.equal(codes.long(), search_product(points, books, layout))


@pytest.mark.skipif(INTERPRETED, reason="needs a GPU: what is tested is that its tensors reach the kernel")
def test_codecs_search_on_the_gpu() -> None:
    layout = Layout("product", 2, 5, 5, owner=(1, 0, 1, 1, 0))
    points, books = draw(500, 5), draw(5, 32, seed=1)
    codes = search_product(points, books, layout)
    assert codes.is_cuda
    assert (codes.cpu() == search_product(points.cpu(), books.cpu(), layout)).float().mean() > 0.99


@pytest.mark.skipif(INTERPRETED, reason="needs a GPU: the interpreter would take hours")
@pytest.mark.parametrize(("N", "G", "K", "D"), [(1_000_003, 16, 256, 8), (50_001, 1, 65_536, 32)])
def test_large_searches_repeat_and_are_as_near(N: int, G: int, K: int, D: int) -> None:
    z, books = draw(N, G, D), draw(G, K, D, seed=1)
    codes = search.nearest(z, books)
    assert all(torch.equal(search.nearest(z, books), codes) for _ in range(20))
    step = N // 200
    assert excess(codes[::step], z[::step], books) < EXCESS


@pytest.mark.skipif(INTERPRETED, reason="needs a GPU: captures a graph")
def test_a_search_can_be_captured_in_a_graph() -> None:
    z, prepared = draw(1000, 2, 8), search.prepare(draw(2, 256, 8, seed=1))
    codes = search.nearest(z, prepared)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = search.nearest(z, prepared)
    graph.replay()
    assert torch.equal(captured, codes)


def test_errors_say_what_was_found_and_what_was_allowed() -> None:
    z, books = draw(4, 2, 8), draw(2, 16, 8)
    with pytest.raises(ValueError, match=r"z must be \[N, 2, 8\].*got \[4, 16\] of float32"):
        search.nearest(z.view(4, 16), books)
    with pytest.raises(ValueError, match=r"got \[4, 2, 8\] of int32"):
        search.nearest(z.int(), books)
    with pytest.raises(ValueError, match=r"books must be \[G, K, D\].*got \[16, 8\]"):
        search.nearest(z, books[0])
    with pytest.raises(ValueError, match=r"books must be.*got \[2, 0, 8\]"):
        search.nearest(z, books[:, :0])
    with pytest.raises(ValueError, match="16 words of 300 numbers: at most 65536 of 256"):
        search.nearest(draw(1, 1, 300), draw(1, 16, 300))
    with pytest.raises(ValueError, match="65537 words"):
        search.prepare(draw(1, 65_537, 1))
    with pytest.raises(ValueError, match="z is on meta and the books are on"):
        search.nearest(z.to("meta"), books)
