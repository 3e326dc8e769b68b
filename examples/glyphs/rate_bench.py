"""The bench that a cell of the rate table is measured on: labels, and what the rates of one prior share."""

from __future__ import annotations

import dataclasses
import os
import time
from typing import Any

import torch

from examples.glyphs import rate_bound, rate_measure, rivals, run
from examples.glyphs.rate_cells import Cell
from examples.glyphs.rate_measure import Labels
from vqlabel.codecs.base import Codec
from vqlabel.codecs.fitting import finish
from vqlabel.codecs.foundation import Foundation, build
from vqlabel.codecs.options import FitOptions
from vqlabel.codecs.sample import Sample


class Stopwatch:
    """Told what begins, it prints that and keeps the seconds of what ended."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._what, self._begin = "", time.perf_counter()

    def __call__(self, words: str) -> None:
        """Something begins; an empty name means nothing does."""
        now = time.perf_counter()
        if self._what:
            self.seconds[self._what] = round(self.seconds.get(self._what, 0.0) + now - self._begin, 1)
        self._begin = now
        # A phase is named by what is done, not by how much of it.
        self._what = "books" if "books of" in words else "prior" if words.startswith("prior") else words
        if words:
            print(f"    {words}", flush=True)


@dataclasses.dataclass
class Bench:
    """Labels on which cells are measured; what the rates of a prior share is kept until the next prior."""

    labels: Labels
    effort: float = 1.0
    _prior: str = ""
    _held_out: Sample | None = None
    _foundation: Foundation | None = None
    _seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    def measure(self, cell: Cell) -> dict[str, Any] | None:
        """What is found; None for a rival that is not installed here."""
        found = {"codec": self._codec, "rival": self._rival, "bound": self._bound}[cell.kind](cell)
        if found is None:
            return None
        about: dict[str, Any] = {
            "classes": self.labels.classes,
            "mixing": self.labels.mixing,
            "rows": len(self.labels.logits),
        }
        about |= {"effort": self.effort, "machine": machine()}
        return {**dataclasses.asdict(cell), **about, **found}

    def _codec(self, cell: Cell) -> dict[str, Any]:
        foundation, watch = self._shared(cell.prior), Stopwatch()
        options = dataclasses.replace(
            self._options(cell.prior),
            bytes_per_label=float(cell.bytes),
            temperatures=(cell.temperature,),
            stored=cell.stored,
            form=cell.form,
        )
        codec = finish(foundation, options, watch)
        watch("measure")
        facts, rows = rate_measure.judge(codec, self._held())
        layout = codec.layout
        facts |= rate_measure.code_use(rows, layout.G, layout.nbits)
        facts |= {"layout": layout.form, "books": layout.G, "nbits": layout.nbits, "hidden": layout.hidden}
        facts |= {"row_bytes": codec.row_bytes, **rate_measure.file_bytes(codec, self.labels, facts, cell.temperature)}
        watch("")
        return facts | {"seconds": self._seconds | watch.seconds}

    def _rival(self, cell: Cell) -> dict[str, Any] | None:
        sample, held_out = self._rows("none")
        if rivals.is_stream(cell.name):
            size = rivals.stream_bytes(cell.name, held_out)
            lossless = {"held_out": held_out.total, "kl": {"1": 0.0, "4": 0.0, "20": 0.0}, "top1": 1.0}
            return None if size is None else {"row_bytes": size, "overhead": 0, "overhead_many": 0, **lossless}
        begin = time.perf_counter()
        coder = rivals.make(cell.name, sample)
        facts: dict[str, Any] = {"seconds": {"fit": round(time.perf_counter() - begin, 1)}}
        judged, rows = rate_measure.judge(coder, held_out)
        facts |= judged
        if getattr(coder, "tail", "") == "drop":  # a class that the teacher gives a chance has none: KL is infinite
            facts |= {"kl": None, "squared_error": None}
        if isinstance(coder, rivals.Faiss):
            facts |= rate_measure.code_use(rows, coder.G, coder.nbits)
        if isinstance(coder, Codec):
            sizes = rate_measure.file_bytes(coder, self.labels, facts)
        else:
            sizes = {"overhead": coder.fixed_bytes, "overhead_many": coder.fixed_bytes}
        return {"row_bytes": coder.row_bytes, **facts, **sizes}

    def _bound(self, cell: Cell) -> dict[str, Any]:
        return rate_bound.curve(self._shared(cell.prior), self._held())

    def _options(self, prior: str) -> FitOptions:
        return FitOptions(prior=prior, effort=self.effort)

    def _rows(self, prior: str) -> tuple[Sample, Sample]:
        fitted = self.labels.sample(prior, held_out=False)
        return fitted, self.labels.sample(prior, held_out=True)

    def _shared(self, prior: str) -> Foundation:
        if self._foundation is None or self._prior != prior:
            self._foundation = self._held_out = None  # two at a time would not fit into every memory
            watch = Stopwatch()
            watch("rows and side information")
            sample, self._held_out = self._rows(prior)
            self._foundation, self._prior = build(sample, self._options(prior), watch), prior
            watch("")
            self._seconds = watch.seconds
        return self._foundation

    def _held(self) -> Sample:
        if self._held_out is None:
            raise RuntimeError("rows are held out when the foundation is built")
        return self._held_out


def machine() -> str:
    """What seconds were measured on."""
    return (
        f"{torch.get_num_threads()} threads on {os.cpu_count()} cores of {run.processor()}, torch {torch.__version__}"
    )
