"""The last word on the codes of a row: which of several choices decodes to the nearest label.

The search minds distances between latent vectors, as if the decoder were linear. With x = [h; gelu(V h + c)] a choice's
squared error over the classes is x' (W'W) x - 2 x' W' (logits - b), and something that no choice changes: no choice has
to be decoded to all its classes. What is common to all classes of a row says nothing, so W and b are centred first.
"""

from __future__ import annotations

import torch

from vqlabel.codecs.model import Decoder
from vqlabel.known import Side

ROWS_AT_ONCE = 256  # with all their choices in the processor's cache


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
        if choices.shape[1] == 1:
            return choices[:, 0]
        h0, spread = self.decoder.guess(side, len(choices))
        wanted = (centred - self._bias) @ self._weight
        parts = [torch.split(part, ROWS_AT_ONCE) for part in (choices, h0, spread, wanted)]
        return torch.cat([self._chosen(*part) for part in zip(*parts, strict=True)]) if len(choices) else choices[:, 0]

    def _chosen(
        self, choices: torch.Tensor, h0: torch.Tensor, spread: torch.Tensor, wanted: torch.Tensor
    ) -> torch.Tensor:
        B, n, G = choices.shape
        h = h0[:, None] + spread[:, None] * self.decoder.latent(choices.reshape(-1, G)).view(B, n, -1)
        x = self.decoder.inputs(h.view(B * n, -1))
        errors = (x @ self._gram * x).sum(1).view(B, n) - 2 * (x.view(B, n, -1) @ wanted[:, :, None])[:, :, 0]
        return choices[torch.arange(B, device=choices.device), errors.argmin(1)]
