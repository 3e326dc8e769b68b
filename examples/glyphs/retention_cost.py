"""What decoding costs beside bytes: the parameters of each prior, its time on one thread, and the teacher's instead."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from examples.glyphs import models, retention_labels, run, teacher
from examples.glyphs.rate_measure import Labels
from examples.glyphs.retention_sources import Source, sources
from examples.glyphs.settings import Settings
from vqlabel import LabelDecoder, LabelFile

ROUNDS = 7


def measure(settings: Settings, labels: Labels, effort: float = 1.0) -> dict[str, Any]:
    """Parameters, and microseconds a label on one thread (median of rounds), of files that are fitted already."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ways = dict(_ways(settings, labels, effort))
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, (work, _) in ways.items():
                begin = time.perf_counter()
                work()
                seconds[name].append(time.perf_counter() - begin)
    finally:
        torch.set_num_threads(before)
    found = {
        name: {"parameters": parameters, "us": 1e6 * float(np.median(seconds[name])) / settings.batch}
        for name, (_, parameters) in ways.items()
    }
    return {"classes": settings.classes, "processor": run.processor(), "batch": settings.batch, "cells": found}


def _ways(settings: Settings, labels: Labels, effort: float) -> Iterator[tuple[str, tuple[Callable[[], object], int]]]:
    net, _ = teacher.train(settings)
    images, recipe = labels.info.views, settings.distilled_recipe
    if images is None:
        raise ValueError("these labels do not say how their views are made")
    rows = np.arange(settings.batch)
    views = images(recipe.parameters(0, rows)).float().contiguous(memory_format=torch.channels_last)

    def forward() -> object:
        with torch.inference_mode():
            return net(views)

    yield Source("teacher").name, (forward, models.parameters(net))
    for source in sources():
        path = retention_labels.file_path(source, settings, labels, effort)
        if source.scheme == "vq" and source.keep == 1 and path.exists():
            yield source.name, _decoding(source, LabelFile(path), views)


def _decoding(source: Source, file: LabelFile, views: torch.Tensor) -> tuple[Callable[[], object], int]:
    decoder, looks = LabelDecoder(file.path), source.prior == "image"
    packed = decoder.read(np.arange(len(views)))
    prior = sum(int(np.prod(t.shape)) for name, t in file.header.tensors.items() if name.startswith("prior."))
    return lambda: packed.probs(20.0, images=views if looks else None), prior
