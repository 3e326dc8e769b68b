"""The distilled set: images, real or made by a method, and the teacher's logits for every augmented view, in fp16.

Made as RDED and SRe2L relabel: the teacher sees each mixed view and its raw logits are kept. Rows are streamed into a
label file, so that a set larger than memory is made, and an interrupted one goes on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from examples.glyphs import perturb, teacher, training
from examples.glyphs.settings import Settings
from examples.glyphs.synthesis import sets
from vqlabel import LabelFile
from vqlabel.views import fingerprint
from vqlabel.writer import LabelWriter

BATCH = 512


def images(settings: Settings) -> torch.Tensor:
    """Distilled images [ipc * C, 1, 32, 32] of uint8, made as the method says; image i is of class i modulo C."""
    return sets.images(settings)


def labels(settings: Settings) -> LabelFile:
    """The full labels, made now unless they were before."""
    path = settings.labels_path()
    if not path.exists():
        _make(settings, path)
    return LabelFile(path, load="map")


def logits(file: LabelFile, rows: NDArray[np.int64]) -> torch.Tensor:
    """Rows [B] of a raw fp16 file as float32 [B, C]."""
    return torch.from_numpy(file.gather(rows).view(np.float16)).float()


def _make(settings: Settings, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    net, _ = teacher.train(settings)
    source = images(settings)
    writer = _writer(settings, path, net, source)
    rows, missing = writer.header.rows, writer.missing()
    first = missing[0].start // BATCH if missing else 0
    with writer, torch.inference_mode():
        for index in training.progress("labels", range(first, -(-rows // BATCH)), -(-rows // BATCH), done=first):
            # Always whole batches, so that a resumed file has the same bytes: a sum depends on what is beside it.
            batch = range(index * BATCH, min((index + 1) * BATCH, rows))
            parts = [range(max(part.start, batch.start), min(part.stop, batch.stop)) for part in missing]
            parts = [part for part in parts if part]
            if parts:
                made = _rows(settings, net, source, batch)
                for part in parts:
                    writer.write(part.start, made[part.start - batch.start : part.stop - batch.start])


def _writer(settings: Settings, path: Path, net: torch.nn.Module, source: torch.Tensor) -> LabelWriter:
    name = teacher.fingerprint(net)
    if path.with_name(path.name + ".partial").exists():
        writer = LabelFile.resume(path)
        if writer.header.metadata.get("teacher") == name:
            return writer
        writer.detach()  # begun with another teacher: worthless
        path.with_name(path.name + ".partial").unlink()
    recipe = settings.distilled_recipe
    return LabelFile.create(
        path,
        rows=settings.epochs * recipe.images,
        row_bytes=2 * settings.classes,
        tensors={"images.class": (np.arange(recipe.images) % settings.classes).astype(np.uint16)},
        metadata={
            "codec": {"id": "raw", "dtype": "F16"},
            "classes": settings.classes,
            "epochs": settings.epochs,
            "images": recipe.images,
            "replay": {"recipe": recipe.to_json(), "views": fingerprint(source, recipe)},
            "teacher": name,
        },
    )


def _rows(settings: Settings, net: torch.nn.Module, source: torch.Tensor, rows: range) -> NDArray[np.uint8]:
    recipe = settings.distilled_recipe
    epochs, ids = np.divmod(np.arange(rows.start, rows.stop), recipe.images)
    x = perturb.views(source, recipe, recipe.parameters(epochs, ids), perturb.TRAINING)
    found = net(x.contiguous(memory_format=torch.channels_last))
    centred = found - found.mean(1, keepdim=True)  # a constant per row says nothing, and fp16 is finest near zero
    packed: NDArray[np.uint8] = centred.half().cpu().numpy().view(np.uint8)
    return packed
