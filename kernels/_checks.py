"""Arguments of decoding and of the losses, checked once for every way they can take. No Triton here."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, NamedTuple

import torch

from .tables import Tables

Optional = torch.Tensor | None

WIDEST = {torch.float16: 512, torch.bfloat16: 512, torch.float32: 128}  # columns of h or x that a program can hold
OUTPUTS = ("probs", "log_probs", "logits")
KINDS = ("kl", "soft_ce", "mse_logits")
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
COLDEST, HOTTEST = 1e-15, 1e15  # beyond, float32 ends, or padding (tables.PADDING) is no longer far below all logits


class Terms(NamedTuple):
    """What a loss is, beside its tensors."""

    temperature: float
    student_temperature: float
    kind: str


def check(
    rows: torch.Tensor, tables: Tables, h0: Optional, spread: Optional, temperature: float, *, lse: Optional = None
) -> float:
    """The temperature as a float; ValueError unless these are rows of these tables."""
    B = len(rows) if rows.ndim else 0
    if rows.dtype != torch.uint8 or rows.shape != (B, tables.row_bytes):
        raise ValueError(f"rows must be uint8 [B, {tables.row_bytes}], got {rows.dtype} {list(rows.shape)}")
    for name, tensor, shape in (("h0", h0, (B, tables.R)), ("spread", spread, (B,)), ("lse", lse, (B,))):
        if tensor is not None and (tensor.shape != shape or not tensor.is_floating_point()):
            raise ValueError(f"{name} must be floats {list(shape)}, got {tensor.dtype} {list(tensor.shape)}")
        if tensor is not None and tensor.device != rows.device:
            raise ValueError(f"{name} is on {tensor.device}, but rows are on {rows.device}")
    if tables.device != rows.device:
        raise ValueError(f"rows are on {rows.device}, but the tables are on {tables.device}; move one of them")
    return check_temperature(temperature)


def check_temperature(temperature: Any) -> float:
    """It as a float, whoever's number it is; ValueError if it cannot divide logits, or wants a gradient: none gets one.

    Kernels take floats, and a tensor would lend its shape and type to what it divides.
    """
    if isinstance(temperature, torch.Tensor) and temperature.requires_grad:
        raise ValueError("a temperature gets no gradient here, but this one requires it: give temperature.item()")
    single = isinstance(temperature, torch.Tensor) and temperature.numel() == 1 and not temperature.is_complex()
    found: Any = temperature.item() if single else temperature
    if not (single or isinstance(temperature, Real)) or not 0 < found < math.inf:
        raise ValueError(f"temperature must be a finite number above 0, got {temperature!r:.80}")
    if not COLDEST <= found <= HOTTEST:
        raise ValueError(f"temperature must be 1e-15 to 1e15, got {found!r:.80}")
    return float(found)


def check_loss(
    student: torch.Tensor,
    rows: torch.Tensor,
    tables: Tables,
    h0: Optional,
    spread: Optional,
    terms: tuple[float, float | None, str],
) -> Terms:
    """Terms with nothing left open; ValueError unless all fits together."""
    given, given_own, kind = terms
    temperature = check(rows, tables, h0, spread, given)
    own = temperature if given_own is None else check_temperature(given_own)
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if student.shape != (len(rows), tables.C):
        raise ValueError(
            f"student logits are {list(student.shape)}, but {len(rows)} rows of these tables make "
            f"[{len(rows)}, {tables.C}]"
        )
    if student.device != rows.device or not student.is_floating_point():
        raise ValueError(f"student logits must be floats on {rows.device}, got {student.dtype} on {student.device}")
    return Terms(temperature, own, kind)


def check_labels(
    rows: torch.Tensor, tables: Tables, output: str, dtype: torch.dtype | None, out: Optional
) -> torch.dtype:
    """The dtype of labels; ValueError if they cannot be had, or cannot go to `out`."""
    if output not in OUTPUTS:
        raise ValueError(f"output must be one of {', '.join(OUTPUTS)}, got {output!r}")
    dtype = dtype or (torch.float32 if out is None else out.dtype)
    if dtype not in FLOATS:
        raise ValueError(f"labels can be float32, float16 or bfloat16, not {dtype}")
    if out is None:
        return dtype
    B, C = len(rows), tables.C
    if out.shape != (B, C) or out.dtype != dtype or out.device != rows.device:
        found = f"{out.dtype} {list(out.shape)} on {out.device}"
        raise ValueError(f"out must be {dtype} [{B}, {C}] on {rows.device}, got {found}")
    if C > 1 and out.stride(1) != 1:
        raise ValueError(f"each row of out must be in one piece, got strides {out.stride()}")
    return dtype


def empty_labels(B: int, C: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """An empty [B, C] whose rows begin at multiples of 16 bytes, so that stores can be as wide."""
    numbers = 16 // dtype.itemsize
    return torch.empty(B, -(-C // numbers) * numbers, dtype=dtype, device=device)[:, :C]


def served(tables: Tables) -> bool:
    """Whether the kernels can take these tables; plain.py takes all."""
    return max(tables.width, tables.latent_width) <= WIDEST.get(tables.weight.dtype, 0)
