"""What is asked of labels: probabilities, their logarithms or logits, at a temperature; or a loss against them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vqlabel.arguments import check_word
from vqlabel.kernels._checks import KINDS, OUTPUTS, Terms, check_temperature

__all__ = ["KINDS", "Terms", "Wanted", "check_temperature"]


@dataclass(frozen=True)
class Wanted:
    """What to make of the logits of a row: probabilities, their logarithms or the logits, of which type."""

    output: str = "probs"
    temperature: float = 1.0
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        check_word("output", self.output, OUTPUTS)
        object.__setattr__(self, "temperature", check_temperature(self.temperature))
        if not self.dtype.is_floating_point:
            raise ValueError(f"labels are floating-point numbers, not {self.dtype}")

    def of(self, logits: torch.Tensor) -> torch.Tensor:
        """It, by torch."""
        if self.output == "probs":
            logits = torch.softmax(logits / self.temperature, 1)
        elif self.output == "log_probs":
            logits = torch.log_softmax(logits / self.temperature, 1)
        return logits.to(self.dtype)

    def check_out(self, out: torch.Tensor, shape: tuple[int, int], device: torch.device) -> None:
        """ValueError unless it can be written there."""
        if tuple(out.shape) != shape or out.device != device or out.dtype != self.dtype:
            found = f"{out.dtype} {list(out.shape)} on {out.device}"
            raise ValueError(f"out must be {self.dtype} {list(shape)} on {device}, got {found}")
