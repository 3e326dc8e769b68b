"""Nearest codewords on the GPU: codes [N, G] of z [N, G, D] for books [G, K, D], never an N x K matrix in memory.

The nearest word maximises z.c - |c|^2 / 2. What costs time is not the products but finding the largest of K numbers in
each row, so both are made one: tensor cores return

    y = 1.5 + alpha (z.c - |c|^2 / 2)  in [1.05, 1.95]

which takes D slots for z and c and three more (two for the halves of the norm, one for 1.5); alpha is a power of two
for each row, from the bound |z.c| <= |z||c|. Numbers in [1, 2) are ordered as their 23 mantissa bits, so these are
shifted up over the exponent, 255 - (place in the tile) takes the 8 bits below, and the largest integer is the nearest
word; of equal ones it is the lowest.

z and c are centred at the mean of the book, scaled and rounded to float16, and norms are of what is multiplied. The
distortion then exceeds the least possible by about 1e-7 of it for D = 8, K = 256 and by 1e-6 to 1e-4 for D = 2: see
the tests. It grows with the square of how many times the longest word is longer than most: y has 23 bits for all. A
book of several tiles keeps the best of the two best tiles, and their float32 distances decide between them.
exact=True: search_exact.py.

    z      [N, G, D]      float32, float16 or bfloat16; one residual step is G = 1, D = R
    books  [G, K, D]      any of these, prepared or not
    words  [G, P, S + A]  K words and copies of word 0 up to P = whole tiles; S slots, A = 16 more where S are too few
    codes  [N, G]         uint8 up to 256 words, int32 above
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from .search_exact import exact_cases, search_exact
from .search_tiles import many_tiles, one_tile

AUX = 16
WIDEST, MOST_WORDS = 256, 65_536
MOST_STEPS, ENOUGH_PROGRAMS = 16, 1024  # a program keeps its book for several blocks where there are blocks enough
TYPES = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}


class Prepared(NamedTuple):
    """What a search makes of its books; worth keeping where they are searched again."""

    books: torch.Tensor  # [G, K, D] float32
    words: torch.Tensor  # [G, P, S + A] float16
    mean: torch.Tensor  # [G, D] float32, scaled
    scale: torch.Tensor  # [G] float32: powers of two that make the longest word shorter than 1


class Tile(NamedTuple):
    """One configuration: S slots, A more, and the BM rows and BK words that a program has at a time."""

    S: int
    A: int
    BM: int
    BK: int
    num_warps: int
    many: bool


def nearest(z: torch.Tensor, books: torch.Tensor | Prepared, *, exact: bool = False) -> torch.Tensor:
    """Codes [N, G] of rows z [N, G, D]: the word of books [G, K, D] nearest to each, the lowest of equally near ones.

    exact: the very codes of float32 distances summed in order of D, as the CPU search gives them; a distance that is
    infinite or no number is never the nearest, and if all are, the code is 0. Else books must be finite, near ties may
    go either way, and a row that is not finite gets some code below K. Whether all is finite is not checked, which
    would wait for the GPU.
    """
    raw = books.books if isinstance(books, Prepared) else books
    _check(z, raw)
    prepared = (raw.detach(),) if exact else books if isinstance(books, Prepared) else prepare(books)
    # outside of torch.compile the operator would only take longer
    search = _operator if torch.compiler.is_compiling() else _nearest
    return search(z.detach(), list(prepared), exact)


def prepare(books: torch.Tensor) -> Prepared:
    """What `nearest` searches, of books [G, K, D]: a dozen small launches, which may cost more than a small search."""
    _check_books(books)
    _, K, D = books.shape
    books = books.detach().float().contiguous()
    S, A, _, BK, _, _ = tile(D, K)
    mean = books.mean(1)
    centred = books - mean[:, None]
    exponents = torch.frexp(centred.norm(dim=2).amax(1)).exponent.clamp(-100, 100)
    scale = ((127 - exponents) << 23).view(torch.float32)  # 2 ** -exponent, exact on every device
    short = (centred * scale[:, None, None]).half()
    norm = short.float().square().sum(2, keepdim=True) / 2
    half = norm.half()
    slots = [short, -half, (half.float() - norm).half(), torch.full_like(half, 1.5)]
    words = short.new_zeros(len(books), -(-K // BK) * BK, S + A)
    words[:, :K, : D + 3] = torch.cat(slots, 2)
    words[:, K:] = words[:, :1]
    return Prepared(books, words, mean * scale[:, None], scale)


def tile(D: int, K: int) -> Tile:
    """The configuration for books of K words of D numbers."""
    S = max(16, 1 << (D - 1).bit_length())
    A = AUX if D + 3 > S else 0
    if K <= 256 and D <= 32:
        return Tile(S, A, 64, next(words for words in (16, 64, 128, 256) if words >= K), 4, False)
    return Tile(S, A, 128, 128, 8, True) if S <= 128 else Tile(S, A, 64, 64, 4, True)


def _empty(z: torch.Tensor, parts: list[torch.Tensor], exact: bool) -> torch.Tensor:
    """Codes [N, G] to be filled."""
    return torch.empty(z.shape[:2], dtype=torch.uint8 if parts[0].shape[1] <= 256 else torch.int32, device=z.device)


def _nearest(z: torch.Tensor, parts: list[torch.Tensor], exact: bool) -> torch.Tensor:
    """Codes [N, G] of z [N, G, D]; parts are of a Prepared, the books first."""
    codes = _empty(z, parts, exact)
    if codes.numel():
        with torch.cuda.device_of(z):  # type: ignore[no-untyped-call]
            if exact:
                search_exact(z.contiguous(), parts[0], codes)
            else:
                _search(z.contiguous(), Prepared(*parts), codes)
    return codes


_operator = torch.library.custom_op("vqlabel::nearest", _nearest, mutates_args=())
_operator.register_fake(_empty)


def _search(z: torch.Tensor, prepared: Prepared, codes: torch.Tensor) -> None:
    """Fill codes [N, G]."""
    N, G, D = z.shape
    books, words, mean, scale = prepared
    K = books.shape[1]
    S, A, BM, BK, num_warps, many = tile(D, K)
    blocks = -(-N // BM)
    sizes = {"D": D, "S": S, "A": A, "BM": BM, "BK": BK}
    options = {"num_warps": num_warps, "num_stages": 2, "enable_fp_fusion": True}
    if many:
        many_tiles[(blocks * G,)](z, books, words, mean, scale, codes, N, G, K, words.shape[1], **sizes, **options)
    else:
        steps = min(MOST_STEPS, -(-blocks * G // ENOUGH_PROGRAMS))
        one_tile[(-(-blocks // steps) * G,)](z, words, mean, scale, codes, N, G, K, steps, **sizes, **options)


def _check_books(books: torch.Tensor) -> None:
    if books.ndim != 3 or books.dtype not in TYPES or not books.numel():
        raise ValueError(f"books must be [G, K, D] of float32, float16 or bfloat16, got {_spelled(books)}")
    _, K, D = books.shape
    if K > MOST_WORDS or D > WIDEST:
        raise ValueError(f"books of {K} words of {D} numbers: at most {MOST_WORDS} of {WIDEST} can be searched")


def _check(z: torch.Tensor, books: torch.Tensor) -> None:
    _check_books(books)
    G, _, D = books.shape
    if z.ndim != 3 or z.shape[1:] != (G, D) or z.dtype not in TYPES:
        raise ValueError(f"z must be [N, {G}, {D}] of float32, float16 or bfloat16, as the books, got {_spelled(z)}")
    if z.device != books.device:
        raise ValueError(f"z is on {z.device} and the books are on {books.device}; move one of them")


def _spelled(tensor: torch.Tensor) -> str:
    return f"{list(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"


def compile_cases() -> list[dict[str, Any]]:
    """Every configuration there is, for tests/compiled.py."""
    one = [(D, K) for D in (8, 16, 24, 32) for K in (16, 64, 128, 256)]
    many = [(8, 65_536), (16, 4096), (24, 4096), (32, 65_536), (48, 256), (64, 4096), (96, 256), (128, 256)]
    shapes = [*one, *many, (192, 256), (256, 65_536)]
    halves = [_case(8, 256, dtype) for dtype in (torch.float16, torch.bfloat16)]
    return [_case(D, K) for D, K in shapes] + halves + [_alone(8, 16), _alone(64, 1)] + exact_cases()


def _alone(D: int, K: int) -> dict[str, Any]:
    """One row and one book: a launch makes integers of 1 constant."""
    case = _case(D, K)
    ones = {name: 1 for name in ("N", "G", "steps", *["K"] * (K == 1)) if name in case["signature"]}
    signature = {name: kind for name, kind in case["signature"].items() if name not in ones}
    return {**case, "name": f"{case['name']} alone", "signature": signature, "constants": {**case["constants"], **ones}}


def _case(D: int, K: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    S, A, BM, BK, num_warps, many = tile(D, K)
    signature = {"z": TYPES[dtype], "words": "*fp16", "mean": "*fp32", "scale": "*fp32", "codes": "*i32"}
    signature |= dict.fromkeys(("N", "G", "K", "P" if many else "steps"), "i32")
    if many:
        signature["books"] = "*fp32"
    if K <= 256:
        signature["codes"] = "*u8"
    return {
        "name": f"D={D} K={K}" + f" {TYPES[dtype][1:]}" * (dtype != torch.float32),
        "kernel": many_tiles if many else one_tile,
        "signature": signature,
        "constants": {"D": D, "S": S, "A": A, "BM": BM, "BK": BK},
        "aligned": ["P"] * many,
        "options": {"num_warps": num_warps, "num_stages": 2},
    }
