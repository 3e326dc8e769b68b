"""Views and labels in a DataLoader: the same image meets the same label, whatever the batches and workers."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decoder_parts import file_of, marked, marked_rows, numbered, pairs
from encoder_parts import IMAGES as OTHER_IMAGES
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from vqlabel import Corrupt, LabelDecoder, LabelEncoder, LabelFile
from vqlabel.codecs.raw import Raw
from vqlabel.data import Batch, DistilledDataset, Originals, ReplaySampler, collate
from vqlabel.images import Images
from vqlabel.replay import ReplayRecipe
from vqlabel.scene import draws_of
from vqlabel.side import SideInformation
from vqlabel.views import apply

pytestmark = pytest.mark.usefixtures("one_thread")

N, EPOCHS = 23, 4
RECIPE = ReplayRecipe(seed=3, images=N, height=12, width=10, size=8, cutmix=0.4, mixup=0.3)
PIXELS = torch.randint(0, 256, (N, 3, 12, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
STARTS = pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])


@pytest.fixture
def decoder(tmp_path: Path) -> LabelDecoder:
    """Decoder of 4 epochs of 23 images whose labels say their rows."""
    return marked(tmp_path / "labels", N, EPOCHS, RECIPE)


class Own(Dataset[Any]):
    """A data set of one's own: its samples say their row."""

    def __init__(self, kind: str = "tuple") -> None:
        self.kind = kind

    def __getitem__(self, row: int) -> Any:
        image = torch.full((2,), float(row % N))
        return {"tuple": (image, row), "dict": {"x": image, "row": row}, "tensor": torch.tensor([row, 0])}[self.kind]


def first(sample: Any) -> int:
    return int(sample[0])


def deadly(numbers: NDArray[np.int64]) -> torch.Tensor:
    """Images that end the worker which looks at them."""
    if multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return numbered(numbers)


def error_of(loader: Any) -> Exception:
    """What a loader fails with; its workers end with it, or the next to be forked would inherit them."""
    batches = iter(loader)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - which one is for the test to say
        list(batches)
    batches._shutdown_workers()
    return type(caught.value)(str(caught.value))


def half(views: torch.Tensor) -> torch.Tensor:
    return views / 2


# The same image meets the same label


@pytest.mark.parametrize("batch", [1, 4, 23, 100])
@pytest.mark.parametrize("together", [collate, default_collate])
def test_every_image_meets_its_label_once_an_epoch(decoder: LabelDecoder, batch: int, together: Any) -> None:
    data = DistilledDataset(numbered, decoder, augment_on=None)
    sampler = ReplaySampler(decoder)
    loader = DataLoader(data, batch_size=batch, sampler=sampler, collate_fn=together)
    assert len(loader) == -(-N // batch)
    orders = []
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        found = pairs(loader)
        assert sorted(found) == [(image, epoch * N + image) for image in range(N)]
        orders.append([image for image, _ in found])
    assert len({tuple(order) for order in orders}) == EPOCHS


@STARTS
def test_workers_of_every_kind_read_the_right_epoch(decoder: LabelDecoder, start: str) -> None:
    options: dict[str, Any] = {"num_workers": 2, "persistent_workers": True, "multiprocessing_context": start}
    sampler = ReplaySampler(decoder, seed=1)
    data = DistilledDataset(numbered, decoder, augment_on=None)
    loader = DataLoader(data, batch_size=5, sampler=sampler, collate_fn=collate, **options)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = list(loader)
        assert all(labels.decoder is decoder for _, labels in batches)
        assert sorted(pairs(batches)) == [(image, epoch * N + image) for image in range(N)]
    del loader


# Views


@pytest.mark.parametrize("pixels", [PIXELS, PIXELS.float() / 255])
def test_views_are_replayed_in_the_worker_or_on_the_device_alike(decoder: LabelDecoder, pixels: torch.Tensor) -> None:
    expected = apply(PIXELS, RECIPE.parameters(2, np.arange(N)))
    here: Any = DistilledDataset(pixels, decoder).__getitems__(list(range(2 * N, 3 * N)))
    torch.testing.assert_close(here.views, expected)
    there = DistilledDataset(pixels, decoder, augment_on="device").__getitems__(list(range(2 * N, 3 * N)))
    assert isinstance(there.views, Originals)
    assert there.views.pixels.dtype == pixels.dtype
    assert torch.equal(there.views.to("cpu", non_blocking=True)(), here.views)
    assert (there.views.parameters.kinds > 0).sum() + N == len(there.views.pixels)


@pytest.mark.parametrize("augment_on", ["worker", "device", None])
def test_samples_one_by_one_are_the_batch(decoder: LabelDecoder, augment_on: str | None) -> None:
    data: Any = DistilledDataset(PIXELS, decoder, augment_on=augment_on, transform=half)
    rows, batch = [40, 3, 91, 3, 55], data.__getitems__
    views, labels = collate(batch(rows))
    for other, also in (
        default_collate(batch(rows)),
        default_collate([data[row] for row in rows]),
        collate(Subset(data, range(len(data))).__getitems__(rows)),
        collate([data[row] for row in rows]),
    ):
        assert torch.equal(also.data, labels.data)
        both = [found() if isinstance(found, Originals) else found for found in (views, other)]
        torch.testing.assert_close(*both)
    assert marked_rows(labels.logits()) == rows
    plain = PIXELS[torch.tensor(rows) % N] / 2
    size = (5, 3, 8, 8)
    if augment_on is None:
        assert torch.equal(views, plain)
    elif augment_on == "device":
        assert views().shape == size
        assert repr(views).startswith("Originals(5 of torch.uint8 [3, 12, 10] on cpu, ")
        torch.testing.assert_close(views[1:3](), views()[1:3])
    else:
        assert views.shape == size
        assert data[40][0].shape == (3, 8, 8)
    with pytest.raises(IndexError, match="92, but there are 92 rows"):
        data[92]


@STARTS
def test_originals_travel_from_workers(decoder: LabelDecoder, start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils.data._utils.pin_memory import pin_memory

    data = DistilledDataset(PIXELS, decoder, augment_on="device", transform=half)
    options: dict[str, Any] = {
        "sampler": ReplaySampler(decoder, shuffle=False),
        "collate_fn": collate,
        "batch_size": 20,
    }
    batches = list(DataLoader(data, num_workers=1, multiprocessing_context=start, **options))
    expected = apply(PIXELS, RECIPE.parameters(0, np.arange(N))) / 2
    torch.testing.assert_close(torch.cat([originals() for originals, _ in batches]), expected)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, *_: self.clone())
    originals, labels = pin_memory(batches[0])  # type: ignore[no-untyped-call]
    torch.testing.assert_close(originals(), expected[:20])
    assert marked_rows(labels.logits()) == list(range(20))


# Images


class Items(Dataset[Any]):
    """A map-style data set."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __getitem__(self, index: int) -> Any:
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)


def pil(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    "source",
    [
        PIXELS,
        lambda numbers: PIXELS[torch.from_numpy(numbers)],
        Items([(image, 7) for image in PIXELS]),
        Items(list(PIXELS)),
        Items([(pil(image), 7, "name") for image in PIXELS]),
        [pil(image) for image in PIXELS],
    ],
)
def test_images_may_be_held_by_anything(decoder: LabelDecoder, source: Any) -> None:
    views, _ = collate(DistilledDataset(source, decoder).__getitems__([30, 0]))
    torch.testing.assert_close(views, apply(PIXELS, RECIPE.parameters([1, 0], [7, 0])))
    assert torch.equal(Images(source)(np.array([5, 5])), PIXELS[[5, 5]])
    assert Images(source)(np.zeros(0, np.int64)).shape == (0, 3, 12, 10)


def test_grey_images_have_one_channel() -> None:
    grey = Images([Image.fromarray(PIXELS[0, 0].numpy())])
    assert torch.equal(grey(np.array([0])), PIXELS[:1, :1])


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (PIXELS[:20], "there are 20 images, but .*labels labels 23"),
        (Items(list(PIXELS[:20])), "there are 20 images, but .*labels labels 23"),
        (
            torch.zeros(N, 3, 32, 48),
            "images are 32 x 48 pixels, but .* replays views of images of 12 x 10: resize them",
        ),
        (lambda numbers: torch.zeros(len(numbers), 3, 9, 9), "images are 9 x 9 pixels, but .* of 12 x 10"),
        (
            lambda numbers: torch.zeros(7, 3, 12, 10),
            r"function of image numbers returns must be \[1, c, H, W\], got \[7, 3",
        ),
        (lambda numbers: numbers, "must be a tensor of uint8 or floats, got ndarray"),
        (torch.zeros(N, 12, 10), r"images must be \[N, c, H, W\], got \[23, 12, 10\]"),
        (PIXELS.long(), "images must be a tensor of uint8 or floats, got torch.int64"),
        (PIXELS.numpy(), r"give torch.from_numpy\(images\), of shape \[N, c, H, W\]"),
        (7, "images must be a tensor .*, got int"),
        ([pil(PIXELS[0]).convert("P")] * N, "image 0 is a PIL image of mode 'P'.*convert"),
        ([{"image": PIXELS[0]}] * N, r"image 0 is dict, but items must be an image or \(image, ...\)"),
        ([PIXELS[0, 0]] * N, r"image 0 must be \[1, c, H, W\], got \[1, 12, 10\]"),
    ],
)
def test_images_that_are_not_those_of_the_labels_are_an_error_at_once(
    decoder: LabelDecoder, source: Any, words: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        DistilledDataset(source, decoder)


def test_images_of_several_sizes_are_named() -> None:
    images = Images([PIXELS[0], PIXELS[1, :, :5]])
    with pytest.raises(ValueError, match=r"image 1 is \[3, 5, 10\] .*, but image 0 is \[3, 12, 10\].*one size"):
        images(np.array([0, 1]))


@pytest.mark.parametrize("items", [[PIXELS[0], PIXELS[1] / 255], [PIXELS[0] / 255, PIXELS[1]]])
def test_images_of_several_dtypes_are_refused_and_none_is_converted(items: list[torch.Tensor]) -> None:
    kinds = [str(item.dtype) for item in items]
    for images in (Images(items), Images(lambda numbers: torch.stack([items[number] for number in numbers]))):
        assert torch.equal(images(np.array([0, 0])), torch.stack([items[0]] * 2))
        with pytest.raises(ValueError, match=f"1.* is {kinds[1]}, but image 0 is {kinds[0]}: .* give all images one"):
            images(np.array([1]))
    assert Images(items)(np.zeros(0, np.int64)).dtype == items[0].dtype
    with pytest.raises(ValueError, match=f"image 1 is {kinds[1]}, but image 0 is {kinds[0]}"):
        Images(items)(np.array([0, 1]))


def test_views_that_nobody_can_replay_are_refused(tmp_path: Path, decoder: LabelDecoder) -> None:
    bare = marked(tmp_path / "bare", N, 1)
    with pytest.raises(ValueError, match="bare has no replay recipe.*augment_on=None"):
        DistilledDataset(PIXELS, bare)
    as_they_are: Any = DistilledDataset(PIXELS, bare, augment_on=None)
    assert torch.equal(as_they_are[5][0], PIXELS[5])
    with pytest.raises(ValueError, match="augment_on must be 'worker', 'device' or None, got 'gpu'"):
        DistilledDataset(PIXELS, decoder, augment_on="gpu")
    with pytest.raises(TypeError, match="the transform travels with each batch, but .*lambda.* does not pickle"):
        DistilledDataset(PIXELS, decoder, augment_on="device", transform=lambda views: views)


def test_views_of_draws_of_the_authors_own_are_left_to_the_author(tmp_path: Path) -> None:
    side = SideInformation(np.zeros(N, np.int64), RECIPE, draws=[[2**16, 0]])
    LabelEncoder(Raw(2), side).encode(np.zeros((N, 2), np.float32), tmp_path / "drawn", progress=False)
    decoder = LabelDecoder(tmp_path / "drawn")
    with pytest.raises(ValueError, match="shaped by draws of its author's own"):
        DistilledDataset(PIXELS, decoder)
    data, rows = DistilledDataset(PIXELS, decoder, augment_on="device"), list(range(N))
    for originals, _ in (
        collate(data.__getitems__(rows)),
        default_collate([data[row] for row in rows]),
        *DataLoader(data, N, collate_fn=collate, num_workers=1, multiprocessing_context="fork"),
    ):
        assert torch.equal(originals.pixels[:N], PIXELS)
        assert originals.parameters.images.tolist() == rows
        for same in (originals, originals[3:5], originals.to("cpu")):
            with pytest.raises(ValueError, match="draws of the author's own.*make them from .pixels and .parameters"):
                same()


def test_draws_are_found_where_the_file_says_them(tmp_path: Path) -> None:
    codec, draws = Raw(2).config(), [[65536, 1]]
    places: dict[str, dict[str, Any]] = {"none": {}, "no": {"replay": {}}, "replay": {"replay": {"draws": draws}}}
    for name, metadata in {**places, "codec": {"codec": {**codec, "draws": draws}}}.items():
        LabelFile.create(tmp_path / name, rows=0, row_bytes=4, metadata={"codec": codec, **metadata}).close()
        assert draws_of(LabelFile(tmp_path / name)) == (draws if "draws" in str(metadata) else [])


# A data set of one's own


@STARTS
def test_labels_are_added_to_the_batches_of_any_data_set(decoder: LabelDecoder, start: str) -> None:
    ways: list[tuple[str, Any, Any]] = [
        ("tuple", 1, lambda batch: batch[1]),
        ("dict", "row", lambda batch: batch["row"]),
        ("tensor", first, lambda batch: batch[0][:, 0]),
    ]
    for kind, row, rows_of in ways if start == "fork" else ways[:1]:
        together = decoder.collate(default_collate, row=row)
        sampler = ReplaySampler(decoder)
        sampler.set_epoch(1)
        options: dict[str, Any] = {"num_workers": 1, "multiprocessing_context": start}
        loader = DataLoader(Own(kind), batch_size=8, sampler=sampler, collate_fn=together, **options)
        batches = list(loader)
        labels = [batch["labels"] if kind == "dict" else batch[-1] for batch in batches]
        found = [row for part in labels for row in marked_rows(part.logits())]
        assert found == torch.cat([rows_of(batch) for batch in batches]).tolist()
        assert sorted(found) == list(range(N, 2 * N))
        assert len(batches[0]) == {"tuple": 3, "dict": 3, "tensor": 2}[kind]


def test_collate_keeps_the_kind_of_the_batch_and_says_what_is_wrong(decoder: LabelDecoder) -> None:
    samples = [(torch.zeros(1), 3), (torch.zeros(1), 50)]
    assert type(decoder.collate(default_collate, row=1)(samples)) is list
    assert type(decoder.collate(tuple, row=1)(samples)) is tuple
    with pytest.raises(TypeError, match="row=0 gives tensor.*, which is no row number"):
        decoder.collate(default_collate, row=0)([(torch.zeros(2), 3)])
    with pytest.raises(ValueError, match="the batch has 'labels' already"):
        decoder.collate(default_collate, row="labels")([{"labels": 3}])
    with pytest.raises(TypeError, match="row must be a function of a sample, or a place or key in it, got None"):
        decoder.collate(default_collate, row=None)
    with pytest.raises(IndexError, match="92, but there are 92 rows"):
        decoder.collate(default_collate, row=1)([(torch.zeros(1), 92)])


# When things go wrong


def test_a_worker_that_is_killed_is_an_error_and_not_a_hang(decoder: LabelDecoder) -> None:
    data = DistilledDataset(deadly, decoder, augment_on=None)
    options: dict[str, Any] = {"collate_fn": collate, "num_workers": 1, "multiprocessing_context": "fork"}
    loader = DataLoader(data, batch_size=2, sampler=ReplaySampler(decoder, shuffle=False), **options)
    with pytest.raises(RuntimeError, match="DataLoader worker .* (is killed by signal: Killed|exited unexpectedly)"):
        raise error_of(loader)


@pytest.mark.parametrize("load", ["copy", "map"])
def test_a_file_that_is_replaced_is_never_read_for_the_old_one(tmp_path: Path, load: str) -> None:
    decoder, late = marked(tmp_path / "labels", N, 1, load=load), LabelDecoder(tmp_path / "labels", load=load)
    data = DistilledDataset(numbered, decoder, augment_on=None)
    marked(tmp_path / "other", N + 1, 1)
    os.replace(tmp_path / "other", tmp_path / "labels")
    with pytest.raises(Corrupt, match="the file was replaced after it was opened"):
        DistilledDataset(numbered, late, augment_on=None)
    options: dict[str, Any] = {"batch_size": 8, "collate_fn": collate, "num_workers": 1}
    forked = DataLoader(data, multiprocessing_context="fork", **options)
    if load == "copy":  # its worker has the rows already
        assert pairs(forked) == [(image, image) for image in range(N)]
    else:
        with pytest.raises(Corrupt, match="the file was replaced after it was opened"):
            raise error_of(forked)
    with pytest.raises(RuntimeError, match="DataLoader worker .* exited unexpectedly"):
        raise error_of(DataLoader(data, multiprocessing_context="spawn", **options))


def test_two_decoders_of_one_file_serve_two_loaders(decoder: LabelDecoder) -> None:
    other = LabelDecoder(decoder.file.path, backend="reference")
    for one in (decoder, other):
        data = DistilledDataset(numbered, one, augment_on=None)
        loader = DataLoader(data, batch_size=50, collate_fn=collate, num_workers=1, multiprocessing_context="fork")
        assert [labels.decoder for _, labels in loader] == [one, one]


def test_priors_find_what_they_need_in_the_batches_of_workers() -> None:
    decoder = LabelDecoder(file_of("replay"))
    data = DistilledDataset(lambda numbers: torch.zeros(len(numbers), 1, 48, 48), decoder)
    sampler = ReplaySampler(decoder, shuffle=False)
    sampler.set_epoch(1)
    loader = DataLoader(data, 32, sampler=sampler, collate_fn=collate, num_workers=1, multiprocessing_context="fork")
    found = torch.cat([labels.probs(4.0) for _, labels in loader])
    rows = np.arange(OTHER_IMAGES, 2 * OTHER_IMAGES)
    torch.testing.assert_close(found, decoder(rows, 4.0), rtol=1e-5, atol=1e-6)
    assert isinstance(data.__getitems__([0]), Batch)
