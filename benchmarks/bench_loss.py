"""Losses on packed rows, forward and backward: on a GPU the kernels against torch, which makes the labels first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional
from vqlabel.kernels import ops, plain

from benchmarks.decoders import SHAPES, SMALL, Batch, made, spelled, work
from benchmarks.gpu import needs_gpu, no_gpu, peak_bytes, race_on_gpu
from benchmarks.race import race

T = 4.0
EXTRA = 0.01  # of B x C x 4 bytes that ours may take beside the gradient

Loss = Callable[[torch.Tensor], torch.Tensor]


def kl_of_labels(student: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """What a loop does that has the teacher's logits in memory."""
    targets = torch.log_softmax(logits.float() / T, 1)
    found = functional.kl_div(torch.log_softmax(student.float() / T, 1), targets, reduction="none", log_target=True)
    return found.sum(1).mean()


def ways(batch: Batch) -> dict[str, Loss]:
    """Losses as functions of the student's logits."""
    given: dict[str, Any] = {"h0": batch.h0, "temperature": T}
    return {
        "vqlabel": lambda s: ops.loss(s, batch.rows, batch.tables, **given).mean(),
        "decode, then kl_div": lambda s: kl_of_labels(s, batch.eager_logits()),
        "reference": lambda s: plain.loss(s, batch.rows, batch.tables, **given).mean(),
    }


def both(loss: Loss, student: torch.Tensor) -> torch.Tensor:
    """Forward and backward: the gradient."""
    return torch.autograd.grad(loss(student), student)[0]


def student_of(batch: Batch, C: int) -> torch.Tensor:
    """Logits [B, C] to be taught, of the type of the tables."""
    draw = torch.randn(len(batch.rows), C, generator=torch.Generator().manual_seed(1))
    return draw.to(batch.rows.device, batch.books.dtype).requires_grad_()


@needs_gpu
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_loss_on_gpu(benchmark: Any, shape: tuple[int, int, int]) -> None:
    batch, (B, C, _) = made(*shape, "cuda"), shape
    student, losses, logits = student_of(batch, C), ways(batch), batch.eager_logits()
    losses |= {
        "torch.compile of decode, then kl_div": torch.compile(losses["decode, then kl_div"], dynamic=False),
        "torch.compile of the reference": torch.compile(losses["reference"], dynamic=False),
        "kl_div of stored logits": lambda s: kl_of_labels(s, logits),
    }
    expected = both(losses.pop("reference"), student)
    torch.testing.assert_close(both(losses["vqlabel"], student), expected, rtol=5e-2, atol=1e-7)
    runners = {name: lambda loss=loss: both(loss, student) for name, loss in losses.items()}
    case = {"op": "KL and its gradient on the GPU", "per": "row", "case": spelled(*shape)}
    race_on_gpu(benchmark, case, runners, work(batch, 3 * 2 * B * C, 2))
    if C > 10_000:
        assert peak_bytes(runners["vqlabel"]) - student.nbytes < EXTRA * B * C * 4


@no_gpu
@pytest.mark.parametrize("shape", SMALL, ids=lambda shape: "x".join(map(str, shape)))
def test_loss_on_cpu(benchmark: Any, shape: tuple[int, int, int]) -> None:
    batch = made(*shape, "cpu")
    student, losses, logits = student_of(batch, shape[1]), ways(batch), batch.eager_logits()
    losses["kl_div of stored logits"] = lambda s: kl_of_labels(s, logits)
    expected = both(losses.pop("reference"), student)
    torch.testing.assert_close(both(losses["decode, then kl_div"], student), expected)
    torch.testing.assert_close(both(losses["vqlabel"], student), expected)
    names = {"vqlabel": "vqlabel, plain torch"}
    runners = {names.get(n, n): lambda loss=loss: both(loss, student) for n, loss in losses.items()}
    case = {"op": "KL and its gradient by torch on the CPU", "per": "row", "case": spelled(*shape)}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    race(benchmark, case, runners, dict.fromkeys(runners, shape[0]))
    torch.set_num_threads(threads)
