"""Sets as SRe2L, LPLD, LPQLD and FKD write them, and a reader as theirs is, made from the description of both."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import BatchSampler, RandomSampler

QUICK = ("--effort", 0.02, "--rows", 200)  # options of a fit, for sets as small as these


def batches_of(
    images: int, batch: int, epochs: int, *, drop_last: bool = False, seed: int = 42
) -> list[list[list[int]]]:
    """Images of each batch of each epoch, as a loader with a seeded sampler would give them."""
    generator = torch.Generator()
    generator.manual_seed(seed)
    sampler = BatchSampler(RandomSampler(range(images), generator=generator), batch, drop_last)
    return [list(sampler) for _ in range(epochs)]


def crops(rng: np.random.Generator, rows: int, height: int, width: int) -> NDArray[np.int64]:
    """Boxes in pixels [rows, 4]."""
    extents = np.stack([rng.integers(1, side + 1, rows) for side in (height, width)], axis=1)
    starts = np.stack([rng.integers(0, side - extents[:, i] + 1) for i, side in enumerate((height, width))], axis=1)
    return np.concatenate([starts, extents], axis=1)


def views(rng: np.random.Generator, rows: int, side: int, *, mix: str | None, half: bool = False) -> list[Any]:
    """The items of a file that say how its views were made."""
    boxes = crops(rng, rows, side, side)
    fractions = torch.tensor((boxes / side).tolist(), dtype=torch.float32)
    items: list[Any] = [fractions.half() if half else fractions, torch.from_numpy(rng.random(rows) < 0.5)]
    if mix is None:
        return [*items, None, None, None]
    order, lam = torch.from_numpy(rng.permutation(rows)), float(rng.beta(1, 1))
    cut = int(side * math.sqrt(1 - lam)) // 2
    middle = rng.integers(0, side, 2)
    box = [np.clip(middle[0] - cut, 0, side), np.clip(middle[1] - cut, 0, side)]
    box += [np.clip(middle[0] + cut, 0, side), np.clip(middle[1] + cut, 0, side)]
    return [*items, order, lam, [np.int64(part) for part in box] if mix == "cutmix" else None]


def write_sre2l(
    folder: Path,
    *,
    images: int = 50,
    batch: int = 16,
    epochs: int = 2,
    classes: int = 10,
    side: int = 32,
    mix: str | None = "cutmix",
    dtype: torch.dtype = torch.float16,
    listed: bool = False,
    drop_last: bool = False,
    seed: int = 0,
) -> list[list[list[int]]]:
    """epoch_e/batch_b.tar, and with `listed` LPLD's list of images; returns the images of the batches."""
    rng = np.random.default_rng(seed)
    order = batches_of(images, batch, epochs, drop_last=drop_last)
    for epoch, numbers in enumerate(order):
        target = folder / f"epoch_{epoch}"
        target.mkdir(parents=True)
        for number, ids in enumerate(numbers):
            logits = torch.from_numpy(rng.normal(size=(len(ids), classes)) * 4).to(dtype)
            torch.save([*views(rng, len(ids), side, mix=mix), logits], target / f"batch_{number}.tar")
    if listed:
        text = {str(epoch): [i for ids in numbers for i in ids] for epoch, numbers in enumerate(order)}
        (folder / "sampler_indices_epoch.json").write_text(json.dumps(text))
    return order


def write_lpqld(
    folder: Path,
    *,
    images: int = 50,
    batch: int = 16,
    epochs: int = 3,
    classes: int = 100,
    k: int | None = 10,
    side: int = 32,
    stop: int | None = None,
    seed: int = 0,
) -> list[list[int]]:
    """batch_n.tar and the list of their images; `stop` is the number of files; returns the images of the batches."""
    rng = np.random.default_rng(seed)
    flat = [ids for numbers in batches_of(images, batch, epochs, drop_last=True) for ids in numbers][:stop]
    folder.mkdir(parents=True, exist_ok=True)
    for number, ids in enumerate(flat):
        crop, flip, order, lam, box = views(rng, len(ids), side, mix="cutmix", half=True)
        told: list[Any] = [
            crop,
            flip,
            order.to(torch.uint8),
            lam,
            [torch.tensor(int(part), dtype=torch.uint8) for part in box],
        ]
        logits = torch.from_numpy(rng.normal(size=(len(ids), classes)) * 4).half()
        if k is None:
            told.append(logits)
        else:
            found = logits.topk(k, dim=1)
            told += [found.values, found.indices.to(torch.int16)]
        torch.save(told, folder / f"batch_{number}.tar")
    (folder / "sampler_indices_batch.json").write_text(json.dumps({str(n): ids for n, ids in enumerate(flat)}))
    return flat


def rows_of(path: Path, ids: list[int], side: int) -> Iterator[dict[str, Any]]:
    """What a reader of one file would give to a student, row by row; boxes rounded as Pillow rounds them."""
    items = torch.load(path, weights_only=False)
    coords, flips, order, lam, box = items[:5]
    boxes = [pillow_box([float(part) * side for part in coords[row].tolist()]) for row in range(len(ids))]
    for row, image in enumerate(ids):
        partner = None if order is None else int(order[row])
        yield {
            "image": image,
            "crop": boxes[row],
            "flip": bool(flips[row]),
            "partner": None if partner is None else ids[partner],
            "partner_crop": None if partner is None else boxes[partner],
            "partner_flip": None if partner is None else bool(flips[partner]),
            "lam": lam,
            "box": None if box is None else tuple(int(part) for part in box),
            "labels": [part[row] for part in items[5:]],
        }


def pillow_box(crop: list[float]) -> tuple[int, int, int, int]:
    """Top, left, height and width of what Pillow cuts out for a box of floats."""
    top, left, height, width = crop
    edges = [round(edge) for edge in (top, left, top + height, left + width)]
    return edges[0], edges[1], edges[2] - edges[0], edges[3] - edges[1]


def write_fkd(folder: Path, names: Sequence[str] = ("c0/a", "c0/b", "c1/a")) -> None:
    """Four crops of each image, two of five classes told."""
    rng = np.random.default_rng(0)
    for name in names:
        ids = np.stack([rng.permutation(5)[:2] for _ in range(4)])
        values = rng.random((4, 2)) * 0.4
        coords = np.tile(np.float32([0, 0, 0.5, 1]), (4, 1))
        path = folder / "train" / f"{name}.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save([coords, np.zeros(4, bool), np.stack([ids, values], 1).astype(np.float16)], path)


def folder_of(path: Path, *names: str) -> Path:
    """A folder of images of these names; nobody looks into them."""
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"")
    return path
