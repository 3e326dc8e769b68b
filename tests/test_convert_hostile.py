"""Hostile and odd files of foreign sets: each is refused in words, or read as what it says, and fills no memory."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign import batches_of, crops, write_lpqld, write_sre2l

from vqlabel.convert import Options, open_foreign
from vqlabel.convert.batch_files import label_places, read_batch
from vqlabel.convert.fkd_files import read_crops
from vqlabel.convert.order import drawn_order, listed_order
from vqlabel.convert.torch_files import UnreadableFile, check_crops, load_list

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own, of tensors that few people use

Items = list[Any]
Change = Callable[[Items], Items]
CROPS, FLIPS, INDICES, LAMBDA, BOX, LABELS = range(6)


def put(slot: int, value: Any) -> Change:
    """What puts this, or what this makes of what is there, into a slot of a file."""

    def change(items: Items) -> Items:
        return [
            (value(item) if callable(value) else value) if slot == place else item for place, item in enumerate(items)
        ]

    return change


def at(place: Any, value: float) -> Change:
    """What changes a number of the crops."""

    def change(coords: Any) -> Any:
        coords[place] = value
        return coords

    return put(CROPS, change)


def batch(tmp_path: Path, change: Change, **how: Any) -> str:
    """A file of 16 rows of 10 classes, changed."""
    write_sre2l(tmp_path / "set", images=16, batch=16, epochs=1, **how)
    path = tmp_path / "set" / "epoch_0" / "batch_0.tar"
    torch.save(change(torch.load(path, weights_only=False)), path)
    return str(path)


def endless() -> Items:
    items: Items = [1]
    items.append(items)
    return items


def deep(depth: int) -> Items:
    items: Items = [1]
    for _ in range(depth - 1):
        items = [items]
    return items


def many() -> Items:
    """Ten million million numbers, in a file of some kilobytes."""
    items: Items = [1] * 10_000
    return [[items] * 10_000] * 100_000


def hidden(tensor: torch.Tensor) -> torch.Tensor:
    tensor.detach = tensor.numpy = tensor.is_contiguous = 7  # type: ignore[assignment, method-assign]
    return tensor


ODD = r"but only dense ones of real numbers on the CPU .torch.strided. are read"
MUCH = r"its lists and tensors claim to hold more than the [\d,]+ bytes of the file"
TENSORS: dict[str, tuple[Any, str]] = {
    "sparse": (lambda x: x.to_sparse(), rf"a tensor of torch.float16 on cpu .torch.sparse_coo., {ODD}"),
    "sparse rows": (
        lambda x: x.float().to_sparse_csr(),
        rf"a tensor of torch.float32 on cpu .torch.sparse_csr., {ODD}",
    ),
    "meta": (lambda x: x.to("meta"), rf"a tensor of torch.float16 on meta .torch.strided., {ODD}"),
    "nested": (lambda x: torch.nested.nested_tensor([x, x[:3]]), rf"a tensor of torch.float16 on cpu .nested., {ODD}"),
    "quantized": (lambda x: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.quint8), rf"torch.quint8 .*{ODD}"),
    "negated": (lambda x: torch.complex(x.float(), x.float()).conj().imag, rf"torch.float32 on cpu .negated., {ODD}"),
    "conjugated": (lambda x: torch.complex(x.float(), x.float()).conj(), rf"a tensor of torch.complex64 .*{ODD}"),
    "complex": (lambda x: torch.complex(x.float(), x.float()), rf"a tensor of torch.complex64 on cpu .*{ODD}"),
    "eighths": (lambda x: x.to(torch.float8_e4m3fn), rf"a tensor of torch.float8_e4m3fn on cpu .*{ODD}"),
    "one number": (lambda _: torch.zeros(1, dtype=torch.float16).expand(2**36, 10), MUCH),
    "one row": (lambda x: x[:1].expand(2**20, 10), MUCH),
    "overlapping": (lambda x: x.new_zeros(2**12).as_strided((2**11, 2**11), (1, 1)), MUCH),
    "bfloat16": (lambda x: x.bfloat16(), r"the labels must be fp16 or fp32 \[16, C\], got torch.bfloat16 \[16, 10\]"),
    "no classes": (lambda x: x[:, :0], r"the labels must be fp16 or fp32 \[16, C\], got torch.float16 \[16, 0\]"),
    "a number": (lambda x: x[0, 0], r"the labels must be fp16 or fp32 \[16, C\], got torch.float16 \[\]"),
    "a storage": (lambda x: x.untyped_storage(), "it holds a TypedStorage, where only tensors and numbers belong"),
    "a dictionary": (lambda x: {"labels": x}, "it holds a dict, where only tensors and numbers belong"),
    "a list in itself": (lambda _: endless(), "its lists lie in each other, more than 3 deep"),
    "many lists": (lambda _: deep(100), "its lists lie in each other, more than 3 deep"),
    "lists of the same": (lambda _: many(), MUCH),
}
BOXES: dict[str, Any] = {
    "a list": [[], 1, 2, 3],
    "infinity": [0, 1, float("inf"), 3],
    "no number": [0, 1, float("nan"), 3],
    "a float": [0.0, 1.0, 2.0, 3.0],
    "a word": ["a", 1, 2, 3],
    "two numbers": [torch.tensor([1, 2]), 1, 2, 3],
    "a float tensor": [torch.tensor(1.0), 1, 2, 3],
    "a truth": [False, True, 2, 3],
    "a true tensor": [torch.tensor(True), 1, 2, 3],
    "None": [None, 1, 2, 3],
    "three": [1, 2, 3],
    "five": [1, 2, 3, 4, 5],
    "backwards": [3, 1, 2, 3],
    "negative": [-1, 1, 2, 3],
    "no list": 7,
    "a tensor": torch.tensor([0, 1, 2, 3]),
}
ITEMS: dict[str, tuple[Change, str]] = {
    "flips 2": (
        put(FLIPS, torch.full((16,), 2)),
        r"its flips are torch.int64 \[2, 2, .*, not true or false, or 1 or 0",
    ),
    "flips -1": (put(FLIPS, torch.full((16,), -1)), r"its flips are torch.int64 \[-1, -1, .*, not true or false"),
    "flips 1.0": (put(FLIPS, torch.ones(16)), r"its flips are torch.float32 \[1.0, .*, not true or false, or 1 or 0"),
    "flips i": (put(FLIPS, torch.ones(16) * 1j), rf"a tensor of torch.complex64 .*{ODD}"),
    "flips None": (put(FLIPS, None), "its second item is neither 16 flips nor 16 cutouts"),
    "flips of 15": (put(FLIPS, torch.ones(15).bool()), "its second item is neither 16 flips nor 16 cutouts"),
    "flip of none": (put(FLIPS, torch.tensor(True)), "its second item is neither 16 flips nor 16 cutouts"),
    "partners true": (
        put(INDICES, torch.ones(16).bool()),
        r"its mix_index is torch.bool \[True, .*, not whole numbers",
    ),
    "partners 1.0": (put(INDICES, torch.ones(16)), r"its mix_index is torch.float32 \[1.0, .*, not whole numbers"),
    "partners i": (put(INDICES, torch.ones(16) * 1j), rf"a tensor of torch.complex64 .*{ODD}"),
    "partners none": (
        put(INDICES, torch.zeros(0).long()),
        "it mixes 0 rows with rows up to 0 and down to 0, but has rows 0 to 15",
    ),
    "partner -1": (
        put(INDICES, torch.full((16,), -1)),
        "it mixes 16 rows with rows up to 0 and down to -1, but has rows 0 to 15",
    ),
    "partner 16": (
        put(INDICES, torch.full((16,), 16)),
        "it mixes 16 rows with rows up to 16 and down to 0, but has rows 0 to 15",
    ),
    "lambda true": (put(LAMBDA, True), "lambda must be 0 to 1, got True"),
    "lambda NaN": (put(LAMBDA, float("nan")), "lambda must be 0 to 1, got nan"),
    "lambda huge": (put(LAMBDA, 10**600), "lambda must be 0 to 1, got 1000"),
    "crops NaN": (at((3, 0), float("nan")), "crop 3 is .*nan.*, which does not lie in its image"),
    "crops inf": (at((4, 2), float("inf")), "crop 4 is .*inf.*, which does not lie in its image"),
    "crops from -inf to inf": (at((4, slice(1, 4, 2)), float("-inf")), "crop 4 is .*-inf.*, which does not lie"),
    "crops above": (at((5, 0), -0.25), "crop 5 is .-0.25, .*, which does not lie in its image"),
    "crops empty": (at((6, 3), 0.0), "crop 6 is .*, 0.0., which does not lie in its image"),
    "crops beyond": (at((15, slice(0, None, 2)), 0.75), "crop 15 is .0.75, .*, which does not lie in its image"),
    "crops negative": (at((0, 2), -0.5), "crop 0 is .*-0.5, .*, which does not lie in its image"),
    "no rows": (lambda items: [x[:0] if isinstance(x, torch.Tensor) else x for x in items], "it is a batch of no rows"),
}
ITEMS |= {f"labels: {name}": (put(LABELS, value), words) for name, (value, words) in TENSORS.items()}
ITEMS |= {
    f"box: {name}": (put(BOX, value), "the box of the mix is .*, not four whole numbers, the later ones larger")
    for name, value in BOXES.items()
}


@pytest.mark.parametrize("how", ITEMS)
def test_a_hostile_file_is_refused_in_words(how: str, tmp_path: Path) -> None:
    change, words = ITEMS[how]
    path = batch(tmp_path, change)
    with pytest.raises(UnreadableFile, match=words):
        read_batch(path)


@pytest.mark.parametrize("how", ["crops NaN", "no rows", "box: a word", "labels: sparse", "labels: one number"])
def test_a_hostile_file_of_a_set_is_named_and_may_be_passed_over(how: str, tmp_path: Path) -> None:
    order, (change, words) = write_sre2l(tmp_path / "set", epochs=3), ITEMS[how]
    path = tmp_path / "set" / "epoch_1" / "batch_2.tar"
    torch.save(change(torch.load(path, weights_only=False)), path)
    with pytest.raises(ValueError, match=f"epoch_1/batch_2.tar: .*{words}"):
        open_foreign(str(tmp_path / "set"), Options(str(tmp_path), size=32))
    found = open_foreign(str(tmp_path / "set"), Options(str(tmp_path), size=32, keep_going=True))
    assert found.missing is not None
    assert set(np.flatnonzero(found.missing).tolist()) == {50 + image for image in order[1][2]}


@pytest.mark.parametrize("how", TENSORS)
def test_a_hostile_file_of_fkd_is_refused_in_words(how: str, tmp_path: Path) -> None:
    torch.save([np.ones((16, 4)), np.ones(16), TENSORS[how][0](torch.ones(16, 10).half())], tmp_path / "a.tar")
    with pytest.raises(UnreadableFile):
        read_crops(str(tmp_path / "a.tar"))


@pytest.mark.parametrize("how", ["one number", "one row", "overlapping", "lists of the same"])
def test_what_a_file_claims_is_never_allocated(how: str, tmp_path: Path) -> None:
    path = batch(tmp_path, put(LABELS, TENSORS[how][0]))
    tracemalloc.start()
    with pytest.raises(UnreadableFile, match="claim to hold more"):
        load_list(path, (6,))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.requires_grad_(),
        torch.nn.Parameter,
        lambda x: x.t().contiguous().t(),
        lambda x: torch.cat([x, x], 1)[:, :10],
        lambda x: torch.cat([x, x])[::2],
        hidden,
    ],
    ids=["of gradients", "parameter", "turned", "part of wider rows", "every other row", "of hidden methods"],
)
def test_labels_that_lie_oddly_are_read_for_what_they_are(change: Any, tmp_path: Path) -> None:
    wanted: list[torch.Tensor] = []

    def odd(labels: torch.Tensor) -> torch.Tensor:
        wanted.append(torch.detach(change(labels.clone())).clone())
        return change(labels)  # type: ignore[no-any-return]

    path = batch(tmp_path, put(LABELS, odd))
    found = read_batch(path)
    (labels,), (place,) = found.labels, label_places(path, found)
    assert torch.equal(labels, wanted[0])
    assert labels.is_contiguous()
    assert not labels.requires_grad
    assert place == -1 or in_place(path, place, labels)


def in_place(path: str, place: int, labels: torch.Tensor) -> bool:
    return np.fromfile(path, np.float16, labels.numel(), offset=place).tobytes() == labels.numpy().tobytes()


def test_labels_that_were_copied_have_no_place_in_the_file(tmp_path: Path) -> None:
    path = batch(tmp_path, put(LABELS, lambda x: x.t().contiguous().t()))
    assert label_places(path, read_batch(path)) == [-1]
    path = batch(tmp_path / "b", put(LABELS, lambda x: x))
    found = read_batch(path)
    assert in_place(path, label_places(path, found)[0], found.labels[0])


def test_lists_in_lists_are_read_as_deep_as_files_have_them(tmp_path: Path) -> None:
    torch.save([deep(3), ()], tmp_path / "a.tar")
    assert load_list(str(tmp_path / "a.tar"), (2,)) == [[[[1]]], []]


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.int16, torch.uint16])
def test_flips_may_be_truths_or_whole_numbers(dtype: torch.dtype, tmp_path: Path) -> None:
    flips = torch.arange(16) % 2
    found = read_batch(batch(tmp_path, put(FLIPS, flips.to(dtype))))
    assert found.flips is not None
    assert torch.equal(found.flips, flips.bool())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.uint64])
def test_partners_may_be_whole_numbers_of_any_width(dtype: torch.dtype, tmp_path: Path) -> None:
    found = read_batch(batch(tmp_path, put(INDICES, torch.arange(16).flip(0).to(dtype))))
    assert found.mix_index is not None
    assert found.mix_index.tolist() == list(range(15, -1, -1))


def test_class_numbers_must_be_whole_numbers(tmp_path: Path) -> None:
    write_lpqld(tmp_path / "set", images=16, epochs=1)
    path = tmp_path / "set" / "batch_0.tar"
    for kind in (torch.bool, torch.float16):
        items = torch.load(path, weights_only=False)
        torch.save([*items[:6], items[6].to(kind)], path)
        with pytest.raises(UnreadableFile, match=r"labels \[16, 10\], but no class numbers of the same shape"):
            read_batch(str(path))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("side", [1, 2, 3, 32, 64, 224, 501])
def test_every_crop_of_whole_pixels_lies_in_its_image_however_it_is_rounded(side: int, dtype: Any) -> None:
    check_crops((crops(np.random.default_rng(side), 5000, side, side) / side).astype(np.float32).astype(dtype))
    check_crops(np.array([[0, 0, 1, 1]], dtype))
    check_crops(np.zeros((0, 4), dtype))
    with pytest.raises(UnreadableFile, match=r"crop 1 is \[0.0, 0.0, 1.0, 1.00"):
        check_crops(np.array([[0, 0, 1, 1], [0, 0, 1, 1.0078125]], dtype))


LISTS = {
    "many digits": ('{"0": [1, 99999999999999999999]}', "is not a JSON object of lists of image numbers near byte 1:"),
    "thousands of digits": (
        f'{{"0": [1, {"9" * 6000}]}}',
        "is not a JSON object of lists of image numbers near byte 1:",
    ),
    "no comma": ('{"0": [1], "7": [1 2]}', "is not a JSON object of lists of image numbers near byte 11:"),
    "two commas": ('{"0": [1,,2]}', "is not a JSON object of lists of image numbers near byte 1:"),
    "comma at the end": ('{"0": [1,]}', "is not a JSON object of lists of image numbers near byte 1:"),
    "beyond 31 bits": ('{"0": [2147483648]}', "image 2147483648 is beyond what a set can have"),
    "far beyond": ('{"0": [1, 2000000000]}', "lists an image 2000000000, but 2 in all"),
    "just beyond": ('{"0": [1], "1": [100021]}', "lists an image 100021, but 2 in all"),
}


@pytest.mark.parametrize("how", LISTS)
def test_a_hostile_list_is_named(how: str, tmp_path: Path) -> None:
    text, words = LISTS[how]
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(ValueError, match=f"list.json:? {words}"):
        listed_order(str(tmp_path / "list.json"))


def test_a_list_may_name_images_that_it_does_not_hold(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(json.dumps({"0": [], "1": [1, 100_020]}))
    found = {key: ids.tolist() for key, ids in listed_order(str(tmp_path / "list.json")).items()}
    assert found == {0: [], 1: [1, 100_020]}


@pytest.mark.parametrize(("images", "epochs"), [(1, 1), (1, 3), (50, 0), (50, 1), (51, 3)])
def test_the_order_is_the_loaders(images: int, epochs: int) -> None:
    order = drawn_order(images, epochs, 42)
    assert (order.dtype, order.shape) == (np.int32, (epochs, images))
    wanted = [[image for ids in numbers for image in ids] for numbers in batches_of(images, 16, epochs)]
    assert order.tolist() == wanted


@pytest.mark.parametrize(
    ("images", "seed", "words"),
    [
        (0, 0, "images must be a whole number from 1 to 2147483648, got 0"),
        (2**31 + 1, 0, "images must be a whole number from 1 to 2147483648, got 2147483649"),
        (5, -1, "seed must be a whole number from 0 to 9223372036854775807, got -1"),
        (5, 2**63, "seed must be a whole number from 0 to 9223372036854775807, got 9223372036854775808"),
    ],
)
def test_orders_that_cannot_be_drawn_are_refused(images: int, seed: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        drawn_order(images, 1, seed)
    assert drawn_order(5, 1, 2**63 - 1).shape == (1, 5)


def test_an_order_takes_four_bytes_a_row() -> None:
    tracemalloc.start()
    order = drawn_order(10_000, 30, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < order.nbytes + 64 * 10_000
