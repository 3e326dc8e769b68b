"""How far decoded labels are from the teacher's: KL at each temperature, agreement on the first class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vqlabel.codecs.base import Codec
from vqlabel.codecs.sample import Sample

if TYPE_CHECKING:
    import torch

TEMPERATURES = (1.0, 4.0, 20.0)


def kl(teacher: torch.Tensor, decoded: torch.Tensor, temperature: float) -> torch.Tensor:
    """KL(teacher || decoded) of each row [B] at this temperature, in nats; logits [B, C] each."""
    import torch

    wanted = torch.log_softmax(teacher / temperature, dim=1)
    found = torch.log_softmax(decoded / temperature, dim=1)
    # Where a class has no chance at all, what is found there says nothing: 0, not 0 times infinity.
    return (wanted.exp() * (wanted - found).nan_to_num(0.0, posinf=0.0)).sum(1)


def measure(codec: Codec, held_out: Sample, temperatures: Sequence[float] = TEMPERATURES) -> dict[str, Any]:
    """Mean KL at each temperature, top-1 agreement and codeword use of a codec on rows that it was not fitted on."""
    import torch

    ranks = held_out.ranks
    sums = torch.zeros(len(temperatures) + 1, dtype=torch.float64)
    for logits, side in held_out.blocks():
        decoded = codec.decode(codec.encode(logits, side), side)
        each = [kl(logits, decoded, t).double().sum() for t in temperatures]
        agree = (logits.argmax(1) == decoded.argmax(1)).double().sum()
        sums += torch.stack([*each, agree]).cpu()
    *divergences, agreement = (ranks.sum(sums) / max(held_out.total, 1)).tolist()
    named = {f"{t:g}": value for t, value in zip(temperatures, divergences, strict=True)}
    return {"rows": held_out.total, "kl": named, "top1": agreement}
