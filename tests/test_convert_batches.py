"""SRe2L, CDA, LPLD and LPQLD: every row comes out as their own readers would give it to a student."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import exit_status
from foreign import crops, pillow_box, rows_of, write_lpqld, write_sre2l
from torch.utils.data import DataLoader

from vqlabel import LabelDecoder
from vqlabel.convert import Imported, Options, detect, open_foreign
from vqlabel.convert.order import listed_order
from vqlabel.convert.view_columns import pixels_of
from vqlabel.data import DistilledDataset, ReplaySampler, collate
from vqlabel.replay import CUTMIX, MIXUP, Parameters
from vqlabel.stored import CUTOUTS, ROWS, StoredViews
from vqlabel.view_layout import ViewLayout


def opened(path: Path, tmp_path: Path, **told: Any) -> Imported:
    return open_foreign(str(path), Options(str(tmp_path), **{"size": 32, **told}))


def stored(found: Imported) -> StoredViews:
    return StoredViews(ViewLayout.from_json(found.metadata["replay"]["stored"]), found.tensors.__getitem__)


def assert_same(views: Parameters, index: int, row: dict[str, Any], mix: str | None) -> None:
    """One of these views is what the reader of the foreign set makes of a row."""
    assert tuple(views.crops[index]) == row["crop"]
    assert bool(views.flips[index]) == row["flip"]
    changed = mix is not None and row["partner"] != row["image"]
    if mix == "cutmix" and changed:
        first, left, last, right = row["box"]
        changed = first < last and left < right
    assert int(views.kinds[index]) == (0 if not changed else CUTMIX if mix == "cutmix" else MIXUP)
    if not changed:
        return
    assert int(views.partners[index]) == row["partner"]
    assert tuple(views.partner_crops[index]) == row["partner_crop"]
    assert bool(views.partner_flips[index]) == row["partner_flip"]
    if mix == "cutmix":
        assert tuple(views.cuts[index]) == (first, left, last - first, right - left)
    else:
        assert float(views.shares[index]) == row["lam"]


@pytest.mark.parametrize("mix", ["cutmix", "mixup", None])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("batch", [16, 25, 50, 64])
def test_sre2l_rows_are_what_its_reader_gives(mix: str | None, dtype: torch.dtype, batch: int, tmp_path: Path) -> None:
    order = write_sre2l(tmp_path / "set", batch=batch, mix=mix, dtype=dtype)
    found = opened(tmp_path / "set", tmp_path)
    assert (found.kind, found.images, len(found.source), found.missing) == ("sre2l", 50, 100, None)
    for epoch, numbers in enumerate(order):
        assert stored(found).order(epoch).tolist() == [image for ids in numbers for image in ids]
        logits = found.source.read(range(epoch * 50, epoch * 50 + 50))
        for number, ids in enumerate(numbers):
            views = stored(found).parameters(epoch, ids)
            path = tmp_path / "set" / f"epoch_{epoch}" / f"batch_{number}.tar"
            for index, row in enumerate(rows_of(path, ids, 32)):
                assert_same(views, index, row, mix)
                assert torch.equal(logits[row["image"]], row["labels"][0])


def test_a_hundred_thousand_crops_are_cut_out_where_pillow_cuts() -> None:
    rng = np.random.default_rng(0)
    for side, half in ((224, False), (224, True), (64, True), (501, False)):
        boxes = crops(rng, 25_000, side, side)
        fractions = torch.tensor((boxes / side).tolist(), dtype=torch.float32)
        fractions = fractions.half() if half else fractions
        pixels = pixels_of(fractions, side, side)
        theirs = [pillow_box([part * side for part in row]) for row in fractions.double().tolist()]
        assert pixels is not None
        assert (pixels == np.array(theirs)).all()


def test_crops_of_images_of_many_sizes_stay_fractions(tmp_path: Path) -> None:
    order = write_sre2l(tmp_path / "set", side=32)
    found = opened(tmp_path / "set", tmp_path, height=0, width=0)
    views = stored(found).fractions(0, order[0][0])
    coords = torch.load(tmp_path / "set" / "epoch_0" / "batch_0.tar", weights_only=False)[0]
    assert (views == coords.double().numpy()).all()
    with pytest.raises(ValueError, match="not of images of 31 x 31 pixels; --image-size 0 keeps fractions"):
        opened(tmp_path / "set", tmp_path, height=31, width=31)


def test_a_loader_gives_the_labels_in_their_order_for_any_batch_size(tmp_path: Path) -> None:
    order = write_sre2l(tmp_path / "set", epochs=2)
    assert exit_status("convert", tmp_path / "set", tmp_path / "a.safetensors", "--size", 32, "--check") == 0
    decoder = LabelDecoder(tmp_path / "a.safetensors")
    sampler = ReplaySampler(decoder, shuffle="stored")
    images = torch.zeros(50, 1, 32, 32, dtype=torch.uint8)
    for epoch, numbers in enumerate(order):
        rows = [
            row["labels"][0]
            for number, ids in enumerate(numbers)
            for row in rows_of(tmp_path / "set" / f"epoch_{epoch}" / f"batch_{number}.tar", ids, 32)
        ]
        sampler.set_epoch(epoch)
        loader = DataLoader(DistilledDataset(images, decoder), batch_size=7, sampler=sampler, collate_fn=collate)
        found = torch.cat([labels.logits() for _, labels in loader])
        assert torch.equal(found.half(), torch.stack(rows))


def test_views_are_pillows_to_one_level_of_255(tmp_path: Path) -> None:
    image_module = pytest.importorskip("PIL.Image")
    order = write_sre2l(tmp_path / "set", mix=None, images=12, batch=5)
    assert exit_status("convert", tmp_path / "set", tmp_path / "a.safetensors", "--size", 32) == 0
    images = torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    dataset = DistilledDataset(images, LabelDecoder(tmp_path / "a.safetensors"))
    for number, ids in enumerate(order[0]):
        for row in rows_of(tmp_path / "set" / "epoch_0" / f"batch_{number}.tar", ids, 32):
            top, left, height, width = row["crop"]
            picture = image_module.fromarray(images[row["image"]].permute(1, 2, 0).numpy())
            view = picture.crop((left, top, left + width, top + height)).resize((32, 32), image_module.BILINEAR)
            wanted = torch.from_numpy(np.array(view)).permute(2, 0, 1)
            wanted = wanted.flip(2) if row["flip"] else wanted
            own = dataset[row["image"]][0]
            assert isinstance(own, torch.Tensor)
            assert (own * 255 - wanted).abs().max() <= 1


def test_lplds_list_says_which_images_there_are_and_what_was_dropped_is_a_gap(tmp_path: Path) -> None:
    order = write_sre2l(tmp_path / "set", listed=True, drop_last=True, epochs=3)
    found = opened(tmp_path / "set", tmp_path, images=50)
    there = {epoch * 50 + image for epoch, numbers in enumerate(order) for ids in numbers for image in ids}
    assert found.missing is not None
    assert set(np.flatnonzero(~found.missing).tolist()) == there
    for number, ids in enumerate(order[1]):
        for row in rows_of(tmp_path / "set" / "epoch_1" / f"batch_{number}.tar", ids, 32):
            place = 50 + row["image"]
            assert torch.equal(found.source.read(range(place, place + 1))[0], row["labels"][0])


@pytest.mark.parametrize("k", [1, 10, 100, None])
def test_lpqld_rows_are_what_its_reader_gives(k: int | None, tmp_path: Path) -> None:
    flat = write_lpqld(tmp_path / "set", k=k, stop=7)
    found = opened(tmp_path / "set", tmp_path, classes=100)
    assert (found.kind, found.images, len(found.source)) == ("lpqld", 50, 150)
    assert exit_status("convert", tmp_path / "set", tmp_path / "a.safetensors", "--size", 32, "--classes", 100) == 0
    decoder = LabelDecoder(tmp_path / "a.safetensors")
    for number, ids in enumerate(flat):
        rows = decoder.rows(number // 3, ids)
        logits, views = decoder(rows, output="logits"), stored(found).parameters(number // 3, ids)
        for index, row in enumerate(rows_of(tmp_path / "set" / f"batch_{number}.tar", ids, 32)):
            assert_same(views, index, row, "cutmix")
            values, kept = row["labels"] if k else (row["labels"][0], torch.arange(100))
            assert torch.equal(logits[index, kept.long()], values.float())
            theirs = torch.zeros(100).scatter_(0, kept.long(), torch.softmax(values.float() / 4, 0))
            torch.testing.assert_close(torch.softmax(logits[index] / 4, 0), theirs)


def test_cutouts_of_imagenet_21k_are_kept_as_they_are(tmp_path: Path) -> None:
    write_sre2l(tmp_path / "set", mix=None, epochs=1)
    for path in (tmp_path / "set" / "epoch_0").iterdir():
        items = torch.load(path, weights_only=False)
        items[1] = torch.rand(len(items[0]), 7)
        torch.save(items, path)
    found = opened(tmp_path / "set", tmp_path)
    last = torch.load(tmp_path / "set" / "epoch_0" / "batch_3.tar", weights_only=False)[1].numpy()
    ids = stored(found).order(0)[48:]
    assert (found.tensors[CUTOUTS][ids] == last).all()


def test_a_set_is_known_by_its_files(tmp_path: Path) -> None:
    write_sre2l(tmp_path / "sre2l")
    write_lpqld(tmp_path / "lpqld")
    (tmp_path / "nothing").mkdir()
    assert [detect(str(tmp_path / name)) for name in ("sre2l", "lpqld")] == ["sre2l", "lpqld"]
    with pytest.raises(ValueError, match="nothing looks like none of the sets that are known: say --from"):
        detect(str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="--from is one of sre2l, .* got 'rded'"):
        open_foreign(str(tmp_path / "sre2l"), Options(str(tmp_path)), "rded")


@pytest.mark.parametrize("name", ["epoch_0", "elsewhere"])
def test_a_set_without_batches_is_none(name: str, tmp_path: Path) -> None:
    (tmp_path / "set" / name).mkdir(parents=True)
    with pytest.raises(ValueError, match=r"set holds no epoch_0/batch_0.tar, nor any other batch of an epoch: copy"):
        open_foreign(str(tmp_path / "set"), Options(str(tmp_path)), "sre2l")


def test_only_as_much_as_a_window_is_held_and_rows_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sre2l(tmp_path / "set")
    whole = opened(tmp_path / "set", tmp_path).source.read(range(100))
    monkeypatch.setattr("vqlabel.convert.batches.WINDOW_BYTES", 20 * 7)
    found = opened(tmp_path / "set", tmp_path).source
    assert torch.equal(found.read(range(100)), whole)
    some = np.array([0, 3, 49, 50, 51, 99])
    assert torch.equal(found.take(some), whole[torch.from_numpy(some)])


def test_labels_are_read_where_they_lie_or_by_torch_to_the_same_bits(tmp_path: Path) -> None:
    write_sre2l(tmp_path / "set")
    found = opened(tmp_path / "set", tmp_path).source
    places = found._rows._batches.labels_at  # type: ignore[attr-defined]
    assert len(places) == 8
    assert all(place > 0 for parts in places.values() for place in parts)
    quick, some = found.read(range(100)), found.take(np.array([7, 60]))
    places.clear()
    found._rows._held = None  # type: ignore[attr-defined]
    assert torch.equal(found.read(range(100)), quick)
    assert torch.equal(found.take(np.array([7, 60])), some)


def test_a_list_may_be_written_in_any_layout_and_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"0": [3, 1], "1": []}, indent=2))
    assert {key: ids.tolist() for key, ids in listed_order(str(path)).items()} == {0: [3, 1], 1: []}
    for text in ('{"0": [3, 1], "1": [4,', '{"0": [3, "x"]}', '{"a": [1]}', '{"0": [1]} garbage', ""):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"list.json (is|lists)"):
            listed_order(str(path))


def damaged(folder: Path, how: str) -> str:
    """Spoil a file of a set; returns its name."""
    path = folder / "epoch_1" / "batch_2.tar"
    items = torch.load(path, weights_only=False)
    changes: dict[str, Any] = {
        "short": [part[:5] if isinstance(part, torch.Tensor) else part for part in items],
        "dtype": [*items[:5], items[5].double()],
        "classes": [*items[:5], items[5][:, :4]],
        "partner": [*items[:2], items[2] + 3, *items[3:]],
        "box": [*items[:4], [1, 2, 300, 3], items[5]],
        "lambda": [*items[:3], 7.0, *items[4:]],
        "augmented": [*items[:2], ["rotate", 3], *items[2:]],
        "dictionary": {"labels": items[5]},
    }
    if how == "cut":
        path.write_bytes(path.read_bytes()[:300])
    elif how == "gone":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    else:
        torch.save(changes[how], path)
    return path.name


WHYS = {
    "cut": "cut off or damaged",
    "gone": "it is not there",
    "empty": "the file is empty",
    "short": "it mixes 5 rows with rows up to",
    "dtype": "the labels must be fp16 or fp32",
    "classes": "of another kind than those of the first file",
    "partner": "it mixes 16 rows with rows up to",
    "box": r"its box .* is not within views of 32 pixels",
    "lambda": "lambda must be 0 to 1, got 7.0",
    "augmented": "RandAugment",
    "dictionary": "it holds a dict, not a list",
}


@pytest.mark.parametrize("how", WHYS)
def test_a_file_that_is_damaged_or_missing_is_named_and_may_be_passed_over(how: str, tmp_path: Path) -> None:
    order = write_sre2l(tmp_path / "set", epochs=3)
    name = damaged(tmp_path / "set", how)
    with pytest.raises(ValueError, match=rf"--keep-going.*epoch_1/{name}: .*{WHYS[how]}"):
        opened(tmp_path / "set", tmp_path)
    found = opened(tmp_path / "set", tmp_path, keep_going=True)
    assert found.missing is not None
    assert set(np.flatnonzero(found.missing).tolist()) == {50 + image for image in order[1][2]}
    assert len(found.faults) == 1


def test_nothing_in_a_pickle_is_ever_run(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path}/harmed",)

    write_sre2l(tmp_path / "set")
    path = tmp_path / "set" / "epoch_0" / "batch_1.tar"
    torch.save([*torch.load(path, weights_only=False)[:5], Harm()], path)
    with pytest.raises(ValueError, match=r"batch_1.tar: its pickle asks for posix.system"):
        opened(tmp_path / "set", tmp_path)
    assert not (tmp_path / "harmed").exists()


def test_what_the_files_do_not_say_must_be_said(tmp_path: Path) -> None:
    write_lpqld(tmp_path / "lpqld")
    with pytest.raises(ValueError, match="tell of 10 classes each, but not how many there are: say --classes"):
        opened(tmp_path / "lpqld", tmp_path)
    write_sre2l(tmp_path / "sre2l")
    with pytest.raises(ValueError, match="the epochs hold 50 images in batches of 16, which cannot be all of 70"):
        opened(tmp_path / "sre2l", tmp_path, images=70)
    with pytest.raises(ValueError, match="the labels have 10 classes, not 1000"):
        opened(tmp_path / "sre2l", tmp_path, classes=1000)


def test_a_set_of_one_image_is_a_set(tmp_path: Path) -> None:
    write_sre2l(tmp_path / "set", images=1, batch=4, epochs=1)
    found = opened(tmp_path / "set", tmp_path)
    assert (found.images, len(found.source), found.tensors[ROWS].shape[0]) == (1, 1, 1)


def test_an_archive_that_would_fill_the_memory_is_not_opened(tmp_path: Path) -> None:
    write_sre2l(tmp_path / "set")
    path = tmp_path / "set" / "epoch_0" / "batch_1.tar"
    with zipfile.ZipFile(path) as archive:
        parts = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content + b" " * 10**6)
    with pytest.raises(ValueError, match=r"batch_1.tar: it is a compressed archive"):
        opened(tmp_path / "set", tmp_path)
