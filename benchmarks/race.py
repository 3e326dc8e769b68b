"""Timing several ways of doing one thing in turns, so that a slow minute is slow for all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

RECORDS: list[dict[str, Any]] = []  # of this session; conftest.py prints and keeps them


def race(
    benchmark: Any,
    case: Mapping[str, Any],
    runners: Mapping[str, Callable[[], object]],
    units: Mapping[str, float],
    *,
    rounds: int = 15,
    prepare: Callable[[], object] = lambda: None,
) -> None:
    """Time all runners, the first of which is ours, in turns.

    prepare() runs before each call and is not timed. units[name] is how much a call of that runner does (codes, rows,
    opens): times are per unit, so a slow rival may do less. The ratio of a rival is its time over ours.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for runner in runners.values():
        prepare()
        runner()
    for _ in range(rounds):
        for name, runner in runners.items():
            prepare()
            begin = time.perf_counter()
            runner()
            seconds[name].append((time.perf_counter() - begin) / units[name])
    ours = next(iter(runners))
    benchmark.extra_info.update(case)
    for name, times in seconds.items():
        p20, p50, p80 = np.quantile(times, (0.2, 0.5, 0.8))
        ratio = float(p50 / np.median(seconds[ours]))
        RECORDS.append({**case, "name": name, "p20": p20, "p50": p50, "p80": p80, "ratio": ratio, "rounds": rounds})
        benchmark.extra_info[f"x {name}"] = round(ratio, 2)
    benchmark.pedantic(runners[ours], setup=lambda: prepare() and None, rounds=5)
