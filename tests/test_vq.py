"""The vq codec: what was refitted is what is read, any layout decodes as NumPy does, and no file is believed."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_parts import IMAGES, mixed_logits, sample_of, scene

from vqlabel import Corrupt, LabelEncoder, LabelFile, _native, reference
from vqlabel.codecs import load_codec
from vqlabel.codecs.fitting import fit
from vqlabel.codecs.layout import Layout, PriorShape
from vqlabel.codecs.model import Decoder
from vqlabel.codecs.options import FitOptions
from vqlabel.codecs.priors import ClassPrior
from vqlabel.codecs.search import Search
from vqlabel.codecs.stored import restore, rounded, store
from vqlabel.codecs.vq import VQ
from vqlabel.known import REGIMES, Side
from vqlabel.side import SideInformation
from vqlabel.sources import open_source

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES, ROWS = 20, 700
KINDS: dict[str, dict[str, Any]] = {
    "residual": {"bytes_per_label": 2},
    "residual fp16": {"codebooks": 3, "nbits": 5, "stored": "fp16", "hidden": 0},
    "one book": {"codebooks": 1, "nbits": 9, "hidden": 0},
    "product": {"codebooks": 5, "nbits": 3, "form": "product", "hidden": 8},
    "a book for each dimension": {"codebooks": 12, "nbits": 2, "form": "product", "stored": "fp16"},
    "vqae": {"codebooks": 2, "nbits": 3, "form": "vqae"},
    "no codes": {"bytes_per_label": 0, "form": "product"},
    "classes": {"bytes_per_label": 1, "prior": "classes"},
    "classes, no codes": {"bytes_per_label": 0, "prior": "classes"},
    "replay": {"codebooks": 3, "nbits": 3, "form": "product", "prior": "replay"},
    "image": {"bytes_per_label": 1, "prior": "image", "stored": "fp16"},
}
ALL = pytest.mark.parametrize("kind", KINDS)


@functools.cache
def fitted(kind: str) -> VQ:
    options = FitOptions(**{"effort": 0.005, "width": 12, "nbits": 4, **KINDS[kind]})
    sample = sample_of(mixed_logits(ROWS, CLASSES), options.prior)
    return fit(sample, options, sample)


def side_of(kind: str, rows: int = ROWS) -> Side | None:
    return sample_of(mixed_logits(rows, CLASSES), KINDS[kind].get("prior", "none")).side


def random_codec(form: str, nbits: int, owner: tuple[int, ...], G: int, hidden: int = 0, linear: bool = True) -> VQ:
    """A codec of random weights that was never fitted."""
    layout = Layout(form, G, nbits, 5, hidden, linear, owner)
    decoder, generator = Decoder(7, layout, None), torch.Generator().manual_seed(nbits)
    for weight in decoder.parameters():
        weight.data.normal_(generator=generator)
    books = decoder.books.detach() if G else torch.zeros(layout.book_shape)
    search = Search(layout, torch.zeros(7), torch.eye(7)[:, :5], books, torch.ones(REGIMES), None)
    return VQ(7, layout, decoder, None, search)


def load(codec: VQ, config: dict[str, Any] | None = None, **tensors: Any) -> VQ:
    """The codec as a file with this config and these tensors in place of its own would have it; None: without it."""
    arrays = {**codec.tensors(), **codec.search_tensors(), **tensors}
    present = {name: array for name, array in arrays.items() if array is not None}
    return VQ.load(codec.classes, config or codec.config(), present.__getitem__, list(present))


# Weights


@pytest.mark.parametrize("kind", ["int8", "fp16"])
@pytest.mark.parametrize("shape", [(5, 7), (1, 1), (4, 3, 3, 3), (9,)])
def test_what_is_read_is_what_was_refitted(kind: str, shape: tuple[int, ...]) -> None:
    random = torch.Generator().manual_seed(0)
    for scale in (1.0, 1e3, 1e-4, 1e-5, 1e-7, 1e-12, 0.0):
        weight = torch.randn(shape, generator=random) * scale
        arrays = store({"w": weight}, kind)
        read = restore({"w": shape}, kind, arrays.__getitem__)["w"]
        assert torch.equal(read, rounded(weight, kind))
        if kind == "int8" and weight.ndim > 1:
            assert arrays["w"].dtype == np.int8
            step = weight.reshape(shape[0], -1).abs().amax(1) / 127
            error = (read - weight).reshape(shape[0], -1).abs().amax(1)
            assert (error <= 0.501 * step + 2.0**-24).all()
        else:
            torch.testing.assert_close(read, weight, rtol=2**-11, atol=2**-25)


@pytest.mark.parametrize("kind", ["int8", "fp16"])
def test_gradients_pass_the_rounding_unchanged(kind: str) -> None:
    weight = torch.randn(4, 5, requires_grad=True)
    (rounded(weight, kind) * torch.arange(5.0)).sum().backward()
    torch.testing.assert_close(weight.grad, torch.arange(5.0).expand(4, 5))


@pytest.mark.parametrize(("kind", "value"), [("fp16", 7e4), ("int8", 1e7), ("int8", np.nan), ("fp16", np.inf)])
def test_weights_that_cannot_be_stored_are_named(kind: str, value: float) -> None:
    with pytest.raises(ValueError, match=r"weight 'inner' reaches .* is the most that can be stored"):
        store({"inner": torch.full((2, 2), value)}, kind)


def test_weights_that_another_program_rounded_are_kept_as_they_are() -> None:
    codec = fitted("residual")
    numbers = np.random.default_rng(0).integers(-128, 101, codec.tensors()["weight"].shape).astype(np.int8)
    again = load(codec, weight=numbers)
    scale = codec.tensors()["weight.scale"].astype(np.float32)
    assert torch.equal(again.decoder.weight, torch.from_numpy(numbers * scale[:, None]))
    np.testing.assert_array_equal(again.tensors()["weight"], numbers)


# Files and decoding


@ALL
def test_a_file_decodes_to_what_the_fitted_codec_decodes_to(kind: str, tmp_path: Path) -> None:
    codec, data = fitted(kind), mixed_logits(ROWS, CLASSES)
    encoder = LabelEncoder(codec, scene(CLASSES))
    file, side = encoder.encode(data, tmp_path / "labels"), side_of(kind)
    loaded = load_codec(file)
    assert isinstance(loaded, VQ)
    assert loaded.config() == codec.config()
    assert not [name for name in file.tensor_names if name.startswith("search.")]
    rows = file.gather(np.arange(ROWS))
    assert torch.equal(loaded.decode(rows, side), codec.decode(rows, side))
    assert rows.shape == (ROWS, codec.row_bytes)
    encoder.save(tmp_path / "codec")
    again = LabelEncoder.load(tmp_path / "codec", scene(CLASSES).views)
    assert Path(again.encode(data, tmp_path / "again").path).read_bytes() == Path(file.path).read_bytes()
    batches = (data[start : start + 97] for start in range(0, ROWS, 97))
    other = encoder.encode(open_source(batches, rows=ROWS), tmp_path / "batches")
    assert Path(other.path).read_bytes() == Path(file.path).read_bytes()


def off_the_reference(codec: VQ, rows: np.ndarray[Any, Any], side: Side | None = None) -> tuple[float, float]:
    """How far logits are off: by float64 relative to them, by float32 relative to what torch itself is off."""
    expected = [0.0, 1.0]
    if codec.decoder.prior is not None:
        assert side is not None
        guess, spread = codec.decoder.guess(side, len(rows))
        expected = [guess.double().numpy(), spread.double().numpy()]  # type: ignore[list-item]
    truth = torch.from_numpy(reference.decode(rows, codec.config(), codec.tensors(), *expected))
    exact = load(codec).decoder.double()
    codes = torch.from_numpy(reference.unpack(rows, codec.layout.nbits, codec.layout.G).astype(np.int64))
    h = torch.as_tensor(expected[0]) + torch.as_tensor(expected[1]) * exact.latent(codes)
    budget = 2.0**-22 * float(truth.abs().max()) * codec.layout.inputs**0.5
    in_double = (exact.expand(h) - truth).abs() / (1 + truth.abs())
    return float(in_double.max()), float((codec.decode(rows, side) - truth).abs().max()) / budget


@ALL
def test_decode_is_the_reference(kind: str) -> None:
    codec, data, side = fitted(kind), mixed_logits(ROWS, CLASSES), side_of(kind)
    in_double, in_single = off_the_reference(codec, codec.encode(data, side), side)
    assert in_double <= 1e-10
    assert in_single <= 1


@pytest.mark.parametrize("nbits", range(1, 17))
def test_every_width_and_form_decodes_to_the_nearest_words(nbits: int) -> None:
    layouts = [
        ("residual", (), 1, 0, True),
        ("product", (0, 1, 0, 1, 1), 2, 6, False),
        ("product", (0,) * 5, 1, 0, True),
    ]
    if nbits < 9:
        layouts += [("residual", (), 3, 4, True), ("product", (4, 2, 0, 1, 3), 5, 0, True)]
    for form, owner, G, hidden, linear in layouts:
        codec = random_codec(form, nbits, owner, G, hidden, linear)
        data = torch.randn(40, 7, generator=torch.Generator().manual_seed(1))
        rows = codec.encode(data)
        assert rows.shape == (40, -(-G * nbits // 8))
        for packed in (rows, np.random.default_rng(0).integers(0, 256, rows.shape).astype(np.uint8)):
            in_double, in_single = off_the_reference(codec, packed)
            assert in_double <= 1e-10
            assert in_single <= 1
        if form == "product":
            h = (data - data.mean(1, keepdim=True))[:, :5].double()
            books = codec.search.books.double() if codec.search else torch.empty(0)
            codes = reference.unpack(rows, nbits, G).astype(int)
            for g in range(G):
                own = [r for r in range(5) if owner[r] == g]
                distances = torch.cdist(h[:, own], books[own].T)
                found = distances.gather(1, torch.from_numpy(codes[:, g : g + 1]))[:, 0]
                torch.testing.assert_close(found, distances.amin(1), rtol=1e-5, atol=1e-5)


@ALL
def test_codes_do_not_depend_on_the_number_of_threads(kind: str) -> None:
    codec, data, side = fitted(kind), mixed_logits(ROWS, CLASSES), side_of(kind)
    once = codec.encode(data, side)
    torch.set_num_threads(2)
    try:
        np.testing.assert_array_equal(codec.encode(data, side), once)
    finally:
        torch.set_num_threads(1)


@ALL
def test_no_rows_and_one_row_are_coded(kind: str) -> None:
    codec, data = fitted(kind), mixed_logits(1, CLASSES)
    for count in (0, 1):
        side = side_of(kind, 1)
        side = side[:count] if side else None
        rows = codec.encode(data[:count], side)
        assert rows.shape == (count, codec.row_bytes)
        assert codec.decode(rows, side).shape == (count, CLASSES)


def test_loading_leaves_the_user_s_random_numbers() -> None:
    state = torch.get_rng_state()
    load(fitted("image"))
    assert torch.equal(state, torch.get_rng_state())


def test_the_class_prior_in_c_is_the_one_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    codec, side = fitted("classes"), side_of("classes")
    assert side is not None
    with torch.enable_grad():
        slow, _ = codec.decoder.guess(side, ROWS)
    monkeypatch.setattr(ClassPrior, "forward", lambda *_: pytest.fail("torch's path was taken"))
    with torch.no_grad():
        fast, _ = codec.decoder.guess(side, ROWS)
        strided = side[torch.arange(ROWS).flip(0)]
        assert torch.equal(codec.decoder.guess(strided, ROWS)[0], fast.flip(0))
    torch.testing.assert_close(fast, slow, rtol=2**-22, atol=2**-22 * float(slow.abs().max()))
    monkeypatch.setattr(_native, "class_prior", lambda *_: pytest.fail("C++ has no gradients"))
    with torch.enable_grad(), pytest.raises(pytest.fail.Exception, match="torch's path"):
        codec.decoder.guess(side, ROWS)


# What users get wrong


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@ALL
def test_a_bad_row_is_named(kind: str, bad: float) -> None:
    data = mixed_logits(9, CLASSES)
    data[4, 2] = bad
    with pytest.raises(ValueError, match=rf"logits\[4, 2\] is {bad}, but logits must be finite"):
        fitted(kind).encode(data, side_of(kind, 9))


def test_huge_rows_are_coded_and_decode_to_numbers() -> None:
    for kind in ("residual", "product"):
        rows = fitted(kind).encode(mixed_logits(9, CLASSES) * 1e30)
        assert fitted(kind).decode(rows).isfinite().all()


def changed(side: Side, **columns: Any) -> Side:
    return dataclasses.replace(side, **columns)


def test_wrong_rows_and_wrong_side_information_are_told() -> None:
    data, codec = mixed_logits(ROWS, CLASSES), fitted("image")
    side = side_of("image")
    assert side is not None
    rows = codec.encode(data, side)
    far = torch.full((ROWS,), IMAGES)
    wrong: list[tuple[Side | None, str]] = [
        (None, "these labels lean on side information .*: pass side="),
        (side[:5], f"side information of 5 rows was given for {ROWS}"),
        (changed(side, partners=far), f"row 0 is of image {IMAGES}, but this prior knows 0 to {IMAGES - 1}"),
        (changed(side, images=-far), f"row 0 is of image -{IMAGES}"),
        (changed(side, own=far), f"row 0 is of class {IMAGES}, but this prior knows 0 to {CLASSES - 1}"),
        (changed(side, features=side.features[:, :5]), "looks at 17 features of a row, but the side information has 5"),
        (changed(side, views=None), r"looks at views \[B, 1, height, width\], but there are none"),
        (changed(side, views=torch.zeros(ROWS, 3, 4, 8)), r"there are views of shape \[700, 3, 4, 8\]"),
    ]
    for about, words in wrong:
        with pytest.raises(ValueError, match=words):
            codec.decode(rows, about)
        with pytest.raises(ValueError, match=words):
            codec.encode(data, about)
    assert fitted("classes").decode(fitted("classes").encode(data, side), changed(side, images=far)).shape == data.shape
    with pytest.raises(ValueError, match=r"rows must be uint8 \[B, 1\], got uint8 \[2, 2\]"):
        codec.decode(np.zeros((2, 2), np.uint8), side)
    with pytest.raises(ValueError, match="image 19 is of class 20, but the logits have 20 classes"):
        LabelEncoder(codec, SideInformation(np.arange(IMAGES) % 20 + np.arange(IMAGES) // 19))


def test_side_information_of_another_set_is_told_when_encoding(tmp_path: Path) -> None:
    other = SideInformation(np.arange(61) % CLASSES)
    with pytest.raises(ValueError, match="its prior knows 60 images, but it lists the classes of 61"):
        LabelEncoder(fitted("replay"), other).encode(mixed_logits(90, CLASSES), tmp_path / "a")


# What files get wrong

WRONG: dict[str, list[Any]] = {
    "form": ["", "vqae", None, 3, ["product"], {}],
    "G": [-1, 2**16 + 1, 10**30, 1.0, True, None, "4", [4]],
    "nbits": [0, 17, 24, -3, 4.0, False, None, "4"],
    "width": [0, -1, 2**16 + 1, 2**62, 12.0, None, "12", [12]],
    "hidden": [-1, 2**16 + 1, 2**62, 0.5, None, True, "8"],
    "linear": [None, 0, 1, "true", []],
    "owner": [None, 0, "00000", [], [0] * 11, [0] * 12, [5] * 12, [-1] * 12, [0.0] * 12, [[0]] * 12, {"0": 1}],
    "stored": ["fp32", "", None, 8, ["int8"]],
    "prior": [1, "classes", [], {}, True],
}
WRONG_PRIOR: dict[str, list[Any]] = {
    "tier": ["none", "", None, 1, ["replay"], "image", "classes, replay"],
    "classes": [0, -1, 19, 21, 2**31 + 1, 20.0, None, "20", [20]],
    "images": [0, -1, 2**31 + 1, 60.0, None, "60", True],
    **{name: [0, -1, 2**16 + 1, 8.0, None, "8", [8]] for name in ("embedding", "identity", "hidden", "pixels")},
    "width": [0, -1, 13, 2**62, 12.0, None, "12"],
    "features": [-1, 2**16 + 1, 17.0, None, "17"],
    "channels": [-1, 1, 2**16 + 1, 0.0, None, "0", False],
}


@pytest.mark.parametrize("name", [*WRONG, *(f"prior.{name}" for name in WRONG_PRIOR)])
def test_hostile_settings_are_corrupt(name: str) -> None:
    codec = fitted("product" if not name.startswith("prior.") else "replay")
    config = codec.config()
    place, values = (config["prior"], WRONG_PRIOR) if name.startswith("prior.") else (config, WRONG)
    field = name.removeprefix("prior.")
    kept = place.pop(field)
    with pytest.raises(Corrupt, match=f"{field}"):
        load(codec, config)
    for value in values[field]:
        place[field] = value
        with pytest.raises(Corrupt, match="codec 'vq'"):
            load(codec, config)
    place[field] = kept
    for stranger in (config, place):
        stranger["colour"] = 1
        with pytest.raises(Corrupt, match="colour"):
            load(codec, config)
        del stranger["colour"]
    assert load(codec, config).config() == codec.config()


@pytest.mark.parametrize("kind", ["residual", "product", "vqae", "classes", "replay", "image"])
def test_every_tensor_must_be_there_and_be_what_the_settings_say(kind: str) -> None:
    codec = fitted(kind)
    for name, array in {**codec.tensors(), **codec.search_tensors()}.items():
        if name != "search.basis":  # without it there is no search: the file of labels
            with pytest.raises(Corrupt, match=f"codec tensor '{name}' is missing"):
                load(codec, **{name: None})
        wrong = [array[:-1], array[None], array.astype(np.float64), array.astype(np.uint8), array.T[..., None]]
        for other in wrong:
            with pytest.raises(Corrupt, match=f"codec tensor '{name}' is .*, not "):
                load(codec, **{name: other})
        if array.dtype.kind == "f":
            for bad in (np.nan, np.inf):
                spoiled = array.copy()
                spoiled.flat[-1] = bad
                with pytest.raises(Corrupt, match=f"codec tensor '{name}' holds a number that is not finite"):
                    load(codec, **{name: spoiled})


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("residual", {"G": 2**16, "nbits": 16, "width": 2**16, "hidden": 2**16}),
        ("product", {"nbits": 16, "width": 2**16, "owner": [r % 5 for r in range(2**16)]}),
        ("product", {"G": 2**16, "nbits": 16, "width": 2**16, "owner": list(range(2**16))}),
        ("image", {"prior": {"images": 2**31, "identity": 2**16}}),
        ("image", {"prior": {"hidden": 2**16, "pixels": 2**16, "channels": 2**16, "embedding": 2**16}}),
    ],
)
def test_sizes_that_no_memory_holds_are_corrupt_at_once(kind: str, sizes: dict[str, Any]) -> None:
    codec = fitted(kind)
    config = codec.config() | sizes
    if "prior" in sizes:
        config["prior"] = codec.config()["prior"] | sizes["prior"]
    with pytest.raises(Corrupt, match="codec tensor"):
        load(codec, config)
    layout = Layout.from_json({name: config[name] for name in Layout.__dataclass_fields__})
    shape = config["prior"] and PriorShape.from_json(config["prior"])
    with pytest.raises(Corrupt, match=r"codec tensor 'search\."):
        Search.load(CLASSES, layout, shape, codec.search_tensors().__getitem__)


def test_a_file_with_a_hostile_config_is_refused_by_name(tmp_path: Path) -> None:
    codec = fitted("product")
    config = {**codec.config(), "width": 2**16, "owner": [r % 5 for r in range(2**16)]}
    metadata = {"codec": config, "classes": CLASSES}
    LabelFile.create(tmp_path / "a", rows=0, row_bytes=2, tensors=codec.tensors(), metadata=metadata).close()
    with pytest.raises(Corrupt, match=r"a: codec tensor 'books' is int8 \[12, 8\], not i1 \[65536, 8\]"):
        load_codec(LabelFile(tmp_path / "a"))
