"""Quantiles of the laws that replayed augmentation draws from, the same bits on every machine.

Only +, -, *, / and sqrt are exact everywhere; exp and log of a maths library are not. So both are built here from
those, on Python's floats, once for each law.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

STEPS = 4096  # a table holds the quantiles at 0, 1/STEPS, ..., 1
FINE = 16  # steps of the integral to one of the table
LN2 = 0.6931471805599453


def exp(x: float) -> float:
    """Exponential, to a few units in the last place.

    >>> abs(exp(-3.7) / math.exp(-3.7) - 1) < 1e-15
    True
    """
    halvings = 0
    while abs(x) > 0.125:
        x, halvings = x / 2, halvings + 1
    total = 1.0
    for n in range(14, 0, -1):
        total = 1 + total * x / n
    for _ in range(halvings):
        total *= total
    return total


def log(x: float) -> float:
    """Natural logarithm of a positive number, to a few units in the last place.

    >>> abs(log(0.37) - math.log(0.37)) < 1e-15
    True
    """
    mantissa, exponent = math.frexp(x)
    z = (mantissa - 0.75) / (mantissa + 0.75)  # log(mantissa / 0.75) = 2 artanh(z), |z| <= 0.2
    total = sum(z ** (2 * n + 1) / (2 * n + 1) for n in range(14, -1, -1))
    base = -0.2876820724517809  # log(0.75)
    return 2 * total + base + exponent * LN2


@functools.lru_cache(maxsize=64)
def log_uniform_quantiles(low: float, high: float) -> NDArray[np.float64]:
    """Quantiles of a number whose logarithm is uniform between those of low and high."""
    start, span = log(low), log(high) - log(low)
    table = np.array([exp(start + span * i / STEPS) for i in range(STEPS + 1)])
    table[0], table[-1] = low, high
    return _kept(np.clip(table, low, high))


@functools.lru_cache(maxsize=64)
def beta_quantiles(alpha: float) -> NDArray[np.float64]:
    """Quantiles of the Beta(alpha, alpha) law.

    Below the median the density is added up by the trapezium rule and inverted, over x if it is bounded there; if it is
    not (alpha < 1), over s = x^alpha, which takes the pole away. Above, the law is its own mirror image.
    """
    if alpha == 1:
        return _kept(np.arange(STEPS + 1) / STEPS)
    even = (np.arange(STEPS * FINE + 1) / (STEPS * FINE)).tolist()
    if alpha > 1:
        x = np.array(even) / 2
        density = [exp((alpha - 1) * (log(v) + log(1 - v))) if v > 0 else 0.0 for v in x.tolist()]
    else:
        x = np.array([exp(log(s) / alpha) / 2 if s > 0 else 0.0 for s in even])
        density = [exp((alpha - 1) * log(1 - v)) for v in x.tolist()]
    heights = np.array(density)
    mass = np.concatenate([[0.0], np.cumsum((heights[1:] + heights[:-1]) / 2)])
    lower = np.interp(np.arange(STEPS // 2 + 1) / (STEPS // 2), mass / mass[-1], x)
    lower[-1] = 0.5
    return _kept(np.concatenate([lower, 1 - lower[-2::-1]]))


def _kept(table: NDArray[np.float64]) -> NDArray[np.float64]:
    table.flags.writeable = False  # the cache hands out one array to all
    return table
