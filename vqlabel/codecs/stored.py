"""Weights as a file holds them: matrices as int8 with a scale per row or as fp16, vectors as fp16."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vqlabel.codecs.base import Read
from vqlabel.codecs.layout import SCALE, STEPS
from vqlabel.codecs.values import LARGEST_HALF, half_step
from vqlabel.errors import Corrupt

SMALLEST_HALF = 2.0**-24  # above 0


def rounded(weight: torch.Tensor, kind: str) -> torch.Tensor:
    """The weight as it will be read back; gradients pass as if nothing had happened."""
    if kind == "fp16" or weight.ndim < 2:
        kept = weight.detach().half().float()
    else:
        numbers, scale = _numbers(weight.detach())
        kept = (numbers * scale[:, None]).view_as(weight)
    return weight + (kept - weight).detach()


def _numbers(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole numbers [rows, ...] from -127 to 127 and the scale of each row."""
    rows = weight.reshape(weight.shape[0], -1)
    scale = half_step(rows.abs().amax(1), STEPS).float().clamp_min(SMALLEST_HALF)
    return (rows / scale[:, None]).round().clamp(-STEPS, STEPS), scale


def store(weights: Mapping[str, torch.Tensor], kind: str) -> dict[str, NDArray[Any]]:
    """Tensors of a file for these weights by name."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, weight in weights.items():
        weight = weight.detach().cpu()
        plain = kind == "fp16" or weight.ndim < 2
        most = LARGEST_HALF if plain else LARGEST_HALF * STEPS
        if weight.numel() and not weight.abs().max() <= most:
            raise ValueError(
                f"weight {name!r} reaches {float(weight.abs().max()):.3g}, but {most:.3g} is the most that can be "
                "stored; divide all logits by a constant, and the temperatures with them"
            )
        if plain:
            arrays[name] = weight.half().numpy()
        else:
            numbers, scale = _numbers(weight)
            arrays[name] = numbers.to(torch.int8).view_as(weight).numpy()
            arrays[name + SCALE] = scale.half().numpy()
    return arrays


def restore(shapes: Mapping[str, tuple[int, ...]], kind: str, read: Read) -> dict[str, torch.Tensor]:
    """Float32 weights of these shapes; Corrupt if the file's tensors are of another kind or shape."""
    weights = {}
    for name, shape in shapes.items():
        plain = kind != "int8" or len(shape) < 2
        array = _checked(name, read, shape, "<f4" if kind == "fp32" else "<f2" if plain else "i1")
        weight = torch.from_numpy(array.astype(np.float32))
        if not plain:
            scale = torch.from_numpy(_checked(name + SCALE, read, shape[:1], "<f2").astype(np.float32))
            weight = weight * scale.view(-1, *[1] * (len(shape) - 1))
        weights[name] = weight
    return weights


def _checked(name: str, read: Read, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    try:
        array = read(name)
    except KeyError:
        raise Corrupt(f"codec tensor {name!r} is missing") from None
    if array.shape != tuple(shape) or array.dtype != np.dtype(dtype):
        raise Corrupt(f"codec tensor {name!r} is {array.dtype} {list(array.shape)}, not {dtype} {list(shape)}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Corrupt(f"codec tensor {name!r} holds a number that is not finite")
    return array
