"""Both sides of a conversion, row by row: what changed, if anything."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from vqlabel.codecs.topk import DROPPED
from vqlabel.convert.imported import Imported
from vqlabel.convert.spooled import let_go
from vqlabel.decoder import LabelDecoder
from vqlabel.gaps import MISSING, bitmap
from vqlabel.measure import TEMPERATURES, kl
from vqlabel.progress import bar
from vqlabel.sources import SparseSource
from vqlabel.terminal import one_line

AT_ONCE = 2**22  # logits
ROWS_AT_ONCE = 2**20  # of columns


def check(found: Imported, path: str) -> int:
    """Print what differs between a foreign set and the label file made of it; 1 if they are not the same set."""
    decoder = LabelDecoder(path)
    wrong = list(_differences(found, decoder))
    if not wrong:
        tally = _Tally()
        rows, step = len(decoder), max(1, AT_ONCE // decoder.classes)
        with bar("comparing", rows, shown=True) as advance:
            for start in range(0, rows, step):
                tally.add(found, decoder, range(start, min(start + step, rows)))
                advance(min(step, rows - start))
        print(f"{one_line(path)}: {tally.words()}")
        if found.exact and _codec_of_the_set(found, decoder) and not tally.all_same:
            wrong = ["it should hold the labels of the set to the last bit"]
    for words in wrong:
        print(f"{one_line(path)}: {one_line(words)}")
    return int(bool(wrong))


def _differences(found: Imported, decoder: LabelDecoder) -> Iterator[str]:
    """In what the file is not of this set at all."""
    file, source = decoder.file, found.source
    for name, there, here in (("rows", len(file), len(source)), ("classes", decoder.classes, source.classes)):
        if there != here:
            yield f"it has {there} {name}, the set {here}"
            return
    codec = file.metadata["codec"]
    if isinstance(source, SparseSource) and codec["id"] == "topk":
        for setting, wanted in (("k", source.k), ("tail", source.tail)):
            if codec[setting] != wanted:
                yield f"its {setting} is {codec[setting]}, that of the set {wanted}"
    expected = dict(found.tensors)
    if found.missing is not None:
        expected[MISSING] = bitmap(found.missing)
    elif file.has_gaps:
        yield "it has rows without a label, the set has none"
    for name, tensor in expected.items():
        if name not in file.tensor_names or not _equal(file.column(name), tensor):
            yield f"tensor {name} is not what the set says"


def _equal(stored: NDArray[np.generic], wanted: NDArray[np.generic]) -> bool:
    """Whether two columns are the same; a part at a time, because either may be larger than memory."""
    if (stored.dtype, stored.shape) != (wanted.dtype, wanted.shape):
        return False
    for start in range(0, len(wanted), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        if not np.array_equal(stored[part], wanted[part]):
            return False
        let_go(stored)
        let_go(wanted)
    return True


def _codec_of_the_set(found: Imported, decoder: LabelDecoder) -> bool:
    own = {"id": found.codec.id, **found.codec.config()}
    return bool(decoder.file.metadata["codec"] == own)


class _Tally:
    """Sums over rows that have a label."""

    def __init__(self) -> None:
        self._rows, self._same, self._worst = 0, 0, 0.0
        self._kl = np.zeros(len(TEMPERATURES))

    def add(self, found: Imported, decoder: LabelDecoder, rows: range) -> None:
        """Compare rows that follow each other."""
        numbers: NDArray[np.int64] = np.arange(rows.start, rows.stop)
        numbers = numbers[~decoder.file.missing(numbers)]
        if not len(numbers):
            return
        self._rows += len(numbers)
        source, decoded = found.source, decoder(numbers, output="logits")
        if not isinstance(source, SparseSource):
            wanted = source.read(rows)[torch.from_numpy(numbers - rows.start)].float()
            self._same += int((wanted == decoded).all(1).sum())
            self._measure(wanted, decoded, drops=_drops(decoder))
            return
        ids, told = source.kept(numbers)
        told = told.float().log().clamp(min=DROPPED) if source.probabilities else told.float()
        self._same += int((told == decoded.gather(1, ids)).all(1).sum())
        if source.tells_all:
            self._measure(source.take(numbers), decoded, drops=_drops(decoder))
        else:
            self._measure(told, decoded.gather(1, ids), drops=False)

    def _measure(self, wanted: torch.Tensor, found: torch.Tensor, *, drops: bool) -> None:
        if drops:
            self._kl[:], self._worst = math.inf, math.inf
            return
        apart = wanted - found
        self._worst = max(self._worst, float((apart - apart.mean(1, keepdim=True)).abs().max()))
        self._kl += [float(kl(wanted.double(), found.double(), t).sum()) for t in TEMPERATURES]

    @property
    def all_same(self) -> bool:
        """Whether every label came through to the last bit."""
        return self._same == self._rows

    def words(self) -> str:
        """What was found, in a line."""
        if self.all_same:
            return f"all {self._rows:,} labels are the same to the last bit"
        same = f"{self._same:,} of {self._rows:,} labels are the same to the last bit"
        if math.isinf(self._worst):
            return f"{same}; the file drops classes that the set gives a probability, so the mean KL is infinite"
        means = self._kl / max(self._rows, 1)
        spelled = ", ".join(f"{mean:.3e} at T = {t:g}" for mean, t in zip(means, TEMPERATURES, strict=True))
        return f"{same}; mean KL {spelled}; the largest error of a logit, once rows are centred, is {self._worst:.3g}"


def _drops(decoder: LabelDecoder) -> bool:
    codec = decoder.file.metadata["codec"]
    return bool(codec["id"] == "topk" and codec["tail"] == "drop" and codec["k"] < decoder.classes)
