"""Ways from packed rows to labels: C++ on the CPU, Triton on a GPU, plain torch where neither can; the reference."""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from vqlabel import reference, reference_top
from vqlabel.codecs.additive import threads
from vqlabel.codecs.base import Codec
from vqlabel.codecs.corrections import correct
from vqlabel.codecs.hybrid import Hybrid
from vqlabel.codecs.model import Decoder
from vqlabel.codecs.values import LARGEST_HALF
from vqlabel.codecs.vq import VQ
from vqlabel.known import Side
from vqlabel.plain_loss import Teacher, plain_loss
from vqlabel.wanted import Terms, Wanted

if TYPE_CHECKING:
    from vqlabel.kernels.tables import Tables

BACKENDS = ("auto", "reference")
ROOM = 4  # times as large as in the first batch that is decoded, the guesses of a prior may be later


class Path(ABC):
    """A way from rows uint8 [B, row_bytes] to labels [B, C] on the same device."""

    replays = False  # whether a kernel draws the side information of rows there
    drops = False  # whether classes get no probability at all

    @abstractmethod
    def __call__(self, rows: torch.Tensor, side: Side | None, wanted: Wanted) -> torch.Tensor:
        """Labels of these rows, of which `side` is known."""

    def loss(self, student: torch.Tensor, rows: torch.Tensor, side: Side | None, terms: Terms) -> torch.Tensor:
        """Losses [B] of student logits [B, C] against the labels of these rows; gradients reach the student alone."""
        return plain_loss(student, self.teacher(rows, side, torch.promote_types(student.dtype, torch.float32)), terms)

    def teacher(self, rows: torch.Tensor, side: Side | None, dtype: torch.dtype) -> Teacher:
        """Logits [b, C] of any slice of these rows, decoded when they are asked for."""
        wanted = Wanted("logits", dtype=dtype)
        return lambda part: self(rows[part], None if side is None else side[part], wanted)

    def check(self, terms: Terms) -> None:
        """ValueError if these labels have no such loss."""
        if terms.kind == "mse_logits" and self.drops:
            raise ValueError("these labels drop classes, which then have no logits to compare; take kind='kl'")


def choose_path(codec: Codec, device: torch.device, backend: str) -> Path:
    """The quickest way that there is on this device; the reference, which is slow, on request."""
    if isinstance(codec, Hybrid):
        return CorrectedPath(codec, choose_path(codec.vq, device, backend), exact=backend == "reference")
    if backend == "reference":
        return ReferencePath(codec)
    if not isinstance(codec, VQ):
        return TorchPath(codec)
    if device.type == "cpu":
        return NativePath(codec)
    if device.type == "cuda" and find_spec("triton"):
        return KernelPath(codec, device)
    if device.type == "cuda":
        warnings.warn("Triton is not installed, so labels are decoded by plain torch: pip install triton", stacklevel=4)
    return PlainPath(codec, device)


def _guess(decoder: Decoder, side: Side, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What the prior gives: h0 [B, R] and spread [B, 1], in float32 whatever the student's autocast says."""
    with torch.no_grad(), torch.autocast(decoder.bias.device.type, enabled=False):
        return decoder.guess(side, rows)


class NativePath(Path):
    """C++, in one pass from rows to labels."""

    def __init__(self, codec: VQ) -> None:
        from vqlabel.native_decode import NativeDecoder

        self._decoder = codec.decoder
        self._native = NativeDecoder(codec.layout, codec.tensors())

    def __call__(self, rows: torch.Tensor, side: Side | None, wanted: Wanted) -> torch.Tensor:
        """Labels of these rows."""
        guess = None
        if side is not None:
            h0, spread = _guess(self._decoder, side, len(rows))
            guess = h0.contiguous().numpy(), spread.contiguous().numpy()
        narrow = torch.float16 if wanted.dtype == torch.float16 else torch.float32
        labels = torch.empty(len(rows), self._native.classes, dtype=narrow, device="cpu")
        self._native.decode(
            rows.contiguous().numpy(),
            guess,
            temperature=wanted.temperature,
            output=wanted.output,
            out=labels.numpy(),
            threads=threads(),
        )
        return labels.to(wanted.dtype)


class PlainPath(Path):
    """Plain torch on any device."""

    width = torch.float32  # of the tables

    def __init__(self, codec: VQ, device: torch.device) -> None:
        self._decoder = copy.deepcopy(codec.decoder).to(device)
        self.tables = self._tables_in(self.width)

    def __call__(self, rows: torch.Tensor, side: Side | None, wanted: Wanted) -> torch.Tensor:
        """Labels of these rows."""
        from vqlabel.kernels import plain

        return self._run(plain.decode, rows, side, wanted)

    def guess(self, side: Side | None, rows: int) -> dict[str, torch.Tensor]:
        """What the prior gives, as the kernels call it."""
        if side is None:
            return {}
        h0, spread = _guess(self._decoder, side, rows)
        return {"h0": h0, "spread": spread[:, 0]}

    def _tables_in(self, dtype: torch.dtype) -> Tables:
        from vqlabel.kernels.tables import make_tables

        weights = {name: w.detach() for name, w in self._decoder.named_parameters() if not name.startswith("prior.")}
        return make_tables(weights, self._decoder.layout, dtype=dtype)

    def _run(self, decode: Any, rows: torch.Tensor, side: Side | None, wanted: Wanted) -> torch.Tensor:
        # Kernels write nothing wider than float32.
        narrow = torch.float32 if wanted.dtype == torch.float64 else wanted.dtype
        options: dict[str, Any] = {"temperature": wanted.temperature, "output": wanted.output, "dtype": narrow}
        options |= self.guess(side, len(rows))
        with torch.autocast(rows.device.type, enabled=False):
            labels: torch.Tensor = decode(rows, self.tables, **options)
        return labels.to(wanted.dtype)


class KernelPath(PlainPath):
    """Triton on a GPU: with tables of fp16, or of float32 where logits are so large that fp16 ends before them."""

    replays, width = True, torch.float16
    _fitted = False  # whether the tables are known to be wide enough

    def __call__(self, rows: torch.Tensor, side: Side | None, wanted: Wanted) -> torch.Tensor:
        """Labels of these rows."""
        from vqlabel.kernels import ops

        return self._run(ops.decode, rows, side, wanted)

    def loss(self, student: torch.Tensor, rows: torch.Tensor, side: Side | None, terms: Terms) -> torch.Tensor:
        """Losses [B], without B x C labels in memory."""
        from vqlabel.kernels import ops

        given = self.guess(side, len(rows))  # first, because it may widen the tables
        if not self._serves(student):
            return super().loss(student, rows, side, terms)
        with torch.autocast(rows.device.type, enabled=False):
            found: torch.Tensor = ops.loss(student, rows, self.tables, **given, **terms._asdict())
        return found

    def guess(self, side: Side | None, rows: int) -> dict[str, torch.Tensor]:
        """What the prior gives; the first time, tables become as wide as it asks for, which waits for the GPU."""
        given = super().guess(side, rows)
        if rows and not self._fitted:
            self._fit(given)
        return given

    def _fit(self, given: dict[str, torch.Tensor]) -> None:
        from vqlabel.kernels.tables import largest

        sizes = {}
        if given:
            sizes = {"h0": ROOM * given["h0"].abs().max().item(), "spread": self._decoder.spread.abs().max().item()}
        if not largest(self.tables, **sizes) <= LARGEST_HALF:
            self.tables = self._tables_in(torch.float32)
        self._fitted = True

    def _serves(self, student: torch.Tensor) -> bool:
        from vqlabel.kernels._checks import FLOATS, served

        return served(self.tables) and student.dtype in FLOATS


class CorrectedPath(Path):
    """Labels of codes on another path, and torch that writes the corrections of codec `vq+top` into them."""

    def __init__(self, codec: Hybrid, codes: Path, *, exact: bool) -> None:
        self._codec, self._codes, self._exact = codec, codes, exact
        self.replays = codes.replays

    def __call__(self, rows: torch.Tensor, side: Side | None, wanted: Wanted) -> torch.Tensor:
        """Labels of these rows."""
        at, top = self._codec.vq.row_bytes, self._codec.top
        dtype = torch.float64 if self._exact else torch.promote_types(wanted.dtype, torch.float32)
        logits = self._codes(rows[:, :at], side, Wanted("logits", dtype=dtype))
        if not self._exact:
            return wanted.of(correct(logits, rows[:, at:], top))
        exact = reference_top.correct(logits.cpu().numpy(), rows[:, at:].cpu().numpy(), top)
        return wanted.of(torch.from_numpy(exact)).to(rows.device)


class TorchPath(Path):
    """The codec's own decode, and torch's softmax."""

    def __init__(self, codec: Codec) -> None:
        self._codec, self.drops = codec, codec.drops

    def __call__(self, rows: torch.Tensor, side: Side | None, wanted: Wanted) -> torch.Tensor:
        """Labels of these rows."""
        return wanted.of(self._codec.decode(rows.cpu().numpy(), side).to(rows.device))


class ReferencePath(TorchPath):
    """`vqlabel.reference.decode`, in float64."""

    def __call__(self, rows: torch.Tensor, side: Side | None, wanted: Wanted) -> torch.Tensor:
        """Labels of these rows."""
        codec, packed = self._codec, rows.cpu().numpy()
        if not isinstance(codec, VQ):
            return wanted.of(codec.decode(packed, side).double()).to(rows.device)
        guess: tuple[Any, ...] = ()
        if side is not None:
            parts = _guess(codec.decoder, side.to(torch.device("cpu")), len(rows))
            guess = tuple(part.double().numpy() for part in parts)
        logits = reference.decode(packed, codec.config(), codec.tensors(), *guess)
        return wanted.of(torch.from_numpy(logits)).to(rows.device)
