"""The golden files: what they hold, and how to add one. `make golden` writes those that are missing, never another."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vqlabel import LabelFile

FOLDER = Path(__file__).parent
MAKER = {"created_by": "vqlabel 0.1.0"}

# Stored views of three images of 8 x 6 pixels, in two epochs: place, rows and columns of the crop, flip, partner.
VIEWS = [(1, 35, 20, 0, 2), (0, 8, 6, 1, 1), (2, 20, 0, 1, 0), (2, 0, 11, 0, 0), (0, 35, 20, 1, 2), (0, 0, 0, 0, 0)]
RECORDS = [place | y << 2 | x << 8 | flip << 13 | partner << 14 for place, y, x, flip, partner in VIEWS]
STORED = {
    "images": 3,
    "height": 8,
    "width": 6,
    "size": 8,
    "crops": "pixels",
    "flips": True,
    "mix": "cutmix",
    "batch": 2,
    "ordered": True,
}

# Every array is written out or counted, never drawn: the files must not depend on a generator.
GOLDEN: dict[str, dict[str, Any]] = {
    # the worked example of FORMAT.md
    "v1_example": {
        "rows": np.array([[0x21, 0x03], [0x54, 0x06], [0x87, 0x09]], np.uint8),
        "metadata": {"codec": {"id": "vq", "G": 3, "nbits": 4}, "rows_per_chunk": 2},
    },
    # odd width, several chunks, every metadata key, tensors of every item size
    "v1_vq_g3x11": {
        "rows": (np.arange(100 * 5) * 37 % 256).astype(np.uint8).reshape(100, 5) & np.uint8([255, 255, 255, 255, 1]),
        "tensors": {
            "books": np.arange(24, dtype="<f2").reshape(3, 4, 2) / 8,
            "decoder.bias": np.arange(-5, 5, dtype="<f4"),
            "images.class": np.arange(10, dtype="<u2"),
            "x.note": np.arange(7, dtype="i1"),
            "x.wide": np.array([[2**40, -1]], "<i8"),
        },
        "metadata": {
            "codec": {"id": "vq", "G": 3, "nbits": 11},
            "rows_per_chunk": 16,
            "requires": [],
            "classes": 1000,
            "epochs": 10,
            "images": 10,
            "replay": {"seed": 7},
            "teacher": "résumé-18",
            "temperatures": [1, 4, 20.5],
            "measured": {"kl": 0.001},
            "x.mine": "kept as it is",
        },
    },
    # a label set whose labels cost nothing: rows of no bytes
    "v1_zero_row_bytes": {
        "rows": np.zeros((1000, 0), np.uint8),
        "metadata": {"codec": {"id": "vq", "G": 0, "nbits": 8}},
    },
    # labels of somebody else's set: a row is missing, and views are stored
    "v1_imported": {
        "rows": np.array([[2, 1], [-1, 0.5], [0, 3], [4, -4], [1, 1.5], [0, 0]], "<f2").view(np.uint8),
        "tensors": {
            "rows.missing": np.uint8([0b100000]),
            "views.rows": np.array(RECORDS, "<u2").view(np.uint8).reshape(6, 2),
            "views.boxes": np.array([[0, 0, 8, 4], [2, 3, 0, 5], [1, 2, 3, 4], [0, 0, 0, 0]], "<u2"),
            "views.lambdas": np.array([0.5, 1, 0.8, 1], "<f8"),
            "images.class": np.array([1, 0, 1], "<u2"),
            "images.name": np.frombuffer(b"b/x.png\na/y.png\nb/z.png", np.uint8),
        },
        "metadata": {
            "codec": {"id": "raw", "dtype": "F16"},
            "requires": ["gaps"],
            "classes": 2,
            "epochs": 2,
            "images": 3,
            "replay": {"stored": STORED},
        },
    },
    "v1_zero_rows": {
        "rows": np.zeros((0, 4), np.uint8),
        "tensors": {"books": np.zeros((0, 4), "<f8")},
        "metadata": {"codec": {"id": "raw"}},
    },
}


def write(name: str, path: str | os.PathLike[str]) -> None:
    """Write the file of this name as the current version of the format has it."""
    write_parts(GOLDEN[name], path)


def write_parts(parts: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a file of these rows, tensors and metadata."""
    rows = parts["rows"]
    with LabelFile.create(
        path,
        rows=rows.shape[0],
        row_bytes=rows.shape[1],
        tensors=parts.get("tensors", {}),
        metadata={**MAKER, **parts["metadata"]},
    ) as writer:
        writer.write(0, rows)


def write_missing(folder: Path, names: Iterable[str], write: Callable[[str, Path], None]) -> None:
    """Write the files of these names that are not there."""
    for name in names:
        target = folder / f"{name}.safetensors"
        if not target.exists():
            write(name, target)
            print(f"wrote {target}")


if __name__ == "__main__":
    write_missing(FOLDER, GOLDEN, write)
