"""A student that learns from what a source stores: temperatures, moving or not, and mixed labels of single images."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from examples.glyphs import student
from examples.glyphs.retention_labels import Stored
from examples.glyphs.retention_sources import Source
from examples.glyphs.settings import Settings
from vqlabel.replay import Parameters
from vqlabel.schedules import (
    ConstantTemperature,
    GridAlignment,
    SmoothAlignment,
    StepTemperature,
    TemperatureSchedule,
)


def lesson(source: Source, stored: Stored, settings: Settings, temperature: float) -> student.Source:
    """The loss of a student that learns from this source."""
    if stored.logits is None:
        return student.hard(settings.classes)
    return Soft(source, stored, settings, temperature)


class Soft:
    """KL at the temperature of the epoch, mean over the batch, without T squared; what moves does so as in LPQLD."""

    def __init__(self, source: Source, stored: Stored, settings: Settings, temperature: float) -> None:
        if stored.logits is None:
            raise ValueError("hard labels have no temperature")
        self._logits, self._single, self._images = stored.logits, stored.single, settings.distilled_recipe.images
        self._schedule: TemperatureSchedule = ConstantTemperature(temperature)
        if source.schedule == "step":  # in 300 epochs every 30 of them
            self._schedule = StepTemperature(20, 0.7, every=max(1, settings.epochs // 10), floor=2)
        kinds: dict[str, GridAlignment | SmoothAlignment | None] = {
            "none": None,
            "grid": GridAlignment(),
            "smooth": SmoothAlignment(),
        }
        self._align = kinds[source.alignment]
        self._last: tuple[int, torch.Tensor, torch.Tensor] | None = None  # what the last batch of an epoch said

    def __call__(self, found: torch.Tensor, parameters: Parameters, epoch: int) -> torch.Tensor:
        """Loss of the student's logits [B, C]."""
        temperature = self._schedule(epoch)
        wanted = self._probabilities(parameters, temperature).to(found.device)
        own = temperature if self._align is None else self._aligned(epoch, found.detach(), wanted)
        return functional.kl_div(functional.log_softmax(found / own, 1), wanted, reduction="batchmean")

    def _aligned(self, epoch: int, found: torch.Tensor, wanted: torch.Tensor) -> float:
        assert self._align is not None
        if isinstance(self._align, SmoothAlignment):  # moves with every batch, and is used for the next
            now = self._align.temperature
            self._align.update(found, wanted)
            return now
        if self._last is not None and self._last[0] != epoch:
            self._align.update(*self._last[1:])
        self._last = epoch, found, wanted
        return self._align.temperature

    def _probabilities(self, parameters: Parameters, temperature: float) -> torch.Tensor:
        if not self._single:
            return self._rows(parameters.epochs * self._images + parameters.images, temperature)
        share = torch.from_numpy(parameters.shares.astype(np.float32))[:, None]
        own, other = (self._rows(ids, temperature) for ids in (parameters.images, parameters.partners))
        return share * own + (1 - share) * other

    def _rows(self, rows: NDArray[np.int64], temperature: float) -> torch.Tensor:
        return functional.softmax(self._logits[torch.from_numpy(rows)].float() / temperature, dim=1)
