"""The last word on codes: of the choices it is given it takes the one whose label is nearest."""

from __future__ import annotations

import pytest
import torch

from vqlabel.codecs.closest import ROWS_AT_ONCE, Closest
from vqlabel.codecs.layout import Layout
from vqlabel.codecs.model import Decoder

C, R, G, NBITS = 9, 5, 3, 2


def decoder(hidden: int, *, linear: bool = True) -> Decoder:
    made = Decoder(C, Layout("residual", G, NBITS, R, hidden, linear), None)
    generator = torch.Generator().manual_seed(hidden)
    for weight in made.parameters():
        weight.data.normal_(0, 1, generator=generator)
    return made.requires_grad_(False)


def choices(rows: int, count: int) -> torch.Tensor:
    return torch.randint(0, 2**NBITS, (rows, count, G), generator=torch.Generator().manual_seed(rows))


@pytest.mark.parametrize(("hidden", "linear"), [(0, True), (4, True), (6, False)])
@pytest.mark.parametrize("rows", [0, 1, 7, ROWS_AT_ONCE + 1])
def test_the_nearest_label_is_chosen(hidden: int, linear: bool, rows: int) -> None:
    made, offered = decoder(hidden, linear=linear), choices(rows, 6)
    logits = torch.randn(rows, C, generator=torch.Generator().manual_seed(1))
    error = made(offered.view(-1, G)).view(rows, 6, C) - logits[:, None]
    error -= error.mean(2, keepdim=True)  # a constant of a row is nothing
    expected = offered[torch.arange(rows), error.square().sum(2).argmin(1)] if rows else offered[:, 0]
    assert torch.equal(Closest(made).choose(offered, logits - logits.mean(1, keepdim=True), None), expected)


def test_a_single_choice_is_taken() -> None:
    offered = choices(5, 1)
    assert torch.equal(Closest(decoder(0)).choose(offered, torch.zeros(5, C), None), offered[:, 0])
