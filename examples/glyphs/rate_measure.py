"""How a codec or a rival is judged: the rows, the measures, and the bytes of everything in the file."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from examples.glyphs import distill, perturb
from examples.glyphs.settings import Settings
from vqlabel import LabelEncoder
from vqlabel.codecs.base import Codec
from vqlabel.codecs.sample import Sample
from vqlabel.format import CHUNK_CRCS, CODES, CRCS, Header, build_header
from vqlabel.known import Side
from vqlabel.measure import TEMPERATURES, codeword_use, count_codes, kl
from vqlabel.metadata import format_metadata
from vqlabel.replay import Parameters
from vqlabel.sampling import side_of_rows
from vqlabel.side import SideInformation

MANY_ROWS = 15_000_000  # the size of a large label set, which bytes per label are projected to
DRAWS = [[perturb.SHAPE_STREAM, 0], [perturb.SHAPE_STREAM, 1]]  # shape, contrast and noise of a view


class Coder(Protocol):
    """The part of a codec that is judged."""

    def encode(self, logits: torch.Tensor, side: Side | None = None) -> NDArray[np.uint8]:
        """Rows of bytes [B, row_bytes]."""

    def decode(self, rows: NDArray[np.uint8], side: Side | None = None) -> torch.Tensor:
        """Logits [B, C]."""


@dataclass
class Labels:
    """Teacher's logits float16 [N, C] and what a reader knows of their rows beforehand."""

    logits: torch.Tensor
    info: SideInformation
    teacher: str
    mixing: float = 0.5

    @property
    def classes(self) -> int:
        """C."""
        return self.logits.shape[1]

    def sample(self, prior: str, *, held_out: bool) -> Sample:
        """The tenth of the rows that judges, or the others, in a random order that never changes."""
        order = np.random.default_rng(0).permutation(len(self.logits))
        tenth = len(order) // 10
        rows = np.sort(order[:tenth]) if held_out else order[tenth:]
        side = None if prior == "none" else side_of_rows(self.info, rows, prior)
        return Sample(self.logits[torch.from_numpy(rows)], side, len(rows), images=self.info.images)


def load(settings: Settings) -> Labels:
    """The labels of these settings, made now unless they were before."""
    file = distill.labels(settings)
    logits = torch.from_numpy(file.gather(np.arange(len(file))).view(np.float16))
    recipe, images = settings.distilled_recipe, distill.images(settings)

    def views(parameters: Parameters) -> torch.Tensor:
        # As halves they take half the memory, and are far finer than the noise in them.
        return perturb.views(images, recipe, parameters, perturb.TRAINING).half().cpu()

    info = SideInformation(file.tensor("images.class"), recipe, draws=DRAWS, views=views)
    return Labels(logits, info, file.metadata["teacher"], settings.mixing)


def judge(coder: Coder, held_out: Sample) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    """Mean KL at each temperature, squared error of a label, top-1 agreement, time; and the rows themselves."""
    sums, seconds, packed = torch.zeros(len(TEMPERATURES) + 2, dtype=torch.float64), 0.0, []
    for logits, side in held_out.blocks():
        begin = time.perf_counter()
        rows = coder.encode(logits, side)
        seconds += time.perf_counter() - begin
        packed.append(rows)
        found, wanted = coder.decode(rows, side).double(), logits.double()
        error = found - wanted
        error -= error.mean(1, keepdim=True)
        agree = (found.argmax(1) == wanted.argmax(1)).double().sum()
        sums += torch.stack([*(kl(wanted, found, t).sum() for t in TEMPERATURES), error.square().sum(), agree])
    *divergences, squared, agreement = (sums / held_out.total).tolist()
    return {
        "held_out": held_out.total,
        "kl": {f"{t:g}": value for t, value in zip(TEMPERATURES, divergences, strict=True)},
        "squared_error": squared,
        "top1": agreement,
        "encode_us": 1e6 * seconds / held_out.total,
    }, np.concatenate(packed)


def code_use(rows: NDArray[np.uint8], G: int, nbits: int) -> dict[str, float]:
    """Zero-order entropy of a code in bits and the share of codewords that occur, mean over the books."""
    if G == 0:
        return {}
    counts = torch.zeros(G, 2**nbits, dtype=torch.int64)
    count_codes(rows, nbits, counts)
    return codeword_use(counts)


def file_bytes(codec: Codec, labels: Labels, facts: dict[str, Any], temperature: float = 20.0) -> dict[str, int]:
    """Bytes beside the codes in a file of all rows, and in one of about MANY_ROWS; an epoch is really written."""
    images = labels.info.images
    measured = {"rows": facts["held_out"]} | {k: facts[k] for k in ("kl", "top1", "used", "entropy") if k in facts}
    with tempfile.TemporaryDirectory() as folder:
        encoder = LabelEncoder(codec, labels.info, measured)
        encoder.temperatures = (temperature,)
        file = encoder.encode(labels.logits[:images], Path(folder) / "epoch.safetensors", progress=False)
        header = file.header
    many = images * round(MANY_ROWS / images)
    return {"overhead": beside_codes(header, len(labels.logits)), "overhead_many": beside_codes(header, many)}


def beside_codes(header: Header, rows: int) -> int:
    """Bytes of everything but codes in the file that this one would be with so many rows of the same images."""
    metadata = dict(header.metadata)
    if "epochs" in metadata:
        metadata["epochs"] = rows // metadata["images"]
    ours = (CODES, CHUNK_CRCS, CRCS)
    tensors = {
        name: np.broadcast_to(np.zeros((), tensor.dtype), tensor.shape)
        for name, tensor in header.tensors.items()
        if name not in ours
    }
    grown = build_header(rows, header.row_bytes, tensors, format_metadata(metadata))
    return grown.file_bytes - rows * header.row_bytes
