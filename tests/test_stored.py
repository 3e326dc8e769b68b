"""Views that a file remembers: records of bits, and what a reader of SRe2L's files would have made of a row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import GOLDEN
from hypothesis import given
from hypothesis import strategies as st

from vqlabel import LabelDecoder, LabelEncoder
from vqlabel.codecs.raw import Raw
from vqlabel.data import DistilledDataset, ReplaySampler
from vqlabel.errors import Corrupt
from vqlabel.fields import bits_for, pack, record_bytes, unpack
from vqlabel.replay import CUTMIX, MIXUP, NO_MIX
from vqlabel.side import SideInformation
from vqlabel.stored import BOXES, LAMBDAS, ROWS, StoredViews
from vqlabel.view_layout import ViewLayout

FIELDS: dict[str, Any] = {
    "images": 6,
    "height": 20,
    "width": 30,
    "size": 16,
    "crops": "pixels",
    "flips": True,
    "batch": 4,
}


@given(st.lists(st.integers(0, 32), max_size=9), st.integers(0, 9), st.randoms(use_true_random=False))
def test_fields_of_any_width_come_back(widths: list[int], rows: int, random: Any) -> None:
    columns = [[random.randrange(1 << width) for _ in range(rows)] for width in widths]
    records = pack(columns, widths)
    assert records.shape == (rows if widths else 0, record_bytes(widths))
    assert [column.tolist() for column in unpack(records, widths)] == (columns if widths else [])


def test_a_value_that_is_too_wide_is_refused_with_its_range() -> None:
    with pytest.raises(ValueError, match="field 1 goes from 0 to 8, but has 3 bits"):
        pack([[0, 0], [0, 8]], [1, 3])


def test_a_field_for_a_single_value_takes_no_bits() -> None:
    assert (bits_for(1), bits_for(0), record_bytes([0, 0])) == (0, 0, 0)


@pytest.mark.parametrize("side", [1, 2, 7, 224])
def test_every_crop_of_a_line_has_a_number_of_its_own(side: int) -> None:
    spans = np.array([(start, length) for length in range(1, side + 1) for start in range(side - length + 1)])
    layout = ViewLayout(images=len(spans), height=side, width=1, size=1, crops="pixels")
    boxes = np.stack([spans[:, 0], 0 * spans[:, 0], spans[:, 1], 0 * spans[:, 0] + 1], axis=1)
    records = layout.pack(np.arange(len(spans)), boxes, None, None)
    assert layout.widths[1:] == [bits_for(len(spans)), 0]
    crops = StoredViews(layout, {ROWS: records}.__getitem__).parameters(0, np.arange(len(spans))).crops
    assert (crops == boxes).all()


def test_places_take_no_bits_where_the_order_is_not_known() -> None:
    layout = ViewLayout(images=6, height=20, width=30, size=16, crops="pixels", ordered=False)
    views = StoredViews(layout, {ROWS: layout.pack(None, np.tile([1, 2, 8, 9], (6, 1)), None, None)}.__getitem__)
    assert (layout.widths, ViewLayout(6, 20, 30, 16, "pixels").widths) == ([8, 9], [3, 8, 9])
    assert views.order(0).tolist() == [0, 1, 2, 3, 4, 5]
    assert views.parameters(0, [5]).crops.tolist() == [[1, 2, 8, 9]]


def test_sre2ls_views_take_eight_bytes_where_it_stores_twenty_five() -> None:
    assert ViewLayout(50_000, 224, 224, 224, "pixels", True, "cutmix", 1024).row_bytes == 8


def mixed(mix: str) -> tuple[ViewLayout, dict[str, Any]]:
    layout = ViewLayout(**FIELDS, mix=mix)
    crops = np.array([[i, 2 * i, 10 - i, 11 + i] for i in range(6)])
    places, partners = np.array([5, 0, 1, 2, 3, 4]), np.array([0, 2, 1, 4, 3, 5])
    tensors = {ROWS: layout.pack(places, crops, np.arange(6) % 2 == 1, partners)}
    tensors[BOXES] = np.array([[1, 2, 8, 4], [0, 0, 16, 0]], np.uint16)
    tensors[LAMBDAS] = np.array([0.25, 1.0])
    return layout, tensors


def test_a_row_is_mixed_with_the_view_of_its_partner_and_the_box_of_its_batch() -> None:
    layout, tensors = mixed("cutmix")
    found = StoredViews(layout, tensors.__getitem__).parameters(0, [1, 3])
    assert found.kinds.tolist() == [CUTMIX, CUTMIX]
    assert found.partners.tolist() == [2, 4]
    assert found.partner_crops.tolist() == [[2, 4, 8, 13], [4, 8, 6, 15]]
    assert found.partner_flips.tolist() == [False, False]
    assert found.cuts.tolist() == [[1, 2, 8, 4]] * 2
    assert found.shares.tolist() == [1 - 32 / 256] * 2


@pytest.mark.parametrize(
    ("epoch", "images", "kind", "words"),
    [
        (0, [6], ValueError, "images must be 0 to 5, got 6 to 6"),
        (0, [-1], ValueError, "images must be 0 to 5, got -1 to -1"),
        (0, [1.7], TypeError, "images must be whole numbers, got float64"),
        (0, 3, TypeError, r"images must be whole numbers \[B\], got one number"),
        (1, [0], ValueError, "epoch must be 0 to 0, got 1 to 1"),
        ([0, -1], [0, 1], ValueError, "epoch must be 0 to 0, got -1 to 0"),
    ],
)
def test_views_that_are_not_there_are_named(epoch: Any, images: Any, kind: type[Exception], words: str) -> None:
    layout, tensors = mixed("cutmix")
    views = StoredViews(layout, tensors.__getitem__)
    for call in (views.parameters, views.fractions):
        with pytest.raises(kind, match=words):
            call(epoch, images)


def test_the_order_of_an_epoch_that_is_not_there_is_refused() -> None:
    layout, tensors = mixed("cutmix")
    with pytest.raises(ValueError, match="epoch must be a whole number from 0 to 0, got 1"):
        StoredViews(layout, tensors.__getitem__).order(1)


def test_a_row_that_is_its_own_partner_or_has_an_empty_box_is_not_mixed() -> None:
    layout, tensors = mixed("cutmix")
    found = StoredViews(layout, tensors.__getitem__).parameters(0, [0, 5])
    assert found.kinds.tolist() == [NO_MIX, NO_MIX]
    assert found.partners.tolist() == [-1, -1]


def test_mixup_takes_the_lambda_of_the_batch() -> None:
    layout, tensors = mixed("mixup")
    found = StoredViews(layout, tensors.__getitem__).parameters(0, [1])
    assert (found.kinds[0], found.shares[0]) == (MIXUP, 0.25)


def test_images_come_in_the_order_in_which_they_were_labelled() -> None:
    layout, tensors = mixed("cutmix")
    assert StoredViews(layout, tensors.__getitem__).order(0).tolist() == [1, 2, 3, 4, 5, 0]


@pytest.mark.parametrize(("crops", "kind"), [("F16", np.float16), ("F32", np.float32)])
def test_fractions_are_kept_to_the_last_bit_and_rounded_as_pillow_does(crops: str, kind: Any) -> None:
    layout = ViewLayout(images=1, height=0, width=0, size=16, crops=crops)
    given_crop = np.array([[0.1, 1 / 3, 0.5, 0.6]], kind)
    views = StoredViews(layout, {ROWS: layout.pack(np.zeros(1, int), given_crop, None, None)}.__getitem__)
    assert (views.fractions(0, [0]) == given_crop).all()
    assert views.parameters(0, [0], sizes=[[101, 50]]).crops.tolist() == [[10, 17, 51, 30]]
    assert views.of_size(101, 50).parameters(0, [0]).crops.tolist() == [[10, 17, 51, 30]]
    with pytest.raises(ValueError, match="images of different sizes: give sizes="):
        views.parameters(0, [0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"crops": "inches"}, "crops must be one of none, pixels, F16, F32, got 'inches'"),
        ({"batch": 0}, "batch must be a whole number from 1"),
        ({"height": 0}, "crops in pixels need the height and width"),
        ({"flips": 1}, "flips must be true or false, got 1"),
        ({"ordered": False, "mix": "mixup"}, "needs the places of the images: ordered must be true"),
        ({"tilt": 3}, "stored views are described by batch, crops"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ViewLayout.from_json({**FIELDS, "mix": "none", "ordered": True, **change})


def labelled(path: Path, **change: Any) -> LabelDecoder:
    layout, tensors = mixed("cutmix")
    tensors.pop(LAMBDAS)
    tensors |= change.pop("tensors", {})
    side = SideInformation(np.arange(6) % 3)
    metadata = {"replay": {"stored": layout.to_json() | change}, "images": 6, "epochs": 1}
    logits = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    LabelEncoder(Raw(3), side).encode(logits, path, metadata=metadata, tensors=tensors)
    return LabelDecoder(path)


def test_a_dataset_replays_stored_views_by_row(tmp_path: Path) -> None:
    decoder = labelled(tmp_path / "a.safetensors")
    images = torch.randint(0, 256, (6, 3, 20, 30), dtype=torch.uint8)
    views, labels = DistilledDataset(images, decoder).__getitems__([3, 1]).views, decoder.read([3, 1])
    assert views.shape == (2, 3, 16, 16)
    assert labels.logits().shape == (2, 3)
    alone = DistilledDataset(images, decoder).__getitems__([1]).views
    assert torch.equal(views[1:], alone)


def test_stored_order_is_a_way_to_shuffle(tmp_path: Path) -> None:
    decoder = labelled(tmp_path / "a.safetensors")
    assert list(ReplaySampler(decoder, shuffle="stored")) == [1, 2, 3, 4, 5, 0]


def test_side_information_of_a_file_looks_at_its_stored_views(tmp_path: Path) -> None:
    decoder = labelled(tmp_path / "a.safetensors")
    side = SideInformation(decoder.file.tensor("images.class"), decoder.recipe).of([1, 0])
    assert side.other.tolist() == [2, 0]
    assert side.share.tolist() == [0.875, 1.0]


def test_the_classes_of_images_of_different_sizes_are_a_prior(tmp_path: Path) -> None:
    layout = ViewLayout(6, 0, 0, 16, crops="F16", flips=True, mix="cutmix", batch=4)
    crops = np.tile(np.array([0.25, 0, 0.5, 1], np.float16), (60, 1))
    places, partners = np.tile([5, 0, 1, 2, 3, 4], 10), np.tile([2, 2, 2, 2, 5, 5], 10)
    boxes = np.tile(np.array([[0, 0, 8, 4], [2, 2, 6, 12]], np.uint16), (10, 1))
    tensors = {ROWS: layout.pack(places, crops, np.zeros(60, bool), partners), BOXES: boxes}
    side = SideInformation(np.arange(6) % 3, StoredViews(layout, tensors.__getitem__))
    logits = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    with pytest.raises(ValueError, match="prior 'replay' looks at the crops, which are stored as parts of images of"):
        LabelEncoder.fit(logits, side=side, prior="replay", bytes_per_label=0, effort=0.01, progress=False)
    encoder = LabelEncoder.fit(logits, side=side, prior="classes", bytes_per_label=0, effort=0.01, progress=False)
    encoder.encode(logits, tmp_path / "a", tensors=tensors, progress=False)
    expected = encoder.codec.decode(np.zeros((60, 0), np.uint8), side.of(range(60), tier="classes"))
    assert len(side.of(range(60), tier="classes").share.unique()) > 1
    torch.testing.assert_close(LabelDecoder(tmp_path / "a")(range(60), output="logits"), expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tensors": {BOXES: np.zeros((3, 4), np.uint16)}}, r"need tensor 'views.boxes', uint16 \[2, 4\]"),
        ({"mix": "mixup"}, "need tensor 'views.lambdas'"),
        ({"images": 3}, "its views are of 3 images, its labels of 6"),
        ({"size": -1}, "size must be a whole number"),
    ],
)
def test_a_file_whose_views_do_not_fit_is_corrupt(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    decoder = labelled(tmp_path / "a.safetensors", **change)
    with pytest.raises(Corrupt, match=words):
        _ = decoder.recipe


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("partner", "row 1 is mixed with an image beyond 6"),
        ("place", "row 1 has a place in its epoch beyond 6 images"),
        ("box", "row 1 shows its partner outside of 16 pixels"),
        ("share", "row 1 has a share that is not 0 to 1"),
    ],
)
def test_views_that_cannot_be_are_corrupt(change: str, words: str) -> None:
    layout, tensors = mixed("mixup" if change == "share" else "cutmix")
    fields = unpack(tensors[ROWS], layout.widths)
    if change in ("partner", "place"):
        fields[-1 if change == "partner" else 0][1] = 7
    tensors[ROWS] = pack(fields, layout.widths)
    if change == "box":
        tensors[BOXES][0] = 1, 10, 8, 7
    if change == "share":
        tensors[LAMBDAS][0] = np.nan
    with pytest.raises(Corrupt, match=words):
        StoredViews(layout, tensors.__getitem__).parameters(0, [1])


@pytest.mark.parametrize("crop", [[np.nan, 0, 1, 1], [0.6, 0, 0.5, 1], [0, -0.1, 1, 1]])
def test_a_fraction_that_is_no_crop_is_corrupt(crop: list[float]) -> None:
    layout = ViewLayout(images=1, height=20, width=20, size=16, crops="F32")
    records = layout.pack(np.zeros(1, int), np.array([crop], np.float32), None, None)
    with pytest.raises(Corrupt, match="row 0 has a crop that does not lie in its image"):
        StoredViews(layout, {ROWS: records}.__getitem__).parameters(0, [0])


def test_the_golden_file_of_an_imported_set_means_what_it_meant() -> None:
    decoder = LabelDecoder(GOLDEN / "v1_imported.safetensors")
    assert np.flatnonzero(decoder.file.missing(np.arange(6))).tolist() == [5]
    assert decoder([3, 0], output="logits").tolist() == [[4, -4], [2, 1]]
    views = decoder.recipe
    assert isinstance(views, StoredViews)
    found = views.parameters([0, 0, 0, 1, 1], [0, 1, 2, 0, 1])
    assert found.crops.tolist() == [[0, 0, 8, 6], [0, 0, 2, 2], [5, 0, 3, 1], [0, 0, 1, 3], [0, 0, 8, 6]]
    assert found.flips.tolist() == [False, True, True, False, True]
    assert found.partners.tolist() == [2, -1, -1, -1, 2]  # its own, in an empty box, its own
    assert found.cuts.tolist() == [[0, 0, 8, 4], [0] * 4, [0] * 4, [0] * 4, [1, 2, 3, 4]]
    assert found.partner_crops[0].tolist() == [5, 0, 3, 1]
    assert views.order(0).tolist() == [1, 0, 2]
    names = bytes(decoder.file.tensor("images.name")).decode().split("\n")
    assert names == ["b/x.png", "a/y.png", "b/z.png"]
