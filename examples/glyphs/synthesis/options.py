"""What shapes the images of each method, beside the teacher, the seed and how many there are."""

from __future__ import annotations

from dataclasses import dataclass

MADE = 2  # counts changes of the methods after which images made before are others


@dataclass(frozen=True)
class Optimised:
    """Pixels that start as noise and follow the teacher's gradient."""

    steps: int
    rate: float = 0.3  # of Adam, at the start of a cosine; pixels are 0 to 1
    match: float = 0.5  # r_bn: what a step towards the statistics is worth beside the cross-entropy
    first: float = 10.0  # times as much for the first layer
    area: float = 0.6  # least share of the image in a crop, the one that the teacher's statistics were made of
    roll: int = 2  # pixels at most; more, and a class of few images moves further than its statistics allow


@dataclass(frozen=True)
class Patches:
    """Crops of real images, chosen by the teacher."""

    factor: int = 2  # patches along a side of an image
    views: int = 10  # of each face: the images that crops are taken from
    crops: int = 5  # of each of those
    area: tuple[float, float] = (0.25, 0.25)  # share of the image in a crop; a quarter of it keeps its size


@dataclass(frozen=True)
class Plain:
    """Nothing to choose."""


Options = Optimised | Patches | Plain

METHODS: dict[str, Options] = {
    "random": Plain(),
    "rded": Patches(),
    "rded1": Patches(factor=1, area=(0.35, 1.0)),  # not of the paper: a quarter of a character is hardly one
    "sre2l": Optimised(steps=100),
    "cda": Optimised(steps=100),
    "lpld": Optimised(steps=100),
    "noise": Optimised(steps=0),
}
