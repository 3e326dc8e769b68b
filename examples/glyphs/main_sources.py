"""The students of the main table: images of every method, how many a class, and the labels that they come with."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from examples.glyphs import structure, teacher, unseen_table
from examples.glyphs.retention import Cell
from examples.glyphs.retention_sources import Source
from examples.glyphs.settings import Settings

WARM = 20.0  # the temperature of all students but those of a moving one
OURS = (16, 8, 4, 2)  # bytes of codec `vq`
LESS = (40, 30)  # times less than fp16: what VQAE says of itself
PRUNED = (1, 3, 10, 30)  # one epoch of fp16 labels in so many is stored
KEPT = (10, 20, 100)  # LPQLD keeps one logit in so many, of one batch in ten: 40, 80 and 200 times less in all


@dataclass(frozen=True)
class Grid:
    """Methods, images a class and the settings that they share."""

    settings: Settings
    methods: Sequence[str] = ("random", "rded", "rded1", "sre2l", "cda", "lpld", "noise")
    ipcs: Sequence[int] = (1, 5, 10)
    effort: float = 0.3  # of fits: with so few rows a longer one only learns them by heart
    steps: int = 0  # of methods that optimise; 0: as many as they do by themselves
    test: str = unseen_table.TESTS[0]  # what the tables show

    def of(self, method: str, ipc: int) -> Settings:
        """The settings of one set of images."""
        steps = self.steps if method in ("sre2l", "cda", "lpld") else 0
        return dataclasses.replace(self.settings, method=method, ipc=ipc, steps=steps)

    def cell(self, source: Source, settings: Settings, seed: int) -> Cell:
        """A student; the effort is of its labels' codec."""
        return Cell(source, WARM, seed, settings, self.effort if source.fits else 1.0)


GRIDS = {
    100: Grid(Settings(classes=100, batch=50, teacher_steps=300)),
    1000: Grid(Settings(), ipcs=(1, 5), test=unseen_table.TESTS[1]),
}
QUICK = Grid(Settings(classes=20, epochs=4, batch=20, teacher_steps=24), ipcs=(1, 2), effort=0.0, steps=4)


def sources(classes: int) -> list[Source]:
    """Labels, the most telling first."""
    ours = [Source("vq", "replay", size) for size in OURS]
    vqae = [Source("vqae", bytes=round(2 * classes / times)) for times in LESS]
    kept = [max(1, classes // share) for share in KEPT]
    lpqld = [Source("lpqld", k=k, keep=10, schedule="step", alignment="grid") for k in kept]
    one = Source("one", age=teacher.AGES[-1])
    # What LPQLD's moving temperatures do for labels that are not cut off.
    moving = [Source("fp16", schedule="step")]
    moving += [Source("vq", "replay", 8, schedule="step", alignment=alignment) for alignment in ("none", "grid")]
    return list(dict.fromkeys([Source("fp16"), Source("hard"), *ours[1:2], *vqae, *ours, *lpqld, *moving, one]))


def cells(grid: Grid, seeds: int) -> Iterator[tuple[Settings, list[Cell]]]:
    """Students of one set of images at a time; the first of every set, then the second."""
    for seed in range(seeds):
        for ipc in grid.ipcs:
            for method in grid.methods:
                settings, every = grid.of(method, ipc), sources(grid.settings.classes)
                chosen = every[:2] if method == "noise" else every
                yield settings, [grid.cell(source, settings, seed) for source in chosen]


def middle(grid: Grid) -> int:
    """Images a class where labels are pruned and broken: neither the fewest nor the most."""
    return sorted(grid.ipcs)[len(grid.ipcs) // 2]


def pruned() -> list[Source]:
    """The same fp16 labels, and fewer of them."""
    return [Source("fp16", keep=keep) for keep in PRUNED]


def broken() -> list[Source]:
    """fp16 labels of which all but a few classes are dropped, flattened, shuffled, or taken from another row."""
    return [Source(scheme, k=k) for k in structure.KEPT for scheme in ("lpqld", "tinyvit", *structure.SCHEMES)]


def why_cells(grid: Grid, seeds: int) -> Iterator[tuple[Settings, list[Cell]]]:
    """Students that tell what images and labels are worth to each other: pruned labels, and broken ones."""
    for seed in range(seeds):
        for method in grid.methods:
            settings = grid.of(method, middle(grid))
            chosen = [*pruned(), *(broken() if method in ("random", "lpld") else [])]
            yield settings, [grid.cell(source, settings, seed) for source in chosen if method != "noise"]
