"""Timing on the GPU: CUDA events around each call, runners in turns, ceilings measured on the same device."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.race import RECORDS

Runner = Callable[[], object]

HAS_GPU = torch.cuda.is_available()
needs_gpu = pytest.mark.skipif(not HAS_GPU, reason="needs a GPU; the case without one is timed on the CPU")
no_gpu = pytest.mark.skipif(HAS_GPU, reason="there is a GPU, on which the other case is timed")


def race_on_gpu(
    benchmark: Any,
    case: Mapping[str, Any],
    runners: Mapping[str, Runner],
    work: Mapping[str, float],
    *,
    rounds: int = 30,
) -> None:
    """Time all runners, the first of which is ours, in turns.

    work has "units" (rows, pairs; times are per unit) and what any way has to do at least: "bytes" moved to and from
    device memory, "flops" of products in 16 bits. Records carry what fraction of the measured ceilings that makes, and
    the most memory that a call takes beyond what is there before.
    """
    peaks = {name: peak_bytes(runner) for name, runner in runners.items()}
    seconds = event_seconds(runners, rounds)
    ours = float(np.median(seconds[next(iter(runners))]))
    benchmark.extra_info.update(case)
    for name, times in seconds.items():
        p20, p50, p80 = np.quantile(times, (0.2, 0.5, 0.8))
        record = {
            **case, "name": name, "p20": p20 / work["units"], "p50": p50 / work["units"], "p80": p80 / work["units"],
            "ratio": float(p50 / ours), "rounds": rounds, "us": p50 * 1e6, "peak_mb": peaks[name] / 1e6, **work,
            "GB/s": work["bytes"] / p50 / 1e9, "of_copy": work["bytes"] / p50 / copy_ceiling(),
            "TFLOP/s": work["flops"] / p50 / 1e12, "of_matmul": work["flops"] / p50 / matmul_ceiling(),
        }  # fmt: skip
        RECORDS.append(record)
        benchmark.extra_info[f"x {name}"] = round(record["ratio"], 2)

    def finished() -> None:
        next(iter(runners.values()))()
        torch.cuda.synchronize()

    benchmark.pedantic(finished, rounds=5)


def event_seconds(runners: Mapping[str, Runner], rounds: int) -> dict[str, list[float]]:
    """Seconds on the device of each call; the L2 cache is overwritten before it, which also hides its launches."""
    for runner in runners.values():
        runner(), runner()
    flushed = torch.empty(256 * 2**20, dtype=torch.uint8, device="cuda")  # larger than any L2
    event: Any = torch.cuda.Event
    events: dict[str, list[tuple[Any, Any]]] = {name: [] for name in runners}
    for _ in range(rounds):
        for name, runner in runners.items():
            begin, end = event(enable_timing=True), event(enable_timing=True)
            flushed.zero_()
            begin.record()
            runner()
            end.record()
            events[name].append((begin, end))
        torch.cuda.synchronize()
    return {name: [begin.elapsed_time(end) / 1e3 for begin, end in pairs] for name, pairs in events.items()}


def peak_bytes(runner: Runner) -> int:
    """The most device memory that a call takes beyond what was taken before, its result included."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    runner()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


@functools.cache
def copy_ceiling() -> float:
    """Bytes a second, read and written, of a copy of 1 GiB."""
    source = torch.zeros(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    times = event_seconds({"copy": lambda: target.copy_(source)}, 20)["copy"]
    return 2 * source.numel() / float(np.median(times))


@functools.cache
def matmul_ceiling(dtype: torch.dtype = torch.float16, n: int = 8192) -> float:
    """Floating-point operations a second of a product of two n x n matrices."""
    left, right = torch.randn(2, n, n, dtype=dtype, device="cuda").unbind()
    times = event_seconds({"matmul": lambda: left @ right}, 20)["matmul"]
    return 2 * n**3 / float(np.median(times))


def gpu() -> dict[str, Any]:
    """Circumstances of the figures."""
    import triton

    found = torch.cuda.get_device_properties(0)
    return {
        "gpu": found.name,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
        "copy GB/s": round(copy_ceiling() / 1e9),
        "fp16 matmul TFLOP/s": round(matmul_ceiling() / 1e12),
    }
