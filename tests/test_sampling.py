"""The rows that a codec is fitted and judged on: which ones, how many, and that they are not touched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from encoder_parts import CLASSES, Fitting, logits

from vqlabel import LabelEncoder
from vqlabel.ranks import Ranks
from vqlabel.replay import ReplayRecipe
from vqlabel.sampling import draw, share_out
from vqlabel.side import SideInformation
from vqlabel.sources import open_source

RECIPE = ReplayRecipe(seed=7, images=50, height=48, width=48, size=32, cutmix=0.5)
SIDE = SideInformation(np.arange(50) % CLASSES, RECIPE, draws=[[65536, 0]])
pytestmark = pytest.mark.usefixtures("fitting")


def test_fit_and_judge_see_different_rows_chosen_by_the_seed(fitting: Fitting) -> None:
    data = logits(2000)
    encoder = LabelEncoder.fit(data, rows=300, held_out=200, seed=1, side=SIDE, prior="replay", progress=False)
    numbers = np.random.default_rng(1).choice(2000, 500, replace=False)
    centred = torch.from_numpy(data - data.mean(1, keepdims=True))
    for sample, own in ((fitting.sample, numbers[:300]), (fitting.held_out, numbers[300:])):
        assert sample.total == len(sample) == len(own)
        torch.testing.assert_close(sample.logits, centred[own])
        assert sample.side is not None
        assert torch.equal(sample.side.features, SIDE.of(own).features)
    assert encoder.measured is not None
    assert encoder.measured["rows"] == 200
    assert encoder.codec.tier == "replay"


def test_ranks_share_out_the_same_sample(fitting: Fitting, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    for rank in range(3):
        monkeypatch.setattr(Ranks, "here", classmethod(lambda cls, rank=rank: cls(rank, 3)))
        options = {"tier": "none", "rows": 100, "held_out": 20, "seed": 0, "say": lambda words: None}
        kept.append(draw(open_source(logits(500)), None, **options))
    monkeypatch.undo()
    alone = draw(open_source(logits(500)), None, **options)
    for index, total in enumerate((100, 20)):
        whole = torch.empty(total, CLASSES)
        for rank, samples in enumerate(kept):
            assert samples[index].total == total
            whole[rank::3] = samples[index].logits
        assert torch.equal(whole, alone[index].logits)


def test_halves_stay_halves_unless_centring_overflows(fitting: Fitting) -> None:
    data = logits(100).astype(np.float16)
    LabelEncoder.fit(data, progress=False)
    assert fitting.sample.logits.dtype == torch.float16
    data[7] = -65504
    data[7, 0] = 65504
    LabelEncoder.fit(data, progress=False)
    assert fitting.sample.logits.dtype == torch.float32
    largest = max(float(sample.logits.max()) for sample in (fitting.sample, fitting.held_out))
    assert largest == pytest.approx(65504 * 1.8)


@pytest.mark.parametrize(
    ("count", "asked", "room", "expected"),
    [
        (150_000, (100_000, 5_000), 10**9, (100_000, 5_000)),
        (102_000, (100_000, 5_000), 10**9, (97_000, 5_000)),
        (1_000, (100_000, 5_000), 10**9, (900, 100)),
        (150_000, (100_000, 5_000), 10_000, (9_000, 1_000)),
        (2, (100_000, 5_000), 10**9, (1, 1)),
        (1, (100_000, 5_000), 10**9, (1, 0)),
        (50, (10, 0), 10**9, (10, 0)),
        (50, (10, 5), 0, (1, 1)),
    ],
)
def test_few_rows_or_little_room_hold_out_a_tenth(
    count: int, asked: tuple[int, int], room: int, expected: tuple[int, int]
) -> None:
    assert share_out(count, *asked, room) == expected


def test_fitting_leaves_the_logits_as_they_are() -> None:
    data = torch.from_numpy(logits(100))
    LabelEncoder.fit(open_source(lambda rows: data if len(rows) == 100 else data[:1], rows=100), progress=False)
    assert torch.equal(data, torch.from_numpy(logits(100)))


def test_a_smaller_sample_is_said(fitting: Fitting) -> None:
    said: list[str] = []
    encoder = LabelEncoder.fit(logits(1000), progress=said.append)
    assert said == ["fitting on 900 rows and holding out 100, of 1,000", "fitted"]
    assert repr(encoder) == "LabelEncoder(nearest, C=10, row_bytes=1, prior='none')"
    LabelEncoder.fit(logits(1000), progress=said.append, memory=4000 / 2**30)
    assert said[2].startswith("fitting on 90 rows and holding out 10, what fits into 3.7")
    assert said[2].endswith("GiB: memory= is for more")
    for memory in (0, -1.0, 2**21):
        with pytest.raises(ValueError, match="memory must be above 0"):
            LabelEncoder.fit(logits(10), progress=False, memory=memory)
    assert LabelEncoder.fit(logits(1), progress=False).measured is None
