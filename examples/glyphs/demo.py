"""The whole story in a minute or two: a teacher's labels in a small file, and the students that learn from it.

make demo, or python -m examples.glyphs.demo. Everything is kept in VQLABEL_CACHE; what was interrupted goes on.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset, default_collate

from examples import shared
from examples.glyphs import demo_figure, distill, models, perturb, rate, rate_measure, student, teacher, training
from examples.glyphs.settings import Settings
from vqlabel import LabelDecoder, LabelEncoder, LabelFile
from vqlabel.data import ReplaySampler

SETTINGS = dataclasses.replace(Settings.quick(), epochs=40)
PRIOR, SIZE, EFFORT, T = "classes", 4, 0.1, 20.0
PICTURE = Path("demo.png")

Sample = tuple[torch.Tensor, int]


class Views(Dataset[Sample]):
    """Your own data set of views: a sample knows its row, which is all that labels need."""

    def __init__(self, settings: Settings) -> None:
        self.images, self.recipe = distill.images(settings), settings.distilled_recipe

    def __getitems__(self, rows: list[int]) -> list[Sample]:
        parameters = self.recipe.parameters(*np.divmod(np.array(rows), self.recipe.images))
        return list(zip(perturb.views(self.images, self.recipe, parameters, perturb.TRAINING), rows, strict=True))


def learned(decoder: LabelDecoder, settings: Settings) -> float:
    """Accuracy of a student of these labels, in an unmodified DataLoader."""
    torch.manual_seed(0)
    net = training.placed(models.student("convnet", settings.classes), settings.device)
    adam = training.optimiser(net, student.RATE, student.DECAY)
    sampler = ReplaySampler(decoder)
    # Sampler, collate, set_epoch and the loss are all of vqlabel; the README has data sets that it replays itself.
    collate = decoder.collate(default_collate, row=1)
    loader: Any = DataLoader(Views(settings), settings.batch, sampler=sampler, collate_fn=collate)
    steps = decoder.epochs * len(loader)
    bar = iter(training.progress("student", range(steps), steps))
    for epoch in range(decoder.epochs):
        sampler.set_epoch(epoch)
        for views, _, labels in loader:
            pace = student.RATE * training.rate_at(next(bar), steps, steps // 20)
            training.take_step(net, adam, pace, views, functools.partial(labels.to(settings.device).kl, temperature=T))
    next(bar, None)
    return training.accuracy(net, settings).whole


def compressed(settings: Settings) -> LabelFile:
    """The same labels in a few bytes each: fitted, then encoded; both are kept."""
    labels = rate_measure.load(settings)
    facts = [settings.labels_path().name, labels.teacher, PRIOR, SIZE, EFFORT, T]
    name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
    path, fitted = (settings.folder() / f"{what}-{name}.safetensors" for what in ("demo", "demo-codec"))
    if path.exists():
        return LabelFile(path)
    if not fitted.exists():
        options: dict[str, Any] = {"bytes_per_label": SIZE, "effort": EFFORT, "temperatures": (T,)}
        LabelEncoder.fit(labels.logits, side=labels.info, prior=PRIOR, **options).save(fitted)
    return LabelEncoder.load(fitted).encode(labels.logits, path, metadata={"teacher": labels.teacher})


class Demo:
    """The stages, each told with its seconds, and what students were found to reach."""

    def __init__(self, settings: Settings, console: Console) -> None:
        self.settings, self.console = settings, console
        self.kept = settings.folder() / "demo.json"

    def run(self, picture: Path) -> None:
        """From fonts to the table and the picture."""
        s = self.settings
        self._stage(f"1. {s.classes} characters, drawn from the fonts of matplotlib", lambda: s.glyphs)
        _, accuracy = self._stage("2. a teacher of them", lambda: teacher.train(s))
        rows = s.epochs * s.distilled_recipe.images
        full = self._stage(f"3. its labels for {rows:,} views", lambda: distill.labels(s))
        small = self._stage(f"4. the same in {SIZE} bytes each: fit, encode", lambda: compressed(s))
        works: dict[str, Callable[[], float]] = {
            "hard": lambda: student.train(s, student.hard(s.classes), seed=0).whole,
            "fp16": lambda: learned(LabelDecoder(full.path), s),
            "vqlabel": lambda: learned(LabelDecoder(small.path), s),
        }
        keys = {name: f"{name}, {Path(small.path).name}, {s}" for name in works}
        reached = {
            name: self._stage(f"{number}. a student of {name} labels", functools.partial(self._once, keys[name], work))
            for number, (name, work) in enumerate(works.items(), 5)
        }
        demo_figure.draw(s, full, small, reached, picture)
        self.console.print(table(reached, full, small))
        self.console.print(f"The teacher itself: {accuracy:.2f} %. One seed, 100 classes: a point is chance.\n")
        self._point(small, picture)

    def _stage(self, words: str, work: Callable[[], Any]) -> Any:
        """Do a part of it and say how long it took."""
        begin = time.perf_counter()
        if self.console.is_terminal:
            self.console.print(words, end="\r")
        made = work()
        self.console.print(f"{words:<60}{time.perf_counter() - begin:6.1f} s")
        return made

    def _once(self, key: str, work: Callable[[], float]) -> float:
        """Accuracy of a student, trained now unless it was before."""
        results = rate.read(self.kept)
        if key not in results["cells"]:
            results["cells"][key] = work()
            shared.write(self.kept, results)
        found: float = results["cells"][key]
        return found

    def _point(self, small: LabelFile, picture: Path) -> None:
        """Say where things are and what to do next."""
        lines = {
            "the picture": str(picture.resolve()),
            "the file": small.path,
            "what is in it": f"{Path(sys.executable).parent / 'vqlabel'} inspect {small.path}",
            "your own labels": "README.md",
            "1,000 classes, all rivals": "examples/glyphs/RETENTION.md",
        }
        for what, where in lines.items():
            self.console.print(f"{what:<27}{where}", soft_wrap=True, highlight=False)


def table(reached: dict[str, float], full: LabelFile, small: LabelFile) -> Table:
    """Bytes, ratio, accuracy and retention of each source of labels."""
    made = Table("labels", "B a label", "all-in", "smaller", "student", "retention", "gap closed")
    hard, best = reached["hard"], reached["fp16"]
    whole = full.header.file_bytes / len(full)
    for name, accuracy in reached.items():
        file = {"fp16": full, "vqlabel": small}.get(name)
        each = file.header.file_bytes / len(file) if file else 0
        size = [f"{file.row_bytes}", f"{each:.1f}", f"{whole / each:.0f}x"] if file else ["0", "0", ""]
        gap = f"{100 * (accuracy - hard) / (best - hard):.0f} %" if best != hard else ""
        made.add_row(name, *size, f"{accuracy:.2f} %", f"{100 * accuracy / best:.1f} %", gap)
    return made


def main() -> None:
    """Run it; Ctrl-C leaves nothing half-written."""
    console = Console()
    try:
        Demo(SETTINGS, console).run(PICTURE)
    except KeyboardInterrupt:
        console.print("\nInterrupted. Run it again, and it goes on from here.")
        sys.exit(130)


if __name__ == "__main__":
    main()
