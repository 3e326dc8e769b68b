"""The last word on the codes of a row: which of several choices decodes to the nearest label.

The search minds distances between latent vectors, as if the decoder were linear. With x = [h; gelu(V h + c)] a choice's
squared error over the classes is x' (W'W) x - 2 x' W' (logits - b), and something that no choice changes: no choice has
to be decoded to all its classes. What is common to all classes of a row says nothing, so W and b are centred first.

At low temperatures the KL counts the error of a class by its probability: it is half the variance of the errors under
the label, over T^2. The likeliest classes of a row are then decoded and count by what they have; all others share what
is left as the decoder's mean label would share it, which again takes one matrix for all rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vqlabel.codecs.model import Decoder
from vqlabel.known import Side

ROWS_AT_ONCE = 256  # with all their choices in the processor's cache
WEIGHED = 8.0  # the highest temperature at which classes count by how likely they are: above it nothing is won
LIKELIEST = 64  # classes of a row that count by their own probability
EVEN = 0.1  # of what the others share: no class may go anywhere because the mean label has none of it


def closest(decoder: Decoder, weighed: Sequence[float]) -> Closest:
    """Classes count by how likely they are at these temperatures; all alike if there are none."""
    return Likeliest(decoder, weighed) if weighed else Closest(decoder)


class Closest:
    """A decoder's view of choices of codes."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        with torch.no_grad():
            self._bias = decoder.bias - decoder.bias.mean()
            self._weight = decoder.weight - decoder.weight.mean(0)
            self._gram = self._weight.T @ self._weight

    @torch.no_grad()
    def choose(self, choices: torch.Tensor, centred: torch.Tensor, side: Side | None) -> torch.Tensor:
        """Codes [B, G], of choices [B, n, G] for each row of centred logits [B, C]."""
        if choices.shape[1] == 1 or len(choices) == 0:
            return choices[:, 0]
        h0, spread = self.decoder.guess(side, len(choices))
        parts = [torch.split(part, ROWS_AT_ONCE) for part in (choices, h0, spread, *self._wanted(centred))]
        return torch.cat([self._chosen(*part) for part in zip(*parts, strict=True)])

    def _wanted(self, centred: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What errors are measured against, of each row [B, ...]."""
        return ((centred - self._bias) @ self._weight,)

    def _chosen(
        self, choices: torch.Tensor, h0: torch.Tensor, spread: torch.Tensor, *wanted: torch.Tensor
    ) -> torch.Tensor:
        B, n, G = choices.shape
        h = h0[:, None] + spread[:, None] * self.decoder.latent(choices.reshape(-1, G)).view(B, n, -1)
        x = self.decoder.inputs(h.view(B * n, -1)).view(B, n, -1)
        return choices[torch.arange(B, device=choices.device), self._errors(x, *wanted).argmin(1)]

    def _errors(self, x: torch.Tensor, *wanted: torch.Tensor) -> torch.Tensor:
        """Errors [B, n] of choices with inputs x [B, n, X], but for a constant of each row."""
        flat = x.flatten(0, 1)
        own = (flat @ self._gram * flat).sum(1).view(x.shape[:2])
        return own - 2 * (x @ wanted[0][:, :, None])[:, :, 0]


class Likeliest(Closest):
    """Where classes count by how likely they are at some temperatures, in the mean of these."""

    def __init__(self, decoder: Decoder, temperatures: Sequence[float]) -> None:
        super().__init__(decoder)
        self._temperatures = temperatures
        with torch.no_grad():
            mean = self._likely(self._bias[None])[0]
            self._shares = (1 - EVEN) * mean + EVEN / len(mean)  # [C], of what the likeliest leave
            self._mean = self._shares @ self._weight
            self._gram = self._weight.T @ (self._shares[:, None] * self._weight)

    def _likely(self, logits: torch.Tensor) -> torch.Tensor:
        each = [torch.softmax(logits / temperature, 1) for temperature in self._temperatures]
        return torch.stack(each).mean(0)

    def _wanted(self, centred: torch.Tensor) -> tuple[torch.Tensor, ...]:
        away = centred - self._bias
        chances, classes = self._likely(centred).topk(min(LIKELIEST, away.shape[1]), 1)
        rest = away * self._shares
        return classes, chances, away.gather(1, classes), rest @ self._weight, rest.sum(1)

    def _errors(self, x: torch.Tensor, *wanted: torch.Tensor) -> torch.Tensor:
        classes, chances, away, rest, mean = wanted
        left = (1 - chances.sum(1, keepdim=True)).clamp_min(0)
        errors = x @ self._weight[classes].mT - away[:, None]  # [B, n, LIKELIEST]
        first = (errors @ chances[:, :, None])[:, :, 0] + left * (x @ self._mean - mean[:, None])
        second = (errors.square() @ chances[:, :, None])[:, :, 0] + left * super()._errors(x, rest)
        return second - first.square()
