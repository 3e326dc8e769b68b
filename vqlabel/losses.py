"""Distillation losses of a student's logits against packed labels, or against a teacher's logits.

With p = softmax(t / T) of the teacher's logits t and q = softmax(s / T_s) of the student's s, a row's loss is

    kl           sum of p (log p - log q)
    soft_ce      -sum of p log q
    mse_logits   variance over the classes of s / T_s - t / T: labels are known up to a constant a row

and the result is the mean over the rows. Nothing is multiplied by T^2 behind your back: if the gradient is not to
shrink with the temperature beside another loss, multiply by T * T_s yourself.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from vqlabel.arguments import check_whole, check_word
from vqlabel.blocks import row_blocks
from vqlabel.linear_loss import Work, linear_loss
from vqlabel.packed import PackedLabels
from vqlabel.plain_loss import plain_loss
from vqlabel.wanted import KINDS, Terms, check_temperature

Labels = PackedLabels | torch.Tensor

REDUCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mean": torch.mean,
    "sum": torch.sum,
    "none": torch.Tensor.clone,
}


@torch.compiler.disable  # type: ignore[untyped-decorator]
def distillation_loss(
    student_logits: torch.Tensor,
    labels: Labels,
    temperature: float,
    student_temperature: float | None = None,
    kind: str = "kl",
    *,
    reduction: str = "mean",
    images: torch.Tensor | None = None,
) -> torch.Tensor:
    """Loss of student logits [B, C] against labels: packed ones, or a teacher's logits [B, C].

    The student's temperature is the teacher's unless given. images are for a prior that looks at them, see
    `PackedLabels.probs`. Labels of codec `vq` are decoded inside the loss where Triton has a GPU, and never take B x C
    numbers of memory; others are decoded a block of rows at a time, of 64 MiB, and where there are several blocks once
    more for the gradient.

    >>> student = torch.tensor([[2.0, 0.0, -2.0]], requires_grad=True)
    >>> loss = distillation_loss(student, torch.tensor([[4.0, 0.0, -4.0]]), temperature=4, student_temperature=2)
    >>> round(loss.item(), 6)
    0.0
    """
    terms = _terms(temperature, student_temperature, kind)
    check_word("reduction", reduction, tuple(REDUCTIONS))
    check_student(student_logits, labels)
    if isinstance(labels, PackedLabels):
        rows = labels.decoder.loss(student_logits, labels, terms, images=images)
    else:
        rows = plain_loss(student_logits, labels.detach().__getitem__, terms)
    return REDUCTIONS[reduction](rows)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def linear_distillation_loss(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: Labels,
    temperature: float,
    student_temperature: float | None = None,
    kind: str = "kl",
    *,
    bias: torch.Tensor | None = None,
    reduction: str = "mean",
    images: torch.Tensor | None = None,
    block: int | None = None,
) -> torch.Tensor:
    """`distillation_loss` of the logits hidden [B, d] weight' [d, C] + bias [C], which are never there all at once.

    For students with many classes, whose logits take more memory than all else: the logits, the labels and the
    gradient between them are made for `block` rows at a time, by default as many as have 64 MiB of logits in float32.
    Gradients reach hidden, weight and bias; those of weight and bias are summed in float32 or better. Larger blocks
    make fewer and larger products and take more memory: ten times as many bytes as a block has logits in float32, as
    was counted on a CPU. With reduction "none" each block is made twice.

    >>> hidden, weight = torch.randn(3, 8, requires_grad=True), torch.randn(5, 8, requires_grad=True)
    >>> loss = linear_distillation_loss(hidden, weight, torch.randn(3, 5), temperature=2.0, block=2)
    >>> loss.backward()
    >>> hidden.grad.shape, weight.grad.shape
    (torch.Size([3, 8]), torch.Size([5, 8]))
    """
    terms = _terms(temperature, student_temperature, kind)
    check_word("reduction", reduction, tuple(REDUCTIONS))
    if block is not None:
        check_whole("block", block, 1, 2**31)
    check_layer(hidden, weight, bias, labels)
    wide = torch.promote_types(hidden.dtype, torch.float32)
    if isinstance(labels, PackedLabels):
        path = labels.decoder.path(labels.device)
        path.check(terms)
        teacher = path.teacher(*labels.decoder.parts(labels, images), wide)
    else:
        teacher = labels.detach().__getitem__
    parts = row_blocks(len(hidden), wide.itemsize * len(weight), block)
    found = linear_loss((hidden, weight, bias), Work(teacher, terms, parts, reduction == "none"))
    return found / len(hidden) if reduction == "mean" else found


def _terms(temperature: float, student_temperature: float | None, kind: str) -> Terms:
    check_word("kind", kind, KINDS)
    found = check_temperature(temperature)
    return Terms(found, found if student_temperature is None else check_temperature(student_temperature), kind)


def check_student(student: torch.Tensor, labels: Labels) -> None:
    """ValueError unless these logits are of the rows and classes of the labels, and on their device."""
    C = _classes(labels)
    if student.ndim != 2 or not student.is_floating_point():
        raise ValueError(f"student logits must be floats [B, {C}], got {student.dtype} {list(student.shape)}")
    if student.shape[1] != C:
        raise ValueError(
            f"the student has {student.shape[1]} classes, but the labels have {C}"
            + (f"; if those beyond are padding, pass logits[..., :{C}]" if student.shape[1] > C else "")
        )
    _check_rows("student logits", student, labels)


def check_layer(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: Labels) -> None:
    """ValueError unless this layer makes logits of the rows and classes of the labels, on their device."""
    C = _classes(labels)
    if hidden.ndim != 2 or not hidden.is_floating_point():
        raise ValueError(f"hidden must be floats [B, d], got {hidden.dtype} {list(hidden.shape)}")
    if weight.ndim == 2 and weight.shape[0] > C:
        raise ValueError(
            f"weight is for {len(weight)} classes, but the labels have {C}; if those beyond are padding, pass "
            f"weight[:{C}], and of a bias as many"
        )
    for name, part, shape in (("weight", weight, (C, hidden.shape[1])), ("bias", bias, (C,))):
        if part is not None and (part.shape != shape or not part.is_floating_point()):
            raise ValueError(f"{name} must be floats {list(shape)}, got {part.dtype} {list(part.shape)}")
        if part is not None and part.device != hidden.device:
            raise ValueError(f"{name} is on {part.device}, but hidden is on {hidden.device}: move them with .to()")
    _check_rows("hidden", hidden, labels)


def _classes(labels: Labels) -> int:
    if isinstance(labels, PackedLabels):
        return labels.decoder.classes
    if labels.ndim != 2 or not labels.is_floating_point():
        raise ValueError(
            f"labels must be packed ones or a teacher's logits [B, C], got {labels.dtype} {list(labels.shape)}"
        )
    return labels.shape[1]


def _check_rows(name: str, rows: torch.Tensor, labels: Labels) -> None:
    if len(rows) != len(labels):
        raise ValueError(f"{len(rows)} rows of {name} meet labels of {len(labels)} rows")
    if rows.device != labels.device:
        raise ValueError(f"{name} are on {rows.device}, labels on {labels.device}: move them with .to()")
