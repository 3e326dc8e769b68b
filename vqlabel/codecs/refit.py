"""Refit of everything that a reader uses, with the codes as they are, to the KL at the temperatures in use."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.func import functional_call

from vqlabel.codecs.descend import BATCH, batches, descend
from vqlabel.codecs.model import Decoder
from vqlabel.codecs.sample import Sample
from vqlabel.measure import kl


def refit(
    decoder: Decoder,
    sample: Sample,
    codes: torch.Tensor,
    temperatures: Sequence[float],
    *,
    steps: int,
    rate: float,
    seed: int,
) -> None:
    """Minimise the mean KL, each temperature weighed by where it began, of the decoder as it will be stored."""
    weights = [1 / max(value, 1e-12) for value in mean_kl(decoder, sample, codes, temperatures)]
    size = min(BATCH, sample.total)
    begun = [weight.detach().clone() for weight in decoder.parameters()]

    def loss(own: torch.Tensor) -> torch.Tensor:
        teacher = sample.logits[own].float()
        side = None if sample.side is None else sample.side[own]
        found = functional_call(decoder, decoder.as_stored(), (codes[own], side))
        each = [w * cross_entropy(teacher, found, t) for w, t in zip(weights, temperatures, strict=True)]
        return sum(each[1:], each[0]) / (size * len(each))

    rows = batches(sample.total, steps, sample.ranks, seed)
    descend(list(decoder.parameters()), loss, rows, steps=steps, rate=rate, ranks=sample.ranks)
    ended = mean_kl(decoder, sample, codes, temperatures)
    # Where nothing can be won, as on constant rows, or numbers overflow, the steps only lead away.
    if not sum(w * value for w, value in zip(weights, ended, strict=True)) <= len(weights):
        for weight, before in zip(decoder.parameters(), begun, strict=True):
            weight.data.copy_(before)


def cross_entropy(teacher: torch.Tensor, found: torch.Tensor, temperature: float) -> torch.Tensor:
    """Sum over rows at a temperature: the KL and something that no decoder can change."""
    wanted = torch.softmax(teacher / temperature, 1)
    return -(wanted * torch.log_softmax(found / temperature, 1)).sum()


def mean_kl(decoder: Decoder, sample: Sample, codes: torch.Tensor, temperatures: Sequence[float]) -> list[float]:
    """Mean KL at each temperature on the leading rows of the sample, the same on all ranks."""
    few = slice(0, -(-2000 // sample.ranks.world))
    with torch.no_grad():
        teacher = sample.logits[few].float()
        found = decoder(codes[few], None if sample.side is None else sample.side[few])
        sums = torch.stack([kl(teacher, found, t).double().sum() for t in temperatures])
        count = torch.tensor([float(len(teacher))], dtype=torch.float64)
    return (sample.ranks.sum(sums) / sample.ranks.sum(count)).tolist()
