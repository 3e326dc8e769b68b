"""Packed rows to labels in one or two launches, with nothing between them in memory but two numbers a row.

    label = softmax((W x + b) / T), or its logarithm, or W x + b;  x = h, or [h; gelu(V h + c)]

    rows [B, row_bytes]    packed codes           x [B, X]          only with a hidden layer
    h0 [B, R], spread [B]  of a prior             out [B, C]
    stats [splits, 2, B]   largest scaled logit of a part of the classes, and the sum of exponentials measured from it

Up to ROW_LIMIT classes a program holds whole rows. Beyond, classes are cut into splits: one launch finds the statistics
of each, the next makes the products again and writes. With the logsumexp of each row at hand, the first is left out.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton

from ._cases import DTYPES, case_of, model_case
from ._checks import Optional, check, check_labels, empty_labels
from ._launch import Choice, Config, check_served, cut, model, model_of_inputs, on
from ._parts import Model
from .decode_kernels import latent_kernel, row_kernel, stats_kernel, write_kernel
from .tables import ROW_LIMIT, Tables

# Programs of stats_kernel and write_kernel, of latent_kernel, and of row_kernel.
TILES = Choice(
    (
        (128, Config(128, 64, 8, 3)),
        (192, Config(128, 64, 8, 2)),
        (256, Config(64, 64, 8, 2)),
        (512, Config(32, 64, 8, 1)),
    ),
    Config(64, 16, 4, 1),
)
LATENT = Choice(((128, Config(32, 64, 4, 1)), (512, Config(16, 32, 8, 1))), Config(16, 16, 4, 1))
ROWS = Config(16, ROW_LIMIT, 8, 1)


def path(tables: Tables, output: str, lse: Optional) -> str:
    """How labels are made: "row" at once, "once" with all that it takes known, or "twice"."""
    if output == "logits" or lse is not None:
        return "once"
    return "row" if tables.C <= ROW_LIMIT else "twice"


def tiles_of(width: int, dtype: torch.dtype, labels: torch.dtype) -> Config:
    """The configuration of stats_kernel and write_kernel: halved where float32 labels would take too much memory."""
    config = TILES.of(width, dtype)
    return config._replace(BN=config.BN // 2) if labels == torch.float32 and width > 128 else config


def step(width: int, wide: bool) -> int:
    """Columns of x that row_kernel multiplies at a time; of float32 as many bytes."""
    return 16 if wide else math.gcd(32, width)


def decode(
    rows: torch.Tensor,
    tables: Tables,
    *,
    h0: Optional = None,
    spread: Optional = None,
    temperature: float = 1.0,
    output: str = "probs",
    dtype: torch.dtype | None = None,
    lse: Optional = None,
    out: Optional = None,
) -> torch.Tensor:
    """Labels [B, C] of packed rows u8 [B, row_bytes], least significant bit first.

    A prior gives h0 [B, R], in the order of the file, and spread [B]. output: "probs" of softmax(logits / temperature),
    their logarithms "log_probs", or "logits", which know no temperature. dtype: float32 unless it or out says
    otherwise. lse [B]: the logsumexp of each row of logits / temperature, if it is known; labels then take one pass.
    """
    temperature = check(rows, tables, h0, spread, temperature, lse=lse)
    check_served(tables)
    dtype = check_labels(rows, tables, output, dtype, out)
    labels = Labels(output, 1 / temperature, None if lse is None else lse.contiguous(), out is None)
    out = empty_labels(len(rows), tables.C, dtype, rows.device) if out is None else out
    if len(rows):
        with on(rows.device):
            _write(out, inputs_of(rows, tables, h0, spread), tables, labels)
    return out


class Labels(NamedTuple):
    """What is wanted of the logits."""

    output: str
    scale: float
    lse: Optional
    padded: bool  # whether the memory between the rows is ours


def inputs_of(rows: torch.Tensor, tables: Tables, h0: Optional, spread: Optional) -> Model:
    """What the product with W reads: rows themselves, or x if a hidden layer has to come first."""
    m = model(rows, tables, h0, spread)
    if not tables.hidden:
        return m
    x = torch.empty(len(rows), tables.width, dtype=tables.weight.dtype, device=rows.device)
    units, config = len(tables.inner), LATENT.of(tables.latent_width, tables.weight.dtype)
    BM, BN = config.BM, math.gcd(config.BN, units)
    start = tables.width - units
    m = m._replace(weight=tables.inner, bias=tables.inner_bias)
    launch = latent_kernel[(triton.cdiv(len(rows), BM),)]
    launch(x, m, len(rows), start, units, BM, BN, num_warps=config.warps, num_stages=config.stages)
    return model_of_inputs(x, tables)


def _write(out: torch.Tensor, m: Model, tables: Tables, labels: Labels) -> None:
    B, way = len(out), path(tables, labels.output, labels.lse)
    stride = out.stride(0) if B > 1 or labels.padded else tables.C
    to = {"OUTPUT": labels.output, "C": tables.C, "COLS": stride if labels.padded else tables.C, "STRIDE": stride}
    if way == "row":
        BN = len(tables.bias)
        blocks = {"BM": ROWS.BM, "BN": BN, "BX": step(tables.width, tables.weight.dtype == torch.float32)}
        launch = row_kernel[(triton.cdiv(B, ROWS.BM),)]
        launch(out, m, B, labels.scale, **to, **blocks, num_warps=ROWS.warps * BN // ROW_LIMIT, num_stages=ROWS.stages)
        return
    config = tiles_of(tables.width, tables.weight.dtype, out.dtype)
    grid, splits, per, tiles = cut(B, tables, config)
    blocks = {"TILES": tiles, "BM": config.BM, "BN": config.BN, "num_warps": config.warps, "num_stages": config.stages}
    stats = None
    if way == "twice":
        stats = torch.empty(splits, 2, B, dtype=torch.float32, device=out.device)
        stats_kernel[grid](stats, m, B, labels.scale, per, splits, **blocks)
    write_kernel[grid](out, m, labels.lse, stats, B, labels.scale, per, splits, **to, **blocks)


def compile_cases() -> list[dict[str, Any]]:
    """Every configuration there is, for tests/compiled.py."""
    widths = [_case(kind, width) for width, _ in TILES.halves for kind in ("stats", "write")]
    written = [
        _case("write", 128, out="fp32"),
        *(_case("write", width, out="fp32") for width in (192, 256, 512)),
        _case("write", 192, "residual", output="logits", lse="*fp32"),
        _case("write", 256, "read", dtype="bf16", out="bf16", output="log_probs", lse="*fp32"),
        _case("write", 128, dtype="fp32", out="fp32"),
        _case("stats", 128, dtype="fp32"),
    ]
    rows = [
        _row_case(64, 1024),
        _row_case(256, 1024, "read", "bf16"),
        _row_case(64, 128),
        _row_case(128, 1024, dtype="fp32"),
    ]
    return widths + written + rows + [_latent_case(128), _latent_case(512), _latent_case(128, "fp32")]


def _case(
    kind: str,
    width: int,
    form: str = "product",
    *,
    dtype: str = "fp16",
    out: str = "fp16",
    output: str = "probs",
    lse: str | None = None,
) -> dict[str, Any]:
    config = tiles_of(width, DTYPES[dtype], DTYPES[out])
    C = 10_450 if width == 192 else 1000
    stride = -(-C // 8) * 8
    constants = {"m": model_case(form, width, dtype), "TILES": -(-C // config.BN), "BM": config.BM, "BN": config.BN}
    name = f"{kind} X={width} {form} {dtype}"
    if kind == "stats":
        return case_of(name, stats_kernel, config, {"stats": "*fp32"}, **constants)
    found = {"out": f"*{out}"} | ({"lse": lse} if lse else {"stats": "*fp32"})
    constants |= {"OUTPUT": output, "C": C, "COLS": stride, "STRIDE": stride} | (
        {"stats": None} if lse else {"lse": None}
    )
    return case_of(f"{name} {output} {out}", write_kernel, config, found, **constants)


def _row_case(width: int, BN: int, form: str = "product", dtype: str = "fp16") -> dict[str, Any]:
    C, out = BN - 24, "fp32" if dtype == "fp32" else "fp16"
    sizes = {
        "OUTPUT": "probs",
        "C": C,
        "COLS": C,
        "STRIDE": C,
        "BM": ROWS.BM,
        "BN": BN,
        "BX": step(width, dtype == "fp32"),
    }
    config = ROWS._replace(warps=ROWS.warps * BN // ROW_LIMIT)
    m = model_case(form, width, dtype)
    return case_of(f"row X={width} {form} {dtype} C={C}", row_kernel, config, {"out": f"*{out}"}, m=m, **sizes)


def _latent_case(width: int, dtype: str = "fp16") -> dict[str, Any]:
    config = LATENT.of(width, DTYPES[dtype])
    sizes = {"START": width, "UNITS": 192, "BM": config.BM, "BN": config.BN}
    m = model_case("product", width, dtype)
    return case_of(f"latent {width} {dtype}", latent_kernel, config, {"x": f"*{dtype}"}, m=m, **sizes)
