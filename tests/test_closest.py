"""The last word on codes: of the choices it is given it takes the one whose label is nearest."""

from __future__ import annotations

import pytest
import torch

from vqlabel.codecs import closest as module
from vqlabel.codecs.closest import EVEN, ROWS_AT_ONCE, Closest, closest
from vqlabel.codecs.fitting import fit
from vqlabel.codecs.layout import Layout
from vqlabel.codecs.model import Decoder
from vqlabel.codecs.options import FitOptions
from vqlabel.codecs.sample import Sample
from vqlabel.codecs.vq import VQ
from vqlabel.errors import Corrupt
from vqlabel.measure import kl

C, R, G, NBITS = 9, 5, 3, 2


def decoder(hidden: int, *, linear: bool = True) -> Decoder:
    made = Decoder(C, Layout("residual", G, NBITS, R, hidden, linear), None)
    generator = torch.Generator().manual_seed(hidden)
    for weight in made.parameters():
        weight.data.normal_(0, 1, generator=generator)
    return made.requires_grad_(False)


def choices(rows: int, count: int) -> torch.Tensor:
    return torch.randint(0, 2**NBITS, (rows, count, G), generator=torch.Generator().manual_seed(rows))


@pytest.mark.parametrize(("hidden", "linear"), [(0, True), (4, True), (6, False)])
@pytest.mark.parametrize("rows", [0, 1, 7, ROWS_AT_ONCE + 1])
def test_the_nearest_label_is_chosen(hidden: int, linear: bool, rows: int) -> None:
    made, offered = decoder(hidden, linear=linear), choices(rows, 6)
    logits = torch.randn(rows, C, generator=torch.Generator().manual_seed(1))
    error = made(offered.view(-1, G)).view(rows, 6, C) - logits[:, None]
    error -= error.mean(2, keepdim=True)  # a constant of a row is nothing
    expected = offered[torch.arange(rows), error.square().sum(2).argmin(1)] if rows else offered[:, 0]
    assert torch.equal(Closest(made).choose(offered, logits - logits.mean(1, keepdim=True), None), expected)


def test_a_single_choice_is_taken() -> None:
    offered = choices(5, 1)
    assert torch.equal(Closest(decoder(0)).choose(offered, torch.zeros(5, C), None), offered[:, 0])


@pytest.mark.parametrize("likeliest", [1, 4, C])
@pytest.mark.parametrize("temperatures", [(1.0,), (0.5, 2.0)])
@pytest.mark.parametrize(("hidden", "linear"), [(0, True), (6, False)])
def test_classes_count_by_how_likely_they_are(
    hidden: int, linear: bool, temperatures: tuple[float, ...], likeliest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIKELIEST", likeliest)
    made, offered, rows = decoder(hidden, linear=linear), choices(40, 6), torch.arange(40)
    logits = 3 * torch.randn(40, C, generator=torch.Generator().manual_seed(1))
    logits -= logits.mean(1, keepdim=True)

    def likely(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.softmax(x / t, 1) for t in temperatures]).mean(0)

    chances, classes = likely(logits).topk(likeliest, 1)
    share = (1 - EVEN) * likely(made.bias[None]) + EVEN / C
    weights = (1 - chances.sum(1, keepdim=True)) * share  # of all classes, and those of the likeliest on top
    weights = weights.scatter_add(1, classes, chances)[:, None]
    error = made(offered.view(-1, G)).view(40, 6, C) - logits[:, None]
    away = error - (weights * error).sum(2, keepdim=True)  # weights sum to 1
    expected = offered[rows, (weights * away.square()).sum(2).argmin(1)]
    assert torch.equal(closest(made, temperatures).choose(offered, logits, None), expected)


def peaky(rows: int, seed: int) -> torch.Tensor:
    """Logits of which a few classes of many have nearly everything."""
    random = torch.Generator().manual_seed(seed)
    ways = torch.randn(12, 60, generator=torch.Generator().manual_seed(0))
    found = 2 * torch.randn(rows, 12, generator=random) @ ways - 2 * torch.arange(60).log1p()
    return found - found.mean(1, keepdim=True)


def made_for(temperature: float) -> VQ:
    options = FitOptions(codebooks=3, nbits=4, form="residual", temperatures=(temperature,), width=16, effort=0.02)
    sample = Sample(peaky(1500, 1), None, 1500)
    found = fit(sample, options, sample)
    assert isinstance(found, VQ)
    return found


def test_labels_of_low_temperatures_come_closer() -> None:
    codec, held = made_for(1.0), peaky(400, 2)
    assert codec.search is not None
    centred = held - held.mean(1, keepdim=True)
    offered = codec.search.choices(codec.search.points(centred, None))
    reached = [
        float(kl(held, codec.decode_codes(judge.choose(offered, centred, None).numpy()), 1.0).mean())
        for judge in (closest(codec.decoder, (1.0,)), closest(codec.decoder, ()))
    ]
    assert reached[0] < 0.8 * reached[1]
    assert float(kl(held, codec.decode(codec.encode(held)), 1.0).mean()) == pytest.approx(reached[0], rel=0.02)


@pytest.mark.parametrize(("temperature", "weighed"), [(1.0, True), (8.0, True), (20.0, False)])
def test_a_codec_that_was_kept_chooses_the_same(temperature: float, weighed: bool) -> None:
    codec = made_for(temperature)
    kept = codec.tensors() | codec.search_tensors()
    assert ("search.temperatures" in kept) == weighed
    again = VQ.load(codec.classes, codec.config(), kept.__getitem__, list(kept))
    assert again.search is not None
    assert again.search.weighed == ((temperature,) if weighed else ())
    assert (again.encode(peaky(50, 3)) == codec.encode(peaky(50, 3))).all()
    if weighed:
        kept["search.temperatures"] = kept["search.temperatures"] * 0
        with pytest.raises(Corrupt, match="search.temperatures"):
            VQ.load(codec.classes, codec.config(), kept.__getitem__, list(kept))
