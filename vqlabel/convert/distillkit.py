"""Sets of DistillKit: the log-probabilities of the k likeliest tokens at each position of many sequences.

A row is a position that has a label: each, or each but the last of every sequence. They are numbered through, sequence
after sequence, all in one epoch; `sequences.starts` says where each begins and `sequences.tokens` what it reads.
"""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vqlabel.codecs.topk import TopK
from vqlabel.convert.distillkit_bytes import Layout
from vqlabel.convert.distillkit_config import NAME, Config, read_config
from vqlabel.convert.distillkit_files import DataFile, data_files
from vqlabel.convert.distillkit_records import Records
from vqlabel.convert.imported import Imported, Options, check_faults
from vqlabel.convert.torch_files import UnreadableFile
from vqlabel.progress import bar
from vqlabel.sequences import KEY, TOKENS
from vqlabel.sources import SparseSource


def knows(path: str) -> bool:
    """Whether a folder looks like such a set."""
    return os.path.isfile(os.path.join(path, NAME))


def open_set(path: str, options: Options) -> Imported:
    """The set, every file looked into, its labels put into a file as they are."""
    config = read_config(os.path.join(path, NAME))
    tail = options.tail or "drop"
    if options.classes not in (None, config.d):
        raise ValueError(f"{os.path.join(path, NAME)} says d: {config.d}, not {options.classes} classes")
    paths, faults = data_files(path)
    files, layout = _measured(paths, config, faults)
    if layout.legacy and tail == "uniform":
        raise ValueError(f"{path} keeps logits of {config.k} tokens and nothing of the others: --tail is drop for it")
    records = _read(files, Records(layout, tail, files, options), faults)
    check_faults(faults, options.keep_going)
    missing = records.missing
    if missing.all():
        raise ValueError("\n  ".join([f"{path} holds no position that can be read", *faults[:5]]))
    source, facts = _Labels(records, tail), records.sequences.facts()
    return Imported(
        "distillkit",
        source,
        len(source),
        _codec(config, source),
        exact=source.given,
        tensors={**records.sequences.tensors(), TOKENS: records.tokens},
        metadata={"x.distillkit": json.dumps(dataclasses.asdict(config)), **({KEY: facts} if facts else {})},
        missing=missing if missing.any() else None,
        faults=faults,
        labels_bytes=sum(os.path.getsize(name) for name in paths),
    )


def _measured(paths: list[str], config: Config, faults: list[str]) -> tuple[list[DataFile], Layout]:
    """Files that can be read, with the lengths of their sequences, and how they keep labels; the first one tells."""
    files: list[DataFile] = []
    layout = None
    with bar("looking into files", len(paths), shown=True) as advance:
        for path in paths:
            try:
                file = DataFile(path)
                layout = layout or _layout(config, path, file.legacy)
                file.measure(layout.columns)
                files.append(file)
            except UnreadableFile as error:
                faults.append(f"{path}: {error}")
            advance(1)
    if layout is None:
        words = faults[:5] or ["there is no data_0.parquet"]
        raise ValueError("\n  ".join(["not one data file can be read", *words]))
    return files, layout


def _layout(config: Config, path: str, legacy: bool) -> Layout:
    try:
        return Layout(config, legacy=legacy)
    except ValueError as error:
        raise ValueError(f"{os.path.join(os.path.dirname(path), NAME)}: {error}") from None


def _read(files: list[DataFile], records: Records, faults: list[str]) -> Records:
    with bar("reading labels", records.sequences.total, shown=True) as advance:
        for file in files:
            fault = records.add(file, advance)
            if fault:
                faults.append(f"{file.path}: {fault}")
    return records


def _codec(config: Config, source: _Labels) -> TopK:
    if source.tail == "uniform":
        return TopK(config.d, config.k, tail="uniform", values="P16")
    return TopK(config.d, config.k, tail="drop", values="F16", as_given=source.given)


class _Labels(SparseSource):
    """Labels of records: log-probabilities, or with a uniform tail probabilities, which tell those of the others."""

    def __init__(self, records: Records, tail: str) -> None:
        config = records.layout.config
        super().__init__(records.sequences.rows_total, config.d, config.k, tail=tail, probabilities=tail == "uniform")
        self._records = records
        exact = config.exact_k == config.k and config.exact_dtype == "float16"
        self.given = exact and tail == "drop" and not config.delta_encoding and not records.layout.legacy

    def _kept(self, indices: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        ids: NDArray[Any] = np.empty((len(indices), self.k), np.int64)
        values: NDArray[Any] = np.empty((len(indices), self.k), np.float32)
        for part in self._records.parts(len(indices)):
            ids[part], values[part] = self._records.take(indices[part])
        kept = torch.from_numpy(values)
        if self.probabilities:
            kept = kept.clamp(max=0).exp()
        return torch.from_numpy(ids), kept.half() if self.given else kept
