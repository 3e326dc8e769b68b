"""A student that learns from what a source stores: temperatures, moving or not, and mixed labels of single images."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from examples.glyphs import student
from examples.glyphs.retention_labels import Stored
from examples.glyphs.retention_sources import Source
from examples.glyphs.settings import Settings
from vqlabel.replay import Parameters


def lesson(source: Source, stored: Stored, settings: Settings, temperature: float) -> student.Source:
    """The loss of a student that learns from this source."""
    if stored.logits is None:
        return student.hard(settings.classes)
    return Soft(source, stored, settings, temperature)


class Soft:
    """KL at the temperature of the epoch, mean over the batch, without T squared."""

    def __init__(self, source: Source, stored: Stored, settings: Settings, temperature: float) -> None:
        if stored.logits is None:
            raise ValueError("hard labels have no temperature")
        self._logits, self._single, self._images = stored.logits, stored.single, settings.distilled_recipe.images
        self._temperature = temperature

    def __call__(self, found: torch.Tensor, parameters: Parameters, epoch: int) -> torch.Tensor:
        """Loss of the student's logits [B, C]."""
        wanted = self._probabilities(parameters).to(found.device)
        return functional.kl_div(functional.log_softmax(found / self._temperature, 1), wanted, reduction="batchmean")

    def _probabilities(self, parameters: Parameters) -> torch.Tensor:
        if not self._single:
            return self._rows(parameters.epochs * self._images + parameters.images)
        share = torch.from_numpy(parameters.shares.astype(np.float32))[:, None]
        return share * self._rows(parameters.images) + (1 - share) * self._rows(parameters.partners)

    def _rows(self, rows: np.ndarray) -> torch.Tensor:
        return functional.softmax(self._logits[torch.from_numpy(rows)].float() / self._temperature, dim=1)
