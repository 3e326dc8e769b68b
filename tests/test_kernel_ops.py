"""Decoding and losses as a training loop calls them: on any device, and inside torch.compile."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from interpret import DEVICE
from kernel_models import Case, Drawn
from vqlabel.kernels import ops, plain

KINDS = ("kl", "soft_ce", "mse_logits")
CASES = [Case(C=10, B=4), Case(C=11, B=3, hidden=9, form="residual"), Case(C=5, G=0, prior=False)]
EVERY = pytest.mark.parametrize("case", CASES, ids=str)
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
T = 2.0


@pytest.fixture(autouse=True)
def fresh() -> None:
    """Nothing compiled by an earlier test is found again."""
    torch._dynamo.reset()


@EVERY
def test_decoding_without_a_kernel_is_plain(case: Case) -> None:
    drawn = Drawn(case, "cpu")
    tables = drawn.tables(torch.float32)
    for output in ("probs", "log_probs", "logits"):
        given = {**drawn.given, "temperature": T, "output": output}
        truth = plain.decode(drawn.rows, tables, **given)
        assert torch.equal(ops.decode(drawn.rows, tables, **given), truth)
        memory = torch.empty(case.B, case.C, dtype=torch.float16)
        assert ops.decode(drawn.rows, tables, **given, out=memory) is memory
        assert torch.equal(memory, truth.half())


@EVERY_KIND
def test_losses_without_a_kernel_are_plain_and_of_the_student_alone(kind: str) -> None:
    drawn = Drawn(Case(), "cpu")
    tables, student = drawn.tables(torch.float32), drawn.student.requires_grad_()
    h0, spread = (value.requires_grad_() for value in drawn.given.values())
    given: dict[str, Any] = {"h0": h0, "spread": spread, "temperature": T, "kind": kind}
    found = ops.loss(student, drawn.rows, tables, **given)
    truth = plain.loss(student, drawn.rows, tables, **given)
    assert torch.equal(found, truth)
    found.sum().backward()
    assert h0.grad is None
    assert spread.grad is None
    assert student.grad is not None
    torch.testing.assert_close(student.grad, torch.autograd.grad(truth.sum(), student)[0])


def test_tables_too_wide_for_a_kernel_are_decoded_all_the_same() -> None:
    drawn = Drawn(Case(hidden=600), DEVICE)
    tables = drawn.tables(torch.float16)
    found = ops.decode(drawn.rows, tables, **drawn.given)
    torch.testing.assert_close(found, plain.decode(drawn.rows, tables, **drawn.given))


def test_wrong_arguments_are_refused_before_anything_is_computed() -> None:
    drawn = Drawn(Case(B=2), DEVICE)
    tables = drawn.tables(torch.float16)
    with pytest.raises(ValueError, match=r"\[2, 8\], but 2 rows of these tables make \[2, 7\]"):
        ops.loss(torch.zeros(2, 8, device=DEVICE), drawn.rows, tables, temperature=T)
    with pytest.raises(ValueError, match="temperature must be a finite number above 0, got 0"):
        ops.decode(drawn.rows, tables, temperature=0)


def test_compiled_calls_refuse_a_temperature_that_wants_a_gradient() -> None:
    drawn = Drawn(Case(), DEVICE)
    tables = drawn.tables(torch.float32)
    calls: list[Any] = [
        lambda own: ops.loss(drawn.student, drawn.rows, tables, temperature=T, student_temperature=own),
        lambda own: ops.loss(drawn.student, drawn.rows, tables, temperature=own, student_temperature=T),
        lambda own: ops.decode(drawn.rows, tables, temperature=own),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="a temperature gets no gradient here"):
            torch.compile(call, backend="aot_eager")(torch.tensor(3.0, requires_grad=True))


@pytest.mark.filterwarnings("ignore:.*Dynamo:UserWarning")
def test_compiled_labels_go_only_where_they_fit() -> None:
    drawn = Drawn(Case(), DEVICE)
    tables = drawn.tables(torch.float32)

    def decode(memory: torch.Tensor) -> torch.Tensor:
        return ops.decode(drawn.rows, tables, **drawn.given, temperature=T, out=memory)

    memory = torch.zeros(3, 7, device=DEVICE)
    torch.compile(decode, backend="aot_eager", fullgraph=True)(memory)
    torch.testing.assert_close(memory, plain.decode(drawn.rows, tables, **drawn.given, temperature=T))
    for shape, dtype, words in (
        ((2, 3, 7), torch.float32, "out must be"),
        ((3, 7), torch.float64, "not torch.float64"),
    ):
        torch._dynamo.reset()
        with pytest.raises(ValueError, match=words):
            torch.compile(decode, backend="aot_eager")(torch.zeros(shape, dtype=dtype, device=DEVICE))


def training(drawn: Drawn, dtype: torch.dtype, kind: str) -> tuple[torch.nn.Linear, Any]:
    """A student, and a function that makes the loss of a step from it."""
    torch.manual_seed(0)
    student, tables = torch.nn.Linear(6, drawn.case.C).to(DEVICE), drawn.tables(dtype)

    def step(student: torch.nn.Linear, inputs: torch.Tensor, rows: torch.Tensor, given: Any) -> torch.Tensor:
        logits = student(inputs)
        losses = ops.loss(logits, rows, tables, **given, temperature=T, student_temperature=3.0, kind=kind)
        labels = ops.decode(rows, tables, **given, temperature=T)
        return losses.mean() - (labels * logits.log_softmax(1)).sum()

    return student, step


@EVERY_KIND
@EVERY
def test_a_training_step_compiles_as_one_graph(case: Case, kind: str) -> None:
    drawn = Drawn(case, DEVICE)
    student, step = training(drawn, torch.float32, kind)
    inputs, twin = torch.randn(case.B, 6, device=DEVICE), copy.deepcopy(student)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    truth = step(student, inputs, drawn.rows, drawn.given)
    found = compiled(twin, inputs, drawn.rows, drawn.given)
    truth.backward()
    found.backward()
    torch.testing.assert_close(found, truth)
    for a, b in zip(twin.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_the_graph_holds_our_operators_and_eager_calls_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, targets = Drawn(Case(), DEVICE), []
    student, step = training(drawn, torch.float32, "kl")
    inputs = torch.randn(3, 6, device=DEVICE)

    def backend(graph: Any, _: Any) -> Any:
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    torch.compile(step, fullgraph=True, backend=backend)(student, inputs, drawn.rows, drawn.given)
    assert {"vqlabel.decode.default", "vqlabel.loss.default"} <= set(targets)
    for name in ("_decode_op", "_loss_op"):
        monkeypatch.setattr(ops, name, None)
    step(student, inputs, drawn.rows, drawn.given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@EVERY
def test_operators_keep_their_word_to_torch(case: Case, dtype: torch.dtype) -> None:
    drawn = Drawn(case, DEVICE)
    model = (*drawn.tables(dtype).parts(), drawn.given.get("h0"), drawn.given.get("spread"))
    lse = torch.zeros(case.B, device=DEVICE)
    for output, label_dtype in (("probs", torch.float16), ("logits", torch.float32)):
        torch.library.opcheck(ops._decode_op, (drawn.rows, *model, T, output, label_dtype, None))
    torch.library.opcheck(ops._decode_op, (drawn.rows, *model, T, "log_probs", torch.float32, lse))
    for kind in KINDS:
        terms = (T, 3.0, kind)
        student = drawn.student.to(dtype)
        torch.library.opcheck(ops._loss_op, (student.clone().requires_grad_(), drawn.rows, *model, *terms))
        stats = torch.zeros(4, case.B, device=DEVICE)
        torch.library.opcheck(ops._gradient_op, (lse, stats, student, drawn.rows, *model, *terms))
