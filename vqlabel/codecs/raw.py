"""Every logit stored: `raw` as a float, `int8` as one byte and a scale per row. CODECS.md has the bytes."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from vqlabel.arguments import check_word
from vqlabel.codecs.base import Codec, Read
from vqlabel.codecs.checks import check_logits, check_rows, check_setting, check_settings, check_shape, claimed
from vqlabel.codecs.values import SCALE_BYTES, half_bytes, halves, scaled, scaled_bytes
from vqlabel.known import Side
from vqlabel.logits import check_finite

DTYPES: dict[str, np.dtype[Any]] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4")}


class Raw(Codec):
    """Every logit as fp16, or float32, centred: what all else is compared with.

    as_given leaves the constant of each row as it is, so that what comes out is what went in, to the last bit.

    >>> codec = Raw(classes=3)
    >>> codec.decode(codec.encode(torch.tensor([[1.0, 2.0, 6.0]])))
    tensor([[-2., -1.,  3.]])
    """

    id: ClassVar[str] = "raw"

    def __init__(self, classes: int, *, dtype: str = "F16", as_given: bool = False) -> None:
        super().__init__(classes)
        check_word("dtype", dtype, tuple(DTYPES))
        self.dtype, self.as_given = dtype, as_given

    @property
    def row_bits(self) -> int:
        """16 or 32 a class."""
        return 8 * DTYPES[self.dtype].itemsize * self.classes

    def config(self) -> dict[str, Any]:
        """The id and the dtype."""
        return {"id": self.id, "dtype": self.dtype}

    @classmethod
    def load(cls, classes: int, config: dict[str, Any], read: Read, names: list[str]) -> Raw:
        """Codec of a file."""
        check_settings(config, ["dtype"])
        dtype = check_setting(config, "dtype", tuple(DTYPES))
        with claimed(config):
            return cls(classes, dtype=dtype)

    def encode(self, logits: torch.Tensor, side: Side | None = None) -> NDArray[np.uint8]:
        """Packed rows; ValueError for a logit that is not finite or that the dtype cannot hold."""
        if self.as_given:
            return self._given(logits)
        centred = check_logits(logits, self.classes)
        return half_bytes(centred) if self.dtype == "F16" else _bytes(centred, DTYPES["F32"])

    def _given(self, logits: torch.Tensor) -> NDArray[np.uint8]:
        wanted = torch.float16 if self.dtype == "F16" else torch.float32
        if logits.dtype != wanted:
            raise ValueError(f"to keep {logits.dtype} as it is takes another dtype than {self.dtype}")
        check_shape(logits, self.classes)
        check_finite(logits, range(len(logits)))
        return _bytes(logits, DTYPES[self.dtype])

    def decode(self, rows: NDArray[np.uint8], side: Side | None = None) -> torch.Tensor:
        """Logits as stored."""
        rows = check_rows(rows, self.row_bytes)
        if self.dtype == "F16":
            return halves(rows)
        return torch.from_numpy(rows.copy().view("<f4").astype(np.float32, copy=False))


def _bytes(values: torch.Tensor, dtype: np.dtype[Any]) -> NDArray[np.uint8]:
    little: NDArray[Any] = np.ascontiguousarray(values.cpu().numpy(), dtype)
    return little.view(np.uint8)


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
