"""Decoding rows of codec `vq` on the CPU: everything after the prior, in one pass of C++ from packed rows to labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqlabel import _native
from vqlabel.codecs.layout import SCALE, STEPS, Layout

Layer = tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.float32]]


class NativeDecoder:
    """The decoder of a label file, in the form that the C++ works with.

    A row comes out as the same bits in any batch, with any threads, on every processor. Products are of 8-bit weights
    and 16-bit inputs: with a hidden layer logits are at least twice as close to exact ones as fp16 logits are, and
    within twice as far where tables serve (see csrc/decode.hpp).
    """

    def __init__(self, layout: Layout, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Take `tensors` named, shaped and typed as a file has them."""
        self.layout = layout
        self.classes = len(tensors["bias"])
        books = _floats(tensors, "books") if layout.G else np.zeros((0, layout.width), np.float32)
        inner = _layer(tensors, "inner", "inner_bias") if layout.hidden else None
        owner = np.array(layout.owner, np.int64) if layout.owner else None
        sizes = (layout.G, layout.nbits, layout.width)
        self._native = _native.Decoder(sizes, books, owner, _layer(tensors, "weight", "bias"), inner)

    def decode(
        self,
        rows: NDArray[np.uint8],
        guess: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
        *,
        temperature: float = 1.0,
        output: str = "probs",
        out: NDArray[Any] | None = None,
        threads: int = 1,
    ) -> NDArray[Any]:
        """Labels [B, C] of packed rows [B, row_bytes]: `probs` and `log_probs` of logits / temperature, or `logits`.

        guess is what the prior gives: h0 [B, R] and spread [B] or [B, 1]. out, float32 or float16, is filled and
        returned; without it the labels are float32. `logits` do not depend on the temperature.
        """
        if out is None:
            out = np.empty((len(rows), self.classes), np.float32)
        h0, spread = guess if guess is not None else (None, None)
        spread = spread.reshape(-1) if spread is not None else None
        options: dict[str, Any] = {"output": output, "temperature": temperature, "threads": threads}
        return self._native.decode(rows, out, h0=h0, spread=spread, **options)


def _floats(tensors: Mapping[str, NDArray[Any]], name: str) -> NDArray[np.float32]:
    array = tensors[name].astype(np.float32)
    return array * tensors[name + SCALE].astype(np.float32)[:, None] if name + SCALE in tensors else array


def _layer(tensors: Mapping[str, NDArray[Any]], name: str, bias: str) -> Layer:
    """Weights as 8-bit numbers [planes, outputs, inputs] and scales [planes, outputs], and the bias."""
    weight = tensors[name]
    if name + SCALE in tensors:
        numbers, scale = weight[None], tensors[name + SCALE].astype(np.float32)[None]
    else:
        numbers, scale = _planes(weight.astype(np.float32))
    return np.ascontiguousarray(numbers), scale, tensors[bias].astype(np.float32)


def _planes(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Two planes: the weights in 127 steps of each row's largest, then what is left of them, in finer steps."""
    scale = np.abs(weight).max(1, initial=np.float32(2**-100)) / np.float32(STEPS)
    scales = np.stack([scale, scale / (2 * STEPS)])
    numbers = np.zeros((2, *weight.shape), np.int8)
    numbers[0] = np.rint(weight / scales[0][:, None])
    rest = weight - numbers[0] * scales[0][:, None]
    numbers[1] = np.clip(np.rint(rest / scales[1][:, None]), -STEPS, STEPS)
    return numbers, scales
