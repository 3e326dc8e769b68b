"""What teacher and student share: optimiser and schedule."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from examples.language.model import GPT

MOMENTUM = 0.95
MATRIX_RATE, OTHER_RATE = 0.02, 4e-3
WARMUP, COOLDOWN = 0.02, 0.5  # shares of all steps


class Optimiser:
    """Muon for the matrices inside the blocks, Adam for embedding and head."""

    def __init__(self, net: GPT) -> None:
        self._matrices = list(net.blocks.parameters())
        self._moved = [torch.zeros_like(weight) for weight in self._matrices]
        self._adam = torch.optim.Adam([net.embedding.weight, net.head.weight], betas=(0.9, 0.95), eps=1e-10)

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """One step at a factor of the full rates; gradients are forgotten."""
        for group in self._adam.param_groups:
            group["lr"] = OTHER_RATE * factor
        self._adam.step()
        self._adam.zero_grad()
        for weight, moved in zip(self._matrices, self._moved, strict=True):
            assert weight.grad is not None
            moved.mul_(MOMENTUM).add_(weight.grad)
            change = orthogonal(weight.grad + MOMENTUM * moved)
            weight.sub_(change, alpha=MATRIX_RATE * factor * max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5)
            weight.grad = None

    def state(self) -> dict[str, Any]:
        """What a resumed training needs."""
        return {"adam": self._adam.state_dict(), "moved": self._moved}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._adam.load_state_dict(state["adam"])
        self._moved = list(state["moved"])


def orthogonal(change: torch.Tensor) -> torch.Tensor:
    """The matrix with its singular values near 1, by five rounds of a polynomial (Newton-Schulz)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = change.bfloat16()
    x = x.T if change.shape[0] > change.shape[1] else x
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    turned: torch.Tensor = x.T if change.shape[0] > change.shape[1] else x
    return turned.to(change.dtype)


def factor_at(step: int, steps: int) -> float:
    """Linear start, constant, linear end."""
    return min(1.0, (step + 1) / max(1.0, WARMUP * steps), (steps - step) / max(1.0, COOLDOWN * steps))


def half_precision(device: torch.device) -> torch.autocast:
    """Products in bfloat16; weights stay as they are."""
    return torch.autocast(device.type, torch.bfloat16)


def mean_loss(net: nn.Module, tokens: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the next token."""
    with half_precision(tokens.device):
        logits = net(tokens)
    return nn.functional.cross_entropy(logits.float().flatten(0, 1), following.flatten())
