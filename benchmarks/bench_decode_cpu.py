"""Decoding on the CPU, one thread: packed rows to probabilities, against the ways that people have without us."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import torch
from torch.nn.functional import embedding_bag

from benchmarks.race import race
from vqlabel.codecs.layout import Layout
from vqlabel.codecs.model import Decoder
from vqlabel.codecs.stored import restore, store
from vqlabel.native_decode import NativeDecoder

T, R, H = 4.0, 64, 160
KINDS = ("linear", "linear, h0 given", "hidden layer")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def model(size: int, classes: int, kind: str) -> tuple[Layout, Decoder, NativeDecoder]:
    """Random decoder of `size` bytes a label, 8 bits a code, with additive books up to 8 bytes: as we fit them."""
    random = torch.Generator().manual_seed(0)
    form, hidden = "residual" if size <= 8 else "product", H if kind == "hidden layer" else 0
    owner = tuple(r * size // R for r in range(R)) if form == "product" else ()
    layout = Layout(form, size, 8, R, hidden, owner=owner)
    decoder = Decoder(classes, layout, None).requires_grad_(False)
    for weight in decoder.parameters():
        weight.normal_(0, weight.shape[-1] ** -0.5, generator=random)
    arrays = store(dict(decoder.named_parameters()), layout.stored)
    shapes = {name: tuple(weight.shape) for name, weight in decoder.named_parameters()}
    decoder.load_state_dict(restore(shapes, layout.stored, arrays.__getitem__))
    return layout, decoder, NativeDecoder(layout, arrays)


def loaded(labels: torch.Tensor, path: Path) -> Callable[[], torch.Tensor]:
    """As SRe2L's loader does it: a file of fp16 logits for each batch."""
    torch.save((labels.log() * T).half(), path)
    return lambda: torch.softmax(torch.load(path).float() / T, -1)


def by_faiss(size: int, classes: int, rows: Any) -> Callable[[], torch.Tensor]:
    """Product quantisation of the logits themselves; random books, because time does not depend on what is in them."""
    index = faiss.IndexPQ(-(-classes // size) * size, size, 8)
    books = np.random.default_rng(0).standard_normal(256 * index.d).astype(np.float32)
    faiss.copy_array_to_vector(books, index.pq.centroids)
    index.is_trained = True
    return lambda: torch.softmax(torch.from_numpy(index.sa_decode(rows))[:, :classes] / T, -1)


def by_bag(decoder: Decoder, layout: Layout, codes: torch.Tensor) -> Callable[[], torch.Tensor]:
    """One embedding_bag over fp16 tables of what each codeword adds to the logits."""
    books: torch.Tensor = decoder.books
    if layout.form == "product":
        own = torch.tensor(layout.owner)[None] == torch.arange(layout.G)[:, None]
        books = (books.T[None] * own[:, None]).reshape(layout.G * layout.K, R)
    table, offsets = (books @ decoder.weight[:, :R].T).half(), torch.arange(layout.G) * layout.K
    return lambda: torch.softmax((embedding_bag(codes + offsets, table, mode="sum").float() + decoder.bias) / T, -1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [256, 1024])
@pytest.mark.parametrize("size", [4, 8, 16, 32])
@pytest.mark.parametrize("classes", [100, 1000, 10450])
def test_decode(benchmark: Any, tmp_path: Path, classes: int, size: int, batch: int, kind: str) -> None:
    layout, decoder, native = model(size, classes, kind)
    rows = np.random.default_rng(1).integers(0, 256, (batch, size)).astype(np.uint8)
    codes, out = torch.from_numpy(rows.astype(np.int64)), np.empty((batch, classes), np.float32)
    h0 = torch.zeros(batch, R) if kind == "linear, h0 given" else None
    guess = None if h0 is None else (h0.numpy(), np.ones(batch, np.float32))

    def matmul() -> torch.Tensor:
        h = decoder.latent(codes)
        return torch.softmax(decoder.expand(h if h0 is None else h0 + h) / T, -1)

    expected = matmul()
    ready = (expected.log() * T).contiguous()
    floor = torch.empty_like(ready)
    runners: dict[str, Callable[[], Any]] = {
        "vqlabel": lambda: native.decode(rows, guess, temperature=T, out=out),
        "softmax of ready logits": lambda: torch.softmax(ready, -1, out=floor),
        "embedding_bag + matmul + softmax": matmul,
        "torch.load fp16 + softmax": loaded(expected, tmp_path / "batch.pt"),
        "faiss PQ + softmax": by_faiss(size, classes, rows),
    }
    if kind == "linear":
        runners["embedding_bag of logits + softmax"] = by_bag(decoder, layout, codes)
    for name, runner in runners.items():
        if name not in ("softmax of ready logits", "faiss PQ + softmax"):
            np.testing.assert_allclose(runner(), expected, rtol=0.02, atol=1e-7)
    case = {"op": f"decode, {kind}", "per": "row", "case": f"C {classes}, {size} bytes, batch {batch}"}
    race(benchmark, case, runners, dict.fromkeys(runners, batch), rounds=15 if classes < 10_000 else 5)
