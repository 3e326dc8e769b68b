"""The student's temperature: fits that are the best of their batch, moved on and restored."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from vqlabel import alignment
from vqlabel.ranks import Ranks
from vqlabel.schedules import GridAlignment, SmoothAlignment

pytestmark = pytest.mark.usefixtures("one_thread")


def batch(B: int, C: int, sharpness: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Student logits [B, C] and a target that is about as sharp as the student at tau = 1 / sharpness."""
    random = torch.Generator().manual_seed(seed)
    student = 3 * torch.randn(B, C, generator=random)
    return student, torch.softmax(sharpness * student + torch.randn(B, C, generator=random), 1)


def kl(student: torch.Tensor, target: torch.Tensor, tau: float) -> float:
    """The loss as torch has it."""
    log = torch.log_softmax(student.double() / tau, 1)
    return float(torch.nn.functional.kl_div(log, target.double(), reduction="batchmean"))


@pytest.mark.parametrize(("B", "C"), [(1, 2), (7, 10), (3, 1000)])
@pytest.mark.parametrize("sharpness", [0.5, 2, 5, 40])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_grid_search_finds_the_least_kl_of_its_grid(B: int, C: int, sharpness: float, dtype: torch.dtype) -> None:
    student, target = (part.to(dtype) for part in batch(B, C, sharpness))
    target = target / target.sum(1, keepdim=True)
    found = GridAlignment().update(student, target)
    losses = {tau: kl(student, target, tau) for tau in np.linspace(0.01, 1, 100).tolist()}
    assert losses[found] <= min(losses.values()) + 1e-6
    assert dtype != torch.float64 or found == min(losses, key=lambda tau: losses[tau])


@pytest.mark.parametrize("at_once", [1, 71, 7 * 10 * 3, 2**24])
def test_a_grid_search_has_no_more_in_memory_than_it_should(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    student, target = batch(7, 10, 3)
    whole, logsumexp, sizes = alignment.grid_losses(student, target, alignment.GRID), torch.logsumexp, []

    def noted(values: torch.Tensor, dim: int) -> torch.Tensor:
        sizes.append(values.numel())
        return logsumexp(values, dim)

    monkeypatch.setattr(alignment, "AT_ONCE", at_once)
    monkeypatch.setattr(torch, "logsumexp", noted)
    torch.testing.assert_close(alignment.grid_losses(student, target, alignment.GRID), whole)
    assert max(sizes) <= max(at_once, 70)
    assert sum(sizes) == 7000


@pytest.mark.parametrize("kind", [GridAlignment, SmoothAlignment])
def test_a_constant_in_the_logits_of_a_row_changes_nothing(kind: Any) -> None:
    student, target = batch(7, 10, 3)
    student = (student * 64).round() / 64  # digits enough for the constant
    assert kind().update(student + 4096, target) == kind().update(student, target)


def test_targets_with_classes_at_zero_are_met() -> None:
    student, target = batch(5, 20, 2)
    target = target.where(target >= target.topk(3, 1).values[:, -1:], 0)  # as MR-k leaves it
    target /= target.sum(1, keepdim=True)
    losses = {tau: kl(student, target, tau) for tau in alignment.GRID}
    assert GridAlignment().update(student, target) == min(losses, key=lambda tau: losses[tau])


@pytest.mark.parametrize(("B", "C"), [(1, 2), (7, 10), (3, 1000)])
@pytest.mark.parametrize("sharpness", [1.2, 2, 5, 40])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_smooth_way_finds_the_best_of_a_batch(B: int, C: int, sharpness: float, dtype: torch.dtype) -> None:
    student, target = (part.to(dtype) for part in batch(B, C, sharpness, seed=B))
    tau = SmoothAlignment(momentum=0).update(student, target)
    assert 0.01 <= tau <= 1
    best = kl(student, target, tau)
    for near in (tau * 0.99, tau * 1.01):
        if 0.01 <= near <= 1:
            assert kl(student, target, near) >= best - 1e-7


@pytest.mark.parametrize("scale", [1e-3, 1, 1e4])
def test_the_smooth_way_stays_within_its_range(scale: float) -> None:
    student, target = batch(6, 9, 1)
    for least, most in ((0.01, 1.0), (0.5, 0.6), (1e-6, 1e6)):
        tau = SmoothAlignment(momentum=0, least=least, most=most).update(student * scale, target)
        assert least * (1 - 1e-9) <= tau <= most * (1 + 1e-9)
    tau = SmoothAlignment(momentum=0, least=1e-6, most=1e6).update(student * scale, target)
    assert tau / scale == pytest.approx(SmoothAlignment(momentum=0, most=10.0).update(student, target), rel=1e-4)
    flat = SmoothAlignment(momentum=0).update(torch.zeros(6, 9), target)  # every temperature is as good
    assert 0.01 <= flat <= 1


def test_the_smooth_way_is_a_moving_average_of_logarithms() -> None:
    align, log = SmoothAlignment(0.5, momentum=0.75), math.log(0.5)
    for seed in range(6):
        student, target = batch(8, 10, 1 + seed, seed)
        log = 0.75 * log + 0.25 * math.log(SmoothAlignment(momentum=0).update(student, target))
        assert align.update(student, target) == pytest.approx(math.exp(log), rel=1e-12)


@pytest.mark.parametrize("kind", [GridAlignment, SmoothAlignment])
def test_a_fit_leaves_no_graph_and_its_inputs_as_they_were(kind: Any) -> None:
    student, target = batch(4, 6, 3)
    student.requires_grad_()
    before = student.detach().clone(), target.clone()
    assert isinstance(kind().update(student, target), float)
    torch.testing.assert_close((student.detach(), target), before, rtol=0, atol=0)
    assert student.grad is None
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("kind", [GridAlignment, SmoothAlignment])
def test_a_state_is_restored_exactly(kind: Any) -> None:
    align, again = kind(), kind()
    align.update(*batch(4, 6, 3))
    again.load_state_dict(json.loads(json.dumps(align.state_dict())))
    assert again.temperature == align.temperature
    assert [align.update(*batch(4, 6, 5, 1)) for _ in range(3)] == [again.update(*batch(4, 6, 5, 1)) for _ in range(3)]
    for bad, words in (({}, "is a temperature, got None"), ({"temperature": -1.0}, "above 0, got -1.0")):
        with pytest.raises(ValueError, match=words):
            again.load_state_dict(bad)
    assert again.temperature == align.temperature


@pytest.mark.parametrize("kind", [GridAlignment, SmoothAlignment])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_batch_that_is_not_finite_changes_nothing(kind: Any, value: float) -> None:
    align = kind(0.3)
    student, target = batch(4, 6, 3)
    student[2, 1] = value
    assert align.update(student, target) == align.temperature == 0.3


@pytest.mark.parametrize("kind", [GridAlignment, SmoothAlignment])
def test_ranks_fit_to_the_batches_of_all(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    batches, own = [batch(4, 6, 2, 0), batch(4, 6, 9, 1)], []
    monkeypatch.setattr(Ranks, "sum", lambda _, tensor: own.append(tensor) or tensor)
    alone = [kind().update(*part) for part in batches]
    monkeypatch.setattr(Ranks, "sum", lambda _, tensor: sum(own))
    told = [kind().update(*part) for part in batches]
    assert told[0] == told[1]
    assert min(alone) < told[0] < max(alone)
    if kind is GridAlignment:
        monkeypatch.setattr(Ranks, "sum", lambda _, tensor: tensor)
        assert told[0] == kind().update(*(torch.cat(parts) for parts in zip(*batches, strict=True)))


def test_what_cannot_be_fitted_is_refused() -> None:
    student, target = batch(4, 6, 3)
    for kind in (GridAlignment(), SmoothAlignment()):
        for arguments, words in [
            ((student, target[:3]), r"student logits are \[4, 6\] on cpu, but the target is \[3, 6\] on cpu"),
            ((student, student), "a row of the target is no distribution: give probabilities, such as labels.probs"),
            ((student[0], target[0]), r"student logits must be floats \[B, C\]"),
            ((student, "labels"), r"target must be floats \[B, C\], as labels.probs\(T\) are, got 'labels'"),
            ((student[:0], target[:0]), r"student logits must have rows to look at, got \[0, 6\]"),
        ]:
            with pytest.raises(ValueError, match=words):
                kind.update(*arguments)
        assert kind.temperature == 1
    for make, words in [
        (lambda: GridAlignment(grid=()), "grid must have temperatures to choose from"),
        (lambda: GridAlignment(grid=(0.5, 0)), "temperature must be a finite number above 0, got 0"),
        (lambda: GridAlignment(0), "temperature must be a finite number above 0, got 0"),
        (lambda: SmoothAlignment(momentum=1), "momentum must be from 0 to below 1, got 1"),
        (lambda: SmoothAlignment(least=1, most=1), "least must be below most, got 1 and 1"),
    ]:
        with pytest.raises(ValueError, match=words):
            make()
