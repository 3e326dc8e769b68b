"""Kernels as tests/compiled.py wants to hear of them: every configuration, for GPUs that are not there."""

from __future__ import annotations

import math
from typing import Any

import torch

from ._launch import Config
from ._parts import Model

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}  # as Triton spells them


def case_of(
    name: str, kernel: Any, config: Config | None, arguments: dict[str, str], **constants: Any
) -> dict[str, Any]:
    """A case for tests/compiled.py: arguments by type, constants by value; a Model is both."""
    options = {"num_warps": config.warps, "num_stages": config.stages} if config else {"num_warps": 4}
    numbers = dict.fromkeys(("B", "per", "splits"), "i32") | dict.fromkeys(("scale", "scale_s"), "fp32")
    signature: dict[str, Any] = {n: kind for n, kind in numbers.items() if n in kernel.arg_names} | arguments
    if "m" in constants:
        signature["m"], constants["m"] = _typed(constants["m"])
    return {"name": name, "kernel": kernel, "signature": signature, "constants": constants, "options": options}


def _typed(m: Model) -> tuple[Model, Model]:
    """Types and constants of a Model whose tensors are given by type or None, its sizes by value."""
    pointers = Model(*("constexpr" if value is None or not str(value).startswith("*") else value for value in m))
    constants = Model(*(None if kind != "constexpr" else value for kind, value in zip(pointers, m, strict=True)))
    return pointers, constants


def model_case(form: str, width: int, dtype: str = "fp16", D: int = 8, nbits: int = 8) -> Model:
    """A Model for a case: h of a prior and 16 books, or x that is there."""
    first, G = 1 << (width.bit_length() - 1), 16
    pointers = {
        "rows": "*u8",
        "books": f"*{dtype}",
        "groups": "*i32",
        "places": "*i32",
        "h0": "*fp32",
        "spread": "*fp32",
    }
    read = form == "read"
    tensors: list[Any] = [None if read else kind for kind in pointers.values()] + [f"*{dtype}" if read else None]
    span = (8 - math.gcd(8, nbits) + nbits + 7) // 8
    sizes: list[Any] = [form, G, 2**nbits, nbits, span, G * nbits // 8, D, width, first, width - first]
    return Model(*[*tensors, f"*{dtype}", "*fp32", *sizes])
