"""Fit of a `vq` codec: spectrum, prior, books, codes; then all that a reader uses is refitted with the codes frozen."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch

from vqlabel.codecs.additive import MAX_WORDS, check_words, fit_additive
from vqlabel.codecs.descend import bounded
from vqlabel.codecs.foundation import Foundation, Say, build
from vqlabel.codecs.kmeans import kmeans
from vqlabel.codecs.layout import Layout
from vqlabel.codecs.model import Decoder
from vqlabel.codecs.options import FitOptions
from vqlabel.codecs.refit import refit
from vqlabel.codecs.sample import Sample
from vqlabel.codecs.search import Search
from vqlabel.codecs.stored import MOST
from vqlabel.codecs.vq import VQ
from vqlabel.codecs.vqae import DIMENSIONS, STEPS, narrowed, start_mirrored, train
from vqlabel.measure import measure
from vqlabel.ranks import Ranks

REFIT_STEPS, REFIT_PASSES = 2000, 64
REFIT_RATE = 0.03
MAX_RESIDUAL_BITS = 64  # above, product books are better and much quicker to search
MAX_HIDDEN = 160
# Bytes of all tables a class that the hidden layer may fill up, for rows without and with a network as prior.
BYTES_PER_CLASS = {"none": 285, "classes": 285, "replay": 780, "image": 755}
# Residual books that would take more than this share of it say nothing of the dimensions beyond NARROW.
BOOK_SHARE, NARROW = 0.3, 48
LADDER = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # bytes that max_kl chooses from


def fit(sample: Sample, options: FitOptions, held_out: Sample, say: Say = lambda _: None) -> VQ:
    """The codec that these options ask for; held_out rows judge it where max_kl does."""
    if sample.total == 0:
        raise ValueError("there are no rows to fit a codec on")
    _check_range(sample)
    foundation = build(sample, options, say)
    if options.max_kl is None:
        return finish(foundation, options, say)
    return _cheapest(lambda o: finish(foundation, o, say), options, held_out)


def _check_range(sample: Sample) -> None:
    """ValueError, in all ranks, if a row of any reaches further than weights can be stored."""
    beyond = torch.zeros(1, dtype=torch.float64, device=sample.logits.device)
    for block, _ in sample.blocks():
        beyond += (~(block.abs().amax(1) <= MOST)).sum()
    if sample.ranks.sum(beyond) > 0:
        raise ValueError(
            f"{int(beyond)} of {sample.total} rows have a logit further than {MOST:g} from their mean, or one that is "
            "not finite; divide all logits by a constant, and the temperatures with them, or clip what the teacher says"
        )


def finish(foundation: Foundation, options: FitOptions, say: Say = lambda _: None) -> VQ:
    """The codec of one rate on this foundation."""
    foundation = narrowed(foundation, _width(foundation, options))
    layout = _layout(foundation, options)
    ranks, shape = foundation.sample.ranks, foundation.shape
    say(f"{layout.G} {layout.form} books of {layout.K}")
    books = _books(foundation.points, layout, ranks, options.seed)
    prior = copy.deepcopy(foundation.prior)
    search = Search(layout, foundation.spectrum.mean, foundation.basis, books, foundation.spread, prior)
    decoder = Decoder(foundation.sample.classes, layout, shape)
    _start(decoder, foundation, books, options.seed)
    steps = round(STEPS * options.effort) if options.form == "vqae" else 0
    say("encoder, books and decoder" if steps else "codes")
    search, decoder, codes = train(search, decoder, foundation, options.temperatures, steps=steps, seed=options.seed)
    say("refit")
    steps = bounded(round(REFIT_STEPS * options.effort), REFIT_PASSES, foundation.sample.total)
    if steps:
        refit(decoder, foundation.sample, codes, options.temperatures, steps=steps, rate=REFIT_RATE, seed=options.seed)
    return VQ(foundation.sample.classes, layout, decoder, shape, search)


def _layout(foundation: Foundation, options: FitOptions) -> Layout:
    nbits, width = options.nbits, foundation.width
    G, form, linear = _count(options), _form(options), options.form != "vqae"
    if options.form == "auto" and form == "product":
        G = min(G, width)  # a dimension has little left to say to a second book
    if form == "product" and width < G:
        raise ValueError(f"{G} product books need as many dimensions, but width is {width}; take fewer books")
    if form == "residual":
        check_words(G, 2**nbits)
    owner = _owner(foundation, G) if form == "product" and G else ()
    hidden = options.hidden
    if hidden is None:
        free = _hidden(foundation, Layout(form, G, nbits, width, 0, True, owner, options.stored), options.prior)
        # As many columns of W without its linear part, and enough to stand in for that.
        hidden = free if linear else width + max(free, width)
    return Layout(form, G, nbits, width, hidden, linear, owner, options.stored)


def _form(options: FitOptions) -> str:
    """Form of the layout: additive books where they are the better ones and can still be searched."""
    if options.form != "auto":
        return "product" if options.form == "vqae" else options.form
    G, K = _count(options), 2**options.nbits
    residual = G * options.nbits <= MAX_RESIDUAL_BITS and (G == 1 or G * K <= MAX_WORDS)
    return "residual" if residual else "product"


def _width(foundation: Foundation, options: FitOptions) -> int:
    """R: all dimensions, unless residual books that spoke of them all would leave no room for a hidden layer."""
    G, room = _count(options), BYTES_PER_CLASS[options.prior] * foundation.sample.classes
    if options.form == "vqae":
        return DIMENSIONS * max(G, 1)
    if _form(options) == "residual" and G * 2**options.nbits * foundation.width > BOOK_SHARE * room:
        return max(NARROW, foundation.shape.width if foundation.shape else 1)
    return foundation.width


def _count(options: FitOptions) -> int:
    """G, by the rate."""
    if options.codebooks is not None:
        return options.codebooks
    return int((4 if options.bytes_per_label is None else options.bytes_per_label) * 8) // options.nbits


def _owner(foundation: Foundation, G: int) -> tuple[int, ...]:
    """The book of each dimension: the next goes to the book with the least to say, so that all share the variance."""
    power = foundation.sample.ranks.sum(foundation.points.double().square().sum(0))
    variances = (power / max(foundation.sample.total, 1)).clamp_min(1e-12)
    levels = (variances / variances.min()).log().tolist()
    owner, loads, counts = [0] * len(levels), [0.0] * G, [0] * G
    for r in sorted(range(len(levels)), key=lambda r: -levels[r]):
        g = min(range(G), key=lambda g: (counts[g] > 0, loads[g], counts[g]))
        owner[r], loads[g], counts[g] = g, loads[g] + levels[r], counts[g] + 1
    return tuple(owner)


def _hidden(foundation: Foundation, layout: Layout, tier: str) -> int:
    """As wide as the size of the tables allows."""
    decoder = Decoder(foundation.sample.classes, layout, foundation.shape)
    used = sum(weight.numel() for weight in decoder.parameters())
    C = foundation.sample.classes
    free = BYTES_PER_CLASS[tier] * C - used - 4 * C
    return max(0, min(MAX_HIDDEN, free // (C + layout.width + 4) // 8 * 8))


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


def _cheapest(finish_at: Callable[[FitOptions], VQ], options: FitOptions, held_out: Sample) -> VQ:
    """The codec of the fewest bytes that stays below max_kl on rows that it was not fitted on."""
    from dataclasses import replace

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
