"""Every logit stored: `raw` as fp16, `int8` as one byte and a scale per row. CODECS.md has the bytes."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from vqlabel.codecs.base import Codec, Read
from vqlabel.codecs.checks import check_logits, check_rows, check_setting, check_settings, claimed
from vqlabel.codecs.values import SCALE_BYTES, half_bytes, halves, scaled, scaled_bytes
from vqlabel.side import Side


class Raw(Codec):
    """Centred logits as fp16: what all else is compared with.

    >>> codec = Raw(classes=3)
    >>> codec.decode(codec.encode(torch.tensor([[1.0, 2.0, 6.0]])))
    tensor([[-2., -1.,  3.]])
    """

    id: ClassVar[str] = "raw"

    @property
    def row_bits(self) -> int:
        """16 a class."""
        return 16 * self.classes

    def config(self) -> dict[str, Any]:
        """The id and the one dtype there is."""
        return {"id": self.id, "dtype": "F16"}

    @classmethod
    def load(cls, classes: int, config: dict[str, Any], read: Read, names: list[str]) -> Raw:
        """Codec of a file."""
        check_settings(config, ["dtype"])
        check_setting(config, "dtype", ("F16",))
        with claimed(config):
            return cls(classes)

    def encode(self, logits: torch.Tensor, side: Side | None = None) -> NDArray[np.uint8]:
        """Packed rows; ValueError for a logit that is not finite or further than 65504 from the mean of its row."""
        return half_bytes(check_logits(logits, self.classes))

    def decode(self, rows: NDArray[np.uint8], side: Side | None = None) -> torch.Tensor:
        """Logits as stored."""
        return halves(check_rows(rows, self.row_bytes))


class Int8(Codec):
    """Centred logits in 255 steps between the lowest and the highest of the row.

    >>> codec = Int8(classes=3)
    >>> codec.row_bytes, codec.decode(codec.encode(torch.tensor([[-255.0, 0.0, 255.0]])))
    (7, tensor([[-255.,    1.,  255.]]))
    """

    id: ClassVar[str] = "int8"

    @property
    def row_bits(self) -> int:
        """8 a class and the scale."""
        return 8 * (SCALE_BYTES + self.classes)

    def config(self) -> dict[str, Any]:
        """The id: there is nothing to set."""
        return {"id": self.id}

    @classmethod
    def load(cls, classes: int, config: dict[str, Any], read: Read, names: list[str]) -> Int8:
        """Codec of a file."""
        check_settings(config, [])
        with claimed(config):
            return cls(classes)

    def encode(self, logits: torch.Tensor, side: Side | None = None) -> NDArray[np.uint8]:
        """Packed rows, off by at most half a step; ValueError as for Raw."""
        return scaled_bytes(check_logits(logits, self.classes))

    def decode(self, rows: NDArray[np.uint8], side: Side | None = None) -> torch.Tensor:
        """Logits: low + step * byte."""
        return scaled(check_rows(rows, self.row_bytes))
