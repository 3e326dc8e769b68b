"""The k largest logits and their classes: LPQLD's MR-k and TinyViT's sparse labels. CODECS.md has the bytes.

The ids take ceil(log2 C) bits each. Sorted, they hold less: k of C classes are log2(C choose k) bits, and Elias-Fano
coding, or Rice-coded gaps in a field as long as the worst case, come within 0.7 bits an id of that and keep the size of
a row fixed. Bits of all ids of a row, for uniform ids:

    C, k          fixed width   Elias-Fano   log2(C choose k)   Elias-Fano saves of an F16 row, of a U8 row
    1000, 10              100           85                 78    6 %    7 %
    1000, 100            1000          524                464   18 %   26 %
    50257, 50             800          598                567   13 %   16 %

Fixed width all the same: it is what the published schemes store, every id is found without reading those before it, and
the same unpacking that reads codes reads ids. The values are the larger part of a row, and U8 halves them.
"""

from __future__ import annotations

import math
import operator
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from vqlabel import _native
from vqlabel.arguments import check_word
from vqlabel.codecs.base import Codec, Read
from vqlabel.codecs.checks import check_logits, check_rows, check_setting, check_settings, claimed
from vqlabel.codecs.values import LARGEST_HALF, SCALE_BYTES, half_bytes, halves, scaled, scaled_bytes
from vqlabel.errors import Corrupt
from vqlabel.known import Side
from vqlabel.reference import code_dtype
from vqlabel.sources import SparseSource

TAILS = ("drop", "uniform")
VALUES = ("F16", "U8", "P16")
# What a dropped class decodes to. Finite, so that no softmax meets inf - inf; and e**(DROPPED / T) is exactly 0 in
# float32 up to T = 1000 and beyond, wherever the kept logits are in the range of fp16.
DROPPED = -(2.0**20)


class TopK(Codec):
    """The k largest logits of a row, measured from the largest; of equal ones, those of the lower class numbers.

    What becomes of the other classes: with tail "drop" they get no probability at any temperature up to 1000, as in
    MR-k; with "uniform" they share evenly what mass they have at T = 1. Values are fp16 ("F16"), 8 bits ("U8"), or
    probabilities at T = 1 in fp16 ("P16"). as_given keeps fp16 logits as they are instead of measuring them from the
    largest, so that what comes out is what went in, to the last bit.

    >>> codec = TopK(classes=5, k=2)
    >>> rows = codec.encode(torch.tensor([[1.0, 4.0, 2.0, 4.5, 0.0]]))
    >>> rows.shape, codec.decode(rows).softmax(1)
    ((1, 5), tensor([[0.0000, 0.3775, 0.0000, 0.6225, 0.0000]]))
    """

    id: ClassVar[str] = "topk"

    def __init__(
        self, classes: int, k: int, *, tail: str = "drop", values: str = "F16", as_given: bool = False
    ) -> None:
        super().__init__(classes)
        if as_given and (values == "U8" or (values == "F16" and tail == "uniform")):
            raise ValueError(f"values {values!r} with tail {tail!r} are always measured from the largest logit")
        self.k, self.tail, self.values, self.as_given = operator.index(k), tail, values, as_given
        if not 1 <= self.k <= classes:
            raise ValueError(f"k must be 1 to {classes}, the number of classes, got {k}")
        check_word("tail", tail, TAILS)
        check_word("values", values, VALUES)

    @property
    def drops(self) -> bool:
        """With tail "drop", all but the k largest."""
        return self.tail == "drop" and self.k < self.classes

    @property
    def id_bits(self) -> int:
        """Bits of a class number."""
        return (self.classes - 1).bit_length()

    @property
    def _tail_bytes(self) -> int:
        return 2 if self.tail == "uniform" and self.values != "P16" else 0  # probabilities tell their own tail

    @property
    def _ids_at(self) -> int:
        return self._tail_bytes + (SCALE_BYTES + self.k if self.values == "U8" else 2 * self.k)

    @property
    def row_bits(self) -> int:
        """The tail's level, the values, the ids."""
        return 8 * self._ids_at + self.k * self.id_bits

    def config(self) -> dict[str, Any]:
        """The id and the settings."""
        return {"id": self.id, "k": self.k, "tail": self.tail, "values": self.values}

    @classmethod
    def load(cls, classes: int, config: dict[str, Any], read: Read, names: list[str]) -> TopK:
        """Codec of a file."""
        check_settings(config, ["k", "tail", "values"])
        tail, values = check_setting(config, "tail", TAILS), check_setting(config, "values", VALUES)
        if type(config["k"]) is not int:
            raise Corrupt(f"codec 'topk': k is {config['k']!r:.40}, not a whole number")
        with claimed(config):
            return cls(classes, config["k"], tail=tail, values=values)

    def encode(self, logits: torch.Tensor, side: Side | None = None) -> NDArray[np.uint8]:
        """Packed rows; ValueError for a logit that is not finite, or a kept one more than 65504 below the largest."""
        centred = check_logits(logits, self.classes)
        ids = largest(centred, self.k)
        if self.values == "P16":
            return self.encode_kept(ids, centred.double().softmax(1).gather(1, ids))
        packed = self.encode_kept(ids, centred.gather(1, ids))
        if self.tail == "uniform":
            level = self._level(centred, ids, packed[:, : self._ids_at - self._tail_bytes])
            packed = np.concatenate([half_bytes(level), packed], axis=1)
        return packed

    def takes(self, source: SparseSource) -> bool:
        """Whether `encode_kept` takes what this source tells of its rows, as it tells it, or less of it."""
        if (source.tail, source.probabilities) != (self.tail, self.values == "P16") or self._tail_bytes:
            return False
        return source.k == self.k or (self.tail == "drop" and source.k > self.k)

    def encode_kept(self, ids: torch.Tensor, kept: torch.Tensor) -> NDArray[np.uint8]:
        """Packed rows of classes int64 [B, n], each once, and their logits, or probabilities for "P16", [B, n].

        The k largest of n are kept. Without the level of a uniform tail, which only all the logits tell.
        """
        if self.as_given and kept.dtype != torch.float16:
            raise ValueError(f"to keep {kept.dtype} as it is takes more than fp16")
        rising = ids.argsort(dim=1)
        ids, kept = ids.gather(1, rising), kept.gather(1, rising)
        if ids.shape[1] > self.k:
            places = largest(kept, self.k)
            ids, kept = ids.gather(1, places), kept.gather(1, places)
        if self.values == "P16":
            kept = _probabilities(kept)
        elif not self.as_given:
            kept = kept - kept.amax(1, keepdim=True)  # fp16 is finest near 0, so where the label is
        values = scaled_bytes(kept) if self.values == "U8" else half_bytes(kept)
        packed_ids = _native.pack(np.ascontiguousarray(ids.cpu(), code_dtype(self.id_bits)), self.id_bits)
        return np.concatenate([values, packed_ids], axis=1)

    def _level(self, centred: torch.Tensor, ids: torch.Tensor, values: NDArray[np.uint8]) -> torch.Tensor:
        # In float64: a sum that depended on its order would now and then change a byte.
        rest = centred.double().scatter_(1, ids, -math.inf).logsumexp(1, keepdim=True)
        kept = centred.gather(1, ids).double().logsumexp(1, keepdim=True)
        # Measured against the values as decoded, so that their rounding does not shift mass to or from the tail.
        decoded = self._decoded(values).to(centred.device).double().logsumexp(1, keepdim=True)
        level = rest - kept + decoded - math.log(max(self.classes - self.k, 1))
        return level.clamp(min=-LARGEST_HALF).float()  # no classes are left, or none that will ever count

    def decode(self, rows: NDArray[np.uint8], side: Side | None = None) -> torch.Tensor:
        """Logits: centred with a uniform tail, else as stored, DROPPED for the others; Corrupt for impossible ids."""
        rows = check_rows(rows, self.row_bytes)
        ids, values = self.kept(rows)
        level = torch.full((len(rows), 1), DROPPED, dtype=torch.float32, device="cpu")  # whatever torch's defaults are
        if self.values == "P16":
            level = self._untold(values) if self.tail == "uniform" else level
            values = values.log().clamp(min=DROPPED)
        elif self.tail == "uniform":
            level = halves(rows[:, : self._tail_bytes])
            mean = (values.sum(1, keepdim=True) + (self.classes - self.k) * level) / self.classes
            values, level = values - mean, level - mean
        return level.repeat(1, self.classes).scatter_(1, ids, values)

    def kept(self, rows: NDArray[np.uint8]) -> tuple[torch.Tensor, torch.Tensor]:
        """What rows [B, row_bytes] tell: classes int64 [B, k], rising, and their logits or probabilities [B, k]."""
        packed = np.ascontiguousarray(rows[:, self._ids_at :])
        ids = torch.from_numpy(_native.unpack(packed, self.id_bits, self.k).astype(np.int64))
        self._check_ids(ids)
        return ids, self._decoded(rows[:, self._tail_bytes : self._ids_at])

    def _decoded(self, packed: NDArray[np.uint8]) -> torch.Tensor:
        return scaled(packed) if self.values == "U8" else halves(packed)

    def _untold(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Logits [B, 1] of the other classes: they share what the probabilities [B, k] leave."""
        rest = 1 - probabilities.sum(1, keepdim=True)
        return (rest.clamp(min=0) / max(self.classes - self.k, 1)).log().clamp(min=DROPPED)

    def _check_ids(self, ids: torch.Tensor) -> None:
        wrong = ids[:, -1] >= self.classes
        wrong |= (ids[:, 1:] <= ids[:, :-1]).any(1)
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise Corrupt(f"row {row} of these does not name {self.k} of {self.classes} classes in rising order")


def _probabilities(kept: torch.Tensor) -> torch.Tensor:
    """The same, if they are probabilities; ValueError otherwise."""
    wrong = ~((kept >= 0) & (kept <= 1)).all(1)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(f"row {row} has {kept[row].tolist()!s:.80} for probabilities, but they are 0 to 1")
    return kept


def largest(logits: torch.Tensor, k: int) -> torch.Tensor:
    """Classes [B, k] of the k largest logits, rising; of equal logits the lower class."""
    rows, classes = logits.shape
    if k == classes:
        return torch.arange(k, device=logits.device).expand(rows, k)
    # One more than asked for shows where the choice was free; topk itself promises nothing there.
    values, found = logits.topk(k + 1, dim=1)
    ids = found[:, :k].clone()
    free = values[:, k - 1] == values[:, k]
    if bool(free.any()):
        ids[free] = logits[free].sort(dim=1, descending=True, stable=True).indices[:, :k]
    return ids.sort(dim=1).values
