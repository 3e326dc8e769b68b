"""Labels of token positions, with vocabularies for classes: decoding, and a loss with its gradient, on this device.

Beside ours: the teacher's fp16 logits kept whole, and its 50 most probable tokens, which most stored sets keep: put
among zeros, or, as the best code for them does, looked up in the student's log_softmax. On a GPU the most memory that
a call takes is recorded too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from benchmarks.gpu import needs_gpu, no_gpu, race_on_gpu
from benchmarks.race import race
from vqlabel import _native
from vqlabel.codecs.corrections import id_bits
from vqlabel.codecs.hybrid import Hybrid
from vqlabel.codecs.layout import Layout
from vqlabel.codecs.model import Decoder
from vqlabel.codecs.vq import VQ
from vqlabel.paths import Path, choose_path
from vqlabel.reference import code_dtype
from vqlabel.wanted import Terms, Wanted

VOCABULARIES = (32_000, 50_257, 128_256, 152_064)
POSITIONS, FEW = (2048, 8192), 64  # on a GPU; on a CPU
G, R, TOP, KEPT = 24, 192, 4, 50
CHECKED = 64  # rows that are compared before timing
TERMS = Terms(1.0, 1.0, "kl")
Loss = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Positions:
    """B positions of a text: rows of both codecs, and what others would have kept of what these decode to."""

    B: int
    C: int
    device: torch.device

    @cached_property
    def codec(self) -> Hybrid:
        """Of random weights: time does not depend on what is in them."""
        layout = Layout("product", G, 8, R, owner=tuple(r * G // R for r in range(R)))
        decoder, generator = Decoder(self.C, layout, None), torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight, scale in ((decoder.books, 1.0), (decoder.weight, 0.2), (decoder.bias, 1.0)):
                weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
        return Hybrid(VQ(self.C, layout, decoder, None, None), TOP)

    @cached_property
    def paths(self) -> tuple[Path, Path]:
        """What a LabelDecoder takes for `vq` and `vq+top` here."""
        return choose_path(self.codec.vq, self.device, "auto"), choose_path(self.codec, self.device, "auto")

    @cached_property
    def rows(self) -> torch.Tensor:
        """Of codec `vq+top`; the first G bytes are those of `vq`."""
        random = np.random.default_rng(1)
        codes = random.integers(0, 256, (self.B, G), np.uint8)
        values = random.integers(100, 140, (self.B, TOP), np.uint8)
        part = self.C // TOP  # a class of each part: they rise
        ids, bits = random.integers(0, part, (self.B, TOP)) + np.arange(TOP) * part, id_bits(self.C)
        packed = _native.pack(ids.astype(code_dtype(bits)), bits)
        return torch.from_numpy(np.concatenate([codes, values, packed], axis=1)).to(self.device)

    @cached_property
    def student(self) -> torch.Tensor:
        """Logits [B, C] that learn: fp16 on a GPU."""
        dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        drawn = torch.randn(self.B, self.C, device=self.device, generator=torch.Generator(self.device).manual_seed(2))
        return drawn.to(dtype).requires_grad_()

    @cached_property
    def halves(self) -> torch.Tensor:
        """The teacher's logits, whole."""
        return self.paths[0](self.rows[:, :G], None, Wanted("logits", dtype=torch.float16))

    @cached_property
    def kept(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Logarithms of the KEPT largest probabilities and their classes."""
        found = self.halves.float().log_softmax(1).topk(KEPT, dim=1)
        return found.values, found.indices

    def work(self, moved: int, products: int) -> dict[str, float]:
        """What any way with these codes has to do: see benchmarks/decoders.py."""
        read = self.rows.nbytes + self.codec.fixed_bytes
        return {"units": self.B, "bytes": float(moved + read), "flops": 2.0 * self.B * self.C * R * products}


def decoders(p: Positions) -> dict[str, Callable[[], torch.Tensor]]:
    """Ways to probabilities."""
    vq, hybrid = p.paths
    return {
        "vqlabel, vq": lambda: vq(p.rows[:, :G], None, Wanted(dtype=p.student.dtype)),
        f"vqlabel, vq+top {TOP}": lambda: hybrid(p.rows, None, Wanted(dtype=p.student.dtype)),
        "softmax of stored fp16 logits": lambda: p.halves.float().softmax(1).to(p.student.dtype),
        f"top {KEPT} among zeros": lambda: scattered(p).to(p.student.dtype),
    }


def scattered(p: Positions) -> torch.Tensor:
    """Probabilities [B, C] of which only some are not 0."""
    values, ids = p.kept
    return torch.zeros(p.B, p.C, device=p.device).scatter_(1, ids, values.exp())


def losses(p: Positions) -> dict[str, Loss]:
    """Ways to the mean KL."""
    (vq, hybrid), (values, ids) = p.paths, p.kept

    def whole(student: torch.Tensor) -> torch.Tensor:
        targets = p.halves.float().log_softmax(1)
        found = functional.kl_div(student.float().log_softmax(1), targets, reduction="none", log_target=True)
        return found.sum(1).mean()

    def among_zeros(student: torch.Tensor) -> torch.Tensor:
        return functional.kl_div(student.float().log_softmax(1), scattered(p), reduction="none").sum(1).mean()

    def looked_up(student: torch.Tensor) -> torch.Tensor:
        return (values.exp() * (values - student.float().log_softmax(1).gather(1, ids))).sum(1).mean()

    return {
        "vqlabel, vq": lambda s: vq.loss(s, p.rows[:, :G], None, TERMS).mean(),
        f"vqlabel, vq+top {TOP}": lambda s: hybrid.loss(s, p.rows, None, TERMS).mean(),
        "stored fp16 logits": whole,
        f"top {KEPT} among zeros": among_zeros,
        f"top {KEPT} looked up": looked_up,
    }


def check(p: Positions) -> None:
    """Both codecs decode to what the reference does, and their losses are those of these labels."""
    few = p.rows[:CHECKED]
    for path, codec, rows in zip(p.paths, (p.codec.vq, p.codec), (few[:, :G], few), strict=True):
        exact = choose_path(codec, p.device, "reference")(rows, None, Wanted("log_probs", dtype=torch.float64))
        found = path(rows, None, Wanted("log_probs")).double()
        torch.testing.assert_close(found, exact, rtol=1e-2, atol=1e-2)
        log_q = p.student[:CHECKED].double().log_softmax(1)
        wanted = (exact.exp() * (exact - log_q)).sum(1).detach()
        loss = path.loss(p.student[:CHECKED], rows, None, TERMS).double()
        torch.testing.assert_close(loss, wanted, rtol=1e-2, atol=1e-2)
    (top, rest), (values, ids) = (losses(p)[f"top {KEPT} {way}"] for way in ("among zeros", "looked up")), p.kept
    torch.testing.assert_close(top(p.student), rest(p.student), rtol=1e-3, atol=1e-4)
    assert values.shape == ids.shape == (p.B, KEPT)


def both(loss: Loss, student: torch.Tensor) -> torch.Tensor:
    """Forward and backward: the gradient."""
    return torch.autograd.grad(loss(student), student)[0]


def learning(p: Positions) -> dict[str, Callable[[], torch.Tensor]]:
    """Every loss, with its gradient."""
    return {name: lambda loss=loss: both(loss, p.student) for name, loss in losses(p).items()}  # type: ignore[misc]


def spelled(p: Positions) -> str:
    """A shape in words."""
    return f"{p.B:,} positions, {p.C:,} tokens"


OPS = pytest.mark.parametrize("op", ["decode", "KL and its gradient"])
SIZES = pytest.mark.parametrize("C", VOCABULARIES)


@needs_gpu
@OPS
@SIZES
@pytest.mark.parametrize("B", POSITIONS)
def test_language_on_gpu(benchmark: Any, B: int, C: int, op: str) -> None:
    p = Positions(B, C, torch.device("cuda"))
    check(p)
    decodes = op == "decode"
    case = {"op": f"{op} of text on the GPU", "per": "position", "case": spelled(p)}
    runners = decoders(p) if decodes else learning(p)
    race_on_gpu(benchmark, case, runners, p.work((2 if decodes else 6) * B * C, 2), rounds=10)


@no_gpu
@OPS
@SIZES
def test_language_on_cpu(benchmark: Any, C: int, op: str) -> None:
    p = Positions(FEW, C, torch.device("cpu"))
    check(p)
    case = {"op": f"{op} of text on the CPU", "per": "position", "case": spelled(p)}
    runners: Mapping[str, Callable[[], torch.Tensor]] = decoders(p) if op == "decode" else learning(p)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    race(benchmark, case, runners, dict.fromkeys(runners, FEW), rounds=5)
    torch.set_num_threads(threads)
