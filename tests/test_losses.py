"""Distillation losses: their formulas in float64, their gradients, no factor T^2, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from decoder_parts import CLASSES, KINDS, file_of, marked, views_of

from vqlabel import LabelDecoder
from vqlabel.losses import distillation_loss
from vqlabel.schedules import StepTemperature
from vqlabel.wanted import KINDS as LOSSES

pytestmark = pytest.mark.usefixtures("one_thread")

SOME = np.array([0, 299, 61, 7, 7])
ALL = pytest.mark.parametrize("kind", LOSSES)


def student_of(dtype: torch.dtype = torch.float32, rows: int = 5) -> torch.Tensor:
    made = torch.randn(rows, CLASSES, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    return made.to(dtype).requires_grad_()


def formula(kind: str, s: Any, t: Any, own: float, T: float) -> Any:
    """Losses [B], as the docstring of vqlabel.losses writes them, in float64 by NumPy."""
    s, t = s / own, t / T
    if kind == "mse_logits":
        return (s - t).var(1)
    p, q = (np.exp(x - x.max(1, keepdims=True)) for x in (t, s))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    p_log_p = np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0)
    return ((p_log_p if kind == "kl" else 0) - p * np.log(q)).sum(1)


def test_logits_of_dropped_classes_are_not_compared() -> None:
    labels = LabelDecoder(file_of("topk")).read(SOME)
    with pytest.raises(ValueError, match="these labels drop classes, which then have no logits to compare"):
        distillation_loss(student_of(), labels, 4.0, kind="mse_logits")


@pytest.mark.parametrize(
    ("kind", "labels"), [(a, b) for a in LOSSES for b in KINDS if (a, b) != ("mse_logits", "topk")]
)
@pytest.mark.parametrize(("T", "own"), [(4.0, None), (20.0, 2.0), (0.5, 1.0)])
def test_losses_are_their_formulas(kind: str, labels: str, T: float, own: float | None) -> None:
    decoder, images = LabelDecoder(file_of(labels)), views_of(labels, SOME)
    teacher = decoder(SOME, output="logits", dtype=torch.float64, images=images)
    student = student_of()
    wanted = formula(kind, student.detach().double().numpy(), teacher.numpy(), own or T, T)
    found = distillation_loss(student, decoder.read(SOME), T, own, kind, reduction="none", images=images)
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-4, atol=1e-6)
    of_logits = distillation_loss(student, teacher, T, own, kind, reduction="none")
    np.testing.assert_allclose(of_logits.detach().numpy(), wanted, rtol=1e-4, atol=1e-6)


@ALL
def test_rows_are_averaged_summed_or_left_alone(kind: str) -> None:
    labels, student = LabelDecoder(file_of("product")).read(SOME), student_of()
    rows = distillation_loss(student, labels, 4.0, kind=kind, reduction="none")
    assert rows.shape == (5,)
    torch.testing.assert_close(distillation_loss(student, labels, 4.0, kind=kind), rows.mean())
    torch.testing.assert_close(distillation_loss(student, labels, 4.0, kind=kind, reduction="sum"), rows.sum())


@ALL
@pytest.mark.parametrize("labels", ["raw", "product", "classes"])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_gradients_are_those_of_the_formulas(kind: str, labels: str, backend: str) -> None:
    packed = LabelDecoder(file_of(labels), backend=backend).read(SOME)

    def loss(student: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = distillation_loss(student, packed, 4.0, 2.0, kind, reduction="none")
        return found

    assert torch.autograd.gradcheck(loss, student_of(torch.float64))


@ALL
def test_no_gradient_reaches_the_teacher(kind: str) -> None:
    teacher, student = student_of(), student_of()
    distillation_loss(student, teacher + 1, 4.0, kind=kind).backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_gradients_of_kl_are_probabilities_apart_and_not_times_temperature_squared() -> None:
    decoder, student = LabelDecoder(file_of("product")), student_of()
    for T, own in ((1.0, 1.0), (20.0, 20.0), (20.0, 4.0)):
        loss = distillation_loss(student, decoder.read(SOME), T, own)
        (gradient,) = torch.autograd.grad(loss, student)
        wanted = (torch.softmax(student / own, 1) - decoder(SOME, T)) / (own * len(SOME))
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-6)


def test_labels_kl_is_the_loss() -> None:
    labels, student = LabelDecoder(file_of("classes")).read(SOME), student_of()
    assert torch.equal(labels.kl(student, 4.0), distillation_loss(student, labels, 4.0))
    assert torch.equal(labels.kl(student, 4.0, 2.0), distillation_loss(student, labels, 4.0, 2.0))
    assert not torch.equal(labels.kl(student, 4.0, 2.0), labels.kl(student, 4.0))


@ALL
def test_a_constant_a_row_changes_nothing(kind: str) -> None:
    teacher, student = student_of().detach(), torch.randn(5, CLASSES)
    shift = torch.arange(5.0)[:, None] * 10
    apart = distillation_loss(student + shift, teacher - shift, 4.0, kind=kind)
    torch.testing.assert_close(apart, distillation_loss(student, teacher, 4.0, kind=kind), rtol=1e-4, atol=1e-5)


@ALL
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_students_lose_nothing_but_their_own_rounding(kind: str, dtype: torch.dtype) -> None:
    labels, student = LabelDecoder(file_of("product")).read(SOME), student_of(dtype)
    for T in (20.0, 1e-4):  # at the second one, halves would overflow
        loss = distillation_loss(student, labels, T, kind=kind)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, distillation_loss(student.float(), labels, T, kind=kind))
        (gradient,) = torch.autograd.grad(loss, student)
        assert gradient.dtype == dtype
        assert gradient.isfinite().all() or (kind == "mse_logits" and T < 1)  # that gradient is as large
    with torch.autocast("cpu", dtype):
        torch.testing.assert_close(
            distillation_loss(student, labels, 20.0, kind=kind), loss_at_20(student, labels, kind)
        )


def loss_at_20(student: torch.Tensor, labels: Any, kind: str) -> torch.Tensor:
    return distillation_loss(student.float(), labels, 20.0, kind=kind)  # type: ignore[no-any-return]


def test_classes_that_the_labels_drop_add_nothing() -> None:
    labels, student = LabelDecoder(file_of("topk")).read(SOME), student_of()
    for T in (1.0, 20.0, 1000.0):
        assert labels.kl(student, T).isfinite()
    p = labels.probs(20.0)
    torch.testing.assert_close(
        labels.kl(student, 20.0), torch.nn.functional.kl_div((student / 20).log_softmax(1), p, reduction="batchmean")
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"student_logits": torch.zeros(5, 7)}, "the student has 7 classes, but the labels have 20"),
        ({"student_logits": torch.zeros(4, 20)}, "4 rows of student logits meet labels of 5 rows"),
        (
            {"student_logits": torch.zeros(5, 20, dtype=torch.int64)},
            r"must be floats \[B, 20\], got torch.int64 \[5, 20\]",
        ),
        ({"student_logits": torch.zeros(20)}, r"must be floats \[B, 20\], got torch.float32 \[20\]"),
        ({"student_logits": torch.zeros(5, 20, device="meta")}, "student logits are on meta, labels on cpu: move them"),
        ({"labels": torch.zeros(5, dtype=torch.int64)}, r"a teacher's logits \[B, C\], got torch.int64 \[5\]"),
        ({"temperature": 0.0}, "temperature must be a finite number above 0, got 0"),
        ({"temperature": -1.0}, "got -1.0"),
        ({"temperature": 1e-16}, "temperature must be 1e-15 to 1e15, got 1e-16"),
        ({"temperature": 10**400}, "temperature must be 1e-15 to 1e15, got 10000"),
        ({"student_temperature": torch.tensor(1e30)}, "temperature must be 1e-15 to 1e15, got 1"),
        ({"temperature": StepTemperature(20, 0.5, every=1, floor=0)(2000)}, "finite number above 0, got 0.0"),
        ({"student_temperature": 0.0}, "got 0.0"),
        ({"student_temperature": "4"}, "temperature must be a finite number above 0, got '4'"),
        ({"student_temperature": torch.ones(2)}, r"above 0, got tensor\(\[1., 1.\]\)"),
        ({"student_temperature": torch.ones(1, requires_grad=True)}, r"gets no gradient here.* give temperature.item"),
        ({"temperature": None}, "got None"),
        ({"kind": "js"}, "kind must be one of kl, soft_ce, mse_logits, got 'js'"),
        ({"reduction": "batchmean"}, "reduction must be one of mean, sum, none, got 'batchmean'"),
    ],
)
def test_what_does_not_fit_is_said(given: dict[str, Any], words: str) -> None:
    labels = LabelDecoder(file_of("raw")).read(SOME)
    defaults: dict[str, Any] = {"student_logits": student_of(), "labels": labels, "temperature": 4.0}
    with pytest.raises(ValueError, match=words):
        distillation_loss(**{**defaults, **given})


FOURS = [4, np.float32(4), np.int64(4), torch.tensor(4.0), torch.tensor([4]), torch.tensor([[4.0]]).double()]


@pytest.mark.parametrize("four", FOURS)
def test_a_temperature_is_any_number(four: Any) -> None:
    labels, student = LabelDecoder(file_of("raw")).read(SOME), student_of()
    assert torch.equal(labels.kl(student, four, four), labels.kl(student, 4.0, 4.0))
    assert torch.equal(labels.probs(four), labels.probs(4.0))


@pytest.mark.parametrize("kind", ["kl", "soft_ce"])
@pytest.mark.parametrize("masked", [False, True])
def test_classes_that_a_teacher_rules_out_add_nothing(kind: str, masked: bool) -> None:
    teacher, student = torch.randn(5, CLASSES), student_of()
    teacher[:, 7:] = -torch.inf
    logits = student.masked_fill(teacher.isinf(), -torch.inf) if masked else student
    found = distillation_loss(logits, teacher, 4.0, kind=kind, reduction="none")
    p, log_q = torch.softmax(teacher[:, :7] / 4, 1), torch.log_softmax(logits / 4, 1)[:, :7]
    wanted = (p * ((p.log() if kind == "kl" else 0) - log_q)).sum(1)
    torch.testing.assert_close(found, wanted)
    slope = torch.autograd.grad(found.sum(), student, retain_graph=True)[0]
    torch.testing.assert_close(slope, torch.autograd.grad(wanted.sum(), student)[0])


def test_labels_on_another_device_than_the_student_are_named() -> None:
    labels = LabelDecoder(file_of("raw")).read(SOME).to("meta")
    with pytest.raises(ValueError, match="student logits are on cpu, labels on meta"):
        labels.kl(student_of(), 4.0)


def test_gradient_accumulation_adds_up_to_the_whole_batch(tmp_path: Any) -> None:
    decoder = marked(tmp_path / "labels", 20, 3)
    labels, student = decoder.read(np.arange(12)), torch.randn(12, decoder.classes, requires_grad=True)
    (whole,) = torch.autograd.grad(labels.kl(student, 2.0), student)
    parts = sum(labels[i : i + 4].kl(student[i : i + 4], 2.0) / 3 for i in range(0, 12, 4))
    torch.testing.assert_close(torch.autograd.grad(parts, student)[0], whole)  # type: ignore[arg-type]
