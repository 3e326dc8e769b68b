"""What every codec promises, on one screen: logits to packed rows and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vqlabel.known import Side

if TYPE_CHECKING:
    import torch

Read = Callable[[str], NDArray[Any]]  # a tensor of the file by its name


class Codec(ABC):
    """Logits [B, C] in, packed rows [B, row_bytes] out, and back.

    Logits count up to a constant per row: decode gives them centred (their mean is about 0) where the codec can. An id
    names one meaning of rows and tensors for ever; a better layout takes a new id.
    """

    id: ClassVar[str]
    as_given: bool = False  # whether encode takes floats of any kind as they are, not centred float32
    tier: str = "none"  # what the reader must know of a row before its bits: a name of vqlabel.known.TIERS

    def __init__(self, classes: int) -> None:
        if not 2 <= classes <= 2**24:
            raise ValueError(f"classes must be 2 to {2**24}, got {classes}")
        self.classes = classes

    @property
    @abstractmethod
    def row_bits(self) -> int:
        """Bits of a row that mean something."""

    @property
    def drops(self) -> bool:
        """Whether classes get no probability, whatever the teacher gave them: no logit stands for that."""
        return False

    @property
    def row_bytes(self) -> int:
        """Bytes of a packed row."""
        return (self.row_bits + 7) // 8

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Settings as JSON: the metadata key `codec`, with the id."""

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What a file holds besides its rows, so that they can be decoded."""
        return {}

    def search_tensors(self) -> dict[str, NDArray[Any]]:
        """What only encoding needs; kept by LabelEncoder.save, never in a label file. Names begin with "search."."""
        return {}

    @classmethod
    @abstractmethod
    def load(cls, classes: int, config: dict[str, Any], read: Read, names: list[str]) -> Codec:
        """Codec of a file: its config and its tensors, whose names are there; Corrupt if they do not fit."""

    def check_encodes(self) -> None:  # noqa: B027 - most codecs always do
        """ValueError if this codec only decodes, because it comes from a label file."""

    @abstractmethod
    def encode(self, logits: torch.Tensor, side: Side | None = None) -> NDArray[np.uint8]:
        """Packed rows uint8 [B, row_bytes] of finite logits [B, C]."""

    @abstractmethod
    def decode(self, rows: NDArray[np.uint8], side: Side | None = None) -> torch.Tensor:
        """Logits float32 [B, C] of packed rows [B, row_bytes]."""

    @property
    def fixed_bytes(self) -> int:
        """Bytes of the tensors: what all rows share."""
        return sum(tensor.nbytes for tensor in self.tensors().values())
