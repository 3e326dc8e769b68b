"""The priors are what CODECS.md says: its equations, written down once more in NumPy, give the same numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from encoder_parts import IMAGES, scene, views
from numpy.typing import NDArray

from vqlabel.codecs.layout import PriorShape
from vqlabel.codecs.priors import make_prior
from vqlabel.known import REGIMES
from vqlabel.replay import CUTMIX, MIXUP, ReplayRecipe
from vqlabel.side import SideInformation

CLASSES, SIZE = 11, 32
RECIPE = ReplayRecipe(seed=3, images=IMAGES, height=48, width=40, size=SIZE, cutmix=0.3, mixup=0.3)
DRAWS = [[65536, 0], [65537, 2]]
ROWS = np.arange(0, 4 * IMAGES, 3)

Array = NDArray[Any]


def gelu(x: Array) -> Array:
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def box(boxes: Array, height: float, width: float) -> Array:
    top, left, tall, wide = (boxes / [height, width, height, width]).T
    return np.stack([2 * top + tall - 1, 2 * left + wide - 1, 2 * tall - 1, 2 * wide - 1], axis=1)


class Row:
    """What a prior knows of the rows, from the recipe alone."""

    def __init__(self, classes: Array) -> None:
        drawn = RECIPE.parameters(ROWS // IMAGES, ROWS % IMAGES)
        M = (drawn.kinds > 0)[:, None]
        self.i = ROWS % IMAGES
        self.p = np.where(M[:, 0], drawn.partners, self.i)
        self.own, self.other = classes[self.i], classes[self.p]
        self.L = np.where(M[:, 0], drawn.shares, 1).astype(np.float32)[:, None]
        self.m = (self.L < 1).astype(float)
        self.l = np.where(self.m[:, 0] == 0, 0, 1 + np.minimum(np.floor(32 * self.L[:, 0]), 31)).astype(int)
        words = [RECIPE.draws(ROWS // IMAGES, self.i, *draw) / 2**31 - 1 for draw in DRAWS]
        kinds = [drawn.flips, drawn.kinds == CUTMIX, drawn.kinds == MIXUP]
        self.features = np.concatenate(
            [
                box(drawn.crops, 48, 40),
                np.stack(kinds, 1),
                M * drawn.shares[:, None],
                box(drawn.cuts, SIZE, SIZE) * (drawn.kinds == CUTMIX)[:, None],
                M * box(drawn.partner_crops, 48, 40),
                drawn.partner_flips[:, None],
                *words,
            ],
            axis=1,
        )


def pooled(v: Array) -> Array:
    _, c, height, width = v.shape
    cells = []
    for y in range(4):
        for x in range(4):
            rows = slice(y * height // 4, -(-(y + 1) * height // 4))
            cells.append(v[:, :, rows, x * width // 4 : -(-(x + 1) * width // 4)].mean((2, 3)))
    return np.stack(cells, 2).reshape(len(v), 16 * c)


def convolved(v: Array, weight: Array, bias: Array) -> Array:
    v = np.pad(v, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(v, (3, 3), axis=(2, 3))[:, :, ::2, ::2]
    return np.einsum("bcyxij,ocij->boyx", windows, weight) + bias[:, None, None]


def pixels(t: dict[str, Array], v: Array) -> Array:
    for n in range(3):
        v = convolved(v, t[f"sight.convolutions.{n}.weight"], t[f"sight.convolutions.{n}.bias"])
        mean, variance = v.mean((1, 2, 3), keepdims=True), v.var((1, 2, 3), keepdims=True)
        v = (v - mean) / np.sqrt(variance + 1e-5) * t[f"sight.norms.{n}.weight"][:, None, None]
        v = gelu(v + t[f"sight.norms.{n}.bias"][:, None, None])
    return gelu(pooled(v) @ t["sight.join.weight"].T + t["sight.join.bias"])


def guess(tier: str, t: dict[str, Array], row: Row, v: Array) -> Array:
    if tier == "classes":
        mixed = t["own_gate"][row.l, None] * t["table"][row.own] + t["other_gate"][row.l, None] * t["table"][row.other]
        return mixed + t["level"][row.l]
    a, b = row.L * t["table"][row.own], (1 - row.L) * t["table"][row.other]
    parts = [a, b, t["image"][row.i], row.m * t["image"][row.p], row.m, row.m * row.L, row.features]
    if tier == "image":
        parts.append(pixels(t, v))
    x = gelu(np.concatenate(parts, 1) @ t["first.weight"].T + t["first.bias"])
    x = x + gelu(x @ t["second.weight"].T + t["second.bias"])
    return x @ t["last.weight"].T + t["last.bias"] + (a + b) @ t["mix.weight"].T


@pytest.mark.parametrize("tier", ["classes", "replay", "image"])
def test_a_prior_is_its_equations(tier: str) -> None:
    classes = np.arange(IMAGES) % CLASSES
    side = SideInformation(classes, RECIPE, draws=DRAWS, views=lambda drawn: views(drawn) * torch.linspace(1, 9, 8))
    about = side.of(ROWS, tier="image")
    sizes: dict[str, Any] = {"embedding": 5, "identity": 3, "hidden": 6, "features": 25, "pixels": 4}
    shape = PriorShape(tier, CLASSES, IMAGES, 7, **sizes, channels=int(tier == "image"))
    prior = make_prior(shape).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for weight in prior.parameters():
        weight.copy_(torch.randn(weight.shape, generator=generator))
    tensors = {name: weight.double().numpy() for name, weight in prior.named_parameters()}
    assert about.views is not None
    expected = guess(tier, tensors, Row(classes), about.views.double().numpy())
    np.testing.assert_allclose(prior(about).numpy(), expected, rtol=1e-4, atol=1e-4)


def test_every_regime_is_used_and_rows_without_a_mix_have_their_own() -> None:
    share = torch.cat([torch.linspace(0, 1, 3300)[:-1], torch.tensor([1.0])])
    side = scene(CLASSES).of([0] * len(share))
    regimes = type(side)(**{**side.__dict__, "share": share}).regime
    assert sorted(regimes.unique().tolist()) == list(range(REGIMES))
    assert (regimes == 0).tolist() == (share == 1).tolist()
    assert (regimes[:-1].diff() >= 0).all()


@pytest.mark.parametrize("draw", [[65535, 0], [65536], [65536, -1], [65536, 2**32], ["65536", 0], 65536, [True, 0]])
def test_draws_that_are_not_the_users_are_refused(draw: Any) -> None:
    with pytest.raises(TypeError, match="stream, block"):
        SideInformation([0, 1], draws=[draw])


def test_rows_of_side_information_are_whole_numbers_from_0() -> None:
    side = SideInformation([0, 1, 2])
    with pytest.raises(TypeError, match="rows must be whole numbers, got float64"):
        side.of([1.7])
    with pytest.raises(ValueError, match="rows must be 0 to"):
        side.of([-1])


def test_views_without_a_recipe_are_a_clear_error() -> None:
    side = SideInformation([0, 1], views=lambda parameters: torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="without a replay recipe"):
        side.of([0], tier="image")
