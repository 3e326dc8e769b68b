"""Distillation losses on packed rows: the teacher's logits t = W x + b live in registers only.

    p = softmax(t / T), q = softmax(s / T_s) of the student's logits s
    kl           sum of p (log p - log q)
    soft_ce      -sum of p log q
    mse_logits   variance over the classes of s / T_s - t / T: the mean square after each is centred

    student [B, C]           f32, f16 or bf16          loss [B]       f32
    parts [splits, 5, B]     running numbers of a part of the classes, all measured from the largest logit so far
    stats [4, B]             what the gradient needs: of t / T and of s / T_s the largest, and how far the logsumexp is
                             above it; or the mean difference

Forward is two launches, the second of which only adds up; backward is one, which makes the products again.
"""

from __future__ import annotations

from typing import Any

import torch
import triton

from ._cases import DTYPES, case_of, model_case
from ._checks import Optional, Terms, check_loss
from ._launch import Choice, Config, check_served, cut, on
from .decode import inputs_of
from .loss_kernels import backward_kernel, finish_kernel, forward_kernel
from .tables import Tables

# Programs of forward_kernel and backward_kernel, and rows of finish_kernel.
TILES = Choice(
    ((192, Config(128, 32, 8, 3)), (256, Config(64, 32, 8, 2)), (512, Config(32, 32, 8, 1))), Config(64, 16, 4, 1)
)
FINISH_BM = 128


def loss(
    student: torch.Tensor,
    rows: torch.Tensor,
    tables: Tables,
    *,
    h0: Optional = None,
    spread: Optional = None,
    temperature: float,
    student_temperature: float | None = None,
    kind: str = "kl",
) -> torch.Tensor:
    """Losses float32 [B] of student logits [B, C] against packed rows u8 [B, row_bytes].

    The teacher's logits are divided by temperature, the student's by student_temperature, which is the same unless
    given. Nothing is multiplied by T^2: the gradient is (q - p) / T_s for "kl" and "soft_ce", so multiply by T * T_s
    yourself if the weight of this loss beside another is not to depend on them. Take the mean or the sum yourself too.
    Only the student's logits get a gradient, in their own type.
    """
    terms = check_loss(student, rows, tables, h0, spread, (temperature, student_temperature, kind))
    check_served(tables)
    apply: Any = _Loss.apply
    found: torch.Tensor = apply(student, rows, tables, h0, spread, terms)
    return found


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student: torch.Tensor,
        rows: torch.Tensor,
        tables: Tables,
        h0: Optional,
        spread: Optional,
        terms: Terms,
    ) -> torch.Tensor:
        losses, stats = forward(student, rows, tables, h0, spread, terms)
        ctx.save_for_backward(student, stats, rows, h0, spread)
        ctx.tables, ctx.terms = tables, terms
        return losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, incoming: torch.Tensor) -> tuple[Any, ...]:
        student, stats, rows, h0, spread = ctx.saved_tensors
        found = backward(incoming, student, stats, rows, ctx.tables, h0, spread, ctx.terms)
        return found, None, None, None, None, None


def forward(
    student: torch.Tensor, rows: torch.Tensor, tables: Tables, h0: Optional, spread: Optional, terms: Terms
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses [B], and stats [4, B] for the gradient."""
    B, C = student.shape
    losses, stats = (rows.new_empty(*shape, B, dtype=torch.float32) for shape in ((), (4,)))
    if not B:
        return losses, stats
    with on(rows.device):
        m = inputs_of(rows, tables, h0, spread)
        student, scales = in_rows(student), (1 / terms.temperature, 1 / terms.student_temperature)
        config = TILES.of(tables.width, tables.weight.dtype)
        grid, splits, per, tiles = cut(B, tables, config)
        parts = rows.new_empty(splits, 5, B, dtype=torch.float32)
        sizes = _sizes(student, config, tiles, terms)
        forward_kernel[grid](parts, student, m, B, *scales, per, splits, **sizes)
        finish = finish_kernel[(triton.cdiv(B, FINISH_BM),)]
        finish(losses, stats, parts, B, splits, terms.kind, C, FINISH_BM, num_warps=4)
    return losses, stats


def backward(
    incoming: torch.Tensor,
    student: torch.Tensor,
    stats: torch.Tensor,
    rows: torch.Tensor,
    tables: Tables,
    h0: Optional,
    spread: Optional,
    terms: Terms,
) -> torch.Tensor:
    """Gradient [B, C] in the student's logits."""
    B, C = student.shape
    found = torch.empty(B, C, dtype=student.dtype, device=rows.device)
    if not B:
        return found
    with on(rows.device):
        m = inputs_of(rows, tables, h0, spread)
        student, scales = in_rows(student), (1 / terms.temperature, 1 / terms.student_temperature)
        config = TILES.of(tables.width, tables.weight.dtype)
        grid, splits, per, tiles = cut(B, tables, config)
        sizes = _sizes(student, config, tiles, terms)
        incoming = incoming.float().contiguous()
        backward_kernel[grid](found, incoming, student, stats, m, B, *scales, per, splits, **sizes)
    return found


def in_rows(student: torch.Tensor) -> torch.Tensor:
    """The same logits, each row in one piece."""
    return student if student.stride(1) == 1 else student.contiguous()


def _sizes(student: torch.Tensor, config: Config, tiles: int, terms: Terms) -> dict[str, Any]:
    sizes = {"TILES": tiles, "C": student.shape[1], "STRIDE": student.stride(0), "BM": config.BM, "BN": config.BN}
    return {"KIND": terms.kind, **sizes, "num_warps": config.warps, "num_stages": config.stages}


def compile_cases() -> list[dict[str, Any]]:
    """Every configuration there is, for tests/compiled.py."""
    kernels = ("forward", "backward")
    widths = [_case(kernel, width) for width, _ in TILES.halves for kernel in kernels]
    others = [_case(kernel, 128, student="fp32", kind="mse_logits") for kernel in kernels]
    others += [_case(kernel, 192, student="fp32") for kernel in kernels]
    others += [_case(kernel, 192, "read", dtype="bf16", student="bf16", kind="soft_ce") for kernel in kernels]
    others += [_case(kernel, 128, "residual", student="fp32") for kernel in kernels]
    others += [_case(kernel, 128, dtype="fp32", student="fp32") for kernel in kernels]
    return widths + others + [_finish_case(kind) for kind in ("kl", "mse_logits")]


def _case(
    kernel: str, width: int, form: str = "product", *, dtype: str = "fp16", student: str = "fp16", kind: str = "kl"
) -> dict[str, Any]:
    config = TILES.of(width, DTYPES[dtype])
    C = 10_450 if width == 192 else 1000
    sizes = {"KIND": kind, "TILES": -(-C // config.BN), "C": C, "STRIDE": C, "BM": config.BM, "BN": config.BN}
    tensors = {"student": f"*{student}"}
    if kernel == "forward":
        tensors["parts"] = "*fp32"
    else:
        tensors |= {"to": f"*{student}", "incoming": "*fp32", "stats": "*fp32"}
    name = f"{kernel} X={width} {form} {dtype} {student} {kind}"
    code = forward_kernel if kernel == "forward" else backward_kernel
    return case_of(name, code, config, tensors, m=model_case(form, width, dtype), **sizes)


def _finish_case(kind: str) -> dict[str, Any]:
    tensors = dict.fromkeys(("loss", "stats", "parts"), "*fp32")
    return case_of(f"finish {kind}", finish_kernel, None, tensors, KIND=kind, C=1000, BM=FINISH_BM)
