"""Losses of a student's last layer: neither its logits nor the teacher's ever exist for more than a block of rows.

A block's logits and their gradient are made in the forward pass and gone before the next block: what is kept for the
backward pass are sums over all rows. Only where each row's loss is wanted, all is made again in the backward pass.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.nn import functional

from vqlabel.plain_loss import Teacher, gradient_of, loss_of
from vqlabel.wanted import Terms

Layer = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]  # hidden [B, d], weight [C, d], bias [C]
Gradients = list[torch.Tensor | None]  # of the three

SUM = 8  # log2 of what the magnitudes in a row add up to in fp16: with weights up to 255 no product is beyond its end


class Work(NamedTuple):
    """What is done with the logits of a layer."""

    teacher: Teacher
    terms: Terms
    parts: list[slice]
    each: bool  # whether the loss of each row is wanted, or their sum


def linear_loss(layer: Layer, work: Work) -> torch.Tensor:
    """Losses [B] of the logits hidden weight' + bias, or their sum; gradients reach all three."""
    apply: Any = _Linear.apply
    found: torch.Tensor = apply(*layer, work, torch.is_grad_enabled())
    return found


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, work: Work, learns: bool
    ) -> torch.Tensor:
        layer = hidden, weight, bias
        ctx.work, ctx.kinds = work, [None if part is None else part.dtype for part in layer]
        ctx.autocast = _autocast_here(hidden.device.type)
        needs = ctx.needs_input_grad[:3] if learns and not work.each else (False,) * 3
        # A row counts as 1 here: what the loss is multiplied by later, by a GradScaler say, is not known yet.
        losses, gradients = _pass(layer, work, needs, hidden.new_ones(len(hidden)))
        ctx.save_for_backward(*(layer if work.each else gradients))
        return losses if work.each else losses.sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, incoming: torch.Tensor) -> tuple[Any, ...]:
        if ctx.work.each:
            with ctx.autocast:  # the student's, which has ended: the same products as in the forward pass
                _, found = _pass(ctx.saved_tensors, ctx.work, ctx.needs_input_grad[:3], incoming)
        else:
            found = [None if part is None else part * incoming for part in ctx.saved_tensors]
        return *(g if g is None else g.to(kind) for g, kind in zip(found, ctx.kinds, strict=True)), None, None


def _pass(layer: Layer, work: Work, needs: tuple[bool, ...], scale: torch.Tensor) -> tuple[torch.Tensor, Gradients]:
    """Losses [B], and what is needed of the gradients of the sum of scale [B] times them, in float32 or better."""
    hidden, weight, bias = layer
    gradients = [_zeros(part) if need else None for part, need in zip(layer, needs, strict=True)]
    losses = []
    for part in work.parts:
        logits, teacher = functional.linear(hidden[part], weight, bias), work.teacher(part)
        losses.append(loss_of(logits, teacher, work.terms))
        if any(needs):
            _add(gradients, gradient_of(scale[part], logits, teacher, work.terms), layer, part, logits.dtype)
    return torch.cat([hidden.new_zeros(0, dtype=_wide(hidden)), *losses]), gradients


def _add(gradients: Gradients, slope: torch.Tensor, layer: Layer, part: slice, dtype: torch.dtype) -> None:
    """Add what a block does, by the gradient [b, C], in float32 or better, of its logits, which are of this dtype."""
    of_hidden, of_weight, of_bias = gradients
    if of_bias is not None:
        of_bias += slope.sum(0)
    if of_weight is not None and dtype == torch.bfloat16:
        of_weight += slope.to(dtype).T @ layer[0][part].to(dtype)
    elif of_weight is not None:
        # Not in fp16, which ends at 65504: these sums are not yet divided by the rows. autocast lets addmm_ be.
        of_weight.addmm_(slope.T, layer[0][part].to(of_weight.dtype))
    if of_hidden is not None:
        of_hidden[part] = _times(slope, layer[1], dtype)


def _times(slope: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Gradient [b, C] times weight [C, d], multiplied in this dtype.

    Its numbers are near 1 / C, and less at high temperatures: fp16 would lose it. So each row is brought to the
    same size by a power of two.
    """
    if dtype != torch.float16:
        return slope.to(dtype) @ weight.to(dtype)
    sizes = torch.linalg.vector_norm(slope, 1, dim=1, keepdim=True).clamp_min(2.0**-100)
    factor = torch.exp2(SUM - sizes.log2().ceil())
    return (slope * factor).to(dtype) @ weight.to(dtype) / factor


def _autocast_here(kind: str) -> torch.autocast:
    """To enter again what autocast says now of devices of this kind."""
    return torch.autocast(kind, torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind))


def _zeros(part: torch.Tensor | None) -> torch.Tensor | None:
    return None if part is None else torch.zeros_like(part, dtype=_wide(part))


def _wide(part: torch.Tensor) -> torch.dtype:
    return torch.promote_types(part.dtype, torch.float32)
