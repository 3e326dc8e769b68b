"""Corrections of `vq+top`: a few classes of a row with their own probabilities. CODECS.md, "vq+top", is the same.

The classes are in rising order. What is stored of one is its log-odds at T = 1 against all that follow it and all that
are not named: x = ln p - ln(1 - p - those before). So however close to 1 a probability comes, what it leaves to the
others is as exact as itself. The KL of a row is that of these choices, one after the other, each weighed by what is
left: a value that is rounded by itself is best, and to make up for the rounding of those before it would only do harm.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from vqlabel import _native
from vqlabel.codecs.topk import largest
from vqlabel.errors import Corrupt
from vqlabel.reference import code_dtype

CANDIDATES = 4, 32  # for each class that is chosen, and beyond: those that are most wrong by themselves
LEAST = 1e-30  # of a probability whose logarithm is taken
STEPS = 512.0  # a byte b stands for n |n| / STEPS, n = b - 128: -32 to 31.5, and fine near 0, where the KL minds


def choose(teacher: torch.Tensor, decoded: torch.Tensor, top: int) -> torch.Tensor:
    """Classes int64 [B, top], rising, whose correction lowers the KL at T = 1 most; logits [B, C] each.

    One after the other, because a correction changes what all others are measured by: that is worth 2 to 14 % of the
    KL, most where the codes are bad.
    """
    wanted, found = teacher.log_softmax(1), decoded.log_softmax(1)
    count = min(CANDIDATES[0] * top + CANDIDATES[1], teacher.shape[1])
    ids = largest(gains(wanted, found), count)
    wanted, found = wanted.gather(1, ids).double(), found.gather(1, ids).double()
    chosen = torch.zeros_like(ids, dtype=torch.bool)
    for _ in range(top):
        each = gains(wanted, found).masked_fill_(chosen, -math.inf)
        best = each.argmax(1, keepdim=True)
        chosen.scatter_(1, best, True)
        # Logarithms of shares of what is left.
        wanted = (wanted - _complement(wanted.gather(1, best))).clamp(max=0)
        found = (found - _complement(found.gather(1, best))).clamp(max=0)
    return ids[chosen].view(-1, top)


def gains(wanted: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """What a correction of each class alone takes from the KL, given logarithms of both probabilities [B, n].

    It is the KL between a class and all others: p ln(p / u) + (1 - p) ln((1 - p) / (1 - u)).
    """
    own = wanted.exp() * (wanted - found)
    return own - torch.expm1(wanted) * (_complement(wanted) - _complement(found))


def _complement(logarithm: torch.Tensor) -> torch.Tensor:
    """Logarithm of 1 - p by that of p."""
    return (-torch.expm1(logarithm)).clamp_min(LEAST).log()


def values_of(teacher: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Bytes [B, m] of the log-odds of classes [B, m] of logits [B, C]."""
    exact = teacher.to(torch.float64, copy=True)
    named = exact.gather(1, ids)
    rest = exact.scatter_(1, ids, -math.inf).logsumexp(1)
    odds = torch.empty_like(named)
    for i in reversed(range(ids.shape[1])):
        odds[:, i] = named[:, i] - rest  # infinite where no class is left
        rest = torch.logaddexp(rest, named[:, i])
    steps = (odds.abs() * STEPS).sqrt() * odds.sign()
    return (steps.round().clamp(-128, 127) + 128).to(torch.uint8)


def packed(teacher: torch.Tensor, decoded: torch.Tensor, top: int) -> NDArray[np.uint8]:
    """Corrections uint8 [B, top + ceil(top * bits / 8)] of rows that decode to these logits [B, C]."""
    ids = choose(teacher, decoded, top)
    values, bits = values_of(teacher, ids), id_bits(teacher.shape[1])
    numbers = np.ascontiguousarray(ids.cpu(), code_dtype(bits))
    return np.concatenate([values.cpu().numpy(), _native.pack(numbers, bits)], axis=1)


def id_bits(classes: int) -> int:
    """Bits of a class number."""
    return (classes - 1).bit_length()


def correct(logits: torch.Tensor, corrections: torch.Tensor, top: int) -> torch.Tensor:
    """Write corrections uint8 [B, row_bytes] into logits [B, C], which lie on the same device; return them.

    The logits of the others stay as they are: those of the named classes are put where their shares are right.
    """
    ids = _ids(corrections[:, top:].contiguous(), top, logits.shape[1])
    steps = corrections[:, :top].to(logits.dtype) - 128
    odds = steps * steps.abs() / STEPS
    rest = logits.scatter_(1, ids, -math.inf).logsumexp(1, keepdim=True)
    rest = rest.nan_to_num_(neginf=0.0)  # every class is named
    # With each class that is put before the rest, the rest grows by the logarithm of 1 + e^odds.
    growth = torch.logaddexp(odds, torch.zeros_like(odds))[:, 1:].flip(1).cumsum(1).flip(1)
    logits.scatter_(1, ids, rest + odds + torch.nn.functional.pad(growth, (0, 1)))
    return logits


def _ids(rows: torch.Tensor, top: int, classes: int) -> torch.Tensor:
    """Classes int64 [B, top] of packed ids; Corrupt unless they rise strictly and exist."""
    bits = id_bits(classes)
    first = torch.arange(top, device=rows.device) * bits
    padded = torch.nn.functional.pad(rows, (0, 4)).long()  # an id lies in at most four bytes
    words = torch.stack([padded[:, first // 8 + i] << 8 * i for i in range(4)]).sum(0)
    ids: torch.Tensor = words >> first % 8 & 2**bits - 1
    wrong = (ids[:, -1] >= classes) | (ids[:, 1:] <= ids[:, :-1]).any(1)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise Corrupt(f"row {row} of these does not name {top} of {classes} classes in rising order")
    return ids
