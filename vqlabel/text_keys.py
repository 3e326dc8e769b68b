"""Keys of positions of a text: the tokens around each, which is all that a prior of tier "tokens" looks at."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from vqlabel.codecs.base import Codec
from vqlabel.errors import Corrupt
from vqlabel.keys import Keys
from vqlabel.tokens import TokenInformation, TokenSide

KEY = np.dtype("<i4")


class TextKeys(Keys):
    """The window of a position, 4 bytes a token: it travels so that a device needs no text to decode."""

    def __init__(self, text: TokenInformation, rows: int) -> None:
        super().__init__(None, "tokens", rows)
        self._text = text

    def check(self, codec: Codec) -> None:
        """Corrupt if the text has tokens that the codec's prior does not know, or a window that it does not look at."""
        shape: Any = getattr(codec, "shape", None)
        if shape is None:
            return
        if shape.features != self._text.features:
            raise Corrupt(f"its prior looks at {shape.features} tokens, its window has {self._text.features}")
        try:
            self._text.check(shape.classes)
        except ValueError as error:
            raise Corrupt(str(error)) from None

    @property
    def size(self) -> int:
        """Bytes of a key."""
        return KEY.itemsize * self._text.features

    def of(self, rows: ArrayLike) -> NDArray[np.uint8]:
        """Keys [B, size] of rows [B]."""
        window = np.ascontiguousarray(self._text.window(rows), KEY)
        return window.view(np.uint8).reshape(len(window), self.size)

    def side(self, keys: torch.Tensor, views: torch.Tensor | None = None, *, by_kernel: bool = False) -> TokenSide:
        """Side information of keys uint8 [B, size], where they lie."""
        apart = keys.clone(memory_format=torch.contiguous_format)  # numbers begin at their own multiples
        return TokenSide(apart.view(torch.int32).view(len(keys), self._text.features).long())
