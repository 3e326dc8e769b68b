"""The loop that sre2l, cda and lpld share: pixels follow cross-entropy and batch-norm statistics, batch by batch.

Every draw follows from the seed, the step and the image, so that a resumed run makes the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from examples import shared
from examples.glyphs import perturb, teacher, training
from examples.glyphs.data import SIDE
from examples.glyphs.settings import CROPS, Settings
from examples.glyphs.synthesis.options import Optimised
from examples.glyphs.synthesis.statistics import Statistics, distance, seen
from vqlabel.replay import USER_STREAM, ReplayRecipe
from vqlabel.views import apply

SAVE_EVERY = 100  # steps
BETAS = 0.5, 0.9
ROLL_STREAM = USER_STREAM + 2  # after those of perturb

Losses = dict[str, list[float]]  # sums over the groups of each batch: in its first step, and in its last


@dataclass(frozen=True)
class Plan:
    """All that the methods differ in."""

    batches: Sequence[NDArray[np.int64]]  # images [groups, size] each; a group is matched on its own
    target: Statistics
    area: Callable[[float], float]  # least share of the image in a crop, by the share of the steps that is done


def images(
    settings: Settings, net: nn.Module, plan: Plan, options: Optimised, running: Path
) -> tuple[torch.Tensor, Losses]:
    """Images uint8 [ipc * C, 1, 32, 32] of a plan; what was interrupted goes on from the file `running`."""
    net.requires_grad_(False)
    state = _begun(settings, net, running)
    many = len(plan.batches)
    clock = _Clock(many * options.steps, state["batch"] * options.steps + state["step"])
    for number in range(state["batch"], many):
        batch = _Batch(settings, plan, options, plan.batches[number])
        batch.restore(state)
        for step in range(state["step"], options.steps):
            losses = batch.take_step(net, step)
            state["losses"] += [list(losses) for told in (0, options.steps - 1) if step == told]
            clock.steps += 1
            if (step + 1) % SAVE_EVERY == 0:
                shared.save({**state, **batch.state(), "step": step + 1}, running)
                where = f"batch {number + 1} of {many}, step {step + 1} of {options.steps}"
                each = [loss / len(plan.batches[number]) for loss in losses]
                print(f"{settings.method}: {where}, CE {each[0]:.3f}, BN {each[1]:.3f}, {clock}", flush=True)
        state["images"][plan.batches[number].ravel()] = batch.rounded()
        state |= {"batch": number + 1, "step": 0, "pixels": None}
        shared.save(state, running)
    return state["images"].to(settings.device), _means(plan, state["losses"])


def _begun(settings: Settings, net: nn.Module, running: Path) -> dict[str, Any]:
    """Where an interrupted run of this teacher was, or the beginning."""
    name, found = teacher.fingerprint(net), shared.load(running, torch.device("cpu"))
    if found is not None and found["teacher"] == name:
        return dict(found)
    done = torch.zeros(settings.ipc * settings.classes, 1, SIDE, SIDE, dtype=torch.uint8)
    return {"teacher": name, "batch": 0, "step": 0, "pixels": None, "images": done, "losses": []}


def _means(plan: Plan, losses: list[list[float]]) -> Losses:
    """Mean over all groups of cross-entropy and distance: at the first step, at the last one."""
    groups = sum(len(batch) for batch in plan.batches)
    found = np.array(losses).reshape(len(losses), 2)
    return {
        name: [float(found[part::2, column].sum()) / groups for part in (0, 1) if len(losses)]
        for column, name in enumerate(("ce", "bn"))
    }


class _Batch:
    """Images that are made side by side."""

    def __init__(self, settings: Settings, plan: Plan, options: Optimised, ids: NDArray[np.int64]) -> None:
        self.settings, self.plan, self.options = settings, plan, options
        self.groups, self.ids = len(ids), ids.ravel()
        rows = torch.from_numpy(ids[:, 0] % len(plan.target[0][0]))
        self.rows, self.classes = (
            each.to(settings.device) for each in (rows, torch.from_numpy(self.ids % settings.classes))
        )
        self.pixels = noise(settings, self.ids).requires_grad_()
        self.adam = torch.optim.Adam([self.pixels], lr=options.rate, betas=BETAS)

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what a run had kept of this batch."""
        if state["pixels"] is not None:
            self.pixels.data.copy_(state["pixels"])
            self.adam.load_state_dict(state["adam"])

    def state(self) -> dict[str, Any]:
        """What restore needs."""
        return {"pixels": self.pixels.detach().cpu(), "adam": self.adam.state_dict()}

    def take_step(self, net: nn.Module, step: int) -> tuple[float, float]:
        """One step; cross-entropy and distance before it, each summed over the groups."""
        done = step / self.options.steps
        for group in self.adam.param_groups:
            group["lr"] = self.options.rate * training.rate_at(step, self.options.steps, 0)
        logits, found = seen(net, self._views(step, self.plan.area(done)), self.groups)
        bn = distance(found, self.plan.target, self.rows, self.options.first).sum()
        ce = functional.cross_entropy(logits, self.classes) * self.groups
        self.adam.zero_grad(set_to_none=True)
        (ce + self.options.match * bn).backward()  # type: ignore[no-untyped-call]
        self.adam.step()
        self.pixels.data.clamp_(0, 1)
        return float(ce.detach()), float(bn.detach())

    def rounded(self) -> torch.Tensor:
        """Images of uint8."""
        return (self.pixels.detach() * 255).round().to(torch.uint8).cpu()

    def _views(self, step: int, area: float) -> torch.Tensor:
        """Views as the teacher sees them: each image cropped and bent, all of them rolled alike.

        Contrast and noise would move the statistics of a small batch more than its pixels do.
        """
        recipe = _recipe(self.settings, area)
        parameters = recipe.parameters(step, self.ids)
        x = perturb.perturbed(apply(lambda _: self.pixels, parameters), recipe, parameters, perturb.SHAPE)
        span = 2 * self.options.roll + 1
        shift = recipe.draws(step, [0], ROLL_STREAM)[0, :2].astype(int) % span - self.options.roll
        return torch.roll(x, (int(shift[0]), int(shift[1])), (2, 3))


def noise(settings: Settings, ids: NDArray[np.int64]) -> torch.Tensor:
    """Gaussian noise [B, 1, 32, 32] around grey, as pixels 0 to 1; that of an image is the same in every batch."""
    drawn = [
        np.random.default_rng((settings.seed, int(image))).standard_normal(SIDE * SIDE, np.float32) for image in ids
    ]
    pixels = torch.from_numpy(np.array(drawn)).view(-1, 1, SIDE, SIDE) / 2 + 0.5
    return pixels.clamp(0, 1).to(settings.device)


def _recipe(settings: Settings, area: float) -> ReplayRecipe:
    """Crops of a step. No flips: a mirrored character is another one."""
    return ReplayRecipe(seed=settings.seed + 2**36, images=settings.ipc * settings.classes, scale=(area, 1.0), **CROPS)


class _Clock:
    """How long the rest will take."""

    def __init__(self, total: int, done: int) -> None:
        self.total, self.steps, self.first, self.begin = total, done, done, time.perf_counter()

    def __str__(self) -> str:
        each = (time.perf_counter() - self.begin) / max(1, self.steps - self.first)
        return f"{each * (self.total - self.steps) / 60:.1f} min left"
