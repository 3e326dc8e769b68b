"""Measures: infinite is infinite, nothing is hidden, and codewords are counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from encoder_parts import Nearest, mixed_logits, sample_of

from vqlabel.codecs.fitting import fit
from vqlabel.codecs.options import FitOptions
from vqlabel.codecs.sample import Sample
from vqlabel.measure import kl, measure

pytestmark = pytest.mark.usefixtures("one_thread")


def test_an_infinite_kl_is_infinite() -> None:
    even, sure = torch.zeros(1, 3), torch.tensor([[0.0, 0.0, -torch.inf]])
    for temperature in (1.0, 20.0):
        assert kl(even, sure, temperature) == torch.inf
        assert kl(sure, even, temperature).item() == pytest.approx(np.log(3 / 2), rel=1e-6)
        assert kl(sure, sure, temperature) == 0
        faint = torch.tensor([[0.0, 0.0, -1e4]])  # a chance too small for float32
        assert kl(faint, sure, temperature) == 0


def test_a_nan_is_not_hidden_in_the_kl() -> None:
    even, broken = torch.zeros(1, 3), torch.tensor([[0.0, torch.nan, 0.0]])
    assert kl(even, broken, 1.0).isnan()
    assert kl(broken, even, 1.0).isnan()


class Counting(Nearest):
    """A codec that says that its rows are codes."""

    def config(self) -> dict[str, Any]:  # noqa: D102
        return {**super().config(), "G": 1, "nbits": 4}


def test_use_of_codewords_is_measured() -> None:
    table = torch.eye(16, 10) * 9
    rows = table[torch.tensor([0, 0, 1, 2])] - table[torch.tensor([0, 0, 1, 2])].mean(1, keepdim=True)
    found = measure(Counting(table), Sample(rows, None, 4), (1.0,))
    assert (found["used"], found["entropy"]) == (3 / 16, 1.5)
    assert "used" not in measure(Nearest(table), Sample(rows, None, 4), (1.0,))
    sample = sample_of(mixed_logits(300, 20))
    codec = fit(sample, FitOptions(bytes_per_label=0, effort=0.05), sample)
    assert "used" not in measure(codec, sample)
