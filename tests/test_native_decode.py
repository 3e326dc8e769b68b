"""Decoding in C++: the reference within stated bounds, the same bits however it is called, clear about wrong input."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import pytest
from conftest import simd_paths, ticks_inside

from vqlabel import _native, reference
from vqlabel.codecs.layout import Layout
from vqlabel.native_decode import NativeDecoder

Array = np.ndarray[Any, Any]
WORD = 2.0**-16  # of the largest input: what rounding it to 16 bits is off by, and a little more
# form, G, nbits, R, hidden, linear, stored
LAYOUTS = [
    ("residual", 0, 8, 5, 0, True, "int8"),
    ("residual", 1, 1, 7, 0, True, "int8"),
    ("residual", 3, 3, 19, 0, True, "int8"),
    ("product", 3, 8, 20, 0, True, "fp16"),
    ("residual", 3, 11, 16, 9, True, "fp16"),
    ("product", 3, 16, 5, 4, True, "int8"),
    ("product", 16, 8, 48, 17, True, "int8"),
    ("residual", 16, 4, 100, 0, True, "int8"),
    ("product", 32, 8, 33, 64, False, "int8"),
    ("residual", 2, 5, 700, 600, True, "int8"),
    ("residual", 0, 8, 3, 8, False, "fp16"),
]


def make(layout: Layout, C: int, seed: int = 0) -> dict[str, Array]:
    """Tensors of a file with this layout, random."""
    random = np.random.default_rng(seed)
    tensors: dict[str, Array] = {"bias": random.standard_normal(C).astype(np.float16)}

    def put(name: str, shape: tuple[int, ...], size: float) -> None:
        if layout.stored == "int8":
            tensors[name] = random.integers(-127, 128, shape).astype(np.int8)
            tensors[name + ".scale"] = (size / 70 * np.exp(random.standard_normal(shape[0]) / 2)).astype(np.float16)
        else:
            tensors[name] = (size * random.standard_normal(shape)).astype(np.float16)

    if layout.G:
        put("books", layout.book_shape, 1.0)
    put("weight", (C, layout.inputs), layout.inputs**-0.5)
    if layout.hidden:
        put("inner", (layout.hidden, layout.width), layout.width**-0.5)
        tensors["inner_bias"] = random.standard_normal(layout.hidden).astype(np.float16)
    return tensors


def layout_of(*sizes: Any) -> Layout:
    """Layout of these sizes; a product has groups of unequal size, in no order."""
    form, G, nbits, R, hidden, linear, stored = sizes
    random = np.random.default_rng(R)
    owner = random.permutation(np.concatenate([np.arange(G), random.integers(0, max(G, 1), R - G) // 2]))
    return Layout(form, G, nbits, R, hidden, linear, tuple(owner.tolist()) if form == "product" else (), stored)


def rows_of(layout: Layout, B: int, seed: int = 1) -> Array:
    """Packed rows of random codes."""
    codes = np.random.default_rng(seed).integers(0, layout.K, (B, layout.G))
    return reference.pack(codes.astype(reference.code_dtype(layout.nbits)), layout.nbits)


def guess_of(layout: Layout, B: int) -> tuple[Array, Array]:
    random = np.random.default_rng(2)
    spread = random.random((B, 1)).astype(np.float32) + np.float32(0.5)
    return random.standard_normal((B, layout.width)).astype(np.float32), spread


def weights(tensors: dict[str, Array], name: str) -> Array:
    return np.abs(tensors[name].astype(float) * tensors.get(name + ".scale", np.ones(1)).astype(float).reshape(-1, 1))


def latent(rows: Array, layout: Layout, tensors: dict[str, Array], guess: Any) -> Array:
    """The reference's h [B, R]: the logits of a decoder that shows it."""
    shown = {**tensors, "weight": np.eye(layout.width), "bias": np.zeros(layout.width)}
    shown.pop("weight.scale", None)
    return reference.decode(rows, {**layout.to_json(), "hidden": 0, "linear": True}, shown, *guess)


def bound(rows: Array, layout: Layout, tensors: dict[str, Array], guess: Any, tabled: bool) -> Array:
    """How far logits [B, C] may be off: by the rounding of the inputs of each layer, and a little for float32."""
    h, weight = latent(rows, layout, tensors, guess), weights(tensors, "weight")
    if tabled:
        reach = np.zeros(len(weight))
        for g in range(layout.G):
            own = np.array(layout.owner or [g] * layout.width) == g
            words = (
                weights(tensors, "books")
                if layout.owner
                else weights(tensors, "books").reshape(-1, layout.K, layout.width)[g].T
            )
            reach += (weight[:, own] @ words[own if layout.owner else slice(None)]).max(1)
        return np.tile(guess[1] * layout.G / 2 * reach / 31700 + 2e-6 * (1 + reach), (len(rows), 1))

    def product(size: Array, weight: Array, off: Array) -> Array:
        most = size.max(1, keepdims=True, initial=0)
        planes = size.sum(1, keepdims=True) * weight.max(1, initial=0) if layout.stored == "fp16" else 0.0
        return WORD * (most * weight.sum(1) + planes) + off @ weight.T + 1e-6 * (1 + size @ weight.T)

    parts, offs = ([np.abs(h)], [np.zeros_like(h)]) if layout.linear else ([], [])
    if layout.hidden:
        inner = weights(tensors, "inner")
        off = product(np.abs(h), inner, np.zeros_like(h))
        before = np.abs(h) @ inner.T + np.abs(tensors["inner_bias"].astype(float))
        parts.append(before)  # no less than what comes after
        offs.append(1.13 * off + 3e-7 * (1 + before))
    return product(np.concatenate(parts, 1), weight, np.concatenate(offs, 1))


@pytest.mark.parametrize("sizes", LAYOUTS, ids=str)
def test_logits_are_within_the_stated_bound_of_the_reference(simd: str, sizes: Any) -> None:
    layout = layout_of(*sizes)
    for C in (1, 2, 7, 8, 9, 100) if layout.width < 100 else (9,):
        tensors = make(layout, C)
        decoder = NativeDecoder(layout, tensors)
        for B in (0, 1, 5) if C < 100 else (69,):
            rows = rows_of(layout, B)
            for guess in (None, guess_of(layout, B)):
                given = (0.0, 1.0) if guess is None else guess
                expected = reference.decode(rows, layout.to_json(), tensors, *given)
                tabled = decoder._native.takes_tables(guess is not None)
                found = decoder.decode(rows, guess, output="logits", threads=1 + B % 3)
                assert found.dtype == np.float32
                assert found.shape == (B, C)
                assert (np.abs(found - expected) <= bound(rows, layout, tensors, given, tabled)).all()


def test_a_thousand_classes_are_as_close_as_half_precision() -> None:
    for sizes in (("residual", 4, 8, 48, 0, True, "int8"), ("product", 16, 8, 64, 160, True, "int8")):
        layout = layout_of(*sizes)
        tensors, rows = make(layout, 1000), rows_of(layout, 77)
        exact = reference.decode(rows, layout.to_json(), tensors)
        found = NativeDecoder(layout, tensors).decode(rows, output="logits")
        half = np.abs(exact.astype(np.float16) - exact)
        assert np.sqrt(np.mean((found - exact) ** 2)) < np.sqrt(np.mean(half**2)) * (0.5 if layout.hidden else 2)


def test_each_way_is_taken_where_it_is_meant_to_be() -> None:
    def ways(*sizes: Any) -> tuple[bool, bool]:
        layout = layout_of(*sizes)
        native = NativeDecoder(layout, make(layout, 100))._native
        return native.takes_tables(False), native.takes_tables(True)

    assert ways("residual", 4, 8, 48, 0, True, "int8") == (True, False)
    assert ways("product", 4, 8, 48, 0, True, "int8") == (True, False)
    assert ways("residual", 0, 8, 48, 0, True, "int8") == (False, False)
    assert ways("residual", 4, 8, 48, 1, True, "int8") == (False, False)
    assert ways("residual", 32, 8, 48, 0, True, "int8") == (False, False)
    assert ways("residual", 1, 16, 48, 0, True, "int8") == (False, False), "a table of 15 MB"


@pytest.mark.parametrize("sizes", [LAYOUTS[2], LAYOUTS[3], LAYOUTS[6], LAYOUTS[8]], ids=str)
@pytest.mark.parametrize("output", ["probs", "log_probs", "logits"])
def test_a_row_is_the_same_bits_however_it_is_decoded(sizes: Any, output: str) -> None:
    layout = layout_of(*sizes)
    tensors, rows, best = make(layout, 1000), rows_of(layout, 131), _native.simd()
    h0, spread = guess_of(layout, 131)
    for given in (False, True):
        decoder = NativeDecoder(layout, tensors)
        whole = decoder.decode(rows, (h0, spread) if given else None, output=output, temperature=3.0)
        for path in simd_paths():
            _native.use_simd(path)
            other = NativeDecoder(layout, tensors)  # with tables of its own
            for part in (slice(0, 1), slice(1, 10), slice(60, 131), slice(130, 131), slice(None)):
                for threads in (1, 3, 256):
                    guess = (h0[part], spread[part]) if given else None
                    found = other.decode(rows[part], guess, output=output, temperature=3.0, threads=threads)
                    np.testing.assert_array_equal(found, whole[part])
            _native.use_simd(best)


@pytest.mark.parametrize("T", [1e-15, 0.05, 1.0, 20.0, 1000.0, 1e15])
def test_softmax_is_within_float_rounding_at_any_temperature(simd: str, T: float) -> None:
    layout = layout_of("residual", 3, 4, 30, 0, True, "int8")
    for C in (1, 2, 15, 16, 17, 31, 32, 33, 63, 65, 1000):
        decoder, rows = NativeDecoder(layout, make(layout, C)), rows_of(layout, 9)
        logits = decoder.decode(rows, output="logits").astype(float)
        y = (logits - logits.max(1, keepdims=True)) / T
        expected = np.exp(y) / np.exp(y).sum(1, keepdims=True)
        probs = decoder.decode(rows, temperature=T)
        assert (np.abs(probs - expected) <= expected * (6e-7 + 3e-7 * np.abs(y)) + 1e-37).all()
        np.testing.assert_allclose(probs.sum(1), 1, atol=2e-6)
        logs = decoder.decode(rows, temperature=T, output="log_probs")
        exact = y - np.log(np.exp(y).sum(1, keepdims=True))
        assert (np.abs(logs - exact) <= 1e-6 + 3e-7 * np.abs(exact)).all()


def bias_alone(bias: Array) -> NativeDecoder:
    """A decoder whose logits are these halves, exactly."""
    layout = Layout("residual", 0, 8, 1)
    zero = {"weight": np.zeros((len(bias), 1), np.int8), "weight.scale": np.ones(len(bias), np.float16)}
    return NativeDecoder(layout, {**zero, "bias": bias.astype(np.float16)})


def test_exp_is_exact_to_three_parts_in_ten_million_plus_its_argument(simd: str) -> None:
    bias = np.concatenate([np.linspace(-76, 0, 3001), np.linspace(-1, 0, 2001), [-104, -200, -65504]])
    probs = bias_alone(bias).decode(np.zeros((1, 0), np.uint8))[0].astype(float)
    x = bias.astype(np.float16).astype(float)
    ratio = probs[x > -87] / probs[x == 0][0] / np.exp(x[x > -87]) - 1
    assert (np.abs(ratio) <= 4e-7 + 1.3e-7 * np.abs(x[x > -87])).all()
    assert (probs[x < -104] == 0).all()
    assert (np.diff(probs[np.argsort(x)]) >= -1e-6 * probs.max()).all()


def test_gelu_is_within_three_parts_in_ten_million(simd: str) -> None:
    layout = Layout("residual", 0, 8, 1, hidden=1, linear=False)  # one number a layer: its 16 bits are exact
    one, scale, zero = np.full((1, 1), 127, np.int8), np.full(1, 1 / 128, np.float16), np.zeros(1, np.float16)
    tensors = {"weight": one, "weight.scale": scale, "bias": zero, "inner": one, "inner.scale": scale}
    decoder = NativeDecoder(layout, {**tensors, "inner_bias": zero})
    x = np.concatenate([np.linspace(-12, 12, 4001), np.linspace(-1e-3, 1e-3, 101), [-1e6, 1e6, 0, 1e-35]])
    guess = (x[:, None].astype(np.float32), np.ones((len(x), 1), np.float32))
    found = decoder.decode(np.zeros((len(x), 0), np.uint8), guess, output="logits")[:, 0].astype(float)
    before = guess[0][:, 0].astype(float) * 127 / 128
    exact = np.array([v * math.erfc(-v / math.sqrt(2)) / 2 for v in before]) * 127 / 128
    assert (np.abs(found - exact) <= 3e-7 * (1 + np.abs(before))).all()


def test_half_precision_is_the_rounded_float(simd: str) -> None:
    bias = np.concatenate([np.linspace(-12, 0, 999), [-17, -20]])  # probabilities down to the smallest half and beyond
    decoder, empty = bias_alone(bias), np.zeros((3, 0), np.uint8)
    for output in ("probs", "log_probs", "logits"):
        out = np.zeros((3, len(bias)), np.float16)
        assert decoder.decode(empty, output=output, temperature=0.9, out=out) is out
        np.testing.assert_array_equal(out, decoder.decode(empty, output=output, temperature=0.9).astype(np.float16))


def test_what_half_precision_cannot_hold_is_an_error_that_names_the_row(simd: str) -> None:
    decoder = bias_alone(np.array([0, 100, -200]))
    h0, out = np.zeros((70, 1), np.float32), np.empty((70, 3), np.float16)
    rows, ones = np.zeros((70, 0), np.uint8), np.ones(70, np.float32)
    assert np.isfinite(decoder.decode(rows, temperature=1e-3, out=out)).all()
    with pytest.raises(ValueError, match="row 0 has log_probs that float16 cannot hold: beyond 65504"):
        decoder.decode(rows, output="log_probs", temperature=1e-3, out=out)
    h0[[67, 69]] = np.nan
    for threads in (1, 3):
        with pytest.raises(ValueError, match="row 67 has probs that float16 cannot hold.*use float32"):
            decoder.decode(rows, (h0, ones), out=out, threads=threads)


def test_a_guess_that_is_no_number_spoils_its_own_row_only(simd: str) -> None:
    layout = layout_of("product", 3, 8, 20, 9, True, "int8")
    decoder, rows = NativeDecoder(layout, make(layout, 33)), rows_of(layout, 12)
    h0, spread = guess_of(layout, 12)
    clean = decoder.decode(rows, (h0, spread))
    h0[3, 4], h0[5, 6], h0[6, 0] = np.nan, np.inf, -np.inf
    found = decoder.decode(rows, (h0, spread))
    assert np.isnan(found[[3, 5, 6]]).all()
    kept = [i for i in range(12) if i not in (3, 5, 6)]
    np.testing.assert_array_equal(found[kept], clean[kept])


@pytest.mark.parametrize("bits", [0x7FC00001, 0x7F800001, 0xFFFFFFFF])
def test_no_number_stays_none_whatever_its_bits(simd: str, bits: int) -> None:
    layout = layout_of("residual", 3, 4, 48, 0, True, "int8")
    decoder, rows, none = NativeDecoder(layout, make(layout, 33)), rows_of(layout, 9), np.uint32(bits)
    for which in (0, 1):
        guess = guess_of(layout, 9)
        guess[which].view(np.uint32)[4, 0] = none
        assert np.isnan(decoder.decode(rows, guess)).all(1).tolist() == [i == 4 for i in range(9)]
    spread, out = np.full(9, none).view(np.float32), np.empty((9, 33), np.float32)
    assert decoder._native.takes_tables(False)
    assert np.isnan(decoder._native.decode(rows, out, spread=spread)).all()


@pytest.mark.parametrize("output", ["probs", "log_probs", "logits"])
def test_nothing_is_written_beside_the_labels(simd: str, output: str) -> None:
    layout = layout_of("residual", 3, 4, 30, 0, True, "int8")
    for C in (1, 7, 31, 33, 100):
        decoder, rows = NativeDecoder(layout, make(layout, C)), rows_of(layout, 3)
        for dtype in (np.float32, np.float16):
            room = np.full(3 * C + 128, 7, dtype)
            decoder.decode(rows, output=output, out=room[64:-64].reshape(3, C))
            assert (room[:64] == 7).all()
            assert (room[-64:] == 7).all()


@pytest.mark.parametrize("R", [512, 513, 1100])
def test_the_largest_sums_do_not_overflow(simd: str, R: int) -> None:
    layout = Layout("residual", 0, 8, R)
    numbers = np.full((2, R), -128, np.int8)
    numbers[1] = 127
    tensors = {"weight": numbers, "weight.scale": np.ones(2, np.float16), "bias": np.zeros(2, np.float16)}
    h0 = np.full((5, R), 3, np.float32)
    found = NativeDecoder(layout, tensors).decode(
        np.zeros((5, 0), np.uint8), (h0, np.ones(5, np.float32)), output="logits"
    )
    np.testing.assert_allclose(found, np.tile([-384.0 * R, 381.0 * R], (5, 1)), rtol=1e-6)


def test_the_largest_sums_of_tables_do_not_overflow(simd: str) -> None:
    layout = Layout("residual", 8, 1, 48)
    tensors = {"books": np.full((16, 48), 7, np.float16), "weight": np.full((9, 48), -30, np.float16)}
    decoder = NativeDecoder(layout, {**tensors, "bias": np.zeros(9, np.float16)})
    assert decoder._native.takes_tables(False)
    found = decoder.decode(np.full((3, 1), 0xA5, np.uint8), output="logits")
    np.testing.assert_allclose(found, -30 * 7 * 48 * 8, rtol=1e-4)


def test_first_calls_from_many_threads_share_one_set_of_tables() -> None:
    layout = layout_of("residual", 4, 8, 48, 0, True, "int8")
    tensors, rows = make(layout, 300), rows_of(layout, 50)
    expected = NativeDecoder(layout, tensors).decode(rows)
    decoder, found = NativeDecoder(layout, tensors), [np.empty((50, 300), np.float32) for _ in range(6)]
    workers = [threading.Thread(target=decoder.decode, args=(rows,), kwargs={"out": out}) for out in found]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for out in found:
        np.testing.assert_array_equal(out, expected)


def test_lock_is_released() -> None:
    layout = layout_of("residual", 4, 8, 64, 64, True, "int8")
    decoder, rows, out = NativeDecoder(layout, make(layout, 1000)), rows_of(layout, 10_000), floats(10_000, 1000)
    assert ticks_inside(lambda: decoder.decode(rows, out=out))


def numbers(*shape: int) -> Array:
    return np.zeros(shape, np.int8)


def floats(*shape: int) -> Array:
    return np.zeros(shape, np.float32)


def owned(*books: int) -> Array:
    return np.array(books, np.int64)


BOOKS, LAYER, INNER = (
    floats(6, 5),
    (numbers(1, 4, 5), floats(1, 4), floats(4)),
    (numbers(1, 3, 5), floats(1, 3), floats(3)),
)
ROWS, OUT, READ_ONLY = np.zeros((2, 1), np.uint8), floats(2, 4), floats(2, 4)
READ_ONLY.flags.writeable = False


def new(sizes: Any = (3, 1, 5), books: Any = BOOKS, owner: Any = None, output: Any = LAYER, inner: Any = None) -> Any:
    return _native.Decoder(sizes, books, owner, output, inner)


def decode(rows: Any = ROWS, out: Any = OUT, **options: Any) -> Array:
    return new().decode(rows, out, **options)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: new((3, 1)), ValueError, r"sizes must be G, nbits and R, got \(3, 1\)"),
        (lambda: new((-1, 1, 5)), ValueError, "G must be 0 to 65536, got -1"),
        (lambda: new((3, 0, 5)), ValueError, "nbits must be 1 to 16, got 0"),
        (lambda: new((3, 17, 5)), ValueError, "nbits must be 1 to 16, got 17"),
        (lambda: new((3, 1, 0)), ValueError, "R must be 1 to 65536, got 0"),
        (lambda: new((4, 1, 5)), ValueError, r"books must have shape \(8, 5\), got \(6, 5\)"),
        (lambda: new((65536, 16, 65536)), ValueError, r"books must have shape \(4294967296, 65536\)"),
        (lambda: new(books=BOOKS.T), ValueError, "books must be contiguous"),
        (lambda: new(books=numbers(6, 5)), TypeError, "books must be float32, got int8"),
        (lambda: new(books=floats(5, 2), owner=owned(0, 1, 2, 3, 0)), ValueError, r"owner\[3\] is 3, but there are 3"),
        (lambda: new(books=floats(5, 2), owner=owned(0, 1, -1, 2, 0)), ValueError, r"owner\[2\] is -1, but"),
        (lambda: new(books=floats(5, 2), owner=owned(0, 1)), ValueError, r"owner must have shape \(5,\), got \(2,\)"),
        (lambda: new(output=LAYER[:2]), ValueError, "output must be the 3 arrays numbers, scale and bias, got 2"),
        (lambda: new(output=INNER, inner=LAYER), ValueError, "4 columns of the hidden layer, or 9 with .* got 5"),
        (lambda: new((3, 1, 4), floats(6, 4)), ValueError, "output numbers must have the 4 columns of h, got 5"),
        (lambda: new((3, 1, 3), floats(6, 3), inner=INNER), ValueError, "inner numbers must have the 3 columns of h"),
        (lambda: new(output=(numbers(0, 4, 5), *LAYER[1:])), ValueError, "at least one plane and one output"),
        (lambda: new(output=(numbers(1, 4, 5), floats(1, 3), floats(4))), ValueError, r"output scale must .* \(1, 4\)"),
        (lambda: new(output=(numbers(1, 4, 5), floats(1, 4), floats(3))), ValueError, r"output bias must .* \(4,\)"),
        (lambda: decode(ROWS[:, :0].copy()), ValueError, r"rows must have shape \(any, 1\), got \(2, 0\)"),
        (lambda: decode(ROWS.astype(int)), TypeError, "rows must be uint8, got int64"),
        (lambda: decode(out=floats(2, 5)), ValueError, r"out must have shape \(2, 4\), got \(2, 5\)"),
        (lambda: decode(out=floats(4, 2).T), ValueError, "out must be contiguous"),
        (lambda: decode(out=READ_ONLY), ValueError, "out is read-only"),
        (lambda: decode(out=OUT.astype(float)), TypeError, "out must be float32, got float64"),
        (lambda: decode(out=None), TypeError, "out must be a numpy array, got NoneType"),
        (lambda: decode(output="labels"), ValueError, "'probs', 'log_probs' or 'logits', got 'labels'"),
        (lambda: decode(temperature=0.0), ValueError, "temperature must be 1e-15 to 1e15, got 0.0"),
        (lambda: decode(temperature=-1.0), ValueError, "temperature must be 1e-15 to 1e15, got -1.0"),
        (lambda: decode(temperature=math.nan), ValueError, "temperature must be .* got nan"),
        (lambda: decode(temperature=math.inf), ValueError, "temperature must be .* got inf"),
        (lambda: decode(h0=floats(2, 4)), ValueError, r"h0 must have shape \(2, 5\), got \(2, 4\)"),
        (lambda: decode(spread=floats(3)), ValueError, r"spread must have shape \(2,\), got \(3,\)"),
        (lambda: decode(threads=0), ValueError, "threads must be 1 to 256, got 0"),
    ],
)
def test_wrong_arguments_are_named(call: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        call()
