"""Temperatures that move with the epochs: the published formulas, stepped and taken up again."""

from __future__ import annotations

import json
import math

import pytest

from vqlabel.schedules import ConstantTemperature, CosineTemperature, StepTemperature, TemperatureSchedule

pytestmark = pytest.mark.usefixtures("one_thread")

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
