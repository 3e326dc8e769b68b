"""LPLD: a batch is all images of one class, matched to the statistics of that class; everything else is SRe2L's."""

from __future__ import annotations

import dataclasses

import numpy as np
from torch import nn

from examples.glyphs.settings import Settings
from examples.glyphs.synthesis import sre2l, statistics
from examples.glyphs.synthesis.optimise import Plan
from examples.glyphs.synthesis.options import Optimised


def plan(settings: Settings, net: nn.Module, options: Optimised) -> Plan:
    """Groups of one class each; several of them run side by side, which changes nothing but the time."""
    ids = np.arange(settings.ipc * settings.classes).reshape(settings.ipc, settings.classes).T
    batches = np.array_split(ids, min(settings.classes, -(-ids.size // sre2l.SIZE)))  # a class is never torn apart
    plan = sre2l.plan(settings, net, options)
    return dataclasses.replace(plan, batches=batches, target=statistics.by_class(net, settings))
