"""Packed rows to probabilities: on a GPU the kernels against torch and against stored logits, else plain torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from vqlabel.kernels import ops, plain

from benchmarks.decoders import SHAPES, SMALL, Batch, made, spelled, work
from benchmarks.gpu import needs_gpu, no_gpu, race_on_gpu
from benchmarks.race import race

T = 4.0


def eager(batch: Batch) -> torch.Tensor:
    """Three calls of torch."""
    return torch.softmax(batch.eager_logits() / T, 1)


def ours(batch: Batch, **options: Any) -> torch.Tensor:
    found: torch.Tensor = ops.decode(
        batch.rows, batch.tables, h0=batch.h0, temperature=T, dtype=batch.books.dtype, **options
    )
    return found


def by_plain(batch: Batch) -> torch.Tensor:
    found: torch.Tensor = plain.decode(batch.rows, batch.tables, h0=batch.h0, temperature=T, dtype=batch.books.dtype)
    return found


def graph_of(runner: Callable[[], object]) -> Callable[[], object]:
    """The same launches, replayed."""
    for _ in range(3):
        runner()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        runner()
    return graph.replay


@needs_gpu
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_decode_on_gpu(benchmark: Any, shape: tuple[int, int, int]) -> None:
    batch = made(*shape, "cuda")
    logits = batch.eager_logits()
    pinned, empty = logits.cpu().pin_memory(), torch.zeros(1, device="cuda")
    lse = torch.logsumexp(plain.logits(batch.rows, batch.tables, h0=batch.h0) / T, 1)
    compiled_plain, compiled_eager = (torch.compile(function, dynamic=False) for function in (by_plain, eager))
    runners = {
        "vqlabel": lambda: ours(batch),
        "vqlabel, logsumexp stored": lambda: ours(batch, lse=lse),
        "vqlabel, CUDA graph": graph_of(lambda: ours(batch)),
        "a launch that does nothing": lambda: empty.zero_(),
        "embedding bag, matmul, softmax": lambda: eager(batch),
        "torch.compile of these": lambda: compiled_eager(batch),
        "torch.compile of the reference": lambda: compiled_plain(batch),
        "softmax of stored fp16 logits": lambda: torch.softmax(logits / T, 1),
        "the same from pinned memory": lambda: torch.softmax(pinned.to("cuda", non_blocking=True) / T, 1),
    }
    torch.testing.assert_close(ours(batch), by_plain(batch), rtol=2e-2, atol=1e-4)
    case = {"op": "decode on the GPU", "per": "row", "case": spelled(*shape)}
    B, C, _ = shape
    race_on_gpu(benchmark, case, runners, work(batch, 2 * B * C, 1 if C <= 1024 else 2))


@no_gpu
@pytest.mark.parametrize("shape", SMALL, ids=lambda shape: "x".join(map(str, shape)))
def test_decode_on_cpu(benchmark: Any, shape: tuple[int, int, int]) -> None:
    batch = made(*shape, "cpu")
    halves = batch.eager_logits().half()
    runners: dict[str, Callable[[], object]] = {
        "vqlabel, plain torch": lambda: ours(batch),
        "embedding bag, matmul, softmax": lambda: eager(batch),
        "softmax of stored fp16 logits": lambda: torch.softmax(halves.float() / T, 1),
    }
    torch.testing.assert_close(ours(batch), eager(batch))
    case = {"op": "decode by torch on the CPU", "per": "row", "case": spelled(*shape)}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    race(benchmark, case, runners, dict.fromkeys(runners, shape[0]))
    torch.set_num_threads(threads)
