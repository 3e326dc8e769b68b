"""LabelDecoder: every codec and prior gives the same labels on every path and in every process, or says why not."""

from __future__ import annotations

import pickle
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decoder_parts import CLASSES, EPOCHS, FITTED, KINDS, ROWS, codec_of, file_of, marked, side_of_rows, views_of
from encoder_parts import mixed_logits
from torch.utils.data import default_collate

from vqlabel import Corrupt, LabelDecoder, LabelEncoder, LabelFile, paths
from vqlabel.codecs import load_codec
from vqlabel.codecs.raw import Raw
from vqlabel.codecs.vq import VQ
from vqlabel.paths import KernelPath, NativePath, PlainPath, ReferencePath, TorchPath, choose_path
from vqlabel.wanted import Terms, Wanted

pytestmark = pytest.mark.usefixtures("one_thread")

SOME = np.array([0, 299, 61, 7, 7, 130])
KEYS = {"none": 0, "classes": 4, "replay": 4, "image": 4}  # bytes that travel with the codes
T = 4.0
ALL = pytest.mark.parametrize("kind", KINDS)
VQS = pytest.mark.parametrize("kind", FITTED)


def exact(kind: str, output: str = "probs") -> torch.Tensor:
    """Labels of SOME by the reference, in float64."""
    decoder = LabelDecoder(file_of(kind), backend="reference")
    return decoder(SOME, T, output, dtype=torch.float64, images=views_of(kind, SOME))


def assert_as_close_as_fp16(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Off by no more than logits of fp16 would be; dropped classes of topk have logits of a million."""
    torch.testing.assert_close(found.double(), wanted, rtol=2**-10, atol=2**-9)


# What is decoded


@ALL
@pytest.mark.parametrize("output", ["probs", "log_probs", "logits"])
def test_labels_are_those_of_the_codec_and_of_the_reference(kind: str, output: str) -> None:
    decoder, images = LabelDecoder(file_of(kind)), views_of(kind, SOME)
    file = LabelFile(file_of(kind))
    by_codec = Wanted(output, T).of(load_codec(file).decode(file.gather(SOME), side_of_rows(kind, SOME)))
    found = decoder(SOME, T, output, images=images)
    assert (found.dtype, found.shape) == (torch.float32, (len(SOME), CLASSES))
    assert_as_close_as_fp16(found, exact(kind, output))
    torch.testing.assert_close(by_codec.double(), exact(kind, output), rtol=1e-4, atol=1e-4)


@ALL
def test_packed_labels_are_small_and_decode_to_the_same_wherever_they_have_been(kind: str) -> None:
    decoder, images = LabelDecoder(file_of(kind)), views_of(kind, SOME)
    packed, expected = decoder.read(SOME), decoder(SOME, T, images=images)
    assert packed.data.dtype == torch.uint8
    assert packed.data.shape == (len(SOME), decoder.file.row_bytes + KEYS[codec_of(kind).tier])
    one_by_one = default_collate([decoder.read([row]) for row in SOME])
    for labels in (packed, packed.to("cpu"), one_by_one, pickle.loads(pickle.dumps(packed))):
        assert torch.equal(labels.probs(T, images=images), expected)
    assert torch.equal(packed.log_probs(T, images=images), decoder(SOME, T, "log_probs", images=images))
    assert torch.equal(packed.logits(images=images), decoder(SOME, output="logits", images=images))


@ALL
def test_rows_of_a_batch_can_be_taken_apart(kind: str) -> None:
    decoder, images = LabelDecoder(file_of(kind)), views_of(kind, SOME)
    packed, whole = decoder.read(SOME), decoder(SOME, T, images=images)
    for part in (slice(1, 4), slice(0, 0), torch.tensor([5, 0]), np.array([True, False] * 3)):
        some = None if images is None else images[part]
        torch.testing.assert_close(packed[part].probs(T, images=some), whole[part], rtol=1e-5, atol=1e-6)
    one = None if images is None else images[2:3]
    torch.testing.assert_close(packed[2].probs(T, images=one), whole[2:3], rtol=1e-5, atol=1e-6)
    assert [len(packed[n]) for n in range(6)] == [1] * len(SOME)


@ALL
def test_nothing_is_a_batch_too(kind: str) -> None:
    decoder, images = LabelDecoder(file_of(kind)), views_of(kind, SOME[:0])
    nothing: list[Any] = [[], np.zeros(0, np.int64), torch.zeros(0, dtype=torch.int64)]
    for rows in nothing:
        assert decoder(rows, images=images).shape == (0, CLASSES)
    student = torch.zeros(0, CLASSES, requires_grad=True)
    decoder.read([]).kl(student, T, images=images).nansum().backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["raw", "replay"])
def test_labels_of_any_float_go_where_they_are_wanted(kind: str, dtype: torch.dtype) -> None:
    decoder = LabelDecoder(file_of(kind))
    tolerance = 8 * torch.finfo(dtype).eps + 2**-9
    for out in (torch.empty(6, CLASSES, dtype=dtype), torch.empty(CLASSES, 12, dtype=dtype).T[::2]):
        found = decoder(SOME, T, dtype=dtype, out=out)
        assert found is out
        assert (out.double() - exact(kind)).abs().max() < tolerance
        assert torch.equal(decoder.read(SOME).probs(T, dtype=dtype), out)


def test_extreme_logits_and_temperatures_give_no_nan(tmp_path: Path) -> None:
    logits = np.array([[6e4, -6e4, 1e4, -1e4], [1, 1, 1, 1]], np.float32)
    LabelEncoder(Raw(4)).encode(logits, tmp_path / "labels", progress=False)
    decoder = LabelDecoder(tmp_path / "labels")
    for temperature in (1e-6, 0.05, 1.0, 1e6):
        for dtype in (torch.float16, torch.float32):
            assert not decoder([0, 1], temperature, "log_probs", dtype=dtype).isnan().any()
            probs = decoder([0, 1], temperature, dtype=dtype)
            torch.testing.assert_close(probs.float().sum(1), torch.ones(2), atol=1e-3, rtol=0)


def test_autocast_changes_no_label() -> None:
    for kind in ("replay", "product", "image"):
        decoder, images = LabelDecoder(file_of(kind)), views_of(kind, SOME)
        codec = decoder._codec_here()
        assert isinstance(codec, VQ)
        plain, kernel = (way(codec, torch.device("cpu")) for way in (PlainPath, KernelPath))
        parts = decoder.parts(decoder.read(SOME), images)
        student, terms = torch.zeros(len(SOME), CLASSES), Terms(T, T, "kl")
        expected = decoder(SOME, T, images=images), plain(*parts, Wanted()), kernel.loss(student, *parts, terms)
        with torch.autocast("cpu", torch.bfloat16):
            found = (
                decoder(SOME, T, images=None if images is None else images.bfloat16().float()),
                plain(*parts, Wanted()),
                kernel.loss(student, *parts, terms),
            )
        torch.testing.assert_close(found, expected, rtol=0, atol=2**-9 if kind == "image" else 0)


@ALL
def test_defaults_of_torch_change_no_label(kind: str) -> None:
    images, expected = views_of(kind, SOME), LabelDecoder(file_of(kind))(SOME, T, images=views_of(kind, SOME))
    with torch.device("meta"):
        assert torch.equal(LabelDecoder(file_of(kind))(SOME, T, images=images), expected)
    try:
        torch.set_default_dtype(torch.float64)
        found = LabelDecoder(file_of(kind))(SOME, T, images=images)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, expected)


def test_a_hundred_thousand_index_patterns_read_what_the_file_has(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    logits = random.standard_normal((5000, 2)).astype(np.float32)
    LabelEncoder(Raw(2)).encode(logits, tmp_path / "labels", progress=False)
    decoder, rows = LabelDecoder(tmp_path / "labels"), random.integers(0, 5000, 300_000)
    cuts = np.sort(random.integers(0, len(rows), 100_000 - 1))
    pieces = np.split(rows, cuts)
    found = torch.cat([decoder.read(piece).data for piece in pieces])
    assert len(pieces) == 100_000
    np.testing.assert_array_equal(found.numpy(), Raw(2).encode(torch.from_numpy(logits))[rows])


# Paths


@VQS
@pytest.mark.parametrize("path", [PlainPath, KernelPath])
def test_the_paths_of_a_gpu_give_the_same_labels_and_losses(kind: str, path: type[PlainPath]) -> None:
    decoder, codec, images = LabelDecoder(file_of(kind)), codec_of(kind), views_of(kind, SOME)
    assert isinstance(codec, VQ)
    made = path(codec, torch.device("cpu"))  # where the kernels' wrappers run plain torch
    parts = decoder.parts(decoder.read(SOME), images)
    for output in ("probs", "log_probs", "logits"):
        for dtype in (torch.float32, torch.float64):
            found = made(*parts, Wanted(output, T, dtype))
            assert found.dtype == dtype
            error = (found.double() - exact(kind, output)).abs().max()
            assert error < 2**-10 * exact(kind, "logits").abs().max()  # tables of fp16
    student = torch.randn(len(SOME), CLASSES, generator=torch.Generator().manual_seed(0))
    terms = Terms(T, 2.0, "kl")
    torch.testing.assert_close(
        made.loss(student, *parts, terms),
        decoder.path(decoder.device).loss(student, *parts, terms),
        rtol=0.01,
        atol=0.01,
    )


def test_each_device_has_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[torch.device] = []
    monkeypatch.setattr(PlainPath, "__init__", lambda self, codec, device: taken.append(device))
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    codec = codec_of("product")
    monkeypatch.setattr(paths, "find_spec", lambda name: object())
    assert type(choose_path(codec, cuda, "auto")) is KernelPath
    assert type(choose_path(codec, cpu, "auto")) is NativePath
    assert type(choose_path(codec, torch.device("mps"), "auto")) is PlainPath
    assert type(choose_path(codec_of("raw"), cuda, "auto")) is TorchPath
    assert type(choose_path(codec, cuda, "reference")) is ReferencePath
    assert [device.type for device in taken] == ["cuda", "mps"]


def test_device_0_is_never_the_cpu() -> None:
    if torch.accelerator.is_available():
        assert LabelDecoder(file_of("raw"), 0).device.type != "cpu"
    else:
        with pytest.raises(RuntimeError, match="accelerator"):
            LabelDecoder(file_of("raw"), 0)  # type: ignore[arg-type]
    assert LabelDecoder(file_of("raw")).device == torch.device("cpu")


def test_without_triton_a_gpu_decodes_slowly_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PlainPath, "__init__", lambda self, codec, device: None)
    monkeypatch.setattr(paths, "find_spec", lambda name: None)
    decoder, cuda = LabelDecoder(file_of("product")), torch.device("cuda")
    with pytest.warns(UserWarning, match="Triton is not installed.*pip install triton"):
        path = decoder.path(cuda)
    assert type(path) is PlainPath
    assert decoder.path(cuda) is path  # a second warning would be an error here


def test_threads_share_what_is_prepared() -> None:
    decoder, found = LabelDecoder(file_of("replay")), []
    threads = [
        threading.Thread(target=lambda: found.append((decoder.path(decoder.device), decoder(SOME)))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(path) for path, _ in found}) == 1
    assert all(torch.equal(labels, found[0][1]) for _, labels in found)


# Rows, and what is wrong


def test_rows_are_epochs_times_images(tmp_path: Path) -> None:
    decoder = marked(tmp_path / "marked", 20, 3)
    assert (decoder.images, decoder.epochs, len(decoder), decoder.classes) == (20, 3, 60, 19)
    assert decoder.rows(2, [17, 4]).tolist() == [57, 44]
    assert decoder.rows([0, 1], [0, 19]).tolist() == [0, 39]
    assert decoder.rows(0, []).tolist() == []
    assert (
        repr(decoder) == f"LabelDecoder(raw, C=19, 60 rows, 38 bytes/label ({decoder.bytes_per_label:.3g} all-in), cpu)"
    )
    assert "PackedLabels(1 rows of 38 bytes on cpu, LabelDecoder(raw" in repr(decoder.read([3]))
    assert "vq residual G=4 nbits=4 prior=none" in repr(LabelDecoder(file_of("residual"))).replace(",", "")


@pytest.mark.parametrize(
    ("epoch", "images", "words"),
    [
        (3, [0], "epoch 3 is not in marked, which has 3 epochs: 0 to 2"),
        (-1, [0], "epoch -1 is not in marked"),
        ([0, 7], [0, 1], "epoch 7 is not in marked"),
        (0, [5, 20], "image 20 is not in marked, which has 20 images: 0 to 19"),
        (0, [-1], "image -1 is not"),
    ],
)
def test_epochs_and_images_that_are_not_there_are_named(tmp_path: Path, epoch: Any, images: Any, words: str) -> None:
    decoder = marked(tmp_path / "marked", 20, 3)
    with pytest.raises(IndexError, match=words):
        decoder.rows(epoch, images)


@ALL
def test_rows_that_are_not_there_are_named(kind: str) -> None:
    decoder = LabelDecoder(file_of(kind))
    for row in (ROWS, -1, 2**40):
        with pytest.raises(IndexError, match=f"{row}, but there are {ROWS} rows"):
            decoder.read([3, row])
    for rows, found in (([1.5], "float64"), (3, "int64"), ([[1, 2]], "int64"), (np.array([True]), "bool")):
        with pytest.raises(TypeError, match=f"whole numbers .*{found}"):
            decoder.read(rows)
    with pytest.raises(TypeError, match="epoch numbers must be whole, got float64"):
        decoder.rows(0.5, [1])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"temperature": 0}, "temperature must be a finite number above 0, got 0"),
        ({"temperature": -1.5}, "above 0, got -1.5"),
        ({"temperature": float("nan")}, "got nan"),
        ({"temperature": float("inf")}, "got inf"),
        ({"output": "logit"}, "output must be one of probs, log_probs, logits, got 'logit'"),
        ({"dtype": torch.int64}, "floating-point numbers, not torch.int64"),
        (
            {"out": torch.empty(6, 19)},
            r"out must be torch.float32 \[6, 20\] on cpu, got torch.float32 \[6, 19\] on cpu",
        ),
        ({"out": torch.empty(6, 20, dtype=torch.float64)}, "got torch.float64"),
        ({"out": torch.empty(6, 20, device="meta")}, "on cpu, got .* on meta"),
        ({"images": torch.zeros(5, 1, 4, 8)}, "5 images were given for 6 labels"),
    ],
)
@pytest.mark.parametrize("kind", ["raw", "replay"])
def test_what_cannot_be_decoded_is_said(kind: str, given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LabelDecoder(file_of(kind))(SOME, **given)


def test_a_prior_that_looks_at_images_asks_for_them() -> None:
    decoder = LabelDecoder(file_of("image"))
    calls: list[Any] = [decoder.read(SOME).probs, decoder.read(SOME).logits, lambda: decoder(SOME)]
    for call in calls:
        with pytest.raises(ValueError, match="this prior looks at the images: pass images="):
            call()
    with pytest.raises(ValueError, match="this prior looks at the images"):
        decoder.read(SOME).kl(torch.zeros(6, CLASSES), T)
    with pytest.raises(ValueError, match="5 images were given for 6 labels"):
        decoder.read(SOME).kl(torch.zeros(6, CLASSES), T, images=torch.zeros(5, 1, 4, 8))


def test_a_file_that_cannot_be_decoded_says_so_when_it_is_opened(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="backend must be one of auto, reference, got 'c'"):
        LabelDecoder(file_of("raw"), backend="c")
    for metadata, words in (
        ({}, "'classes' is missing"),
        ({"codec": {"id": "vq", "prior": {"tier": "classes"}}, "classes": 4}, "tensor 'images.class' is missing"),
    ):
        path = tmp_path / f"{len(metadata)}"
        LabelFile.create(
            path, rows=0, row_bytes=8, metadata={"codec": {"id": "raw", "dtype": "F16"}, **metadata}
        ).close()
        with pytest.raises(Corrupt, match=f"^{re.escape(str(path))}: .*{words}"):
            LabelDecoder(path)


def test_labels_of_two_decoders_are_no_batch() -> None:
    first, second = LabelDecoder(file_of("raw")), LabelDecoder(file_of("raw"))
    with pytest.raises(ValueError, match="labels of different decoders cannot be one batch"):
        default_collate([first.read([0]), second.read([1])])


# Files that change


@pytest.mark.parametrize("load", ["copy", "map"])
def test_a_file_that_is_replaced_is_never_mixed_with_the_one_before(tmp_path: Path, load: str) -> None:
    path = tmp_path / "labels"
    for name, seed in (("labels", 5), ("other", 6)):
        LabelEncoder(Raw(CLASSES)).encode(mixed_logits(ROWS, CLASSES, seed), tmp_path / name, progress=False)
    reading, waiting = LabelDecoder(path, load=load), LabelDecoder(path, load=load)
    expected, pickled = reading(SOME), pickle.dumps(reading)
    shutil.move(tmp_path / "other", path)
    # Who has begun to read goes on with the rows there were, whole; who comes later is told.
    assert torch.equal(reading(SOME), expected)
    with pytest.raises(Corrupt, match="the file was replaced after it was opened; open it anew"):
        waiting.read(SOME)
    del reading, waiting
    with pytest.raises(Corrupt, match="not the file that was pickled; open it anew"):
        pickle.loads(pickled)
    assert not torch.equal(LabelDecoder(path, load=load)(SOME), expected)


# Pickling


def test_a_decoder_pickles_small_and_is_itself_in_its_own_process() -> None:
    for kind in ("raw", "image"):
        decoder = LabelDecoder(file_of(kind))
        decoder(SOME, images=views_of(kind, SOME))
        assert len(pickle.dumps(decoder)) < 600
        assert len(pickle.dumps(decoder.read(SOME))) < 2500
        assert pickle.loads(pickle.dumps(decoder)) is decoder
        assert pickle.loads(pickle.dumps(decoder.read(SOME))).decoder is decoder


def test_a_second_decoder_of_the_file_does_not_stand_in_for_the_first() -> None:
    first = LabelDecoder(file_of("raw"))
    pickled = pickle.dumps(first.read(SOME))
    second = LabelDecoder(file_of("raw"))
    assert pickle.loads(pickle.dumps(second)) is second
    del second
    assert pickle.loads(pickled).decoder is first


def test_opening_and_reading_touch_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: pytest.fail("CUDA was initialised"))
    decoder = LabelDecoder(file_of("replay"), device="cuda")
    assert len(pickle.loads(pickle.dumps(decoder)).read(SOME)) == len(SOME)
    assert decoder.read(SOME).probs(T).device.type == "cpu"
    assert decoder.epochs == EPOCHS


def test_pinned_labels_are_packed_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils.data._utils.pin_memory import pin_memory

    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, *_: self.clone())
    decoder = LabelDecoder(file_of("raw"))
    _, labels = pin_memory((torch.zeros(6), decoder.read(SOME)))  # type: ignore[no-untyped-call]
    assert torch.equal(labels.probs(), decoder(SOME))
    assert labels.data.data_ptr() != decoder.read(SOME).data.data_ptr()
