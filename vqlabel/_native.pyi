"""The fast half of vqlabel.

Packed codes are rows of `count` codes of `nbits` bits (1 to 24), least significant bit first, padded to a byte.

Codes are uint8 up to 8 bits, uint16 up to 16, uint32 above. Arrays must be C-contiguous and of exactly these dtypes:
a wrong one is an error, never a silent copy. `out` is filled and returned when given. pack, unpack and gather_unpack
split their rows over `threads` threads (1 to 256); every call lets go of the interpreter lock.
"""

from typing import Any

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
    """Name the instructions in use: scalar, ssse3, avx2 or neon."""

def use_simd(name: str) -> None:
    """Use these instructions from now on; ValueError if this processor does not have them.

    The environment variable VQLABEL_SIMD does the same at import.
    """
