"""Fewer labels than views: every image once whatever is drawn, and view and label stay together."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decoder_parts import marked, marked_rows

from vqlabel import reference
from vqlabel.data import DistilledDataset, ReplaySampler, collate
from vqlabel.replay import ReplayRecipe
from vqlabel.schedules import Reuse, stored_rows
from vqlabel.views import apply

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = [Reuse(granularity, draw) for granularity in ("image", "epoch", 1, 5) for draw in ("cycle", "random")]


@pytest.mark.parametrize(
    ("epochs", "keep", "kept"),
    [(300, 1, 300), (300, 0.1, 30), (300, 1 - 0.9, 30), (300, 0.025, 8), (300, 1e-9, 1), (1, 0.5, 1), (7, 1.0, 7)],
)
def test_whole_epochs_are_stored(epochs: int, keep: float, kept: int) -> None:
    assert stored_rows(500, epochs, keep=keep) == kept * 500


@pytest.mark.parametrize("keep", [np.float32(0.5), np.float16(0.5), np.float64(0.5), np.int64(1)])
def test_a_part_may_be_a_number_of_numpy(keep: Any) -> None:
    assert stored_rows(500, 10, keep=keep) == 5000 * float(keep)
    assert type(stored_rows(500, 10, keep=keep)) is int


@pytest.mark.parametrize("keep", [0, -0.1, 1.01, math.nan, True, "half"])
def test_a_part_that_is_none_is_refused(keep: Any) -> None:
    with pytest.raises(ValueError, match="keep must be a part of the labels, above 0 and up to 1"):
        stored_rows(500, 300, keep=keep)
    with pytest.raises(ValueError, match="epochs must be a whole number from 1"):
        stored_rows(500, 0, keep=1)


@pytest.mark.parametrize("reuse", KINDS, ids=str)
@pytest.mark.parametrize("kept", [1, 2, 7])
def test_draws_are_the_seeds_the_epochs_and_the_images_alone(reuse: Reuse, kept: int) -> None:
    images = np.arange(23)
    whole = np.stack([reuse.epochs(epoch, images, kept=kept) for epoch in range(20)])
    assert whole.dtype == np.int64
    assert 0 <= whole.min() <= whole.max() < kept
    for some in (images[::-1], images[5:6], images[[3, 3, 19]], images[:0]):
        assert (reuse.epochs(13, some, kept=kept) == whole[13, some]).all()
    if kept > 1 and reuse != Reuse("epoch"):
        other = Reuse(reuse.granularity, reuse.draw, seed=1)
        assert any((other.epochs(epoch, images, kept=kept) != whole[epoch]).any() for epoch in range(20))


@pytest.mark.parametrize("granularity", ["image", "epoch", 5])
@pytest.mark.parametrize("kept", [1, 3, 8])
def test_a_cycle_uses_each_label_once_before_any_again(granularity: str | int, kept: int) -> None:
    reuse = Reuse(granularity)
    for first in (0, kept, 5 * kept):
        used = [reuse.epochs(epoch, np.arange(12), kept=kept) for epoch in range(first, first + kept)]
        assert (np.sort(used, axis=0) == np.arange(kept)[:, None]).all()


def test_rounds_of_a_cycle_begin_anew() -> None:
    begins = np.stack([Reuse().epochs(epoch, np.arange(200), kept=10) for epoch in range(0, 100, 10)])
    assert all((begins[0] != later).mean() > 0.8 for later in begins[1:])


@pytest.mark.parametrize("draw", ["cycle", "random"])
def test_who_shares_a_draw_is_as_granularity_says(draw: str) -> None:
    images, kept = np.arange(1000), 30
    assert (Reuse("image", draw).epochs(3, images, kept=kept) == Reuse(1, draw).epochs(3, images, kept=kept)).all()
    blocks = Reuse(7, draw).epochs(3, images, kept=kept)
    assert (blocks == blocks[images // 7 * 7]).all()
    assert len(set(blocks[::7].tolist())) > 25
    for epoch in range(60):
        (stored,) = set(Reuse("epoch", draw).epochs(epoch, images, kept=kept).tolist())
        assert draw == "random" or stored == epoch % kept


@pytest.mark.parametrize("draw", ["cycle", "random"])
def test_draws_are_even_and_do_not_hang_together(draw: str) -> None:
    reuse, kept, images = Reuse(draw=draw, seed=3), 8, np.arange(8000)
    one, next_round = (reuse.epochs(epoch, images, kept=kept) for epoch in (0, kept))
    beside, later = zip(one[:-1] // 4, one[1:] // 4, strict=True), zip(one // 4, next_round // 4, strict=True)
    for counts in (Counter(one), Counter(beside), Counter(later)):
        expected = sum(counts.values()) / len(counts)
        assert sum((found - expected) ** 2 / expected for found in counts.values()) < 25  # chi-square, 7 or 3 free


def test_draws_stay_what_they_are() -> None:
    """A run that goes on with a newer version reads what it would have read."""
    images = [0, 1, 2, 49_999, 2**32 - 1]
    assert Reuse(seed=7).epochs(40, images, kept=30).tolist() == [26, 18, 29, 18, 4]
    assert Reuse("image", "random", seed=7).epochs(40, images, kept=30).tolist() == [5, 10, 29, 24, 25]
    assert Reuse(128, seed=2**64 - 1).epochs(2**32 - 1, images, kept=30).tolist() == [4, 4, 4, 13, 8]
    counters = np.array([[image, 40, 4, 0] for image in images], np.uint32)
    words = reference.philox(counters, 7)[:, 0]
    assert (words % 30).tolist() == [5, 10, 29, 24, 25]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("reuse", [Reuse(), Reuse(4, "random")], ids=str)
def test_a_pruned_file_trains_for_longer_and_view_and_label_stay_together(
    tmp_path: Path, reuse: Reuse, workers: int
) -> None:
    recipe = ReplayRecipe(seed=1, images=13, height=8, width=8, size=6, cutmix=0.5)
    images = torch.rand(13, 3, 8, 8)
    decoder = marked(tmp_path / "pruned", 13, 3, recipe)
    sampler = ReplaySampler(decoder, reuse=reuse)
    data = DistilledDataset(images, decoder)
    loader = torch.utils.data.DataLoader(data, batch_size=5, sampler=sampler, collate_fn=collate, num_workers=workers)
    used: Counter[int] = Counter()
    for epoch in range(0, 9, 1 if workers == 0 else 4):
        sampler.set_epoch(epoch)
        seen = []
        for views, labels in loader:
            rows = np.array(marked_rows(labels.logits()))
            torch.testing.assert_close(views, apply(images, recipe.parameters(*np.divmod(rows, 13))))
            assert (rows == decoder.rows(reuse.epochs(epoch, rows % 13, kept=decoder.epochs), rows % 13)).all()
            seen += rows.tolist()
        assert sorted(row % 13 for row in seen) == list(range(13))
        used.update(seen)
    if workers == 0 and reuse.draw == "cycle":
        assert set(used.values()) == {3}
        assert len(used) == 39


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"granularity": "batch"}, "granularity, where it is not 'image' or 'epoch', must be a whole number from 1 .*"),
        ({"granularity": 0}, "granularity, .* got 0"),
        ({"granularity": True}, "granularity, .* got True"),
        ({"draw": "order"}, "draw must be one of cycle, random, got 'order'"),
        ({"seed": -1}, "seed must be a whole number from 0"),
    ],
)
def test_a_reuse_that_is_none_is_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Reuse(**arguments)


def test_images_and_epochs_that_are_none_are_refused() -> None:
    with pytest.raises(TypeError, match=r"images must be whole numbers \[B\], got float64 \[2\]"):
        Reuse().epochs(0, [0.0, 1.0], kept=3)
    with pytest.raises(TypeError, match=r"images must be whole numbers \[B\], got int64 \[\]"):
        Reuse().epochs(0, 5, kept=3)
    with pytest.raises(ValueError, match="images must be 0 to 4294967295, got -1 to 3"):
        Reuse().epochs(0, [3, -1], kept=3)
    with pytest.raises(ValueError, match="epoch must be a whole number from 0"):
        Reuse().epochs(-1, [3], kept=3)
    with pytest.raises(ValueError, match="kept must be a whole number from 1"):
        Reuse().epochs(0, [3], kept=0)
