"""Principal directions in which classes count by how likely they are."""

from __future__ import annotations

import pytest
import torch

from vqlabel.codecs.sample import Sample
from vqlabel.codecs.spectrum import principal, typical

pytestmark = pytest.mark.usefixtures("one_thread")


def sample(rows: int = 400, classes: int = 30) -> Sample:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, 6, generator=generator) @ torch.randn(6, classes, generator=generator)
    logits[:, classes // 2 :] -= 6  # that are hardly ever likely
    logits[:, classes // 2 :] += 3 * torch.randn(rows, classes - classes // 2, generator=generator)  # and all noise
    return Sample(logits - logits.mean(1, keepdim=True), None, rows)


def test_without_weights_there_and_back_are_one_matrix() -> None:
    found = principal(sample(), 4, 0)
    assert found.look is found.basis
    torch.testing.assert_close(found.basis.T @ found.basis, torch.eye(4), atol=1e-4, rtol=0)


def test_weights_are_the_mean_chances_of_the_classes() -> None:
    rows = sample()
    weights = typical(rows, (1.0, 2.0))
    mean = sum((rows.logits / t).softmax(1).mean(0) for t in (1.0, 2.0)) / 2
    torch.testing.assert_close(weights, 0.9 * mean + 0.1 / 30)
    assert weights.sum().item() == pytest.approx(1, abs=1e-5)


def test_looking_at_what_was_decoded_finds_it_again() -> None:
    rows = sample()
    found = principal(rows, 5, 0, typical(rows, (1.0,)))
    h = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close((h @ found.basis.T) @ found.look, h, atol=1e-3, rtol=1e-3)


def test_a_constant_added_to_a_row_is_not_seen() -> None:
    rows = sample()
    found = principal(rows, 5, 0, typical(rows, (1.0,)))
    torch.testing.assert_close(torch.ones(1, 30) @ found.look, torch.zeros(1, 5), atol=1e-4, rtol=0)


def test_weights_lower_the_kl_of_what_a_few_directions_keep() -> None:
    rows = sample()

    def lost(weights: torch.Tensor | None) -> float:
        found = principal(rows, 4, 0, weights)
        again = found.mean + (rows.logits - found.mean) @ found.look @ found.basis.T
        wanted = rows.logits.log_softmax(1)
        return float((wanted.exp() * (wanted - again.log_softmax(1))).sum(1).mean())

    assert lost(typical(rows, (1.0,))) < 0.8 * lost(None)
