"""The fast half of vqlabel.

Packed codes are rows of `count` codes of `nbits` bits (1 to 24), least significant bit first, padded to a byte.

Codes are uint8 up to 8 bits, uint16 up to 16, uint32 above. Arrays must be C-contiguous and of exactly these dtypes:
a wrong one is an error, never a silent copy. `out` is filled and returned when given. What takes `threads` (1 to 256)
splits its rows over them; every call lets go of the interpreter lock. No result depends on the threads, or on the
processor: sums of floats keep the order that vqlabel/reference.py shows.
"""

from collections.abc import Iterable
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

_Codes = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.uint32]

def pack(codes: _Codes, nbits: int, *, out: NDArray[np.uint8] | None = None, threads: int = 1) -> NDArray[np.uint8]:
    """Codes [N, count] to rows [N, ceil(count * nbits / 8)]. A code of 2**nbits or more is a ValueError."""

def unpack(
    packed: NDArray[np.uint8], nbits: int, count: int, *, out: _Codes | None = None, threads: int = 1
) -> NDArray[Any]:
    """Rows [N, ceil(count * nbits / 8)] to codes [N, count]."""

def gather_unpack(
    buffer: Buffer,
    row_bytes: int,
    indices: NDArray[np.int64],
    nbits: int,
    count: int,
    out: _Codes | None = None,
    threads: int = 1,
) -> NDArray[Any]:
    """Codes [B, count] of the rows named by indices [B].

    `buffer` is anything that exports contiguous bytes, rows of row_bytes one after the other; a row may be longer than
    its codes. A negative or too large index is an IndexError; `out` then holds some of the rows.
    """

def nearest(
    h: NDArray[np.float32], books: NDArray[np.float32], sizes: Iterable[SupportsIndex], *, threads: int = 1
) -> NDArray[Any]:
    """Codes [N, G] of rows h [N, R]: in the sizes[g] columns of each group, the nearest row of books [K, R].

    The lowest of equally near ones. A distance that is infinite or not a number is never the nearest; code 0 if all
    are. K is 1 to 65536; codes are uint8 up to 256 words, uint16 above.
    """

def additive_search(
    dots: NDArray[np.float32], gram: NDArray[np.float32], beam: int, *, threads: int = 1
) -> NDArray[Any]:
    """Choices [N, beam, M] of a word of each book that maximise the sum of dots less that of gram over pairs of books.

    dots [N, M, K] is 2 x.b - |b|^2 for each word b; gram [M, M, K, K] is 2 b.b' for the words of book i and those of
    book j > i (the rest is ignored). The search keeps the `beam` (1 to 64) best choices after each book in turn, best
    first; among equals the earlier of the beam, then the lower code. Where fewer are possible the last of them is
    repeated. A score of minus infinity or not a number is never kept; code 0 if all are. Codes are uint8 up to 256
    words, uint16 above.
    """

def class_prior(
    own: NDArray[np.int64],
    other: NDArray[np.int64],
    regime: NDArray[np.int64],
    tables: tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]],
    *,
    out: NDArray[np.float32] | None = None,
    threads: int = 1,
) -> NDArray[np.float32]:
    """Expected latents [N, R] = ga[regime] * A[own] + gb[regime] * B[other] + g0[regime].

    tables = (A, B, ga, gb, g0) of float32 [C, R], [C, R], [L], [L] and [L, R]. A negative or too large index is an
    IndexError; `out` then holds some of the rows.
    """

class Decoder:
    """What turns rows of codec `vq` into labels; vqlabel/native_decode.py makes one of the tensors of a file.

    sizes are G, nbits and R. books are float32 [G K, R], or with owner, the book of each dimension, [R, K]. A layer is
    (numbers int8 [planes, outputs, inputs], scale float32 [planes, outputs], bias float32 [outputs]): its weights are
    the sum of scale * numbers over the planes, and its inputs are rounded to 16 bits. So labels are near those of
    vqlabel/reference.py, and the same bits on every processor. output sees h [R], then the hidden layer that `inner`
    makes of h; with as many inputs as the hidden layer has outputs, it sees that alone.
    """

    def __init__(
        self,
        sizes: tuple[int, int, int],
        books: NDArray[np.float32],
        owner: NDArray[np.int64] | None,
        output: tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.float32]],
        inner: tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.float32]] | None = None,
    ) -> None: ...
    def takes_tables(self, has_h0: bool) -> bool:
        """Say whether rows are summed from tables of logits, made at the first call, or go through the layers."""

    def decode(
        self,
        rows: NDArray[np.uint8],
        out: NDArray[np.float32] | NDArray[np.float16],
        *,
        output: str = "probs",
        temperature: float = 1.0,
        h0: NDArray[np.float32] | None = None,
        spread: NDArray[np.float32] | None = None,
        threads: int = 1,
    ) -> NDArray[Any]:
        """Fill out [B, C] with `probs` or `log_probs` of logits / temperature, or `logits`, of packed rows.

        h0 [B, R] and spread [B] are 0 and 1 without a prior. A row whose h0 holds an infinity or no number becomes no
        numbers. What float16 cannot hold is a ValueError; `out` then holds some of the rows.
        """

def philox(counters: NDArray[np.uint32], key: int) -> NDArray[np.uint32]:
    """Philox4x32-10: four draws [B, 4] for each counter [B, 4]."""

def replay_parameters(
    recipe: Any,
    epochs: NDArray[np.int64],
    images: NDArray[np.int64],
    mixers: NDArray[np.int64],
    sizes: NDArray[np.int32],
) -> tuple[
    NDArray[np.int32], NDArray[np.bool_], NDArray[np.uint8], NDArray[np.int64], NDArray[np.float64], NDArray[np.int32]
]:
    """Crops [B, 4], flips [B], kinds [B], partners [B], shares [B] and cuts [B, 4] of a ReplayRecipe.

    sizes [B, 2] are heights and widths of the source images; mixers [B] are the ids that the mix is drawn for.
    """

def simd() -> str:
    """Name the instructions in use: scalar, ssse3, avx2, avx512 or neon."""

def use_simd(name: str) -> None:
    """Use these instructions from now on; ValueError if this processor does not have them.

    The environment variable VQLABEL_SIMD does the same at import.
    """
