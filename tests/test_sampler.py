"""ReplaySampler: each row of an epoch once, shared out evenly, gone on with where it stopped, whoever drives it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from decoder_parts import marked, marked_rows

from vqlabel import LabelDecoder
from vqlabel.data import DistilledDataset, ReplaySampler
from vqlabel.schedules import Reuse

N, EPOCHS = 23, 4


@pytest.fixture
def decoder(tmp_path: Path) -> LabelDecoder:
    """Decoder of 4 epochs of 23 images whose labels say their rows."""
    return marked(tmp_path / "labels", N, EPOCHS)


@pytest.mark.parametrize("world", [1, 2, 3, 5, 30])
@pytest.mark.parametrize("drop_last", [False, True])
def test_ranks_share_an_epoch_as_distributed_sampler_does(decoder: LabelDecoder, world: int, drop_last: bool) -> None:
    for rank in range(world):
        options: dict[str, Any] = {"shuffle": False, "drop_last": drop_last}
        theirs: Any = torch.utils.data.DistributedSampler(range(N), world, rank, **options)  # type: ignore[arg-type]
        ours = ReplaySampler(decoder, rank=rank, world=world, **options)
        ours.set_epoch(2)
        if world <= N or not drop_last:  # theirs cannot leave out more than there is
            assert list(ours) == [2 * N + image for image in theirs]
            assert len(ours) == len(theirs)
    shuffled = [list(ReplaySampler(decoder, rank=rank, world=world, drop_last=drop_last)) for rank in range(world)]
    assert len({len(part) for part in shuffled}) == 1
    seen = [row for part in shuffled for row in part]
    assert len(set(seen)) == (N // world * world if drop_last else N)
    data = DistilledDataset(torch.zeros(N, 1, 2, 2), decoder, augment_on=None)
    for part in shuffled:
        assert marked_rows(data.__getitems__(part).labels.logits()) == part


def test_order_is_the_seeds_and_the_epochs(decoder: LabelDecoder) -> None:
    one, same, other = ReplaySampler(decoder, seed=1), ReplaySampler(decoder, seed=1), ReplaySampler(decoder, seed=2)
    assert list(one) == list(same)
    assert sorted(one._rows()) == sorted(other) == list(range(N))
    assert list(other._rows()) != list(one._rows())


def test_an_epoch_beyond_the_file_is_an_error_unless_labels_are_reused(decoder: LabelDecoder) -> None:
    sampler = ReplaySampler(decoder)
    with pytest.raises(ValueError, match="epoch 4 is not in .*labels, which has 4 epochs of 23 images.*reuse=Reuse"):
        sampler.set_epoch(4)
    with pytest.raises(ValueError, match="epoch must be a whole number from 0 .* got -1"):
        sampler.set_epoch(-1)
    again = ReplaySampler(decoder, reuse=Reuse("epoch"))
    firsts = list(again)
    assert firsts == list(ReplaySampler(decoder))
    again.set_epoch(EPOCHS)
    assert sorted(again) == sorted(firsts)
    assert list(again._rows()) != firsts
    again.set_epoch(EPOCHS + 3)
    assert min(again) == 3 * N
    with pytest.raises(TypeError, match="reuse must be a Reuse, such as .* got 'image'"):
        ReplaySampler(decoder, reuse="image")  # type: ignore[arg-type]


def test_a_file_without_a_whole_epoch_has_nothing_to_reuse(tmp_path: Path) -> None:
    empty = marked(tmp_path / "empty", N, 0)
    with pytest.raises(ValueError, match="epoch 0 is not in .*empty, which has 0 epochs"):
        list(ReplaySampler(empty, reuse=Reuse()))


@pytest.mark.parametrize("granularity", ["image", "epoch", 5])
@pytest.mark.parametrize("draw", ["cycle", "random"])
@pytest.mark.parametrize("world", [1, 3])
def test_reused_labels_are_shared_out_and_resumed_like_others(
    decoder: LabelDecoder, granularity: str | int, draw: str, world: int
) -> None:
    reuse = Reuse(granularity, draw, seed=9)
    alone = ReplaySampler(decoder, seed=5, reuse=reuse)
    alone.set_epoch(EPOCHS + 2)
    whole, seen = list(alone), set()
    assert [row % N for row in sorted(whole, key=lambda row: row % N)] == list(range(N))
    for rank in range(world):
        sampler = ReplaySampler(decoder, seed=5, rank=rank, world=world, reuse=reuse)
        sampler.set_epoch(EPOCHS + 2)
        seen |= set(list(sampler)[:3])
        state = pickle.loads(pickle.dumps(sampler.state_dict(3)))
    rest = ReplaySampler(decoder, reuse=reuse)
    rest.load_state_dict(state)
    left = list(rest)
    assert set(whole) == seen | set(left)
    assert len(left) == N - 3 * world


def test_an_epoch_that_is_read_again_without_set_epoch_is_warned_about(decoder: LabelDecoder) -> None:
    sampler = ReplaySampler(decoder)
    list(sampler)
    with pytest.warns(UserWarning, match=r"epoch 0 is read again: without sampler.set_epoch\(epoch\)"):
        list(sampler)
    sampler.set_epoch(1)
    list(sampler)


# Going on in the middle of an epoch


@pytest.mark.parametrize(("world", "later"), [(1, 1), (2, 2), (3, 3), (4, 1), (2, 5)])
@pytest.mark.parametrize("consumed", [0, 1, 4])
@pytest.mark.parametrize("drop_last", [False, True])
def test_training_goes_on_where_it_stopped(
    decoder: LabelDecoder, world: int, later: int, consumed: int, drop_last: bool
) -> None:
    before, states = [], []
    for rank in range(world):
        sampler = ReplaySampler(decoder, seed=5, rank=rank, world=world, drop_last=drop_last)
        sampler.set_epoch(2)
        before += list(sampler)[:consumed]
        states.append(pickle.loads(pickle.dumps(sampler.state_dict(consumed))))
    assert all(state == states[0] for state in states)
    after = []
    for rank in range(later):
        sampler = ReplaySampler(decoder, rank=rank, world=later, drop_last=drop_last)
        sampler.load_state_dict(states[0])
        sampler.set_epoch(2)  # a loop calls it, and loses nothing
        rest = list(sampler)
        assert len(rest) == len(sampler)
        after += rest
        sampler.set_epoch(3)
        assert len(list(sampler)) == (N // later if drop_last else -(-N // later))
    assert not set(before) & set(after)
    seen, left_out = set(before) | set(after), (N - len(before)) % later if drop_last else 0
    assert seen <= set(range(2 * N, 3 * N))
    assert len(seen) == N - left_out


def test_a_state_can_be_taken_after_a_state(decoder: LabelDecoder) -> None:
    sampler = ReplaySampler(decoder)
    whole = list(sampler)
    for start in (0, 5, 10, 15):
        again = ReplaySampler(decoder)
        again.load_state_dict(sampler.state_dict(5 if start else 0))
        assert list(again) == whole[start:]
        sampler = again
    sampler.load_state_dict(sampler.state_dict(8))
    assert (list(sampler), len(sampler)) == ([], 0)
    with pytest.raises(ValueError, match="consumed must be a whole number from 0 to 0, got 1"):
        sampler.state_dict(1)


def test_a_state_of_another_set_is_refused(decoder: LabelDecoder) -> None:
    sampler = ReplaySampler(decoder)
    with pytest.raises(ValueError, match="the state is of 60 images, but the file has 23"):
        sampler.load_state_dict({**sampler.state_dict(), "images": 60})
    with pytest.raises(ValueError, match="epoch 9 is not in"):
        sampler.load_state_dict({**sampler.state_dict(), "epoch": 9})
    with pytest.raises(ValueError, match="rank must be a whole number from 0 to 1, got 2"):
        ReplaySampler(decoder, rank=2, world=2)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("epoch", 1.0, "epoch must be a whole number from 0 .* got 1.0"),
        ("done", -5, "done must be a whole number from 0 to 23, got -5"),
        ("done", 24, "done must be a whole number from 0 to 23, got 24"),
        ("done", 2.5, "done must be a whole number from 0 to 23, got 2.5"),
        ("done", None, "done must be .* got None"),
        ("seed", -3, "seed must be a whole number from 0 .* got -3"),
        ("shuffle", "no", "shuffle must be True, False or 'stored', got 'no'"),
    ],
)
def test_a_state_that_was_never_saved_is_refused_and_changes_nothing(
    decoder: LabelDecoder, key: str, value: Any, words: str
) -> None:
    sampler = ReplaySampler(decoder, seed=5)
    before = sampler.state_dict(7)
    sampler.load_state_dict(before)
    with pytest.raises(ValueError, match=words):
        sampler.load_state_dict({"epoch": 1, "done": 3, "seed": 6, "shuffle": False, "images": N, key: value})
    assert sampler.state_dict() == before
    with pytest.raises(ValueError, match="shuffle must be True, False or 'stored', got 1"):
        ReplaySampler(decoder, shuffle=1)  # type: ignore[arg-type]


# What other loops do to a sampler


def test_processes_that_take_turns_at_the_batches_read_the_epoch_once(decoder: LabelDecoder) -> None:
    seen = []
    for rank in range(2):
        sampler = ReplaySampler(decoder, rank=0, world=1)
        sampler.set_epoch(1)
        batches = torch.utils.data.BatchSampler(sampler, 4, drop_last=False)
        seen += [batch for number, batch in enumerate(batches) if number % 2 == rank]
    assert sorted(row for batch in seen for row in batch) == list(range(N, 2 * N))


def test_rows_that_lightning_shares_out_are_those_of_the_epoch(decoder: LabelDecoder) -> None:
    """DistributedSamplerWrapper lists the sampler for each epoch and shares the list out by its own permutation."""
    seen = []
    for rank in range(2):
        sampler = ReplaySampler(decoder, rank=0, world=1)
        sampler.set_epoch(3)
        listed = list(sampler)
        wrapper: Any = torch.utils.data.DistributedSampler(listed, 2, rank)  # type: ignore[arg-type]
        wrapper.set_epoch(3)
        seen += [listed[place] for place in wrapper]
    assert set(seen) == set(range(3 * N, 4 * N))
    assert len(seen) == 24
