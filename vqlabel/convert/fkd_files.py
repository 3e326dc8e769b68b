"""A file of FKD: all crops of one image, [coords, flips, labels] as NumPy arrays in a file of torch.save.

coords  F32 or F16 [crops, 4]   top, left, height, width as parts of the image
flips   bool [crops]
labels  F32 or F16 [crops, 2, k]   class numbers, then their probabilities
        F32 or F16 [crops, 2]      "smoothing": the same with k = 1
        I64 or F16 [crops]         "hard": class numbers
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vqlabel.convert.torch_files import UnreadableFile, check_crops, load_list

LARGEST = 64 * 2**20  # bytes of a file: of an image with a million crops
HALF_IDS = 2048  # fp16 tells whole numbers up to here from their neighbours
SLACK = {"F16": 2.0**-10, "F32": 2.0**-16}  # what probabilities that were rounded may be off by, in all
FLOATS = {np.dtype(np.float16): "F16", np.dtype(np.float32): "F32"}


@dataclass(frozen=True)
class Kind:
    """What all files of a set have in common."""

    labels: str  # "hard", "smoothing" or "top-k"
    k: int
    dtype: str  # of the class numbers as they are stored
    values: str  # "F16" or "F32"
    crops: str  # "F16" or "F32"

    def __str__(self) -> str:
        return f"{self.labels} labels, k = {self.k}, {self.dtype}, and coords {self.crops}"


@dataclass(frozen=True)
class Crops:
    """All crops of an image."""

    kind: Kind
    coords: NDArray[Any]  # [n, 4]
    flips: NDArray[np.bool_]  # [n]
    ids: NDArray[np.int64]  # [n, k]
    values: NDArray[Any]  # [n, k], probabilities

    def __len__(self) -> int:
        return len(self.ids)


def read_crops(path: str) -> Crops:
    """What is in a file; UnreadableFile unless it is all sound, class numbers apart, whose limit others know."""
    if os.path.getsize(path) > LARGEST:
        raise UnreadableFile(f"it has {os.path.getsize(path):,} bytes, but the crops of an image take no {LARGEST:,}")
    coords, flips, labels = (_array(item) for item in load_list(path, (3,)))
    kind, ids, values = _labels(labels)
    if coords.dtype not in FLOATS or coords.shape != (len(ids), 4) or not len(ids):
        raise UnreadableFile(f"coords are {_shape(coords)}, but labels {_shape(labels)}")
    if flips.dtype.kind not in "bui" or flips.shape != (len(ids),) or not np.isin(flips, (0, 1)).all():
        raise UnreadableFile(f"flips are {_shape(flips)}, not one 0 or 1 for each of {len(ids)} crops")
    crops = Crops(Kind(*kind, FLOATS[coords.dtype]), coords, flips.astype(np.bool_), ids, values)
    check_crops(coords)
    _check_labels(crops)
    return crops


def _array(item: Any) -> NDArray[Any]:
    if isinstance(item, torch.Tensor) and item.dtype != torch.bfloat16:
        item = item.numpy()
    if not isinstance(item, np.ndarray):
        raise UnreadableFile(f"it holds a {type(item).__name__} where an array is due")
    return np.ascontiguousarray(item, item.dtype.newbyteorder("="))


def _labels(stored: NDArray[Any]) -> tuple[tuple[str, int, str, str], NDArray[np.int64], NDArray[Any]]:
    """Kind without that of the crops, class numbers [n, k], probabilities [n, k]."""
    name = str(stored.dtype)
    if stored.ndim == 1 and (stored.dtype.kind in "iu" or stored.dtype in FLOATS):
        return ("hard", 1, name, "F16"), _whole(stored[:, None]), np.ones((len(stored), 1), np.float16)
    if stored.dtype not in FLOATS or stored.ndim not in (2, 3) or stored.shape[1] != 2 or 0 in stored.shape:
        raise UnreadableFile(
            f"labels are {_shape(stored)}, not floats [crops, 2, k] or [crops, 2], or class numbers [crops]"
        )
    labels = "smoothing" if stored.ndim == 2 else "top-k"
    whole = stored.reshape(len(stored), 2, -1)
    ids, values = _whole(whole[:, 0]), np.ascontiguousarray(whole[:, 1])
    return (labels, values.shape[1], name, FLOATS[stored.dtype]), ids, values


def _whole(numbers: NDArray[Any]) -> NDArray[np.int64]:
    exact = numbers.astype(np.float64)
    wrong = ~((exact >= 0) & (exact < 2**24)).all(1) | (exact != np.floor(exact)).any(1)
    if wrong.any():
        bad = int(np.flatnonzero(wrong)[0])
        raise UnreadableFile(f"crop {bad} tells of classes {numbers[bad].tolist()!s:.80}, which are no class numbers")
    return numbers.astype(np.int64)


def _check_labels(crops: Crops) -> None:
    ordered = np.sort(crops.ids, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]).any(1)
    if twice.any():
        bad = int(np.flatnonzero(twice)[0])
        raise UnreadableFile(f"crop {bad} tells of classes {crops.ids[bad].tolist()!s:.80}, one of them twice")
    sound = ((crops.values >= 0) & (crops.values <= 1)).all(1)
    sound &= crops.values.sum(1, dtype=np.float64) <= 1 + SLACK[crops.kind.values]
    if not sound.all():
        bad = int(np.flatnonzero(~sound)[0])
        raise UnreadableFile(f"crop {bad} has {crops.values[bad].tolist()!s:.80} for probabilities")


def _shape(array: NDArray[Any]) -> str:
    return f"{array.dtype} {list(array.shape)}"
