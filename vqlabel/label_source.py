"""Labels of a label file as a source: to be encoded anew, or compared with."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from vqlabel.codecs import load_codec
from vqlabel.codecs.topk import TopK
from vqlabel.file import LabelFile
from vqlabel.side import Views
from vqlabel.sources import Source, SparseSource
from vqlabel.text import given_text, information_of, sequences_of, text_of


def open_labels(file: LabelFile, *, tokens: ArrayLike | None = None) -> Source:
    """Source of the labels of a file; tokens are those of its text, if the file does not hold it."""
    codec = load_codec(file)
    if isinstance(codec, TopK) and (codec.drops or codec.values == "P16"):
        return KeptLabels(file, codec)
    return LabelSource(file, tokens=tokens)


class LabelSource(Source):
    """Labels of a label file, decoded; tokens are those of its text, if the file does not hold it."""

    def __init__(self, file: LabelFile, views: Views | None = None, *, tokens: ArrayLike | None = None) -> None:
        self._file, self._codec = file, load_codec(file)
        given = None if tokens is None else given_text(file, sequences_of(file), tokens)
        self._side = None
        if self._codec.tier != "none":
            self._side = information_of(file, views) if given is None else text_of(file, given)
        half = file.metadata["codec"].get("dtype") == "F16"  # of raw: decoded to float32, but no finer than float16
        super().__init__(len(file), self._codec.classes, torch.float16 if half else torch.float32)

    @property
    def drops(self) -> bool:
        """Whether classes of these labels have no probability, whatever the teacher gave them."""
        return self._codec.drops

    def _read(self, rows: range) -> torch.Tensor:
        return self._take(np.arange(rows.start, rows.stop))

    def _take(self, indices: NDArray[np.int64]) -> torch.Tensor:
        side = None if self._side is None else self._side.of(indices, tier=self._codec.tier)
        return self._codec.decode(self._file.gather(indices), side)


class KeptLabels(SparseSource):
    """Labels of a file of codec `topk`, of which some classes are told; read whole, the others are as it decodes them.

    To encode them anew from the whole would spoil them: what stands for no probability is so far from the others that
    their mean has no digits left for these.
    """

    def __init__(self, file: LabelFile, codec: TopK) -> None:
        super().__init__(len(file), codec.classes, codec.k, tail=codec.tail, probabilities=codec.values == "P16")
        self._file, self._codec = file, codec

    def _kept(self, indices: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        return self._codec.kept(self._file.gather(indices))

    def _read(self, rows: range) -> torch.Tensor:
        return self._take(np.arange(rows.start, rows.stop))

    def _take(self, indices: NDArray[np.int64]) -> torch.Tensor:
        return self._codec.decode(self._file.gather(indices))
