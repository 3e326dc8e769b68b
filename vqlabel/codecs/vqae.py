"""An encoder, product books and a decoder trained together, as if choosing a codeword passed gradients straight on."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from vqlabel.codecs.descend import BATCH, batches, descend
from vqlabel.codecs.foundation import Foundation
from vqlabel.codecs.kmeans import gathered
from vqlabel.codecs.model import Decoder
from vqlabel.codecs.refit import cross_entropy, mean_kl
from vqlabel.codecs.sample import Sample
from vqlabel.codecs.search import Encoder, Search
from vqlabel.codecs.spectrum import Spectrum

DIMENSIONS = 4  # of a codeword
ENCODER_HIDDEN = 256
STEPS = 1500
RATE = 0.03
COMMITMENT = 1.0  # of latent vectors to codewords and the other way round, against a KL of 1 to begin with
PATIENCE = 50  # steps without use after which a codeword gets a new place
POOL = 1024  # rows that new places are taken from


def narrowed(foundation: Foundation, width: int) -> Foundation:
    """The same in its leading dimensions alone."""
    whole, width = foundation.spectrum, min(width, foundation.width)
    spectrum = Spectrum(whole.mean, whole.basis[:, :width], whole.look[:, :width], whole.variances[:width], whole.total)
    basis, points = foundation.basis[:, :width].contiguous(), foundation.points[:, :width].contiguous()
    look = foundation.look[:, :width].contiguous()
    return replace(foundation, spectrum=spectrum, basis=basis, look=look, points=points)


def start_mirrored(decoder: Decoder, basis: torch.Tensor, sizes: torch.Tensor) -> None:
    """The linear decoder inside the hidden layer, two units a dimension: gelu(x) - gelu(-x) is x."""
    count = min(decoder.layout.width, decoder.layout.hidden // 2)
    leading = torch.diag(1 / sizes)[:count]
    weight = basis[:, :count] * sizes[:count]
    decoder.inner.data[: 2 * count] = torch.cat([leading, -leading])
    decoder.weight.data[:, : 2 * count] = torch.cat([weight, -weight], 1)


def start_encoder(foundation: Foundation, seed: int) -> Encoder:
    """A hidden layer that looks along all principal directions, and adds nothing yet."""
    look, sizes = foundation.look, foundation.spectrum.sizes
    encoder = Encoder(len(look), ENCODER_HIDDEN, foundation.width)
    noise = torch.randn(ENCODER_HIDDEN, foundation.width, generator=torch.Generator().manual_seed(seed))
    encoder.inner.data.copy_(noise.to(look) / (foundation.width**0.5 * sizes) @ look.T)
    encoder.sizes.copy_(sizes)
    return encoder.to(look.device)


def train(
    search: Search, decoder: Decoder, foundation: Foundation, temperatures: Sequence[float], *, steps: int, seed: int
) -> tuple[Search, Decoder, torch.Tensor]:
    """Search and decoder after so many steps, and the codes of the sample; as they were if nothing could be won."""
    sample, codes = foundation.sample, search.codes(foundation.points)
    if not steps or decoder.layout.G == 0:
        return search, decoder, codes
    before = mean_kl(decoder, sample, codes, temperatures)
    trainer = Trainer(search, decoder, foundation, temperatures, before, seed)
    rows = trainer.watched(batches(sample.total, steps, sample.ranks, seed))
    descend(trainer.parameters(), trainer.loss, rows, steps=steps, rate=RATE, ranks=sample.ranks)
    found = trainer.search()
    with torch.no_grad():
        settled = [found.codes(found.points(block, None)) for block, _ in sample.blocks()]
    after = torch.cat(settled) if settled else codes
    ended = mean_kl(trainer.decoder, sample, after, temperatures)
    if not sum(new / max(old, 1e-12) for new, old in zip(ended, before, strict=True)) <= len(before):
        return search, decoder, codes
    return found, trainer.decoder, after


class Trainer:
    """Copies of encoder, books and decoder on their way."""

    def __init__(
        self,
        search: Search,
        decoder: Decoder,
        foundation: Foundation,
        temperatures: Sequence[float],
        before: Sequence[float],
        seed: int,
    ) -> None:
        self.start, self.sample, self.temperatures = search, foundation.sample, temperatures
        self.decoder = copy.deepcopy(decoder)
        self.encoder = start_encoder(foundation, seed)
        self.basis = search.basis.clone().requires_grad_()
        self.weights = [1 / max(value, 1e-12) / len(before) for value in before]
        with torch.no_grad():
            error = (decoder.latent(search.codes(foundation.points)) - foundation.points).double().square().sum()
        self.error = max(float(self.sample.ranks.sum(error)) / self.sample.total, 1e-12)
        layout = decoder.layout
        self.used = torch.zeros(layout.G, layout.K, dtype=torch.int64, device=search.basis.device)
        self.generator = torch.Generator().manual_seed(seed)

    def parameters(self) -> list[torch.Tensor]:
        """All that is trained."""
        return [self.basis, *self.encoder.parameters(), *self.decoder.parameters()]

    def search(self) -> Search:
        """What finds codes as things stand."""
        encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        books = self.decoder.books.detach().clone()
        return replace(self.start, basis=self.basis.detach().clone(), books=books, encoder=encoder)

    def latent(self, logits: torch.Tensor) -> torch.Tensor:
        """Latent vectors [B, R] before they are quantised."""
        centred = logits.float() - self.start.mean
        found: torch.Tensor = centred @ self.basis + self.encoder(centred)
        return found

    def loss(self, own: torch.Tensor) -> torch.Tensor:
        """KL of own rows through their codewords, and how far latent vectors and codewords are apart."""
        teacher = self.sample.logits[own].float()
        h = self.latent(teacher)
        codes = replace(self.start, books=self.decoder.books.detach()).codes(h.detach())
        self.used.scatter_add_(1, codes.T, torch.ones_like(codes.T))
        words = self.decoder.latent(codes)
        found = self.decoder.expand(words + (h - h.detach()))
        each = zip(self.weights, self.temperatures, strict=True)
        divergence = torch.stack([w * cross_entropy(teacher, found, t) for w, t in each]).sum()
        apart = (h - words.detach()).square().sum() + (h.detach() - words).square().sum()
        return (divergence + COMMITMENT / self.error * apart) / min(BATCH, self.sample.total)

    def watched(self, rows: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        """The same rows; every so many steps codewords that were of no use are restarted."""
        for step, own in enumerate(rows):
            if step and step % PATIENCE == 0:
                dead = self.sample.ranks.sum(self.used) == 0
                self.used.zero_()
                if dead.any():
                    self.restart(dead)
            yield own

    @torch.no_grad()
    def restart(self, dead: torch.Tensor) -> None:
        """Put the codewords that `dead` [G, K] names where some rows' latent vectors are; the same on all ranks."""
        total = self.sample.total
        first = int(torch.randint(max(total - POOL, 0) + 1, (1,), generator=self.generator))
        part: Sample = self.sample.part(first, min(first + POOL, total))
        places = gathered(self.latent(part.logits), POOL, part.ranks)
        owner = torch.tensor(self.decoder.layout.owner, device=places.device)
        for g, book in enumerate(dead):
            own, empty = (owner == g).nonzero()[:, 0], book.nonzero()[:, 0]
            chosen = torch.randperm(len(places), generator=self.generator)[: len(empty)].to(places.device)
            # With fewer rows than codewords some stay where they are.
            self.decoder.books[own[:, None], empty[: len(chosen)]] = places[chosen][:, own].T
