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

from vqlabel.arguments import check_word
from vqlabel.packed import PackedLabels
from vqlabel.paths import plain_loss
from vqlabel.wanted import KINDS, Terms, check_temperature

REDUCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mean": torch.mean,
    "sum": torch.sum,
    "none": torch.Tensor.clone,
}


@torch.compiler.disable  # type: ignore[untyped-decorator]
def distillation_loss(
    student_logits: torch.Tensor,
    labels: PackedLabels | torch.Tensor,
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
    numbers of memory; others are decoded first.

    >>> student = torch.tensor([[2.0, 0.0, -2.0]], requires_grad=True)
    >>> loss = distillation_loss(student, torch.tensor([[4.0, 0.0, -4.0]]), temperature=4, student_temperature=2)
    >>> round(loss.item(), 6)
    0.0
    """
    check_word("kind", kind, KINDS)
    check_word("reduction", reduction, tuple(REDUCTIONS))
    terms = Terms(temperature, temperature if student_temperature is None else student_temperature, kind)
    for value in terms[:2]:
        check_temperature(value)
    check_student(student_logits, labels)
    if isinstance(labels, PackedLabels):
        rows = labels.decoder.loss(student_logits, labels, terms, images=images)
    else:
        rows = plain_loss(student_logits, labels.detach(), terms)
    return REDUCTIONS[reduction](rows)


def check_student(student: torch.Tensor, labels: PackedLabels | torch.Tensor) -> None:
    """ValueError unless these logits are of the rows and classes of the labels, and on their device."""
    if isinstance(labels, torch.Tensor) and (labels.ndim != 2 or not labels.is_floating_point()):
        raise ValueError(
            f"labels must be packed ones or a teacher's logits [B, C], got {labels.dtype} {list(labels.shape)}"
        )
    C = labels.decoder.classes if isinstance(labels, PackedLabels) else labels.shape[1]
    if student.ndim != 2 or not student.is_floating_point():
        raise ValueError(f"student logits must be floats [B, {C}], got {student.dtype} {list(student.shape)}")
    if student.shape[1] != C:
        raise ValueError(f"the student has {student.shape[1]} classes, but the labels have {C}")
    if len(student) != len(labels):
        raise ValueError(f"{len(student)} rows of student logits meet labels of {len(labels)} rows")
    if student.device != labels.device:
        raise ValueError(f"student logits are on {student.device}, labels on {labels.device}: move them with .to()")
