"""The labels of each source: what a student's loss is, what they weigh, how far they are from the teacher."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from examples import shared
from examples.language import rivals, teacher
from examples.language.settings import Settings
from examples.language.sources import Source
from examples.language.student import Loss
from examples.language.teacher import Teacher
from vqlabel import LabelDecoder, LabelEncoder, LabelFile
from vqlabel.codecs.hybrid import Hybrid
from vqlabel.format import CHUNK_CRCS, CODES
from vqlabel.losses import distillation_loss
from vqlabel.measure import kl
from vqlabel.sequences import Sequences
from vqlabel.sources import Source as Rows
from vqlabel.sources import open_source
from vqlabel.tokens import TokenInformation

MANY = 10**9  # tokens of a large label set, which bytes are projected to
BLOCK = 2048  # rows at a time
PER_ROW = (CODES, CHUNK_CRCS)  # tensors of a file that grow with it, like those of the sequences

_FITTED: dict[tuple[Source, str, Settings], LabelEncoder] = {}  # the last one


@dataclass
class Labels:
    """Labels of one source."""

    loss: Loss
    bytes: dict[str, float]  # a token: "codes", "here" with everything beside them, "many" with MANY tokens
    judged: dict[str, float | None]  # on held-out positions: "kl" (None where it is infinite) and "top1"


@dataclass
class Bench:
    """What labels are made from: the teacher on the sequences that get them, and on those that judge."""

    settings: Settings
    own: Teacher
    held: Teacher
    common: torch.Tensor  # [C] how often each token comes

    @classmethod
    def of(cls, settings: Settings, condition: str) -> Bench:
        """The bench of a condition: "flat" or "sharp"."""
        own, held = teacher.speaking(settings, condition)
        return cls(settings, own, held, teacher.unigrams(settings))


def make(source: Source, bench: Bench) -> Labels:
    """The labels of a source; files of codecs are kept."""
    makers: dict[str, Callable[[Source, Bench], Labels]] = {
        "hard": _hard, "full": _full, "top": _top, "draws": _draws, "distillkit": _distillkit, "vq": _coded,
    }  # fmt: skip
    return makers[source.scheme](source, bench)


def same_bytes(size: float) -> dict[str, float]:
    """Bytes of a scheme that has no tables; its container is not counted."""
    return {"codes": size, "here": size, "many": size}


def _hard(_: Source, bench: Bench) -> Labels:
    following = bench.own.windows.following.flatten()

    def loss(found: torch.Tensor, rows: NDArray[np.int64]) -> torch.Tensor:
        return functional.cross_entropy(found, following[torch.from_numpy(rows)])

    return Labels(loss, same_bytes(0), {"kl": None, "top1": None})  # they are in the text already


def _full(_: Source, bench: Bench) -> Labels:
    def loss(found: torch.Tensor, rows: NDArray[np.int64]) -> torch.Tensor:
        value: torch.Tensor = distillation_loss(found, bench.own(rows).float(), 1.0)
        return value

    return Labels(loss, same_bytes(2.0 * bench.own.classes), {"kl": 0.0, "top1": 1.0})


def _top(source: Source, bench: Bench) -> Labels:
    own, held = (rivals.top(each, source.k, source.tail, bench.common) for each in (bench.own, bench.held))
    return Labels(own.loss, same_bytes(rivals.top_bytes(bench.own.classes, source.k)), _judged_sparse(held, bench.held))


def _draws(source: Source, bench: Bench) -> Labels:
    own, held = (rivals.draws(each, source.k, bench.common) for each in (bench.own, bench.held))
    size, unique = rivals.draw_bytes(bench.own.classes, own)
    return Labels(own.loss, same_bytes(size), {**_judged_sparse(held, bench.held), "unique": unique})


def _distillkit(source: Source, bench: Bench) -> Labels:
    (own, size), (held, _) = (rivals.distillkit(each, source.preset, bench.common) for each in (bench.own, bench.held))
    return Labels(own.loss, same_bytes(size), _judged_sparse(held, bench.held))


def _judged_sparse(held: rivals.Sparse, by: Teacher) -> dict[str, float | None]:
    found = judged(by, lambda rows, _: held.probabilities(rows).log())
    return {**found, "kl": None} if held.tail == "drop" else found


def judged(by: Teacher, decode: Callable[[NDArray[np.int64], torch.Tensor], torch.Tensor]) -> dict[str, float | None]:
    """KL(teacher || decoded) at temperature 1 and agreement on the first class; decode has rows and their logits."""
    sums = torch.zeros(2, dtype=torch.float64)
    for rows in np.array_split(np.arange(len(by)), -(-len(by) // BLOCK)):
        wanted = by(rows).float()
        found = decode(rows, wanted)
        agree = (wanted.argmax(1) == found.argmax(1)).double().sum()
        sums += torch.stack([kl(wanted, found, 1.0).double().sum(), agree])
    divergence, agreement = (sums / len(by)).tolist()
    return {"kl": divergence if math.isfinite(divergence) else None, "top1": agreement}


def side_of(by: Teacher) -> TokenInformation:
    """What a reader who has the text knows of each row."""
    S, L = by.windows.tokens.shape
    return TokenInformation(by.windows.tokens.flatten().numpy(), Sequences([L] * S), store=False)


def _coded(source: Source, bench: Bench) -> Labels:
    file = fitted(source, bench)
    text = bench.own.windows.tokens.flatten().numpy()
    decoder = LabelDecoder(file.path, tokens=None if source.prior == "none" else text)

    def loss(found: torch.Tensor, rows: NDArray[np.int64]) -> torch.Tensor:
        value: torch.Tensor = distillation_loss(found, decoder.read(rows), 1.0)
        return value

    return Labels(loss, file_bytes(file), json.loads(file.metadata["x.judged"]))


def file_bytes(file: LabelFile) -> dict[str, float]:
    """Bytes a token: codes; all of the file; and all of one of MANY tokens, where the tables are of the same size."""
    header, rows = file.header, len(file)
    grows = sum(t.nbytes for name, t in header.tensors.items() if name in PER_ROW or name.startswith("sequences."))
    fixed = header.file_bytes - grows
    return {"codes": file.row_bytes, "here": header.file_bytes / rows, "many": grows / rows + fixed / MANY}


def file_path(source: Source, bench: Bench) -> Path:
    """Where the file of a source that is fitted is kept."""
    facts = [teacher.row_key(bench.own), bench.settings.facts(fits=True), asdict(source)]
    return bench.settings.path("labels", facts, ".safetensors")


def fitted(source: Source, bench: Bench) -> LabelFile:
    """The label file of a source, fitted and encoded now unless it was before; the teacher's logits pass through."""
    path = file_path(source, bench)
    with shared.alone(path):
        if path.exists():
            return LabelFile(path)
        rows = open_source(bench.own, rows=len(bench.own))
        encoder = _encoder(source, rows, bench)
        held = {"x.judged": json.dumps(_judged_codec(encoder, bench.held))}
        return encoder.encode(rows, path, metadata={"teacher": bench.own.name, **held}, progress=False)


def _encoder(source: Source, rows: Rows, bench: Bench) -> LabelEncoder:
    """The fitted encoder of a source; those that differ in what they correct share a fit, one after the other."""
    key = replace(source, top=0), bench.own.name, bench.settings
    if key not in _FITTED:
        _FITTED.clear()
        _FITTED[key] = LabelEncoder.fit(rows, **_options(source, bench))
    found = _FITTED[key]
    if not source.top:
        return found
    corrected = LabelEncoder(Hybrid(found.codec, source.top), found.side)  # type: ignore[arg-type]
    corrected.temperatures = found.temperatures
    return corrected


def _options(source: Source, bench: Bench) -> dict[str, Any]:
    settings = bench.settings
    found: dict[str, Any] = {
        "bytes_per_label": float(source.bytes), "temperatures": (1.0,), "width": source.width, "stored": source.stored,
        "form": source.form,
        "hidden": 0,  # a hidden layer would have to know every token: it fits the rows better, and others worse
        "rows": settings.fit_rows, "held_out": 0, "effort": settings.effort, "beam": settings.beam,
        "progress": False,
    }  # fmt: skip
    if source.prior != "none":
        found |= {"prior": source.prior, "side": side_of(bench.own)}
    return found


def _judged_codec(encoder: LabelEncoder, held: Teacher) -> dict[str, float | None]:
    side = side_of(held) if encoder.codec.tier != "none" else None

    def decode(rows: NDArray[np.int64], logits: torch.Tensor) -> torch.Tensor:
        about = None if side is None else side.of(rows)
        return encoder.codec.decode(encoder.codec.encode(logits, about), about)

    with torch.no_grad():
        return judged(held, decode)
