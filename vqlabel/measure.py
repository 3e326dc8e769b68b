"""How far decoded labels are from the teacher's: KL at each temperature, agreement on the first class, use of codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vqlabel import _native
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
    chances = wanted.exp()
    # Where a class has no chance at all, what is found there says nothing: 0, not 0 times infinity.
    return torch.where(chances == 0, 0.0, chances * (wanted - found)).sum(1)


def measure(codec: Codec, held_out: Sample, temperatures: Sequence[float] = TEMPERATURES) -> dict[str, Any]:
    """Mean KL at each temperature, top-1 agreement and codeword use of a codec on rows that it was not fitted on.

    For codecs with codes, "used" is the share of all codewords that some row has, and "entropy" the bits of a code that
    an entropy coder could not save, a mean over the books.
    """
    import torch

    ranks = held_out.ranks
    sums = torch.zeros(len(temperatures) + 1, dtype=torch.float64)
    config = codec.config()
    counts = torch.zeros(config.get("G", 0), 2 ** config.get("nbits", 0), dtype=torch.int64)
    for logits, side in held_out.blocks():
        rows = codec.encode(logits, side)
        if len(counts):
            count_codes(rows, config["nbits"], counts)
        decoded = codec.decode(rows, side)
        each = [kl(logits, decoded, t).double().sum() for t in temperatures]
        agree = (logits.argmax(1) == decoded.argmax(1)).double().sum()
        sums += torch.stack([*each, agree]).cpu()
    *divergences, agreement = (ranks.sum(sums) / max(held_out.total, 1)).tolist()
    named = {f"{t:g}": value for t, value in zip(temperatures, divergences, strict=True)}
    found = {"rows": held_out.total, "kl": named, "top1": agreement}
    return {**found, **codeword_use(ranks.sum(counts))} if len(counts) and held_out.total else found


def count_codes(rows: NDArray[np.uint8], nbits: int, counts: torch.Tensor) -> None:
    """Add the codes of packed rows [B, row_bytes] to how often each book's codewords were found [G, K]."""
    import torch

    codes = torch.from_numpy(_native.unpack(rows, nbits, len(counts)).astype(np.int64))
    counts.scatter_add_(1, codes.T, torch.ones_like(codes.T))


def codeword_use(counts: torch.Tensor) -> dict[str, float]:
    """Share of the codewords that occur, and entropy of a code in bits, by how often each was found [G, K]."""
    shares = counts.double() / counts[0].sum()
    entropy = -(shares * shares.clamp_min(1e-300).log2()).sum(1)
    return {"used": float((counts > 0).double().mean()), "entropy": float(entropy.mean())}
