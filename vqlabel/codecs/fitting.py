"""Fit of a `vq` codec: spectrum, prior, books, codes; then all that a reader uses is refitted with the codes frozen."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import torch

from vqlabel.codecs.additive import fit_additive
from vqlabel.codecs.choose import choose_layout, choose_width
from vqlabel.codecs.closest import WEIGHED, closest
from vqlabel.codecs.descend import bounded
from vqlabel.codecs.foundation import Foundation, Say, build
from vqlabel.codecs.hybrid import Hybrid
from vqlabel.codecs.kmeans import kmeans
from vqlabel.codecs.layout import Layout
from vqlabel.codecs.model import Decoder
from vqlabel.codecs.options import FitOptions
from vqlabel.codecs.refit import refit
from vqlabel.codecs.sample import BLOCK, Sample
from vqlabel.codecs.search import Search
from vqlabel.codecs.values import LARGEST_HALF
from vqlabel.codecs.vq import VQ
from vqlabel.codecs.vqae import STEPS, narrowed, start_mirrored, train
from vqlabel.measure import measure
from vqlabel.ranks import Ranks

REFIT_STEPS, REFIT_PASSES = 2000, 64
REFIT_RATE, SECOND_RATE = 0.03, 0.02
Fitted = VQ | Hybrid
LADDER = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # bytes that max_kl chooses from


def fit(sample: Sample, options: FitOptions, held_out: Sample, say: Say = lambda _: None) -> Fitted:
    """The codec that these options ask for; held_out rows judge it where max_kl does."""
    if sample.total == 0:
        raise ValueError("there are no rows to fit a codec on")
    if options.top > sample.classes:
        raise ValueError(f"top is {options.top}, but the labels have {sample.classes} classes to correct")
    _check_range(sample)
    foundation = build(sample, options, say)
    if options.max_kl is None:
        return _corrected(finish(foundation, options, say), options)
    return _cheapest(lambda o: _corrected(finish(foundation, o, say), o), options, held_out)


def _check_range(sample: Sample) -> None:
    """ValueError, in all ranks, if a row of any reaches further than weights can be stored."""
    beyond = torch.zeros(1, dtype=torch.float64, device=sample.logits.device)
    for block, _ in sample.blocks():
        beyond += (~(block.abs().amax(1) <= LARGEST_HALF)).sum()
    if sample.ranks.sum(beyond) > 0:
        raise ValueError(
            f"{int(beyond)} of {sample.total} rows have a logit further than {LARGEST_HALF:g} from their mean, or one "
            "that is not finite; divide all logits by a constant, and the temperatures with them, or clip what the "
            "teacher says"
        )


def finish(foundation: Foundation, options: FitOptions, say: Say = lambda _: None) -> VQ:
    """The codec of one rate on this foundation."""
    foundation = narrowed(foundation, choose_width(foundation, options))
    layout = choose_layout(foundation, options)
    ranks, shape = foundation.sample.ranks, foundation.shape
    say(f"{layout.G} {layout.form} books of {layout.K}")
    books = _books(foundation.points, layout, ranks, options.seed)
    prior = copy.deepcopy(foundation.prior)
    mean, look = foundation.spectrum.mean, foundation.look
    weighed = options.temperatures if max(options.temperatures) <= WEIGHED else ()
    search = Search(layout, mean, look, books, foundation.spread, prior, beam=options.beam, weighed=weighed)
    decoder = Decoder(foundation.sample.classes, layout, shape)
    _start(decoder, foundation, books, options.seed)
    steps = round(STEPS * options.effort) if options.form == "vqae" else 0
    say("encoder, books and decoder" if steps else "codes")
    search, decoder, codes = train(search, decoder, foundation, options.temperatures, steps=steps, seed=options.seed)
    steps = bounded(round(REFIT_STEPS * options.effort), REFIT_PASSES, foundation.sample.total)
    if steps:
        _refit(search, decoder, foundation, codes, options, steps, say)
    return VQ(foundation.sample.classes, layout, decoder, shape, search)


def _corrected(vq: VQ, options: FitOptions) -> Fitted:
    return Hybrid(vq, options.top) if options.top else vq


def _refit(
    search: Search,
    decoder: Decoder,
    foundation: Foundation,
    codes: torch.Tensor,
    options: FitOptions,
    steps: int,
    say: Say,
) -> None:
    """Fit the decoder to the codes; where rows had a choice of them let it choose, and fit it to what it chose."""
    sample, temperatures, seed = foundation.sample, options.temperatures, options.seed
    say("refit")
    refit(decoder, sample, codes, temperatures, steps=steps, rate=REFIT_RATE, seed=seed)
    if search.chooses:
        say("closer codes")
        judge, points = closest(decoder, search.weighed), torch.split(foundation.points, BLOCK)
        chosen = [
            judge.choose(search.choices(part), logits, side)
            for part, (logits, side) in zip(points, sample.blocks(), strict=False)  # a rank may have none
        ]
        say("refit to them")
        codes = torch.cat(chosen) if chosen else codes
        refit(decoder, sample, codes, temperatures, steps=steps // 2, rate=SECOND_RATE, seed=seed + 1)


def _books(points: torch.Tensor, layout: Layout, ranks: Ranks, seed: int) -> torch.Tensor:
    """Books as a Decoder holds them."""
    if layout.G == 0:
        return points.new_zeros(layout.book_shape)
    if layout.form == "residual":
        return fit_additive(points, layout.G, layout.K, ranks, seed=seed).view(-1, layout.width)
    books = points.new_zeros(layout.width, layout.K)
    owner = torch.tensor(layout.owner)
    for g in range(layout.G):
        own = (owner == g).nonzero()[:, 0]
        books[own] = kmeans(points[:, own].contiguous(), layout.K, ranks, seed=seed + g).T
    return books


@torch.no_grad()
def _start(decoder: Decoder, foundation: Foundation, books: torch.Tensor, seed: int) -> None:
    """The linear decoder of the stages so far, and a hidden layer that does nothing yet."""
    layout, spectrum = decoder.layout, foundation.spectrum
    decoder.to(books.device)
    if layout.G:
        decoder.books.copy_(books)
    if layout.linear:
        decoder.weight[:, : layout.width] = foundation.basis
    decoder.bias.copy_(spectrum.mean)
    if layout.hidden:
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(layout.hidden, layout.width, generator=generator).to(books.device)
        # In units of each direction's size, or the first few would be all that the hidden layer sees.
        decoder.inner.copy_(noise / (layout.width**0.5 * spectrum.sizes))
        if not layout.linear:
            start_mirrored(decoder, foundation.basis, spectrum.sizes)
    if foundation.prior is not None and decoder.prior is not None:
        decoder.prior.load_state_dict(foundation.prior.state_dict())
        decoder.spread.copy_(foundation.spread)


def _cheapest(finish_at: Callable[[FitOptions], Fitted], options: FitOptions, held_out: Sample) -> Fitted:
    """The codec of the fewest bytes that stays below max_kl on rows that it was not fitted on."""
    assert options.max_kl is not None
    low, high, best, reached = 0, len(LADDER), None, float("inf")
    while low < high:
        middle = (low + high) // 2
        codec = finish_at(replace(options, max_kl=None, bytes_per_label=float(LADDER[middle])))
        found = max(measure(codec, held_out, options.temperatures)["kl"].values())
        reached = min(reached, found)
        if found <= options.max_kl:
            best, high = codec, middle
        else:
            low = middle + 1
    if best is None:
        raise ValueError(
            f"no rate up to {LADDER[-1]} bytes reaches max_kl={options.max_kl:g}: the best is {reached:.3g}"
        )
    return best
