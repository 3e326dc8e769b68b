"""What a fit makes of its options: the form and number of books, which dimensions they speak of, the hidden layer."""

from __future__ import annotations

from vqlabel.codecs.additive import MAX_WORDS, check_words
from vqlabel.codecs.foundation import Foundation
from vqlabel.codecs.layout import Layout
from vqlabel.codecs.model import Decoder
from vqlabel.codecs.options import FitOptions
from vqlabel.codecs.vqae import DIMENSIONS

MAX_RESIDUAL_BITS = 64  # above, product books are better and much quicker to search
MAX_HIDDEN = 160
# Bytes of all tables a class that the hidden layer may fill up, for rows without and with a network as prior.
BYTES_PER_CLASS = {"none": 285, "classes": 285, "replay": 780, "image": 755, "tokens": 450}
# Residual books that would take more than this share of it say nothing of the dimensions beyond NARROW.
BOOK_SHARE, NARROW = 0.3, 40


def choose_width(foundation: Foundation, options: FitOptions) -> int:
    """R: all dimensions, unless residual books that spoke of them all would leave no room for a hidden layer."""
    G, room = _count(options), BYTES_PER_CLASS[options.prior] * foundation.sample.classes
    if options.form == "vqae":
        return DIMENSIONS * max(G, 1)
    if _form(options) == "residual" and G * 2**options.nbits * foundation.width > BOOK_SHARE * room:
        return max(NARROW, foundation.shape.width if foundation.shape else 1)
    return foundation.width


def choose_layout(foundation: Foundation, options: FitOptions) -> Layout:
    """Books by the rate, the hidden layer by the room that is left; the foundation is as wide as choose_width says."""
    nbits, width = options.nbits, foundation.width
    G, form, linear = _count(options), _form(options), options.form != "vqae"
    if options.form == "auto" and form == "product":
        G = min(G, width)  # a dimension has little left to say to a second book
    if form == "product" and width < G:
        raise ValueError(
            f"{G} product books need as many dimensions, but width is {width}; take fewer books, or width={G}"
        )
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
