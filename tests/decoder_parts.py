"""Small label files for the tests of what reads them: one of each codec and prior, and some whose labels are marked."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from encoder_parts import IMAGES, RECIPE, mixed_logits, sample_of, scene, views
from numpy.typing import NDArray

from vqlabel import LabelDecoder, LabelEncoder
from vqlabel.codecs import Codec
from vqlabel.codecs.fitting import fit
from vqlabel.codecs.options import FitOptions
from vqlabel.codecs.raw import Int8, Raw
from vqlabel.codecs.topk import TopK
from vqlabel.replay import ReplayRecipe
from vqlabel.side import SideInformation

CLASSES, EPOCHS = 20, 5
ROWS = EPOCHS * IMAGES
PLAIN: dict[str, Codec] = {
    "raw": Raw(CLASSES),
    "int8": Int8(CLASSES),
    "topk": TopK(CLASSES, 4),
    "topk, uniform tail": TopK(CLASSES, 4, tail="uniform"),
}
FITTED: dict[str, dict[str, Any]] = {
    "residual": {"bytes_per_label": 2, "hidden": 0},
    "product": {"codebooks": 5, "nbits": 3, "form": "product", "hidden": 8},
    "vqae": {"codebooks": 2, "nbits": 3, "form": "vqae"},
    "classes": {"bytes_per_label": 1, "prior": "classes"},
    "classes, no codes": {"bytes_per_label": 0, "prior": "classes"},
    "replay": {"codebooks": 3, "nbits": 3, "form": "product", "prior": "replay"},
    "image": {"bytes_per_label": 1, "prior": "image", "stored": "fp16"},
}
KINDS = [*PLAIN, *FITTED]


@functools.cache
def folder() -> Path:
    """Where the files of this process lie; it goes when the process does."""
    made = tempfile.TemporaryDirectory()
    folder.made = made  # type: ignore[attr-defined]
    return Path(made.name)


@functools.cache
def codec_of(kind: str) -> Codec:
    if kind in PLAIN:
        return PLAIN[kind]
    options = FitOptions(**{"effort": 0.005, "width": 12, "nbits": 4, **FITTED[kind]})
    sample = sample_of(mixed_logits(ROWS, CLASSES), options.prior)
    return fit(sample, options, sample)


@functools.cache
def file_of(kind: str) -> str:
    """Path of a file of this kind, of ROWS rows."""
    path = folder() / kind.replace(", ", "-").replace(" ", "-")
    LabelEncoder(codec_of(kind), scene(CLASSES)).encode(mixed_logits(ROWS, CLASSES), path, progress=False)
    return str(path)


def side_of_rows(kind: str, rows: NDArray[np.int64]) -> Any:
    """What the prior of this kind knows of these rows, from the set and not from the file."""
    tier = codec_of(kind).tier
    return None if tier == "none" else scene(CLASSES).of(rows, tier=tier)


def views_of(kind: str, rows: NDArray[np.int64]) -> torch.Tensor | None:
    """What the student sees of these rows, if the prior looks at it."""
    return views(RECIPE.parameters(rows // IMAGES, rows % IMAGES)) if kind == "image" else None


# Labels that say which row they are of: in class 2 + n lies bit n of the row, between class 0 and class 1.

BITS = 17


def marks(rows: NDArray[np.int64]) -> NDArray[np.float32]:
    bits = rows[:, None] >> np.arange(BITS) & 1
    return np.concatenate([np.zeros((len(rows), 1)), np.ones((len(rows), 1)), bits], axis=1).astype(np.float32)


def marked_rows(logits: torch.Tensor) -> list[int]:
    """Row numbers of decoded marks."""
    bits = logits[:, 2:] > logits[:, :2].mean(1, keepdim=True)
    return (bits.long() << torch.arange(BITS)).sum(1).tolist()


def marked(path: Path, images: int, epochs: int, recipe: ReplayRecipe | None = None, **options: Any) -> LabelDecoder:
    """Decoder of a set whose labels say their rows."""
    side = SideInformation(np.arange(images) % 7, recipe)
    LabelEncoder(Raw(2 + BITS), side).encode(marks(np.arange(images * epochs)), path, progress=False)
    return LabelDecoder(path, **options)


def numbered(numbers: NDArray[np.int64]) -> torch.Tensor:
    """Images that say their number in every pixel."""
    return torch.from_numpy(numbers)[:, None, None, None].float().expand(-1, 1, 2, 2).contiguous()


def pairs(loader: Any) -> list[tuple[int, int]]:
    """Image and row of every sample that a loader gives, as its pixels and its label say."""
    found: list[tuple[int, int]] = []
    for seen, labels in loader:
        found += zip(seen.flatten(1)[:, 0].long().tolist(), marked_rows(labels.logits()), strict=True)
    return found
