"""Fitting, stage by stage: each does what it is there for, on one process and on two, and survives odd rows."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_parts import IMAGES, mixed_logits, ranks, sample_of
from rank_stages import stages

from vqlabel import LabelEncoder
from vqlabel.codecs.additive import AdditiveSearch, check_words, fit_additive
from vqlabel.codecs.descend import BATCH, batches, descend
from vqlabel.codecs.fitting import fit
from vqlabel.codecs.foundation import build
from vqlabel.codecs.kmeans import assign, kmeans
from vqlabel.codecs.layout import PriorShape
from vqlabel.codecs.model import Decoder
from vqlabel.codecs.options import FitOptions
from vqlabel.codecs.priors import make_prior
from vqlabel.codecs.refit import refit
from vqlabel.codecs.sample import Sample
from vqlabel.codecs.spectrum import principal, waterfilling
from vqlabel.codecs.vq import VQ
from vqlabel.measure import kl, measure
from vqlabel.ranks import Ranks

pytestmark = pytest.mark.usefixtures("one_thread")

ALONE = Ranks()
CLASSES, ROWS = 20, 1200


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def options(**others: Any) -> FitOptions:
    return FitOptions(**{"nbits": 4, "effort": 0.05, "width": 12, **others})


def fitted(data: torch.Tensor, prior: str = "none", **others: Any) -> VQ:
    sample = sample_of(data, prior)
    return fit(sample, options(prior=prior, **others), sample)


def divergence(codec: VQ, data: torch.Tensor, temperature: float = 20.0) -> float:
    return float(measure(codec, sample_of(data, codec.tier), (temperature,))["kl"][f"{temperature:g}"])


def sound(codec: VQ) -> bool:
    return all(bool(weight.isfinite().all()) for weight in codec.decoder.parameters())


# The spectrum


def test_principal_directions_are_those_of_the_covariance() -> None:
    data = normal(900, 50) * torch.linspace(4, 0.5, 50) + normal(50, seed=1)
    found = principal(sample_of(data), 10, seed=0)
    centred = (data - data.mean(0)).double()
    values, axes = torch.linalg.eigh(centred.T @ centred / len(data))
    torch.testing.assert_close(found.mean, data.mean(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.variances.double(), values.flip(0)[:10], rtol=0.01, atol=0)
    torch.testing.assert_close(found.basis.T @ found.basis, torch.eye(10), rtol=0, atol=1e-5)
    kept = (centred @ found.basis.double()).square().sum()
    assert kept > 0.995 * (centred @ axes.flip(1)[:, :10]).square().sum()
    assert found.total == pytest.approx(float(values.sum()), rel=1e-4)


def test_each_direction_has_one_sign() -> None:
    basis = principal(sample_of(normal(300, 20)), 5, seed=0).basis
    assert (basis.gather(0, basis.abs().argmax(0)[None]) > 0).all()


def test_waterfilling_is_the_bound_of_a_gaussian() -> None:
    assert waterfilling(torch.full((4,), 2.0), 0.5, 8) == pytest.approx(4 * 2 * 2**-4 + 0.5, rel=1e-3)
    assert waterfilling(torch.tensor([100.0, 1e-3]), 0.0, 2) == pytest.approx(100 / 16 + 1e-3, rel=1e-3)
    assert waterfilling(torch.tensor([3.0, 1.0]), 0.0, 0) == pytest.approx(4, rel=1e-3)


# k-means


def test_separate_heaps_each_get_a_codeword() -> None:
    centres = normal(8, 3) * 100
    found = kmeans(centres.repeat(50, 1) + 0.1 * normal(400, 3, seed=1), 8, ALONE, seed=0)
    assert torch.cdist(centres, found).amin(1).max() < 0.1


def test_a_codeword_without_rows_finds_others() -> None:
    points = torch.cat([torch.zeros(500, 2), normal(20, 2) * 50])
    codes, errors = assign(points, kmeans(points, 8, ALONE, seed=0))
    assert len(codes.unique()) == 8
    assert errors[:500].max() < 1


@pytest.mark.parametrize("rows", [1, 3])
def test_few_different_points_are_found_exactly(rows: int) -> None:
    points = normal(rows, 4)[torch.arange(40) % rows]
    books = kmeans(points, 16, ALONE, seed=0)
    assert books.shape == (16, 4)
    assert assign(points, books)[1].abs().max() < 1e-4


def test_assign_takes_the_nearest() -> None:
    points, books = normal(5000, 6), normal(30, 6, seed=1)  # more than a block
    codes, errors = assign(points, books)
    distances = torch.cdist(points.double(), books.double()).square()
    torch.testing.assert_close(distances.gather(1, codes[:, None])[:, 0], distances.amin(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(errors.double(), distances.amin(1), rtol=1e-3, atol=1e-4)


# Additive books


def error(points: torch.Tensor, books: torch.Tensor, beam: int = 16) -> float:
    codes = AdditiveSearch(books).codes(points, beam)
    return float((points - sum(books[g][codes[:, g]] for g in range(len(books)))).square().sum(1).mean())


def test_additive_books_beat_greedy_ones() -> None:
    points = normal(1500, 8) * torch.linspace(3, 0.5, 8)
    greedy = fit_additive(points, 4, 16, ALONE, seed=0, rounds=0)
    assert error(points, greedy) < error(points, greedy, beam=1)
    assert error(points, fit_additive(points, 4, 16, ALONE, seed=0)) < 0.95 * error(points, greedy)


def test_one_book_is_searched_exactly() -> None:
    points, book = normal(300, 5), normal(64, 5, seed=1)
    assert torch.equal(AdditiveSearch(book[None]).codes(points, 1)[:, 0], assign(points, book)[0])


def test_books_too_large_to_search_are_refused_before_memory_is() -> None:
    with pytest.raises(ValueError, match="2 residual books of 65536 have 131072 codewords, but at most 8192 can be"):
        fitted(normal(50, CLASSES), form="residual", codebooks=2, nbits=16)
    check_words(1, 2**16)
    assert fitted(normal(50, 5), codebooks=2, nbits=13, width=4).layout.form == "product"


# Descent


def test_every_row_comes_once_before_any_comes_again() -> None:
    parts = list(batches(5 * BATCH, 10, ALONE, seed=3))
    for epoch in (parts[:5], parts[5:]):
        assert sorted(torch.cat(epoch).tolist()) == list(range(5 * BATCH))
    assert torch.cat(parts[:5]).tolist() != torch.cat(parts[5:]).tolist()


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_out_the_batches_of_one(world: int) -> None:
    own = [list(batches(1300, 9, Ranks(rank, world), seed=1)) for rank in range(world)]
    for step, whole in enumerate(batches(1300, 9, ALONE, seed=1)):
        joined = [int(row) * world + rank for rank in range(world) for row in own[rank][step]]
        assert sorted(joined) == sorted(whole.tolist())


def test_descent_finds_the_least_squares() -> None:
    x, wanted = normal(2000, 5), normal(5, 3, seed=1)
    weight = torch.zeros(5, 3, requires_grad=True)
    rows = batches(len(x), 400, ALONE, seed=0)
    descend([weight], lambda own: (x[own] @ (weight - wanted)).square().sum(), rows, steps=400, rate=3.0, ranks=ALONE)
    torch.testing.assert_close(weight.detach(), wanted, rtol=0, atol=1e-2)


def linear(data: torch.Tensor, hidden: int = 0) -> tuple[Decoder, Sample, torch.Tensor]:
    """A decoder as it is before the refit, and the codes that it is refitted for."""
    sample = sample_of(data)
    codec = fit(sample, options(bytes_per_label=2, effort=0.0, hidden=hidden), sample)
    assert codec.search is not None
    codes = codec.search.codes(codec.search.points(data, None))
    codec.decoder.requires_grad_(True)
    return codec.decoder, sample, codes


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_the_refit_lowers_the_kl(temperature: float) -> None:
    data = mixed_logits(ROWS, CLASSES)
    decoder, sample, codes = linear(data, hidden=8)
    before = kl(data, decoder(codes), temperature).mean()
    refit(decoder, sample, codes, (temperature,), steps=100, rate=0.03, seed=0)
    assert kl(data, decoder(codes), temperature).mean() < 0.95 * before


def test_a_refit_that_only_harms_is_undone() -> None:
    for data in (torch.zeros(100, CLASSES), normal(1, CLASSES).repeat(20, 1)):
        decoder, sample, codes = linear(data - data.mean(1, keepdim=True), hidden=8)
        before = kl(sample.logits, decoder(codes), 1.0).mean()
        refit(decoder, sample, codes, (1.0,), steps=20, rate=0.5, seed=0)
        assert kl(sample.logits, decoder(codes), 1.0).mean() <= before + 1e-6


# Priors


def shapes() -> list[PriorShape]:
    sizes: dict[str, Any] = {
        "classes": CLASSES,
        "images": IMAGES,
        "width": 5,
        "embedding": 6,
        "identity": 3,
        "hidden": 8,
    }
    nets = {"features": 17, "pixels": 7}
    return [
        PriorShape("classes", **sizes),
        PriorShape("replay", **sizes, **nets),
        PriorShape("image", **sizes, **nets, channels=1),
    ]


@pytest.mark.parametrize("shape", shapes(), ids=lambda shape: shape.tier)
def test_a_prior_starts_by_its_seed_and_turns_its_guess(shape: PriorShape) -> None:
    side = sample_of(torch.zeros(50, CLASSES), shape.tier).side
    state, guesses = torch.get_rng_state(), []
    for garbage in (0.0, 7.0):
        prior: Any = make_prior(shape)
        for name, weight in prior.named_parameters():
            if "norms" not in name and not name.startswith("level"):
                weight.data.fill_(garbage)
        prior.start(torch.Generator().manual_seed(1))
        guesses.append(prior(side).detach())
    assert torch.equal(*guesses)
    assert torch.equal(state, torch.get_rng_state()), "the user's random numbers stay as they are"
    matrix = normal(5, 5)
    prior.turn(matrix)
    torch.testing.assert_close(prior(side).detach(), guesses[0] @ matrix, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tier", ["classes", "replay", "image"])
def test_a_prior_lowers_the_kl_at_equal_bytes(tier: str) -> None:
    data, rest = mixed_logits(1200, CLASSES), slice(800, None)
    kinds = {"bytes_per_label": 1, "effort": 0.2 if tier == "classes" else 0.015, "hidden": 0}
    plain, helped = fitted(data[:800], **kinds), fitted(data[:800], tier, **kinds)
    assert (plain.row_bytes, helped.row_bytes) == (1, 1)
    whole = sample_of(data, tier)
    assert whole.side is not None
    held = dataclasses.replace(whole, logits=data[rest], side=whole.side[rest], total=400)
    assert measure(helped, held)["kl"]["20"] < 0.8 * divergence(plain, data[rest])


# All of it


def test_the_same_seed_gives_the_same_bytes_and_another_does_not() -> None:
    data, state, found = mixed_logits(ROWS, CLASSES), torch.get_rng_state(), []
    for seed in (1, 1, 2):
        codec = fitted(data, "replay", bytes_per_label=1, seed=seed, effort=0.02)
        arrays = codec.tensors() | codec.search_tensors()
        found.append([arrays[name].tobytes() for name in sorted(arrays)])
    assert found[0] == found[1] != found[2]
    assert torch.equal(state, torch.get_rng_state()), "the user's random numbers stay as they are"


@pytest.mark.parametrize("asked", [0, 1, 2.5, 4, 12])
def test_a_label_has_the_bytes_that_were_asked_for(asked: float) -> None:
    codec = fitted(mixed_logits(300, 40), bytes_per_label=asked, width=30, effort=0.0)
    assert codec.row_bits == int(asked * 8)
    assert codec.layout.form == ("residual" if asked <= 8 else "product")
    assert fitted(mixed_logits(300, 40), codebooks=3, nbits=5).row_bits == 15


def test_more_product_books_than_dimensions_are_not_made() -> None:
    data = mixed_logits(300, CLASSES)
    assert fitted(data, bytes_per_label=64, nbits=8, effort=0.0).layout.G == 12
    with pytest.raises(ValueError, match="13 product books need as many dimensions, but width is 12; take fewer books"):
        fitted(data, codebooks=13, form="product")


def test_int8_costs_little() -> None:
    data = mixed_logits(ROWS, CLASSES)
    costs = [divergence(fitted(data, bytes_per_label=2, effort=0.2, stored=kind), data) for kind in ("int8", "fp16")]
    assert costs[0] < 1.1 * costs[1]


def test_max_kl_takes_the_fewest_bytes_that_keep_it() -> None:
    data = mixed_logits(1500, CLASSES)
    sample, held = sample_of(data[:1000]), sample_of(data[1000:])
    reached = {}
    for size in (1, 2, 3):
        codec = fit(sample, options(bytes_per_label=size), held)
        reached[size] = measure(codec, held, (20.0,))["kl"]["20"]
    codec = fit(sample, options(max_kl=(reached[1] + reached[2]) / 2), held)
    assert codec.row_bytes == 2
    assert measure(codec, held, (20.0,))["kl"]["20"] <= (reached[1] + reached[2]) / 2
    with pytest.raises(ValueError, match=r"no rate up to 64 bytes reaches max_kl=1e-12: the best is \d"):
        fit(sample, options(max_kl=1e-12, width=3, effort=0.0), held)


ODD = {
    "two classes": normal(200, 2) * 3,
    "three classes": normal(200, 3) * 3,
    "10,450 classes": normal(40, 10_450),
    "fewer rows than codewords": normal(5, CLASSES),
    "one row": normal(1, CLASSES),
    "duplicated rows": normal(3, CLASSES).repeat(60, 1),
    "constant rows": torch.ones(90, CLASSES),
    "one class that always wins": torch.eye(CLASSES)[:1].repeat(60, 1) * 1e4,
    "tiny differences": normal(300, CLASSES) * 1e-6,
}


@pytest.mark.parametrize("stored", ["int8", "fp16"])
@pytest.mark.parametrize("name", ODD)
def test_odd_rows_are_fitted(name: str, stored: str) -> None:
    data = ODD[name] - ODD[name].mean(1, keepdim=True)
    codec = fitted(data, bytes_per_label=2, stored=stored, effort=0.02)
    assert sound(codec)
    alone = kl(data, data.mean(0).expand_as(data), 20.0).mean()
    assert divergence(codec, data) <= 0.7 * float(alone) + 1e-5


def test_rows_out_of_range_are_told_and_no_weight_is_ever_nan() -> None:
    for scale in (1e5, 1e30):
        with pytest.raises(ValueError, match="100 of 100 rows have a logit further than 65504 from their mean, or one"):
            fitted(normal(100, CLASSES).sign() * scale)
    data = normal(100, CLASSES)
    data[7, 3] = np.nan
    with pytest.raises(ValueError, match="1 of 100 rows have"):
        fitted(data)
    with pytest.raises(ValueError, match="row 7 holds NaN"):
        LabelEncoder.fit(data, held_out=0, progress=False)
    with pytest.raises(ValueError, match="weight 'books' reaches .*the most that can be stored; divide all logits"):
        fitted(data.nan_to_num().sign() * 6e4, stored="fp16", effort=0.0)
    with pytest.raises(ValueError, match="there are no rows to fit a codec on"):
        fitted(torch.zeros(0, CLASSES))
    with pytest.raises(ValueError, match="prior 'classes' needs side information"):
        build(sample_of(normal(9, CLASSES)), options(prior="classes"), lambda words: None)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"nbits": 17}, "nbits must be a whole number from 1 to 16, got 17"),
        ({"nbits": 4.0}, "nbits must be a whole number"),
        ({"nbits": None}, "nbits must be a whole number"),
        ({"codebooks": True}, "codebooks must be a whole number from 0 to 4096, got True"),
        ({"width": 0}, "width must be a whole number from 1 to 4096, got 0"),
        ({"seed": -1}, "seed must be"),
        ({"effort": float("nan")}, "effort must be 0 to 100, got nan"),
        ({"max_kl": 0.0}, "max_kl must be above 0"),
        ({"bytes_per_label": 1, "codebooks": 1}, "say one of bytes_per_label, max_kl and codebooks"),
        ({"prior": "pixels"}, "prior must be one of none, classes, replay, image, tokens, got 'pixels'"),
    ],
)
def test_wrong_options_are_named(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FitOptions(**wrong)


# Ranks


def test_two_ranks_fit_what_one_fits(tmp_path: Path) -> None:
    script = """
    torch.set_num_threads(1)
    from rank_stages import Ranks, stages
    torch.save(stages(Ranks.here()), f"{folder}/{rank}")
    distributed.destroy_process_group()
    """
    assert ranks(script, tmp_path) == [0, 0]
    first, second = (torch.load(tmp_path / str(rank)) for rank in (0, 1))
    alone = stages(ALONE)
    assert first.pop("digest") == second.pop("digest"), "both ranks end with the same codec"
    assert first["kl"] == second.pop("kl") == pytest.approx(alone["kl"], rel=0.02)
    for name, found in second.items():
        torch.testing.assert_close(found, alone[name], rtol=1e-4, atol=1e-4)
        assert torch.equal(first[name], found)
