"""Fewer labels, moving temperatures: every image once whatever is drawn, published formulas, fits that are the best."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decoder_parts import marked, marked_rows

from vqlabel import alignment, reference
from vqlabel.data import DistilledDataset, ReplaySampler, collate
from vqlabel.ranks import Ranks
from vqlabel.replay import ReplayRecipe
from vqlabel.schedules import (
    ConstantTemperature,
    CosineTemperature,
    GridAlignment,
    Reuse,
    SmoothAlignment,
    StepTemperature,
    TemperatureSchedule,
    stored_rows,
)
from vqlabel.views import apply

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = [Reuse(granularity, draw) for granularity in ("image", "epoch", 1, 5) for draw in ("cycle", "random")]


# Fewer labels


@pytest.mark.parametrize(
    ("epochs", "keep", "kept"),
    [(300, 1, 300), (300, 0.1, 30), (300, 1 - 0.9, 30), (300, 0.025, 8), (300, 1e-9, 1), (1, 0.5, 1), (7, 1.0, 7)],
)
def test_whole_epochs_are_stored(epochs: int, keep: float, kept: int) -> None:
    assert stored_rows(500, epochs, keep=keep) == kept * 500


@pytest.mark.parametrize("keep", [np.float32(0.5), np.float16(0.5), np.float64(0.5), np.int64(1)])
def test_a_part_may_be_a_number_of_numpy(keep: Any) -> None:
    assert stored_rows(500, 10, keep=keep) == 5000 * float(keep)
    assert type(stored_rows(500, 10, keep=keep)) is int


@pytest.mark.parametrize("keep", [0, -0.1, 1.01, math.nan, True, "half"])
def test_a_part_that_is_none_is_refused(keep: Any) -> None:
    with pytest.raises(ValueError, match="keep must be a part of the labels, above 0 and up to 1"):
        stored_rows(500, 300, keep=keep)
    with pytest.raises(ValueError, match="epochs must be a whole number from 1"):
        stored_rows(500, 0, keep=1)


@pytest.mark.parametrize("reuse", KINDS, ids=str)
@pytest.mark.parametrize("kept", [1, 2, 7])
def test_draws_are_the_seeds_the_epochs_and_the_images_alone(reuse: Reuse, kept: int) -> None:
    images = np.arange(23)
    whole = np.stack([reuse.epochs(epoch, images, kept=kept) for epoch in range(20)])
    assert whole.dtype == np.int64
    assert 0 <= whole.min() <= whole.max() < kept
    for some in (images[::-1], images[5:6], images[[3, 3, 19]], images[:0]):
        assert (reuse.epochs(13, some, kept=kept) == whole[13, some]).all()
    if kept > 1 and reuse != Reuse("epoch"):
        other = Reuse(reuse.granularity, reuse.draw, seed=1)
        assert any((other.epochs(epoch, images, kept=kept) != whole[epoch]).any() for epoch in range(20))


@pytest.mark.parametrize("granularity", ["image", "epoch", 5])
@pytest.mark.parametrize("kept", [1, 3, 8])
def test_a_cycle_uses_each_label_once_before_any_again(granularity: str | int, kept: int) -> None:
    reuse = Reuse(granularity)
    for first in (0, kept, 5 * kept):
        used = [reuse.epochs(epoch, np.arange(12), kept=kept) for epoch in range(first, first + kept)]
        assert (np.sort(used, axis=0) == np.arange(kept)[:, None]).all()


def test_rounds_of_a_cycle_begin_anew() -> None:
    begins = np.stack([Reuse().epochs(epoch, np.arange(200), kept=10) for epoch in range(0, 100, 10)])
    assert all((begins[0] != later).mean() > 0.8 for later in begins[1:])


@pytest.mark.parametrize("draw", ["cycle", "random"])
def test_who_shares_a_draw_is_as_granularity_says(draw: str) -> None:
    images, kept = np.arange(1000), 30
    assert (Reuse("image", draw).epochs(3, images, kept=kept) == Reuse(1, draw).epochs(3, images, kept=kept)).all()
    blocks = Reuse(7, draw).epochs(3, images, kept=kept)
    assert (blocks == blocks[images // 7 * 7]).all()
    assert len(set(blocks[::7].tolist())) > 25
    for epoch in range(60):
        (stored,) = set(Reuse("epoch", draw).epochs(epoch, images, kept=kept).tolist())
        assert draw == "random" or stored == epoch % kept


@pytest.mark.parametrize("draw", ["cycle", "random"])
def test_draws_are_even_and_do_not_hang_together(draw: str) -> None:
    reuse, kept, images = Reuse(draw=draw, seed=3), 8, np.arange(8000)
    one, next_round = (reuse.epochs(epoch, images, kept=kept) for epoch in (0, kept))
    beside, later = zip(one[:-1] // 4, one[1:] // 4, strict=True), zip(one // 4, next_round // 4, strict=True)
    for counts in (Counter(one), Counter(beside), Counter(later)):
        expected = sum(counts.values()) / len(counts)
        assert sum((found - expected) ** 2 / expected for found in counts.values()) < 25  # chi-square, 7 or 3 free


def test_draws_stay_what_they_are() -> None:
    """A run that goes on with a newer version reads what it would have read."""
    images = [0, 1, 2, 49_999, 2**32 - 1]
    assert Reuse(seed=7).epochs(40, images, kept=30).tolist() == [26, 18, 29, 18, 4]
    assert Reuse("image", "random", seed=7).epochs(40, images, kept=30).tolist() == [5, 10, 29, 24, 25]
    assert Reuse(128, seed=2**64 - 1).epochs(2**32 - 1, images, kept=30).tolist() == [4, 4, 4, 13, 8]
    counters = np.array([[image, 40, 4, 0] for image in images], np.uint32)
    words = reference.philox(counters, 7)[:, 0]
    assert (words % 30).tolist() == [5, 10, 29, 24, 25]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("reuse", [Reuse(), Reuse(4, "random")], ids=str)
def test_a_pruned_file_trains_for_longer_and_view_and_label_stay_together(
    tmp_path: Path, reuse: Reuse, workers: int
) -> None:
    recipe = ReplayRecipe(seed=1, images=13, height=8, width=8, size=6, cutmix=0.5)
    images = torch.rand(13, 3, 8, 8)
    decoder = marked(tmp_path / "pruned", 13, 3, recipe)
    sampler = ReplaySampler(decoder, reuse=reuse)
    data = DistilledDataset(images, decoder)
    loader = torch.utils.data.DataLoader(data, batch_size=5, sampler=sampler, collate_fn=collate, num_workers=workers)
    used: Counter[int] = Counter()
    for epoch in range(0, 9, 1 if workers == 0 else 4):
        sampler.set_epoch(epoch)
        seen = []
        for views, labels in loader:
            rows = np.array(marked_rows(labels.logits()))
            torch.testing.assert_close(views, apply(images, recipe.parameters(*np.divmod(rows, 13))))
            assert (rows == decoder.rows(reuse.epochs(epoch, rows % 13, kept=decoder.epochs), rows % 13)).all()
            seen += rows.tolist()
        assert sorted(row % 13 for row in seen) == list(range(13))
        used.update(seen)
    if workers == 0 and reuse.draw == "cycle":
        assert set(used.values()) == {3}
        assert len(used) == 39


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"granularity": "batch"}, "granularity, where it is not 'image' or 'epoch', must be a whole number from 1 .*"),
        ({"granularity": 0}, "granularity, .* got 0"),
        ({"granularity": True}, "granularity, .* got True"),
        ({"draw": "order"}, "draw must be one of cycle, random, got 'order'"),
        ({"seed": -1}, "seed must be a whole number from 0"),
    ],
)
def test_a_reuse_that_is_none_is_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Reuse(**arguments)


def test_images_and_epochs_that_are_none_are_refused() -> None:
    with pytest.raises(TypeError, match=r"images must be whole numbers \[B\], got float64 \[2\]"):
        Reuse().epochs(0, [0.0, 1.0], kept=3)
    with pytest.raises(TypeError, match=r"images must be whole numbers \[B\], got int64 \[\]"):
        Reuse().epochs(0, 5, kept=3)
    with pytest.raises(ValueError, match="images must be 0 to 4294967295, got -1 to 3"):
        Reuse().epochs(0, [3, -1], kept=3)
    with pytest.raises(ValueError, match="epoch must be a whole number from 0"):
        Reuse().epochs(-1, [3], kept=3)
    with pytest.raises(ValueError, match="kept must be a whole number from 1"):
        Reuse().epochs(0, [3], kept=0)


# Temperatures of the labels

PUBLISHED = [(29, 20), (59, 14), (89, 9.8), (119, 6.86), (149, 4.80), (179, 3.36), (209, 2.35), (300, 2)]


def test_the_published_table_is_met_at_its_boundaries() -> None:
    schedule, first = StepTemperature(20, 0.7, every=30, floor=2), 1
    for last, temperature in PUBLISHED:
        for e in range(first, last + 1):
            assert abs(schedule(e - 1) - temperature) < 0.006
        first = last + 1
    assert schedule(299) == schedule(10_000) == 2


@pytest.mark.parametrize("E", [1, 2, 7, 100, 300])
def test_schedules_are_the_published_formulas(E: int) -> None:
    for e in range(1, E + 1):
        cosine = math.cos(math.pi * e / E)
        assert ConstantTemperature(20)(e - 1) == 20
        assert CosineTemperature(20, 1, epochs=E)(e - 1) == pytest.approx(1 + 0.5 * 19 * (1 + cosine))
        assert CosineTemperature(1, 20, epochs=E)(e - 1) == pytest.approx(1 + 0.5 * 19 * (1 - cosine))
        for s in (1, 3, 30):
            assert StepTemperature(20, 0.5, every=s)(e - 1) == max(2, 20 * 0.5 ** (e // s))
            rising = StepTemperature(20, 0.5, every=s, floor=0, rising=E)
            assert rising(e - 1) == 20 * 0.5 ** ((E - min(e, E - 1) - 1) // s)


def test_schedules_keep_their_last_temperature_afterwards() -> None:
    assert CosineTemperature(20, 1, epochs=10)(9) == CosineTemperature(20, 1, epochs=10)(25) == 1
    assert StepTemperature(20, 0.7, rising=300)(299) == StepTemperature(20, 0.7, rising=300)(999) == 20


ALL = [ConstantTemperature(4), StepTemperature(), StepTemperature(rising=50), CosineTemperature(epochs=50)]


@pytest.mark.parametrize("schedule", ALL, ids=str)
def test_a_schedule_steps_and_goes_on_where_it_was(schedule: TemperatureSchedule) -> None:
    assert schedule.temperature == schedule(0)
    assert schedule.step(33) == schedule(33) == schedule.temperature
    state = json.loads(json.dumps(schedule.state_dict()))
    schedule.step(0)
    schedule.load_state_dict(state)
    assert (schedule.epoch, schedule.temperature) == (33, schedule(33))
    for bad in ({}, {"epoch": -1}, {"epoch": 2.0}):
        with pytest.raises(ValueError, match="epoch must be a whole number from 0"):
            schedule.load_state_dict(bad)
    assert schedule.epoch == 33
    schedule.step(0)


def test_schedules_that_are_none_are_refused() -> None:
    for make in (ConstantTemperature, StepTemperature, lambda T: CosineTemperature(20, T, epochs=3)):
        for T in (0, -1, math.inf, math.nan):
            with pytest.raises(ValueError, match="temperature must be a finite number above 0"):
                make(T)
    for words, options in [
        ("gamma must be above 0 and at most 1, got 1.5", {"gamma": 1.5}),
        ("gamma must be above 0", {"gamma": 0}),
        ("every must be a whole number from 1", {"every": 0}),
        ("floor must be from 0 to start, which is 20.0, got 21", {"floor": 21}),
        ("rising, if it is given, must be a whole number from 1", {"rising": 0}),
    ]:
        with pytest.raises(ValueError, match=words):
            StepTemperature(**options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="epochs must be a whole number from 1"):
        CosineTemperature(epochs=0)


# The student's temperature


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
