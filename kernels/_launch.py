"""The host's side of every launch: sizes are chosen, tensors gathered."""

from __future__ import annotations

import contextlib
import math
from typing import Any, NamedTuple

import torch
import triton.language as tl

from ._checks import WIDEST, Optional, served
from ._parts import Model
from .tables import Tables


class Config(NamedTuple):
    """Sizes of a program: BM rows, BN classes at a time."""

    BM: int
    BN: int
    warps: int
    stages: int


class Choice(NamedTuple):
    """Configurations of a kernel, by the columns of x that its program holds."""

    halves: tuple[tuple[int, Config], ...]  # the first that fits, for float16 and bfloat16
    float32: Config  # each of whose products takes three of TF32

    def of(self, width: int, dtype: torch.dtype) -> Config:
        """The configuration for so many columns."""
        if dtype == torch.float32:
            return self.float32
        return next(config for widest, config in self.halves if width <= widest)


class Cut(NamedTuple):
    """A grid of row tiles x splits; a split has `per` of `tiles` tiles of classes."""

    grid: tuple[int]
    splits: int
    per: int
    tiles: int


def model(rows: torch.Tensor, tables: Tables, h0: Optional, spread: Optional) -> Model:
    """What the kernels read to make h, and W with it."""
    return Model(
        rows=rows.contiguous() if tables.G else None,
        books=tables.books if tables.G else None,
        groups=tables.groups if tables.G else None,
        places=tables.places,
        h0=None if h0 is None else h0.contiguous(),
        spread=None if spread is None else spread.contiguous(),
        x=None,
        weight=tables.weight,
        bias=tables.bias,
        **_sizes(tables, tables.latent_width, tables.form),
    )


def model_of_inputs(x: torch.Tensor, tables: Tables) -> Model:
    """What the kernels read if x [B, X] is there."""
    nothing: dict[str, Any] = dict.fromkeys(("rows", "books", "groups", "places", "h0", "spread"))
    return Model(**nothing, x=x, weight=tables.weight, bias=tables.bias, **_sizes(tables, tables.width, "read"))


def _sizes(tables: Tables, width: int, form: str) -> dict[str, Any]:
    first = 1 << (width.bit_length() - 1)
    sizes: dict[str, Any] = {
        "FORM": form,
        "G": tables.G,
        "K": tables.K,
        "NBITS": tables.nbits,
        "SPAN": (8 - math.gcd(8, tables.nbits) + tables.nbits + 7) // 8,  # codes begin at multiples of the divisor
        "ROW_BYTES": tables.row_bytes,
        "D": tables.D,
        "R": tables.R,
        "XA": first,
        "XB": width - first,
    }
    return {name: tl.constexpr(size) for name, size in sizes.items()}


def check_served(tables: Tables) -> None:
    """ValueError for tables that no kernel takes."""
    if not served(tables):
        width, dtype = max(tables.width, tables.latent_width), tables.weight.dtype
        raise ValueError(
            f"{width} columns of {dtype} are more than the {WIDEST.get(dtype, 0)} that a kernel holds; "
            "use vqlabel.kernels.ops, which then takes vqlabel.kernels.plain"
        )


def cut(B: int, tables: Tables, config: Config) -> Cut:
    """Enough splits for two programs on each processor of the GPU, if there are tiles enough."""
    row_tiles, tiles = -(-B // config.BM), -(-tables.C // config.BN)
    wanted = -(-2 * processors(tables.device) // row_tiles)
    per = -(-tiles // min(wanted, tiles))
    splits = -(-tiles // per)
    return Cut((row_tiles * splits,), splits, per, tiles)


def processors(device: torch.device) -> int:
    """Streaming multiprocessors; a few where there is no GPU, in the interpreter."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 8


def on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Where launches go."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
