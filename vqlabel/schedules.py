"""What moves from epoch to epoch: which labels are read, and at which temperatures.

    sampler = ReplaySampler(decoder, reuse=Reuse())      # a file of fewer epochs than training has
    schedule, align = StepTemperature(20, 0.7, every=30, floor=2), GridAlignment()
    for epoch in range(300):
        sampler.set_epoch(epoch)
        T = schedule(epoch)                              # dynamic knowledge reuse: the labels' temperature
        for views, labels in loader:
            logits = student(views)
            loss = labels.kl(logits, T, align.temperature)
            ...
        align.update(logits, labels.probs(T))            # calibrated alignment: the student's temperature

These are the parts of LPQLD's training; each works alone and in any loop. Epochs count from 0, as `set_epoch` counts;
published formulas count from 1, so the epoch that they call e is e - 1 here. `vqlabel.pruning` explains the labels,
`vqlabel.alignment` the student's temperature.
"""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

from vqlabel.alignment import GridAlignment, SmoothAlignment
from vqlabel.arguments import check_whole, keep_whole
from vqlabel.pruning import Reuse, stored_rows
from vqlabel.wanted import check_temperature

__all__ = [
    "ConstantTemperature",
    "CosineTemperature",
    "GridAlignment",
    "Reuse",
    "SmoothAlignment",
    "StepTemperature",
    "TemperatureSchedule",
    "stored_rows",
]


class TemperatureSchedule(ABC):
    """A temperature for each epoch: `schedule(epoch)`, or `schedule.step(epoch)` and then `schedule.temperature`."""

    epoch = 0  # that `step` was last told

    def __call__(self, epoch: int) -> float:
        """Temperature of an epoch, counted from 0."""
        return float(self._at(check_whole("epoch", epoch, 0, 2**63 - 1) + 1))

    def step(self, epoch: int) -> float:
        """Go to this epoch, and its temperature."""
        found = self(epoch)
        self.epoch = operator.index(epoch)
        return found

    @property
    def temperature(self) -> float:
        """Temperature of the epoch that `step` was last told; until then, of epoch 0."""
        return self(self.epoch)

    def state_dict(self) -> dict[str, int]:
        """The epoch; the schedule itself is the script's."""
        return {"epoch": self.epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to the epoch of a `state_dict`."""
        epoch: Any = state.get("epoch")
        self.step(epoch)

    @abstractmethod
    def _at(self, e: int) -> float:
        """Temperature of an epoch, counted from 1 as in the published formulas."""


@dataclass
class ConstantTemperature(TemperatureSchedule):
    """The same temperature in every epoch."""

    start: float = 20.0

    def __post_init__(self) -> None:
        check_temperature(self.start)

    def _at(self, e: int) -> float:
        return self.start


@dataclass
class StepTemperature(TemperatureSchedule):
    """start * gamma ** (e // every) in epoch e (counted from 1), but never below floor.

    With rising=E it runs the other way round, start * gamma ** ((E - 1 - e) // every): training of E epochs ends with
    start. LPQLD's step_reverse has no floor, so give it floor=0.

    >>> schedule = StepTemperature(20, 0.7, every=30, floor=2)
    >>> [round(schedule(epoch), 2) for epoch in (0, 28, 29, 59, 299)]
    [20.0, 20.0, 14.0, 9.8, 2.0]
    """

    start: float = 20.0
    gamma: float = 0.7
    _: KW_ONLY
    every: int = 30
    floor: float = 2.0
    rising: int | None = None

    def __post_init__(self) -> None:
        check_temperature(self.start)
        keep_whole(self, "every", 1, 2**31)
        if self.rising is not None:
            self.rising = check_whole("rising, if it is given,", self.rising, 1, 2**31)
        if not 0 < self.gamma <= 1:
            raise ValueError(f"gamma must be above 0 and at most 1, got {self.gamma!r:.80}")
        if not 0 <= self.floor <= self.start:
            raise ValueError(f"floor must be from 0 to start, which is {self.start}, got {self.floor!r:.80}")

    def _at(self, e: int) -> float:
        steps = (e if self.rising is None else max(self.rising - 1 - e, 0)) // self.every
        return max(self.floor, self.start * self.gamma**steps)


@dataclass
class CosineTemperature(TemperatureSchedule):
    """From start to end along half a cosine: end + (start - end) * (1 + cos(pi * e / epochs)) / 2, e counted from 1.

    The last epoch has end, and so have those after it. It rises where end is above start: LPQLD's cosine_reverse is
    CosineTemperature(1, 20, epochs=300).
    """

    start: float = 20.0
    end: float = 1.0
    _: KW_ONLY
    epochs: int

    def __post_init__(self) -> None:
        for value in (self.start, self.end):
            check_temperature(value)
        keep_whole(self, "epochs", 1, 2**31)

    def _at(self, e: int) -> float:
        share = (1 + math.cos(math.pi * min(e, self.epochs) / self.epochs)) / 2
        return self.end + (self.start - self.end) * share
