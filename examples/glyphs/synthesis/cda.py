"""CDA: SRe2L with a curriculum. Crops begin as the whole image and become as small as SRe2L's along a cosine."""

from __future__ import annotations

import dataclasses
import math

from torch import nn

from examples.glyphs.settings import Settings
from examples.glyphs.synthesis import sre2l
from examples.glyphs.synthesis.optimise import Plan
from examples.glyphs.synthesis.options import Optimised

MILESTONE = 1.0  # share of the steps after which crops are as small as they get


def plan(settings: Settings, net: nn.Module, options: Optimised) -> Plan:
    """That of SRe2L, with other crops."""

    def area(done: float) -> float:
        wave = (1 + math.cos(math.pi * min(1.0, done / MILESTONE))) / 2
        return options.area + (1 - options.area) * wave

    return dataclasses.replace(sre2l.plan(settings, net, options), area=area)
