"""PackedLabels: the labels of a batch as they travel, a few bytes each, until a training step asks for numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data._utils.collate import default_collate_fn_map

from vqlabel.wanted import Wanted

if TYPE_CHECKING:
    from vqlabel.decoder import LabelDecoder


class PackedLabels:
    """Labels of B rows: their codes and, for a prior, the number of each row, as uint8 [B, bytes_per_row].

    They move between processes and devices as they are and are decoded where they lie. In a loader's batch they stand
    where a tensor of labels would: `pin_memory`, `to`, indexing and torch's `default_collate` work.
    """

    def __init__(self, decoder: LabelDecoder, data: torch.Tensor) -> None:
        self.decoder, self.data = decoder, data

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        return f"PackedLabels({len(self)} rows of {self.data.shape[1]} bytes on {self.device}, {self.decoder!r})"

    @property
    def device(self) -> torch.device:
        """Where they lie, and are decoded."""
        return self.data.device

    def __getitem__(self, rows: Any) -> PackedLabels:
        """Some of the rows; a number gives one row, still as a batch."""
        chosen = self.data[rows]
        return PackedLabels(self.decoder, chosen if chosen.ndim == 2 else chosen[None])

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> PackedLabels:
        """The same labels there."""
        return PackedLabels(self.decoder, self.data.to(device, non_blocking=non_blocking))

    def pin_memory(self, device: Any = None) -> PackedLabels:
        """The same in pinned memory; a loader with pin_memory=True calls this."""
        return PackedLabels(self.decoder, self.data.pin_memory())

    def probs(
        self,
        temperature: float = 1.0,
        *,
        dtype: torch.dtype = torch.float32,
        out: torch.Tensor | None = None,
        images: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Probabilities [B, C] at this temperature.

        A prior that looks at the views needs them as images [B, c, H, W], as the function made them that the labels
        were encoded with: before they are normalised for the student.
        """
        return self.decoder.decode(self, Wanted("probs", temperature, dtype), out=out, images=images)

    def log_probs(
        self, temperature: float = 1.0, *, dtype: torch.dtype = torch.float32, images: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logarithms of `probs`."""
        return self.decoder.decode(self, Wanted("log_probs", temperature, dtype), images=images)

    def logits(self, *, dtype: torch.dtype = torch.float32, images: torch.Tensor | None = None) -> torch.Tensor:
        """Logits [B, C], known up to a constant a row."""
        return self.decoder.decode(self, Wanted("logits", 1.0, dtype), images=images)

    def kl(
        self,
        student_logits: torch.Tensor,
        temperature: float,
        student_temperature: float | None = None,
        *,
        images: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Mean KL from these labels to the student's; `vqlabel.losses.distillation_loss` has the conventions."""
        from vqlabel.losses import distillation_loss

        found: torch.Tensor = distillation_loss(student_logits, self, temperature, student_temperature, images=images)
        return found

    def __reduce__(self) -> Any:
        # From a worker to its loader: the decoder is there already, its name will do.
        return _arrived, (self.decoder.name, self.data)


def _arrived(name: Any, data: torch.Tensor) -> PackedLabels:
    from vqlabel.decoder import decoder_named

    try:
        return PackedLabels(decoder_named(name), data)
    except ValueError as error:  # a text that neither the file nor the name holds
        raise ValueError(
            f"{error}. To a process that has no decoder yet, labels go with theirs: "
            "pickle.dumps((labels.decoder, labels))"
        ) from None


def joined(parts: Any, *, collate_fn_map: Any = None) -> PackedLabels:
    """One batch of several, for torch's default_collate."""
    first = parts[0]
    if any(part.decoder is not first.decoder for part in parts):
        raise ValueError("labels of different decoders cannot be one batch; use one LabelDecoder for the whole loader")
    return PackedLabels(first.decoder, torch.cat([part.data for part in parts]))


default_collate_fn_map[PackedLabels] = joined
