"""How alike images are, how much labels tell, and what is left of a label that was broken."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch import nn

sys.path.insert(0, str(ROOT))  # examples are run from the repository

from examples.glyphs import models, structure, why_images

RANDOM = torch.Generator().manual_seed(0)


def test_similarity_is_the_mean_over_pairs_of_a_class() -> None:
    found = torch.randn(12, 5, generator=RANDOM)  # three images of four classes
    pairs = [
        float(torch.cosine_similarity(found[a * 4 + y], found[b * 4 + y], dim=0))
        for y in range(4)
        for a, b in itertools.combinations(range(3), 2)
    ]
    assert why_images.similarity(found, 4) == pytest.approx(np.mean(pairs), rel=1e-5)
    assert why_images.similarity(found[:4], 4) == 1.0
    assert why_images.similarity(found[:4].repeat(3, 1), 4) == pytest.approx(1.0)


def test_divergence_is_the_mean_over_pairs_of_labels_of_an_image() -> None:
    logits = torch.randn(3, 4, 6, generator=RANDOM)
    log = logits.double().log_softmax(2)
    pairs = [
        float((log[i, a].exp() * (log[i, a] - log[i, b])).sum())
        for i in range(3)
        for a, b in itertools.permutations(range(4), 2)
    ]
    assert why_images.divergence(logits) == pytest.approx(np.mean(pairs), rel=1e-9)
    assert why_images.divergence(logits[:, :1].expand(3, 4, 6)) == pytest.approx(0, abs=1e-12)
    assert why_images.divergence(logits[:, :1]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("width", [1, 2, 5])
def test_rank_counts_directions_of_equal_size(width: int) -> None:
    labels = torch.cat([torch.eye(width), -torch.eye(width)])
    assert why_images.rank(nn.functional.pad(labels, (0, 3)) + 7) == pytest.approx(width, rel=1e-9)


def test_features_are_what_the_last_layer_sees() -> None:
    net = models.teacher(7).eval()
    images = torch.randint(0, 256, (3, 1, 32, 32), dtype=torch.uint8, generator=RANDOM)
    found = why_images.features(net, images)
    with torch.inference_mode():
        torch.testing.assert_close(net[-1][-1](found), net((images.float() / 255 - 0.5) * 2))
    assert not net[-1][-1]._forward_pre_hooks


@pytest.mark.parametrize("scheme", structure.SCHEMES)
@pytest.mark.parametrize("k", [0, 1, 5, 20])
def test_the_top_of_a_label_stays(scheme: str, k: int) -> None:
    logits = torch.randn(30, 20, generator=RANDOM).half()
    classes = np.arange(30) % 3
    found = structure.changed(scheme, logits, classes, k)
    top = logits.float().topk(k, dim=1).indices
    assert torch.equal(found.gather(1, top), logits.gather(1, top))
    assert torch.equal(found, structure.changed(scheme, logits, classes, k))
    assert torch.equal(found, logits) == (k == 20)


def test_a_shuffled_tail_has_the_same_values() -> None:
    logits = torch.randn(8, 20, generator=RANDOM)
    found = structure.changed("shuffled", logits, np.zeros(8, np.int64), 5)
    assert torch.equal(found.sort(dim=1).values, logits.sort(dim=1).values)


def test_a_swapped_tail_is_that_of_another_row_of_the_class() -> None:
    logits = torch.arange(12.0)[:, None] * 100 + torch.arange(6.0)  # the last class is each row's largest
    classes = np.arange(12) % 4
    found = structure.changed("swapped", logits, classes, 1)
    assert torch.equal(found[:, 5], logits[:, 5])
    donors = (found[:, 0] / 100).long().numpy()
    assert torch.equal(found[:, :5], logits[donors, :5])
    assert (classes[donors] == classes).all()
    assert (donors != np.arange(12)).all()
    assert sorted(donors) == list(range(12))


def test_a_class_of_one_row_has_only_itself() -> None:
    found = structure.others(np.array([3, 1, 3]), np.random.default_rng(0))
    assert found.tolist() == [2, 1, 0]
