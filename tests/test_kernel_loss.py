"""Losses on packed rows: what plain torch says, as exactly as torch at the same dtype, forward and backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compiled import count, reports
from interpret import DEVICE
from kernel_models import Case, Drawn, budget, error
from torch.nn import functional
from vqlabel.kernels import _launch, plain
from vqlabel.kernels import loss as kernels

KINDS = ("kl", "soft_ce", "mse_logits")
CASES = [
    Case(),
    Case(C=1, B=1),
    Case(C=2, G=0, B=5, prior=False),
    Case(form="residual", nbits=11, C=33, B=2),
    Case(nbits=8, G=4, R=23, C=130, B=17),
    Case(hidden=9, R=17, C=40, B=1),
    Case(hidden=6, linear=False, prior=False),
    Case(hidden=3, linear=False, R=17),
    Case(C=1000, nbits=8, R=48),
]
EVERY = pytest.mark.parametrize("case", CASES, ids=str)
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
FLOATS = [torch.float32, torch.float16]
DTYPES = pytest.mark.parametrize("dtype", FLOATS, ids=["fp32", "fp16"])
T, OWN = 2.0, 3.0


def by_torch(kind: str, s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Losses [B] of logits, in the words of torch."""
    s, t = s / OWN, t / T
    if kind == "kl":
        return functional.kl_div(s.log_softmax(1), t.log_softmax(1), reduction="none", log_target=True).sum(1)
    if kind == "soft_ce":
        return functional.cross_entropy(s, t.softmax(1), reduction="none")
    return ((s - s.mean(1, keepdim=True)) - (t - t.mean(1, keepdim=True))).square().mean(1)


def weights_of(B: int) -> torch.Tensor:
    """What the losses of a batch are multiplied by."""
    return torch.linspace(-1, 2, B, dtype=torch.float64)


def with_gradient(student: torch.Tensor, function: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses [B] and the gradient [B, C] of their weighted sum."""
    leaf = student.detach().requires_grad_()
    losses = function(leaf)
    (gradient,) = torch.autograd.grad((losses * weights_of(len(losses)).to(losses)).sum(), leaf)
    return losses.detach(), gradient


@EVERY_KIND
@EVERY
def test_plain_losses_are_those_of_torch(case: Case, kind: str) -> None:
    drawn = Drawn(case, DEVICE)
    student, tables = drawn.student.double(), drawn.tables(torch.float64)
    given = {**drawn.given, "temperature": T, "student_temperature": OWN, "kind": kind}
    found, gradient = with_gradient(student, lambda s: plain.loss(s, drawn.rows, tables, **given))
    truth, slope = with_gradient(student.cpu(), lambda s: by_torch(kind, s, drawn.truth()))
    closed = plain.gradient(weights_of(case.B).to(DEVICE), student, drawn.rows, tables, **given)
    assert error(found, truth) <= 1e-12 * max(1, float(truth.abs().max()))
    assert error(gradient, slope) <= 1e-12
    assert error(closed, slope) <= 1e-12


@EVERY_KIND
def test_plain_losses_have_exact_gradients(kind: str) -> None:
    drawn = Drawn(Case(hidden=4), DEVICE)
    tables = drawn.tables(torch.float64)

    def losses(student: torch.Tensor, h0: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
        given = {"h0": h0, "spread": spread, "temperature": T, "student_temperature": OWN, "kind": kind}
        return plain.loss(student, drawn.rows, tables, **given)

    inputs = [value.double().requires_grad_() for value in (drawn.student, *drawn.given.values())]
    assert torch.autograd.gradcheck(losses, inputs)


@DTYPES
@EVERY_KIND
@EVERY
def test_losses_and_gradients_are_as_exact_as_those_of_torch(case: Case, kind: str, dtype: torch.dtype) -> None:
    drawn = Drawn(case, DEVICE)
    tables = drawn.tables(dtype)
    given = {**drawn.given, "temperature": T, "student_temperature": OWN, "kind": kind}
    for student_dtype in FLOATS:
        student = drawn.student.to(student_dtype)
        found, gradient = with_gradient(student, lambda s: kernels.loss(s, drawn.rows, tables, **given))
        truth, slope = with_gradient(student.cpu().double(), lambda s: by_torch(kind, s, drawn.truth()))
        # torch too may make the softmax in float32 of what a half-precision product gives
        teacher = drawn.of_torch(dtype).float()
        own, own_slope = with_gradient(student.cpu().float(), lambda s, t=teacher: by_torch(kind, s, t))
        assert found.dtype == torch.float32
        assert gradient.dtype == student_dtype
        size = float(drawn.truth().abs().max() + student.abs().max().cpu())
        assert error(found, truth) <= budget(own, truth, dtype, size) + 1e-7 * size
        least = max((dtype, student_dtype), key=lambda d: torch.finfo(d).eps)
        assert error(gradient, slope) <= budget(own_slope, slope, least, size)


@EVERY_KIND
def test_parts_of_the_classes_are_put_together(kind: str) -> None:
    drawn = Drawn(Case(C=1000, R=20, B=2), DEVICE)
    tables = drawn.tables(torch.float32)
    assert _launch.cut(2, tables, kernels.TILES.of(tables.width, torch.float32)).splits > 10
    found, gradient = with_gradient(
        drawn.student, lambda s: kernels.loss(s, drawn.rows, tables, **drawn.given, temperature=T, kind=kind)
    )
    truth, slope = with_gradient(
        drawn.student, lambda s: plain.loss(s, drawn.rows, tables, **drawn.given, temperature=T, kind=kind)
    )
    torch.testing.assert_close(found, truth, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(gradient, slope, rtol=1e-5, atol=1e-7)


@EVERY_KIND
def test_one_split_sees_all_tiles(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_launch, "processors", lambda device: 1)
    drawn = Drawn(Case(C=130, B=130), DEVICE)
    tables = drawn.tables(torch.float32)
    assert _launch.cut(130, tables, kernels.TILES.of(tables.width, torch.float32)).per > 1
    given = {**drawn.given, "temperature": T, "kind": kind}
    found, gradient = with_gradient(drawn.student, lambda s: kernels.loss(s, drawn.rows, tables, **given))
    truth, slope = with_gradient(drawn.student, lambda s: plain.loss(s, drawn.rows, tables, **given))
    torch.testing.assert_close(found, truth, rtol=2e-6, atol=5e-6)
    torch.testing.assert_close(gradient, slope, rtol=1e-5, atol=1e-7)


@EVERY_KIND
def test_a_constant_added_to_the_student_changes_nothing(kind: str) -> None:
    drawn = Drawn(Case(C=100), DEVICE)
    tables, student = drawn.tables(torch.float32), (drawn.student * 64).round() / 64
    given = {**drawn.given, "temperature": T, "kind": kind}
    first = with_gradient(student, lambda s: kernels.loss(s, drawn.rows, tables, **given))
    second = with_gradient(student + 1024, lambda s: kernels.loss(s, drawn.rows, tables, **given))
    torch.testing.assert_close(first[0], second[0], rtol=2e-5, atol=1e-4)
    torch.testing.assert_close(first[1], second[1], rtol=2e-4, atol=1e-6)


@EVERY_KIND
def test_student_logits_need_not_lie_in_one_piece(kind: str) -> None:
    drawn = Drawn(Case(C=10, B=4), DEVICE)
    tables, given = drawn.tables(torch.float32), {**drawn.given, "temperature": T, "kind": kind}
    whole = with_gradient(drawn.student, lambda s: kernels.loss(s, drawn.rows, tables, **given))
    wide = torch.zeros(4, 16, device=DEVICE)[:, 3:13].copy_(drawn.student)
    turned = drawn.student.T.contiguous().T
    for student in (wide, turned):
        assert not student.is_contiguous()
        found = with_gradient(student, lambda s: kernels.loss(s, drawn.rows, tables, **given))
        assert torch.equal(found[0], whole[0])
        assert torch.equal(found[1], whole[1])


def test_a_class_that_the_student_rules_out_costs_infinitely_much() -> None:
    drawn = Drawn(Case(C=10), DEVICE)
    student = drawn.student.clone()
    student[1, 4] = -torch.inf
    found = kernels.loss(student, drawn.rows, drawn.tables(torch.float32), temperature=T)
    assert torch.isinf(found).tolist() == [False, True, False]


@pytest.mark.parametrize("kind", ["kl", "soft_ce"])
@pytest.mark.parametrize("loss", [kernels.loss, plain.loss])
def test_a_class_that_teacher_and_student_rule_out_costs_nothing(loss: Any, kind: str) -> None:
    drawn, out = Drawn(Case(C=10), DEVICE), slice(4, 5)
    drawn.weights["bias"][out] = -6e4  # e to the power of which is 0
    student = drawn.student.clone()
    student[:, out] = -torch.inf
    given = {**drawn.given, "temperature": T, "kind": kind}
    found, gradient = with_gradient(student, lambda s: loss(s, drawn.rows, drawn.tables(torch.float32), **given))
    without = Drawn(Case(C=10), DEVICE)
    left = [c for c in range(10) if c != 4]
    without.weights |= {name: without.weights[name][left] for name in ("weight", "bias")}
    truth, slope = with_gradient(
        student[:, left], lambda s: loss(s, drawn.rows, without.tables(torch.float32), **given)
    )
    torch.testing.assert_close(found, truth)
    torch.testing.assert_close(gradient[:, left], slope, rtol=1e-4, atol=1e-6)
    assert not gradient[:, out].any()


@pytest.mark.parametrize("kind", ["kl", "soft_ce"])
@pytest.mark.parametrize("hot", [1e-15, 1e15])
def test_losses_at_extreme_temperatures_are_those_of_torch(kind: str, hot: float) -> None:
    drawn = Drawn(Case(C=130), DEVICE)
    tables, given = drawn.tables(torch.float32), {**drawn.given, "temperature": hot, "kind": kind}
    found, gradient = with_gradient(drawn.student, lambda s: kernels.loss(s, drawn.rows, tables, **given))
    truth, slope = with_gradient(drawn.student, lambda s: plain.loss(s, drawn.rows, tables, **given))
    torch.testing.assert_close(found, truth, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient * hot, slope * hot, rtol=1e-5, atol=1e-6)


@EVERY_KIND
def test_no_rows_have_no_losses(kind: str) -> None:
    drawn = Drawn(Case(B=0), DEVICE)
    losses, gradient = with_gradient(
        drawn.student, lambda s: kernels.loss(s, drawn.rows, drawn.tables(torch.float16), temperature=T, kind=kind)
    )
    assert losses.shape == (0,)
    assert gradient.shape == (0, 7)


@pytest.mark.parametrize("four", [torch.tensor(4), torch.tensor([4.0]), torch.tensor([[4.0]], dtype=torch.float64)])
def test_a_temperature_may_be_a_tensor_of_one_number(four: torch.Tensor) -> None:
    drawn = Drawn(Case(), DEVICE)
    arguments = drawn.student, drawn.rows, drawn.tables(torch.float32)
    found = kernels.loss(*arguments, **drawn.given, temperature=four, student_temperature=four)
    assert torch.equal(found, kernels.loss(*arguments, **drawn.given, temperature=4.0))


def test_only_numbers_of_rows_are_kept_besides_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, made, empty = Drawn(Case(C=1000, B=20), DEVICE), [], torch.empty
    tables, student = drawn.tables(torch.float16), drawn.student.requires_grad_()
    monkeypatch.setattr(_launch, "processors", lambda device: 1)

    def noted(*shape: int, **options: Any) -> torch.Tensor:
        made.append(empty(*shape, **options))
        return made[-1]

    monkeypatch.setattr(torch, "empty", noted)
    losses = kernels.loss(student, drawn.rows, tables, **drawn.given, temperature=T)
    assert sum(tensor.numel() for tensor in made) <= 20 * 16
    losses.sum().backward()
    assert [tensor.numel() for tensor in made if tensor.numel() > 20 * 16] == [20 * 1000]


def test_wrong_arguments_are_refused_with_their_shapes() -> None:
    drawn = Drawn(Case(B=2), DEVICE)
    tables, rows, student = drawn.tables(torch.float16), drawn.rows, drawn.student
    wrong: list[tuple[str, Any]] = [
        (r"\[2, 8\], but 2 rows of these tables make \[2, 7\]", {"student": torch.zeros(2, 8, device=DEVICE)}),
        (r"\[1, 7\], but 2 rows", {"student": student[:1]}),
        ("student logits must be floats on .*, got torch.int64", {"student": student.long()}),
        (r"rows must be uint8 \[B, 2\]", {"rows": rows[:, :1]}),
        ("temperature must be a finite number above 0, got -1", {"temperature": -1.0}),
        ("temperature must be a finite number above 0, got inf", {"student_temperature": float("inf")}),
        ("temperature must be 1e-15 to 1e15, got 1e-16", {"student_temperature": 1e-16}),
        ("kind must be one of kl, soft_ce, mse_logits, got 'ce'", {"kind": "ce"}),
        ("columns of torch.float64 are more than the 0", {"tables": drawn.tables(torch.float64)}),
    ]
    for words, change in wrong:
        arguments = {"student": student, "rows": rows, "tables": tables, "temperature": T, **change}
        with pytest.raises(ValueError, match=words):
            kernels.loss(*[arguments.pop(name) for name in ("student", "rows", "tables")], **arguments)


def test_gradients_are_stored_wide_where_rows_are_aligned() -> None:
    cases = [case for case in reports("loss") if case["name"].startswith("backward") and case["constants"]["C"] == 1000]
    assert cases
    for case in cases:
        assert count(case["opcodes"], "STG") == count(case["opcodes"], "STG.E.128", "STG.E.64") > 0, case["name"]
