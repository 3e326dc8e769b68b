"""What people would use instead: faiss, published sparse labels, scalar quantisers, general compressors."""

from __future__ import annotations

import lzma
import re
import shutil
import subprocess
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vqlabel.codecs.base import Codec
from vqlabel.codecs.raw import Int8, Raw
from vqlabel.codecs.sample import Sample
from vqlabel.codecs.spectrum import principal
from vqlabel.codecs.topk import TopK
from vqlabel.known import Side

TRAINING_ROWS = 50_000  # faiss recommends fewer
THREADS = 2
STEPS = 127

Compressor = Callable[[bytes], bytes]


class Faiss:
    """An index of faiss by its factory name, as a codec: `OPQ8_64,PQ8x8`.

    Product quantisers of all C dimensions need a C that their books divide: zeros fill it up.
    """

    def __init__(self, name: str, sample: Sample) -> None:
        import faiss

        faiss.omp_set_num_threads(min(THREADS, torch.get_num_threads()))
        found = re.search(r"[PR]Q(\d+)x(\d+)$", name)
        if found is None:
            raise ValueError(f"{name!r} names no product or residual quantiser of faiss")
        self.G, self.nbits = int(found[1]), int(found[2])
        self.classes = sample.classes
        self._fill = -self.classes % self.G
        self._index = faiss.index_factory(self.classes + self._fill, name)
        self._index.train(self._filled(sample.logits[:TRAINING_ROWS].float()))
        self.fixed_bytes = _index_bytes(self._index)
        self.row_bytes = int(self._index.sa_code_size())

    def encode(self, logits: torch.Tensor, side: Side | None = None) -> NDArray[np.uint8]:
        """Codes as faiss packs them [B, row_bytes]."""
        packed: NDArray[np.uint8] = self._index.sa_encode(self._filled(logits))
        return packed

    def decode(self, rows: NDArray[np.uint8], side: Side | None = None) -> torch.Tensor:
        """Logits [B, C]."""
        return torch.from_numpy(self._index.sa_decode(rows)[:, : self.classes])

    def _filled(self, logits: torch.Tensor) -> NDArray[np.float32]:
        return np.pad(logits.numpy(), ((0, 0), (0, self._fill)))


def _index_bytes(index: Any) -> int:
    """Bytes of what decoding needs, in the fp32 of faiss: matrix and bias of each transform, and the books.

    A PCA of faiss keeps all C components, and writes them; those that are not used are left out here.
    """
    import faiss

    found = 0
    if isinstance(index, faiss.IndexPreTransform):
        steps: Any = index.chain  # typed as a list, which it is not
        chain: list[Any] = [faiss.downcast_VectorTransform(steps.at(i)) for i in range(steps.size())]
        found = sum(4 * (step.A.size() + step.b.size()) for step in chain)
        index = faiss.downcast_index(index.index)
    books = index.pq.centroids if isinstance(index, faiss.IndexPQ) else index.rq.codebooks
    return int(found + 4 * books.size())


class PrincipalInt8:
    """Principal components, each in 255 steps between the ends that it reached on the rows of the fit."""

    def __init__(self, width: int, sample: Sample) -> None:
        spectrum = principal(sample, min(width, sample.classes), 0)
        self._mean, self._basis = spectrum.mean.half().float(), spectrum.basis.half().float()
        reached = [((block - self._mean) @ self._basis).abs().amax(0) for block, _ in sample.blocks()]
        self._step = (torch.stack(reached).amax(0) / STEPS).clamp_min(1e-12)
        self.row_bytes = self._basis.shape[1]
        self.fixed_bytes = 2 * (self._mean.numel() + self._basis.numel()) + 4 * self._step.numel()

    def encode(self, logits: torch.Tensor, side: Side | None = None) -> NDArray[np.uint8]:
        """A byte for each component."""
        steps = ((logits - self._mean) @ self._basis / self._step).round().clamp(-STEPS, STEPS)
        packed: NDArray[np.uint8] = steps.to(torch.int8).numpy().view(np.uint8)
        return packed

    def decode(self, rows: NDArray[np.uint8], side: Side | None = None) -> torch.Tensor:
        """Logits [B, C]."""
        return (torch.from_numpy(rows.view(np.int8)).float() * self._step) @ self._basis.T + self._mean


def make(name: str, sample: Sample) -> Codec | Faiss | PrincipalInt8:
    """The rival of this name, fitted where it needs to be; those that compress as a stream are not among them."""
    if name in ("fp16", "int8"):
        return (Raw if name == "fp16" else Int8)(sample.classes)
    if sparse := re.match(r"(LPQLD MR-|TinyViT, k = )(\d+)$", name):
        tail = "drop" if sparse[1].startswith("LPQLD") else "uniform"
        return TopK(sample.classes, min(int(sparse[2]), sample.classes), tail=tail)
    if components := re.match(r"PCA(\d+),int8$", name):
        return PrincipalInt8(int(components[1]), sample)
    return Faiss(name, sample)


def is_stream(name: str) -> bool:
    """Whether the rival is a general compressor, which loses nothing and gives no row by itself."""
    return name.startswith("fp16, ")


def stream_bytes(name: str, held_out: Sample) -> float | None:
    """Bytes a label of all held-out rows compressed as one stream; None if the compressor is not here."""
    data = held_out.logits.half().numpy().tobytes()
    if "shuffled" in name:
        data = np.frombuffer(data, np.uint8).reshape(-1, 2).T.tobytes()  # all low bytes, then all high ones
    compress = _compressor(name)
    return len(compress(data)) / held_out.total if compress else None


def _compressor(name: str) -> Compressor | None:
    if name.endswith("zlib"):
        return lambda data: zlib.compress(data, 9)
    if name.endswith("lzma"):
        return lambda data: lzma.compress(data, preset=6)
    program = shutil.which("zstd")
    if program is None:
        return None
    return lambda data: subprocess.run([program, "-19", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout
