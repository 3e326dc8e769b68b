"""Ways from rows to labels on a GPU: which tables they take, and what they do where no kernel serves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from decoder_parts import CLASSES, FITTED, ROWS, codec_of, file_of, side_of_rows, views_of
from encoder_parts import mixed_logits, sample_of
from interpret import DEVICE
from vqlabel.kernels import decode as kernels
from vqlabel.kernels import plain

from vqlabel import LabelDecoder, blocks, paths
from vqlabel.codecs.fitting import fit
from vqlabel.codecs.options import FitOptions
from vqlabel.codecs.vq import VQ
from vqlabel.paths import KernelPath, NativePath
from vqlabel.wanted import Terms, Wanted

pytestmark = pytest.mark.usefixtures("one_thread")

HERE = torch.device(DEVICE)
SOME = np.array([0, 299, 61, 7, 7])


def vq_of(logits: Any, **options: Any) -> VQ:
    """A quick fit."""
    sample = sample_of(logits, options.get("prior", "none"))
    made = fit(sample, FitOptions(**{"effort": 0.005, "width": 12, "nbits": 4, **options}), sample)
    assert isinstance(made, VQ)
    return made


def labels_of_kernels(path: KernelPath, rows: torch.Tensor, side: Any) -> torch.Tensor:
    """Logits as the kernels make them, interpreted where there is no GPU."""
    given = path.guess(side, len(rows))
    return kernels.decode(rows, path.tables, **given, output="logits").cpu()


@pytest.mark.parametrize("kind", ["residual", "product", "replay"])
def test_logits_that_fp16_cannot_reckon_with_are_decoded_all_the_same(kind: str) -> None:
    logits = mixed_logits(ROWS, CLASSES) * 1500
    codec, side = vq_of(logits, **FITTED[kind]), side_of_rows(kind, SOME)
    rows = torch.from_numpy(codec.encode(logits[SOME], side))
    path, truth = KernelPath(codec, HERE), NativePath(codec)(rows, side, Wanted("logits"))
    found = labels_of_kernels(path, rows.to(HERE), None if side is None else side.to(HERE))
    assert path.tables.weight.dtype == torch.float32
    assert (found - truth).abs().max() <= 2**-9 * truth.abs().max()
    labels = path(rows.to(HERE), None if side is None else side.to(HERE), Wanted("probs", 20.0))
    assert labels.isfinite().all()


@pytest.mark.parametrize("kind", FITTED)
def test_ordinary_logits_are_decoded_with_tables_of_fp16(kind: str) -> None:
    decoder, codec, images = LabelDecoder(file_of(kind)), codec_of(kind), views_of(kind, SOME)
    assert isinstance(codec, VQ)
    path, (rows, side) = KernelPath(codec, HERE), decoder.parts(decoder.read(SOME), images)
    path(rows.to(HERE), None if side is None else side.to(HERE), Wanted())
    assert path.tables.weight.dtype == torch.float16


def test_a_guess_that_fp16_cannot_hold_makes_tables_wider(monkeypatch: pytest.MonkeyPatch) -> None:
    codec, guess = codec_of("replay"), paths._guess
    assert isinstance(codec, VQ)
    side, rows = side_of_rows("replay", SOME).to(HERE), torch.zeros(5, codec.row_bytes, dtype=torch.uint8, device=HERE)
    path, largest = KernelPath(codec, HERE), float(guess(codec.decoder, side_of_rows("replay", SOME), 5)[0].abs().max())
    monkeypatch.setattr(paths, "_guess", lambda *given: (guess(*given)[0] * (1e5 / largest), guess(*given)[1]))
    path(rows[:0], side[:0], Wanted())  # an empty batch tells nothing
    assert path.tables.weight.dtype == torch.float16
    assert labels_of_kernels(path, rows, side).isfinite().all()
    assert path.tables.weight.dtype == torch.float32


@pytest.mark.parametrize(("hidden", "dtype"), [(600, torch.float32), (8, torch.float64)])
def test_losses_that_no_kernel_takes_are_made_in_blocks(
    hidden: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = vq_of(mixed_logits(ROWS, CLASSES), codebooks=1, hidden=hidden)
    rows, terms = torch.arange(5, dtype=torch.uint8, device=HERE)[:, None], Terms(4.0, 2.0, "kl")
    student = torch.randn(5, CLASSES, dtype=dtype, device=HERE, requires_grad=True)
    path, seen, real = KernelPath(codec, HERE), list[int](), plain.loss_of_logits
    whole = path.loss(student, rows, None, terms)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 2 * dtype.itemsize * CLASSES)
    monkeypatch.setattr(plain, "loss_of_logits", lambda s, t, **given: seen.append(len(s)) or real(s, t, **given))
    apart = path.loss(student, rows, None, terms)
    assert seen == [2, 2, 1]
    assert apart.dtype == dtype
    torch.testing.assert_close(apart, whole)
    for one, other in zip(*(torch.autograd.grad(losses.sum(), student) for losses in (apart, whole)), strict=True):
        torch.testing.assert_close(one, other)
