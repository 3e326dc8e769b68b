"""Replay: known answers, one truth in NumPy and C++, the same for every split, laws that hold."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import pickle
from typing import Any

import numpy as np
import pytest

from vqlabel import _native, reference, tables
from vqlabel.replay import CUTMIX, MIXUP, NO_MIX, USER_STREAM, Parameters, ReplayRecipe

RECIPE = ReplayRecipe(seed=2**63 + 7, images=1000, height=48, width=40, size=32, cutmix=0.4, mixup=0.3, mixup_alpha=0.4)

# From the Random123 distribution: counter, key, answer.
KNOWN = [
    ([0] * 4, 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ([2**32 - 1] * 4, 2**64 - 1, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], 0x299F31D0A4093822, "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize("philox", [_native.philox, reference.philox])
@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_philox_gives_the_published_answers(philox: Any, counter: list[int], key: int, answer: str) -> None:
    draws = philox(np.array([counter], np.uint32), key)
    assert " ".join(f"{word:08x}" for word in draws[0]) == answer


def test_philox_is_the_same_in_numpy_and_native() -> None:
    random = np.random.default_rng(0)
    counters = random.integers(0, 2**32, (5000, 4)).astype(np.uint32)
    for key in (0, 1, 2**32, 2**64 - 1, int(random.integers(2**63))):
        np.testing.assert_array_equal(_native.philox(counters, key), reference.philox(counters, key), strict=True)


def philox_of(bits: int, counter: list[int], key: list[int], constants: list[int]) -> list[int]:
    """Ten rounds of Philox on words of any size, in Python's own integers."""
    mask = 2**bits - 1
    for _ in range(10):
        a, b = counter[0] * constants[0], counter[2] * constants[1]
        counter = [b >> bits ^ counter[1] ^ key[0], b & mask, a >> bits ^ counter[3] ^ key[1], a & mask]
        key = [(key[0] + constants[2]) & mask, (key[1] + constants[3]) & mask]
    return counter


def test_philox_of_numpy_agrees() -> None:
    """NumPy has the variant of 64-bit words only: what agrees with it there is held against ours at 32 bits."""
    wide = [0xD2E7470EE14C6C93, 0xCA5A826395121157, 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B]
    narrow = [0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85]
    # NumPy counts up before it draws
    oracle = np.random.Philox(key=np.array([5, 9], np.uint64), counter=np.array([0, 2, 3, 4], np.uint64))
    assert oracle.random_raw(4).tolist() == philox_of(64, [1, 2, 3, 4], [5, 9], wide)
    for counter in ([1, 2, 3, 4], [2**32 - 1, 0, 77, 2**31]):
        ours = _native.philox(np.array([counter], np.uint32), (9 << 32) + 5)
        assert ours[0].tolist() == philox_of(32, counter, [5, 9], narrow)


def check_same(a: Parameters, b: Parameters) -> None:
    for field in dataclasses.fields(Parameters):
        np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name), strict=True, err_msg=field.name)


@pytest.mark.parametrize(
    "recipe",
    [
        RECIPE,
        dataclasses.replace(RECIPE, scale=(0.9, 1.0), ratio=(0.2, 5.0)),  # most crops do not fit
        dataclasses.replace(RECIPE, scale=(0.999, 1.0), ratio=(9.0, 10.0)),  # none does
        dataclasses.replace(RECIPE, scale=(0.999, 1.0), ratio=(0.1, 0.11)),
        dataclasses.replace(RECIPE, height=1, width=1, size=1),
        dataclasses.replace(RECIPE, images=2**32, height=2**15, width=3, size=224),
    ],
)
def test_parameters_are_the_same_bits_in_numpy_and_native(recipe: ReplayRecipe) -> None:
    random = np.random.default_rng(1)
    images = random.integers(0, recipe.images, 3000)
    epochs = random.integers(0, 2**32, 3000)
    sizes = np.tile(np.array([recipe.height, recipe.width], np.int32), (3000, 1))
    found = recipe.parameters(epochs, images)
    truth = reference.replay_parameters(recipe, epochs, images, images, sizes)
    names = ("crops", "flips", "kinds", "partners", "shares", "cuts")
    for name, array in zip(names, truth, strict=True):
        np.testing.assert_array_equal(getattr(found, name), array, strict=True, err_msg=name)


def take(views: Parameters, rows: Any) -> Parameters:
    parts = {f.name: getattr(views, f.name) for f in dataclasses.fields(Parameters)}
    return Parameters(**{name: part if name == "size" else part[rows] for name, part in parts.items()})


def test_any_split_and_order_gives_the_same_views() -> None:
    images = np.random.default_rng(2).permutation(1000)
    whole = RECIPE.parameters(5, images)
    order = np.random.default_rng(3).permutation(1000)
    check_same(take(whole, order), RECIPE.parameters(5, images[order]))
    for batch in (1, 7, 256):
        for start in range(0, 1000, batch):
            rows = slice(start, start + batch)
            check_same(take(whole, rows), RECIPE.parameters(np.full(len(images[rows]), 5), images[rows]))


def draw(recipe: ReplayRecipe) -> Parameters:
    return recipe.parameters(9, np.arange(200))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_other_processes_draw_the_same(method: str) -> None:
    with multiprocessing.get_context(method).Pool(2) as pool:
        for views in pool.map(draw, [RECIPE] * 4):
            check_same(views, draw(RECIPE))


def test_these_numbers_never_change() -> None:
    """Written down once: a change here breaks every file that was made before."""
    views = RECIPE.parameters(0, [0, 17, 999])
    assert views.crops.tolist() == GOLDEN_CROPS
    assert views.flips.tolist() == GOLDEN_FLIPS
    assert views.kinds.tolist() == GOLDEN_KINDS
    assert views.partners.tolist() == GOLDEN_PARTNERS
    assert [share.hex() for share in views.shares.tolist()] == GOLDEN_SHARES
    assert views.cuts.tolist() == GOLDEN_CUTS


def test_partners_bring_their_own_view_along() -> None:
    views = RECIPE.parameters(4, np.arange(1000))
    mixed = np.flatnonzero(views.kinds)
    theirs = RECIPE.parameters(4, views.partners[mixed])
    np.testing.assert_array_equal(views.partner_crops[mixed], theirs.crops)
    np.testing.assert_array_equal(views.partner_flips[mixed], theirs.flips)
    alone = views.kinds == NO_MIX
    assert not views.partner_crops[alone].any()
    assert (views.partners[alone] == -1).all()
    assert (views.shares[alone] == 1).all()


def test_batch_pairing_shares_one_draw_and_permutes() -> None:
    recipe = dataclasses.replace(RECIPE, pairing="batch", cutmix=1.0, mixup=0.0)
    images = np.random.default_rng(0).permutation(1000)[:64]
    views = recipe.parameters(2, images, batch=5)
    assert len(np.unique(views.shares)) == len(np.unique(views.cuts, axis=0)) == 1
    assert sorted(views.partners) == sorted(images)
    assert (views.partners != recipe.parameters(2, images, batch=6).partners).any()
    check_same(views, recipe.parameters(np.full(64, 2), images, batch=5))
    np.testing.assert_array_equal(views.crops, recipe.unmixed().parameters(2, images).crops)
    assert len(recipe.parameters(2, [], batch=0)) == 0


def test_boxes_lie_inside() -> None:
    for recipe in (RECIPE, dataclasses.replace(RECIPE, scale=(0.01, 1.0), ratio=(0.1, 10.0), cutmix=1.0, mixup=0.0)):
        for epoch in range(500):  # with the other recipe a million boxes
            views = recipe.parameters(epoch, np.arange(1000))
            top, left, height, width = views.crops.T
            assert (top >= 0).all()
            assert (left >= 0).all()
            assert (height >= 1).all()
            assert (width >= 1).all()
            assert (top + height <= 48).all()
            assert (left + width <= 40).all()
            top, left, height, width = views.cuts.T
            assert min(top.min(), left.min(), height.min(), width.min()) >= 0
            assert max((top + height).max(), (left + width).max()) <= 32
            covered = height * width / 32**2
            np.testing.assert_allclose(views.shares[views.kinds == CUTMIX], 1 - covered[views.kinds == CUTMIX])


def distance(samples: Any, cdf: Any) -> float:
    """Kolmogorov-Smirnov statistic, times the square root of the sample size: above 1.95 once in 1,000."""
    x = np.sort(samples)
    n = len(x)
    upper, lower = np.arange(1, n + 1) / n, np.arange(n) / n
    return float(max(np.abs(cdf(x) - upper).max(), np.abs(cdf(x) - lower).max()) * np.sqrt(n))


def test_laws_hold() -> None:
    recipe = ReplayRecipe(
        seed=1,
        images=2**31,
        height=20_000,
        width=20_000,
        size=4096,
        scale=(0.08, 0.5),
        cutmix=0.3,
        mixup=0.2,
        flip=0.25,
    )
    n = 100_000
    views = recipe.parameters(0, np.arange(n))
    _, _, height, width = views.crops.T.astype(float)
    assert distance(height * width / 20_000**2, lambda x: (x - 0.08) / 0.42) < 1.95
    assert distance(np.log(width / height), lambda x: (x - np.log(3 / 4)) / np.log(16 / 9)) < 1.95
    assert distance(views.crops[:, 0] / (20_001 - height), lambda x: x) < 1.95
    assert distance(views.crops[:, 1] / (20_001 - width), lambda x: x) < 1.95
    assert distance(views.partners[views.kinds > 0] / 2**31, lambda x: x) < 1.95
    assert distance(views.shares[views.kinds == MIXUP], beta_cdf(0.8)) < 1.95
    for found, expected in ((views.flips, 0.25), (views.kinds == CUTMIX, 0.3), (views.kinds == MIXUP, 0.2)):
        assert abs(found.mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / n)
    # before it is clipped at the borders, the side of a cut is the root of the partner's share, which is even
    inside = (views.cuts[:, 0] > 0) & (views.cuts[:, 0] + views.cuts[:, 2] < 4096) & (views.kinds == CUTMIX)
    assert inside.sum() > 3000
    draws = recipe._words(0, np.arange(n), 2, 0)[:, 2] / 2**32
    np.testing.assert_allclose(views.cuts[inside, 2] / 4096, np.sqrt(1 - draws[inside]), atol=1e-3)
    drawn = [views.crops[:, 0] / (20_001 - height), views.crops[:, 1] / (20_001 - width), views.flips, height * width]
    correlation = np.corrcoef(np.stack([*drawn, width / height, views.partners % 1000]))
    assert np.abs(correlation[~np.eye(6, dtype=bool)]).max() < 0.02


def beta_cdf(alpha: float) -> Any:
    """By adding up the density on a fine grid, finer towards the ends."""
    t = (np.arange(400_000) + 0.5) / 400_000
    x = t * t * (3 - 2 * t)
    mass = np.cumsum(x ** (alpha - 1) * (1 - x) ** (alpha - 1) * 6 * t * (1 - t))
    return lambda samples: np.interp(samples, x, mass / mass[-1])


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.4, 0.8, 1.0, 2.0, 5.0, 40.0])
def test_quantiles_are_those_of_the_beta_law(alpha: float) -> None:
    table = tables.beta_quantiles(alpha)
    assert (np.diff(table) >= 0).all()
    np.testing.assert_allclose(table, 1 - table[::-1], atol=1e-15)
    inner = slice(40, 2049)  # close to 1 the numbers of a small alpha run out; the mirror image says the rest
    samples = np.sort(np.random.default_rng(0).beta(alpha, alpha, 10**6))
    found = np.searchsorted(samples, table) / len(samples)
    np.testing.assert_allclose(found[inner], (np.arange(4097) / 4096)[inner], atol=2e-3)


def test_recipe_survives_json_and_pickle() -> None:
    for recipe in (RECIPE, RECIPE.unmixed(), ReplayRecipe(seed=0, images=1, height=1, width=1, size=1)):
        assert ReplayRecipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
        assert pickle.loads(pickle.dumps(recipe)) == recipe


def test_numbers_of_numpy_are_numbers() -> None:
    sizes = {"seed": np.uint64(7), "images": np.int64(9), "height": np.int32(48), "width": np.int16(40)}
    shares: dict[str, Any] = {"flip": np.float32(0.5), "cutmix": np.float64(0.25), "scale": (np.float32(0.25), 1)}
    recipe = ReplayRecipe(**sizes, size=np.uint8(32), **shares)
    assert recipe == ReplayRecipe(7, 9, 48, 40, 32, scale=(0.25, 1.0), cutmix=0.25)
    assert ReplayRecipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": -1}, "seed must be a whole number from 0 to 18446744073709551615, got -1"),
        ({"seed": 1.0}, "seed must be a whole number"),
        ({"seed": np.True_}, "seed must be a whole number"),
        ({"flip": True}, "flip must be 0 to 1, got True"),
        ({"images": 0}, "images must be a whole number from 1"),
        ({"size": 2**16}, "size must be a whole number from 1 to 4096"),
        ({"scale": (0, 1)}, "scale must rise between 0 and 1, got 0, 1"),
        ({"scale": (0.5, 0.4)}, "scale must rise"),
        ({"scale": 0.5}, "scale must be two numbers, got 0.5"),
        ({"ratio": (0.5, float("nan"))}, "ratio must be 0 to 1e"),
        ({"flip": 2}, "flip must be 0 to 1, got 2"),
        ({"cutmix": 0.8, "mixup": 0.3}, "cutmix and mixup are probabilities, but add up to 1.1"),
        ({"mixup_alpha": 0}, "mixup_alpha must be 0.01 to 100, got 0"),
        ({"pairing": "triple"}, "pairing must be one of pair, batch, got 'triple'"),
        ({"colour": 1}, "replay field 'colour' is not known; this vqlabel knows cutmix, "),
    ],
)
def test_wrong_recipes_are_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ReplayRecipe.from_json({**RECIPE.to_json(), **change})
    with pytest.raises(ValueError, match="the replay recipe is incomplete"):
        ReplayRecipe.from_json({"seed": 1})


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: RECIPE.parameters(0, [1000]), ValueError, "images must be 0 to 999, got 1000 to 1000"),
        (lambda: RECIPE.parameters(0, [-1]), ValueError, "images must be 0 to 999"),
        (lambda: RECIPE.parameters(0, [0.5]), TypeError, "images must be whole numbers, got float64"),
        (lambda: RECIPE.parameters(0, 5), TypeError, "images must be whole numbers"),
        (lambda: RECIPE.parameters(-1, [5]), ValueError, "epoch must be 0 to 4294967295"),
        (lambda: RECIPE.parameters([0, 1], [5]), ValueError, "broadcast"),
        (lambda: RECIPE.draws(0, [1.9], USER_STREAM), TypeError, "images must be whole numbers, got float64"),
        (lambda: RECIPE.draws(0, [-1], USER_STREAM), ValueError, "images must be 0 to 4294967295, got -1 to -1"),
        (lambda: RECIPE.draws(2**32, [1], USER_STREAM), ValueError, "epochs must be 0 to 4294967295"),
        (lambda: RECIPE.draws(0, [1], USER_STREAM, 2**32), ValueError, "block must be 0 to 4294967295"),
        (lambda: RECIPE.draws(0, [1], 0), ValueError, "stream, .*, must be a whole number from 65536 to 4294967295"),
        (lambda: RECIPE.parameters(0, [5], batch=1), ValueError, "batch is for recipes with pairing='batch'"),
        (lambda: RECIPE.parameters(0, [5], sizes=[[1, 1]]), ValueError, r"sizes must have shape \(1000, 2\)"),
        (lambda: RECIPE.parameters(0, [5], sizes=np.zeros((1000, 2), int)), ValueError, "sizes must be 1 to 32768"),
        (
            lambda: dataclasses.replace(RECIPE, pairing="batch").parameters(0, [5]),
            ValueError,
            "needs batch=, the number of the batch",
        ),
        (
            lambda: dataclasses.replace(RECIPE, pairing="batch").parameters([0, 1], [5, 6], batch=0),
            ValueError,
            "the rows of a batch must be of one epoch",
        ),
    ],
)
def test_wrong_calls_are_named(call: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        call()


def test_streams_of_your_own_are_your_own() -> None:
    a = RECIPE.draws(0, np.arange(1000), USER_STREAM)
    b = RECIPE.draws(0, np.arange(1000), USER_STREAM + 1)
    assert a.shape == (1000, 4)
    assert (a != b).mean() > 0.99
    np.testing.assert_array_equal(RECIPE.draws([0, 0], [7, 7], USER_STREAM, [0, 1])[0], a[7])


def test_variable_sizes_keep_boxes_inside() -> None:
    sizes = np.random.default_rng(0).integers(1, 500, (1000, 2))
    views = RECIPE.parameters(1, np.arange(1000), sizes=sizes)
    assert (views.crops[:, :2] + views.crops[:, 2:] <= sizes).all()
    mixed = views.kinds > 0
    assert (views.partner_crops[mixed, :2] + views.partner_crops[mixed, 2:] <= sizes[views.partners[mixed]]).all()


GOLDEN_CROPS = [[12, 10, 20, 26], [7, 18, 22, 21], [20, 13, 26, 26]]
GOLDEN_FLIPS = [True, True, True]
GOLDEN_KINDS = [0, 2, 1]
GOLDEN_PARTNERS = [-1, 28, 679]
GOLDEN_SHARES = ["0x1.0000000000000p+0", "0x1.fff942ae74e6ep-1", "0x1.e200000000000p-1"]
GOLDEN_CUTS = [[0, 0, 0, 0], [0, 0, 0, 0], [0, 8, 6, 10]]
