"""What is run: sizes, seeds and the names of files that follow from them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from examples.glyphs import data, perturb
from examples.glyphs.synthesis.options import MADE, METHODS, Optimised, Options
from vqlabel.arguments import check_word
from vqlabel.replay import ReplayRecipe

CROPS: dict[str, Any] = {"height": data.SIDE, "width": data.SIDE, "size": data.SIDE, "ratio": (0.8, 1.25), "flip": 0.0}
TEST_VIEWS = 2  # of every held-out rendering

# Fields that came when there were results: left out of names and keys while they say what was meant before them.
LATER = {"method": "random", "steps": 0}


@dataclass(frozen=True)
class Settings:
    """Everything that changes a result, but for the student's own choices."""

    classes: int = 1000
    family: str = "all"
    ipc: int = 5
    epochs: int = 30
    mixing: float = 0.5
    batch: int = 250  # of the student
    teacher_steps: int = 900
    seed: int = 0
    method: str = "random"  # how the distilled images are made
    steps: int = 0  # of methods that optimise; 0: as many as they do by themselves

    def __post_init__(self) -> None:
        limits = {"classes": 2, "ipc": 1, "epochs": 1, "batch": 2, "teacher_steps": 8, "seed": 0, "steps": 0}
        for name, least in limits.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 <= self.mixing <= 1:
            raise ValueError(f"mixing must be 0 to 1, got {self.mixing}")
        check_word("method", self.method, METHODS)
        if self.steps and not getattr(METHODS[self.method], "steps", 0):
            raise ValueError(f"method {self.method!r} takes no steps, got {self.steps}")

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in self.facts().items())})"

    def facts(self) -> dict[str, Any]:
        """What names and keys of results are made from."""
        return {name: value for name, value in dataclasses.asdict(self).items() if (name, value) not in LATER.items()}

    @classmethod
    def quick(cls) -> Settings:
        """A hundred classes, in under a minute on two cores."""
        return cls(classes=100, epochs=20, batch=50, teacher_steps=120)

    @property
    def synthesis(self) -> Options:
        """What shapes the images of the method."""
        options = METHODS[self.method]
        if self.steps and isinstance(options, Optimised):
            return dataclasses.replace(options, steps=self.steps)
        return options

    @cached_property
    def device(self) -> torch.device:
        """CUDA when it is there."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def glyphs(self) -> data.Glyphs:
        """The renderings."""
        return data.load(self.classes, self.family)

    @cached_property
    def teacher_images(self) -> torch.Tensor:
        """What the teacher learns from [faces * C, 1, 32, 32]; image i is of class i modulo C."""
        return self._images(self.glyphs.train)

    @cached_property
    def test_images(self) -> torch.Tensor:
        """Held-out faces [faces * C, 1, 32, 32]; image i is of class i modulo C."""
        return self._images(self.glyphs.test)

    @property
    def teacher_recipe(self) -> ReplayRecipe:
        """Views for the teacher: nothing mixed."""
        return ReplayRecipe(seed=self.seed + 1, images=len(self.teacher_images), scale=(0.6, 1.0), **CROPS)

    @property
    def test_recipe(self) -> ReplayRecipe:
        """Views to test on; the seed is fixed, so that all settings of one size share one test."""
        return ReplayRecipe(seed=2**32, images=len(self.test_images), scale=(0.7, 1.0), **CROPS)

    @property
    def distilled_recipe(self) -> ReplayRecipe:
        """Views of the distilled images, which the labels are made for."""
        images = self.ipc * self.classes
        return ReplayRecipe(seed=self.seed + 2**33, images=images, scale=(0.35, 1.0), cutmix=self.mixing, **CROPS)

    def folder(self) -> Path:
        """Where what these settings make is kept."""
        return data.cache_folder() / data.renderer()

    def teacher_path(self) -> Path:
        """The finished teacher."""
        return self.folder() / f"teacher-{self._key(self._teacher_facts())}.pt"

    def images_path(self) -> Path:
        """The distilled images."""
        facts = [MADE, self._teacher_facts(), self.ipc, self.method, dataclasses.asdict(self.synthesis)]
        return self.folder() / f"images-{self.method}-{self._key(facts)}.safetensors"

    def labels_path(self) -> Path:
        """The full fp16 labels."""
        facts = [self._teacher_facts(), self.ipc, self.epochs, self.distilled_recipe.to_json()]
        if self.method != "random":  # real images follow from what is there already
            facts.append(self.images_path().name)
        return self.folder() / f"labels-{self._key(facts)}.safetensors"

    def _teacher_facts(self) -> list[Any]:
        drawn = self.teacher_recipe.to_json(), dataclasses.asdict(perturb.TRAINING)
        return [self.glyphs.fingerprint(), self.teacher_steps, self.seed, *drawn]

    def _key(self, facts: list[Any]) -> str:
        """Name of a file that follows from everything that shapes it: nothing stale is ever taken for it."""
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]

    def _images(self, renderings: Any) -> torch.Tensor:
        flat = np.ascontiguousarray(renderings).reshape(-1, 1, data.SIDE, data.SIDE)
        return torch.from_numpy(flat).to(self.device)
