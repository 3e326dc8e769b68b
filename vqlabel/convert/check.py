"""Both sides of a conversion, row by row: what changed, if anything."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from vqlabel.codecs.topk import DROPPED
from vqlabel.convert.imported import Imported
from vqlabel.decoder import LabelDecoder
from vqlabel.progress import bar
from vqlabel.sources import SparseSource
from vqlabel.terminal import one_line

AT_ONCE = 2**22  # logits
TEMPERATURES = (1.0, 4.0, 20.0)


def check(found: Imported, path: str) -> int:
    """Print what differs between a foreign set and the label file made of it; 1 if they are not the same set."""
    decoder = LabelDecoder(path)
    wrong = _differences(found, decoder)
    if not wrong:
        tally = _Tally()
        rows, step = len(decoder), max(1, AT_ONCE // decoder.classes)
        with bar("comparing", rows, shown=True) as advance:
            for start in range(0, rows, step):
                part = range(start, min(start + step, rows))
                tally.add(*_both(found, decoder, part))
                advance(len(part))
        print(f"{one_line(path)}: {tally.words()}")
        return 0
    for words in wrong:
        print(f"{one_line(path)}: {one_line(words)}")
    return 1


def _differences(found: Imported, decoder: LabelDecoder) -> list[str]:
    """In what the file is not of this set at all."""
    file, source = decoder.file, found.source
    facts = (("rows", len(file), len(source)), ("classes", decoder.classes, source.classes))
    wrong = [f"it has {there} {name}, the set {here}" for name, there, here in facts if there != here]
    for name, tensor in found.tensors.items():
        if name not in file.tensor_names or not np.array_equal(file.column(name), tensor):
            wrong.append(f"tensor {name} is not what the set says")
    gaps = np.zeros(len(source), bool) if found.missing is None else found.missing
    if not wrong and (file.missing(np.arange(len(file))) != gaps).any():
        wrong.append("its rows without a label are others than those of the set")
    return wrong


def _both(found: Imported, decoder: LabelDecoder, rows: range) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of rows that are there, of the set and of the file; of the classes that the set tells of."""
    numbers: NDArray[np.int64] = np.arange(rows.start, rows.stop)
    there = ~decoder.file.missing(numbers)
    inside = torch.from_numpy(there)
    decoded = decoder(numbers[there], output="logits")
    source = found.source
    if not isinstance(source, SparseSource):
        return source.read(rows)[inside].float(), decoded
    ids, told = source.kept(rows)
    told = told[inside].float()
    if not source.probabilities:
        return told, decoded.gather(1, ids[inside])
    if decoder.file.metadata["codec"].get("values") != "P16":  # which says the same numbers as the set
        decoded = decoded.log_softmax(1)
    logits = told.log().clamp(min=DROPPED)
    return logits, decoded.gather(1, ids[inside])


class _Tally:
    """Sums over rows."""

    def __init__(self) -> None:
        self._rows, self._same, self._worst = 0, 0, 0.0
        self._kl = np.zeros(len(TEMPERATURES))

    def add(self, wanted: torch.Tensor, found: torch.Tensor) -> None:
        """Logits [B, C] of both sides."""
        self._rows += len(wanted)
        self._same += int((wanted == found).all(1).sum())
        apart = (wanted - found).nan_to_num(0.0)
        if len(wanted):
            self._worst = max(self._worst, float((apart - apart.mean(1, keepdim=True)).abs().max()))
        for index, temperature in enumerate(TEMPERATURES):
            own, other = ((side.double() / temperature).log_softmax(1) for side in (wanted, found))
            self._kl[index] += float((own.exp() * (own - other)).nan_to_num(0.0).sum())

    def words(self) -> str:
        """What was found, in a line."""
        if self._same == self._rows:
            return f"all {self._rows:,} labels are the same to the last bit"
        means = self._kl / max(self._rows, 1)
        kl = ", ".join(f"{mean:.3e} at T = {t:g}" for mean, t in zip(means, TEMPERATURES, strict=True))
        return (
            f"{self._same:,} of {self._rows:,} labels are the same to the last bit; mean KL {kl}; the largest error of "
            f"a logit, once rows are centred, is {self._worst:.3g}"
        )
