"""Losses by torch, a block of rows at a time: of labels that are not kept as logits, only a block of them ever is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from vqlabel.blocks import row_blocks
from vqlabel.wanted import Terms

Teacher = Callable[[slice], torch.Tensor]  # logits [b, C] of some of the rows; without gradients


def plain_loss(student: torch.Tensor, teacher: Teacher, terms: Terms) -> torch.Tensor:
    """Losses [B] of student logits [B, C], in float32 or better; only the student's logits get a gradient."""
    dtype = torch.promote_types(student.dtype, torch.float32)
    parts = row_blocks(len(student), dtype.itemsize * student.shape[1])
    if len(parts) > 1:
        apply: Any = _InBlocks.apply
        found: torch.Tensor = apply(student, teacher, terms, parts)
        return found
    return loss_of(student, teacher(slice(None)), terms)  # small enough to be kept for the gradient


def loss_of(student: torch.Tensor, teacher: torch.Tensor, terms: Terms) -> torch.Tensor:
    """Losses [B] of logits [B, C]."""
    from vqlabel.kernels import plain

    dtype = torch.promote_types(student.dtype, torch.float32)
    found: torch.Tensor = plain.loss_of_logits(student.to(dtype), teacher.to(dtype), **terms._asdict())
    return found


def gradient_of(scale: torch.Tensor, student: torch.Tensor, teacher: torch.Tensor, terms: Terms) -> torch.Tensor:
    """Gradient [B, C] in the student's logits of the sum of scale [B] times the losses, in float32 or better."""
    from vqlabel.kernels import plain

    dtype = torch.promote_types(student.dtype, torch.float32)
    s, t = student.to(dtype), teacher.to(dtype)
    found: torch.Tensor = plain.gradient_of_logits(scale.to(dtype), s, t, **terms._asdict())
    return found


class _InBlocks(torch.autograd.Function):
    """Decodes again for the gradient: to keep what was decoded would be to hold all of it."""

    @staticmethod
    def forward(ctx: Any, student: torch.Tensor, teacher: Teacher, terms: Terms, parts: list[slice]) -> torch.Tensor:
        ctx.save_for_backward(student)
        ctx.teacher, ctx.terms, ctx.parts = teacher, terms, parts
        return torch.cat([loss_of(student[part], teacher(part), terms) for part in parts])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, incoming: torch.Tensor) -> tuple[Any, ...]:
        (student,) = ctx.saved_tensors
        found = torch.empty_like(student)
        for part in ctx.parts:
            found[part] = gradient_of(incoming[part], student[part], ctx.teacher(part), ctx.terms)
        return found, None, None, None
