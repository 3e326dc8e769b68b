"""What each source stores, decoded again: logits of its rows, which batches meet them, and all its bytes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from examples import shared
from examples.glyphs import distill, rate_measure, rivals, structure, teacher
from examples.glyphs.rate_measure import MANY_ROWS, Labels
from examples.glyphs.retention_sources import Source
from examples.glyphs.settings import Settings
from examples.glyphs.student import Batch, plan
from vqlabel import LabelDecoder, LabelEncoder, LabelFile
from vqlabel.codecs.options import FitOptions
from vqlabel.schedules import stored_rows

BLOCK = 2_000  # rows that are decoded at a time
FITTED = 1  # counts changes of the codec after which files fitted before are worth nothing

# Bytes that published schemes store beside the labels of a row: crop, flip, mix; for each file of a batch; and to find
# the row again: the number of its image in a list (LPLD, LPQLD), its key (TinyViT: as long as those of ImageNet-22k).
AUGMENTATION = {"lpld": 25.0, "lpqld": 10.03, "tinyvit": 4.0}
BATCH_FILE = {"lpld": 2675.0, "lpqld": 3571.0}
LISTED = {"lpld": 7.0, "lpqld": 7.0, "tinyvit": 15.0}


@dataclass(frozen=True)
class Bytes:
    """Bytes of a source: of labels, of how views were made, of everything else here and at MANY_ROWS rows."""

    labels: float
    augmentation: float
    other: float
    other_many: float
    fixed: float = 0  # of labels that more epochs do not add to

    def each(self, rows: int) -> dict[str, float]:
        """For each label that a student uses."""
        labels = self.labels + self.fixed
        whole = labels + self.augmentation + self.other
        many = (self.labels + self.augmentation) / rows + (self.other_many + self.fixed) / MANY_ROWS
        return {
            "labels": labels / rows,
            "augmentation": self.augmentation / rows,
            "all": whole / rows,
            "many": many,
        }


@dataclass
class Stored:
    """A source's labels as a student meets them."""

    epochs: list[list[Batch]]
    bytes: Bytes
    logits: torch.Tensor | None = None  # float16 [rows, C] of row = epoch * images + image; None for hard labels
    single: bool = False  # whether there is one row an image, for all its views


def make(source: Source, settings: Settings, labels: Labels, effort: float = 1.0) -> Stored:
    """The labels of a source. Codecs are fitted on the rows that are stored, and their files are kept."""
    if source.scheme == "hard":
        return Stored(plan(settings), Bytes(0, 0, 0, 0))
    if source.scheme == "one":
        return _one_per_image(source, settings)
    if source.scheme in ("lpld", "lpqld"):
        return _batches(source, settings, labels)
    if source.scheme == "fp16" or source.scheme in structure.SCHEMES:
        return _full(source, settings, labels)
    if source.fits:
        return _fitted(source, settings, labels, effort)
    return _whole(source, settings, labels)


def kept_epochs(settings: Settings, keep: int) -> list[list[Batch]]:
    """Batches where one epoch in `keep` is stored, and those are taken in turn."""
    kept = _kept_rows(settings, keep) // settings.distilled_recipe.images
    return [[Batch(epoch % kept, batch.images) for batch in part] for epoch, part in enumerate(plan(settings))]


def pooled(settings: Settings, keep: int, *, again: bool) -> tuple[list[list[Batch]], list[Batch]]:
    """Batches drawn from the first ones, which alone are stored, and those; `again`: one may come twice an epoch."""
    parts = plan(settings)
    pool = [batch for part in parts for batch in part]
    pool = pool[: max(1, len(pool) // keep)]
    random = np.random.default_rng(settings.seed)
    if keep == 1:
        return parts, pool
    drawn = [random.choice(len(pool), len(part), replace=again or len(pool) < len(part)) for part in parts]
    return [[pool[number] for number in numbers] for numbers in drawn], pool


def _batches(source: Source, settings: Settings, labels: Labels) -> Stored:
    """LPLD and LPQLD: files of whole batches, of which some are kept."""
    epochs, pool = pooled(settings, source.keep, again=source.scheme == "lpld")
    logits, size = labels.logits, 2.0 * labels.classes
    if source.scheme == "lpqld":
        name, k = f"LPQLD MR-{source.k}", min(source.k, labels.classes)
        logits, size = _coded(rivals.make(name, labels.sample("none", held_out=True)), labels.logits), 4.0 * k
    return Stored(epochs, _in_files(source.scheme, pool, settings, size), logits)


def _in_files(scheme: str, pool: list[Batch], settings: Settings, size: float) -> Bytes:
    """Bytes of a file for each of these batches, with labels of this size."""
    rows = sum(len(batch.images) for batch in pool)
    beside = len(pool) * BATCH_FILE[scheme] + rows * LISTED[scheme]
    many = MANY_ROWS / (settings.epochs * settings.distilled_recipe.images)
    return Bytes(rows * size, rows * AUGMENTATION[scheme], beside, beside * many)


def _full(source: Source, settings: Settings, labels: Labels) -> Stored:
    """fp16 as SRe2L stores it, of every epoch or of one in so many, as it is or with changed tails."""
    logits, images = labels.logits, settings.distilled_recipe.images
    kept = _kept_rows(settings, source.keep) // images
    pool = [batch for part in plan(settings)[:kept] for batch in part]
    if source.scheme in structure.SCHEMES:
        classes = np.arange(len(logits)) % images % settings.classes
        logits = structure.changed(source.scheme, logits, classes, source.k)
    sizes = _in_files("lpld", pool, settings, 2.0 * labels.classes)
    return Stored(kept_epochs(settings, source.keep), sizes, logits)


def _whole(source: Source, settings: Settings, labels: Labels) -> Stored:
    """Schemes that store every row: int8 in a file of ours, TinyViT, faiss."""
    rows = len(labels.logits)
    name = {"int8": "int8", "tinyvit": f"TinyViT, k = {source.k}", "faiss": source.index}[source.scheme]
    coder = rivals.make(name, labels.sample("none", held_out=False))
    size = 4.0 * min(source.k, labels.classes) if source.scheme == "tinyvit" else coder.row_bytes
    other = rows * LISTED.get(source.scheme, 0.0) + getattr(coder, "fixed_bytes", 0)
    many = other if source.scheme == "faiss" else other * MANY_ROWS / rows
    sizes = Bytes(rows * size, rows * AUGMENTATION.get(source.scheme, 0.0), other, many)
    return Stored(plan(settings), sizes, _coded(coder, labels.logits))


def _coded(coder: rate_measure.Coder, logits: torch.Tensor) -> torch.Tensor:
    parts = [coder.decode(coder.encode(part.float())).half() for part in torch.split(logits, BLOCK)]
    return torch.cat(parts)


def _one_per_image(source: Source, settings: Settings) -> Stored:
    """The teacher of some age on the image itself; every view of it, and every share of a mix, meets that label."""
    teacher.train(settings)
    net, images = teacher.at_age(settings, source.age), distill.images(settings)
    with torch.inference_mode():
        parts = [net(_unchanged(part)) for part in torch.split(images, 500)]
    logits = torch.cat(parts).cpu()
    centred = (logits - logits.mean(1, keepdim=True)).half()
    return Stored(plan(settings), Bytes(0, 0, 0, 0, fixed=2.0 * logits.numel()), centred, single=True)


def _unchanged(images: torch.Tensor) -> torch.Tensor:
    """Images of uint8 as the teacher sees them, with nothing drawn."""
    view = (images.float() / 255 - 0.5) * 2
    return view.contiguous(memory_format=torch.channels_last)


def _fitted(source: Source, settings: Settings, labels: Labels, effort: float) -> Stored:
    """Codec `vq`, by way of its file and its decoder."""
    rows, images = _kept_rows(settings, source.keep), settings.distilled_recipe.images
    file = _file(source, settings, labels, effort)
    many = round(MANY_ROWS * rows / len(labels.logits)) // images * images
    others = [rate_measure.beside_codes(file.header, count) for count in (rows, many)]
    epochs = kept_epochs(settings, source.keep)
    return Stored(epochs, Bytes(rows * file.row_bytes, 0, *others), _decoded(file, labels))


def _kept_rows(settings: Settings, keep: int) -> int:
    return stored_rows(settings.distilled_recipe.images, settings.epochs, keep=1 / keep)


def file_path(source: Source, settings: Settings, labels: Labels, effort: float) -> Path:
    """Where the file of a source that is fitted is kept."""
    facts = [FITTED, labels.teacher, settings.labels_path().name, _kept_rows(settings, source.keep), effort, source.fit]
    facts += [source.prior, source.bytes, source.form]
    name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
    return settings.folder() / f"retention-{name}.safetensors"


def _file(source: Source, settings: Settings, labels: Labels, effort: float) -> LabelFile:
    path = file_path(source, settings, labels, effort)
    with shared.alone(path):
        return LabelFile(path) if path.exists() else _fit(source, settings, labels, effort)


def _fit(source: Source, settings: Settings, labels: Labels, effort: float) -> LabelFile:
    path = file_path(source, settings, labels, effort)
    side = None if source.prior == "none" else labels.info
    logits = labels.logits[: _kept_rows(settings, source.keep)]
    options: dict[str, Any] = {"prior": source.prior, "form": source.form, "bytes_per_label": float(source.bytes)}
    if source.form == "vqae":
        options["width"] = max(FitOptions.width, source.bytes)  # each of its books speaks of a dimension, or more
    encoder = LabelEncoder.fit(logits, side=side, temperatures=(source.fit,), effort=effort, **options)
    return encoder.encode(logits, path, metadata={"teacher": labels.teacher})


def _decoded(file: LabelFile, labels: Labels) -> torch.Tensor:
    decoder, prior = LabelDecoder(file.path), file.metadata["codec"]["prior"]
    parts = []
    for start in range(0, len(file), BLOCK):
        rows: NDArray[np.int64] = np.arange(start, min(start + BLOCK, len(file)))
        looks = prior is not None and prior["tier"] == "image"
        views = labels.info.of(rows, tier="image").views if looks else None
        parts.append(decoder(rows, output="logits", images=views).half())
    return torch.cat(parts)
