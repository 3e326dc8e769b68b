"""SRe2L: batches of different classes, matched to the statistics that the teacher has kept of all of them."""

from __future__ import annotations

import numpy as np
from torch import nn

from examples.glyphs.settings import Settings
from examples.glyphs.synthesis import statistics
from examples.glyphs.synthesis.optimise import Plan
from examples.glyphs.synthesis.options import Optimised

SIZE = 100  # images of a batch, each of another class


def plan(settings: Settings, net: nn.Module, options: Optimised) -> Plan:
    """One image of up to a hundred classes at a time, and then the next."""
    parts = np.array_split(np.arange(settings.classes), -(-settings.classes // SIZE))
    batches = [part[None] + image * settings.classes for image in range(settings.ipc) for part in parts]
    return Plan(batches, statistics.of_all(net), lambda _: options.area)
