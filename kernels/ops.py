"""Decoding and losses for every device, in eager mode and under torch.compile.

On a GPU the Triton kernels; elsewhere, and for tables that they do not take, plain torch. Eager calls go straight
there. Under torch.compile they become operators, `vqlabel::decode` and `vqlabel::loss`, that it does not look into:
wrapped so, each call costs tens of microseconds more. Nothing here waits for the GPU, so CUDA graphs can hold it all.

A temperature is a constant of what torch.compile makes: a step is compiled anew for each new one, up to the eight that
are torch's `recompile_limit`. If a schedule has more, leave the loss out of what is compiled: torch.compile does not
look into `vqlabel.losses.distillation_loss`, nor into what has `torch.compiler.disable`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from . import plain
from ._checks import FLOATS, Optional, Terms, check, check_labels, check_loss, check_temperature, empty_labels, served
from .tables import Tables

TABLES = "Tensor[] tensors, int[] sizes, str form, Tensor? h0, Tensor? spread"
LOSS = f"{TABLES}, float temperature, float student_temperature, str kind"


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
    """Labels [B, C]; `vqlabel.kernels.decode.decode` says of what. Without gradients."""
    if torch.compiler.is_compiling():
        wanted = check_labels(rows, tables, output, dtype, out)
        model = (*tables.parts(), h0, spread)
        found: torch.Tensor = _decode_op(rows, *model, check_temperature(temperature), output, wanted, lse)
        return found if out is None else out.copy_(found)
    with torch.no_grad():
        return _decode(rows, tables, h0, spread, temperature, output, dtype, lse, out)


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
    """Losses float32 [B]; `vqlabel.kernels.loss.loss` says of what. Only the student gets a gradient."""
    own = temperature if student_temperature is None else student_temperature
    if torch.compiler.is_compiling():
        model = (*tables.parts(), h0, spread)
        temperatures = check_temperature(temperature), check_temperature(own)
        found: torch.Tensor = _loss_op(student, rows, *model, *temperatures, kind)[0]
        return found
    if _has_kernel(rows, tables, student):
        from . import loss as kernels

        given: dict[str, Any] = {"temperature": temperature, "student_temperature": own, "kind": kind}
        return kernels.loss(student, rows, tables, h0=h0, spread=spread, **given)
    given = check_loss(student, rows, tables, h0, spread, (temperature, own, kind))._asdict()
    given |= {name: tensor.detach() for name, tensor in (("h0", h0), ("spread", spread)) if tensor is not None}
    return plain.loss(student, rows, tables, **given)


def _has_kernel(rows: torch.Tensor, tables: Tables, student: Optional = None) -> bool:
    return rows.is_cuda and served(tables) and (student is None or student.dtype in FLOATS)


def _decode(
    rows: torch.Tensor,
    tables: Tables,
    h0: Optional,
    spread: Optional,
    temperature: float,
    output: str,
    dtype: torch.dtype | None,
    lse: Optional,
    out: Optional,
) -> torch.Tensor:
    given: dict[str, Any] = {"h0": h0, "spread": spread, "output": output, "lse": lse}
    if _has_kernel(rows, tables):
        from . import decode as kernels

        return kernels.decode(rows, tables, temperature=temperature, dtype=dtype, out=out, **given)
    T = check(rows, tables, h0, spread, temperature, lse=lse)
    found = plain.decode(rows, tables, temperature=T, dtype=check_labels(rows, tables, output, dtype, out), **given)
    return found if out is None else out.copy_(found)


# The operators: tables come in parts, and nothing is optional that a caller can know.


def _run_decode(
    rows: torch.Tensor,
    tensors: Sequence[torch.Tensor],
    sizes: Sequence[int],
    form: str,
    h0: Optional,
    spread: Optional,
    temperature: float,
    output: str,
    dtype: torch.dtype,
    lse: Optional,
) -> torch.Tensor:
    tables = Tables.from_parts(tensors, sizes, form)
    found = _decode(rows, tables, h0, spread, temperature, output, dtype, lse, None)
    if _has_kernel(rows, tables):
        return found
    return empty_labels(len(rows), tables.C, dtype, rows.device).copy_(found)  # with the strides that were foretold


def _fake_decode(rows: torch.Tensor, tensors: Any, sizes: Any, form: str, *rest: Any) -> torch.Tensor:
    return empty_labels(len(rows), Tables.from_parts(tensors, sizes, form).C, rest[4], rows.device)


def _run_loss(
    student: torch.Tensor,
    rows: torch.Tensor,
    tensors: Sequence[torch.Tensor],
    sizes: Sequence[int],
    form: str,
    h0: Optional,
    spread: Optional,
    *terms: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    tables = Tables.from_parts(tensors, sizes, form)
    wanted = check_loss(student, rows, tables, h0, spread, terms)
    if _has_kernel(rows, tables, student):
        from . import loss as kernels

        return kernels.forward(student, rows, tables, h0, spread, wanted)
    losses = plain.loss(student, rows, tables, h0=h0, spread=spread, **wanted._asdict())
    return losses.float(), rows.new_zeros(4, len(rows), dtype=torch.float32)


def _fake_loss(student: torch.Tensor, rows: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return rows.new_empty(len(rows), dtype=torch.float32), rows.new_empty(4, len(rows), dtype=torch.float32)


def _run_gradient(
    incoming: torch.Tensor,
    stats: torch.Tensor,
    student: torch.Tensor,
    rows: torch.Tensor,
    tensors: Sequence[torch.Tensor],
    sizes: Sequence[int],
    form: str,
    h0: Optional,
    spread: Optional,
    *terms: Any,
) -> torch.Tensor:
    tables, wanted = Tables.from_parts(tensors, sizes, form), Terms(*terms)
    if _has_kernel(rows, tables, student):
        from . import loss as kernels

        return kernels.backward(incoming, student, stats, rows, tables, h0, spread, wanted)
    found = plain.gradient(incoming, student, rows, tables, h0=h0, spread=spread, **wanted._asdict())
    return found.contiguous()


def _fake_gradient(incoming: torch.Tensor, stats: torch.Tensor, student: torch.Tensor, *rest: Any) -> torch.Tensor:
    return torch.empty(student.shape, dtype=student.dtype, device=student.device)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    student, rows, tensors, sizes, form, h0, spread, *terms = inputs
    ctx.save_for_backward(output[1], student, rows, h0, spread, *tensors)
    ctx.rest = (sizes, form, terms)


def _gradient(ctx: Any, incoming: torch.Tensor, _: Any) -> tuple[Any, ...]:
    stats, student, rows, h0, spread, *tensors = ctx.saved_tensors
    sizes, form, terms = ctx.rest
    found = _gradient_op(incoming, stats, student, rows, tensors, sizes, form, h0, spread, *terms)
    return found, None, [None] * len(tensors), *[None] * 7


_decode_op: Any = torch.library.custom_op(
    "vqlabel::decode",
    _run_decode,
    mutates_args=(),
    schema=f"(Tensor rows, {TABLES}, float temperature, str output, ScalarType dtype, Tensor? lse) -> Tensor",
)
_loss_op: Any = torch.library.custom_op(
    "vqlabel::loss", _run_loss, mutates_args=(), schema=f"(Tensor student, Tensor rows, {LOSS}) -> (Tensor, Tensor)"
)
_gradient_op: Any = torch.library.custom_op(
    "vqlabel::loss_gradient",
    _run_gradient,
    mutates_args=(),
    schema=f"(Tensor incoming, Tensor stats, Tensor student, Tensor rows, {LOSS}) -> Tensor",
)
_decode_op.register_fake(_fake_decode)
_loss_op.register_fake(_fake_loss)
_gradient_op.register_fake(_fake_gradient)
_loss_op.register_autograd(_gradient, setup_context=_remember)
