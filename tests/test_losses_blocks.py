"""Losses that never hold all labels or logits: the same numbers, in blocks of rows, in bounded memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from decoder_parts import CLASSES, file_of, views_of
from torch.utils._python_dispatch import TorchDispatchMode

from vqlabel import LabelDecoder, blocks
from vqlabel.losses import distillation_loss, linear_distillation_loss
from vqlabel.wanted import KINDS as LOSSES

pytestmark = pytest.mark.usefixtures("one_thread")

SOME = np.array([0, 299, 61, 7, 7])
ALL = pytest.mark.parametrize("kind", LOSSES)
WIDTH = 6  # of hidden


@pytest.fixture
def two_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of two rows of float32."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 2 * 4 * CLASSES)


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return made.to(dtype).requires_grad_()


class Watched:
    """Counts the rows of logits that a path was asked for at once."""

    def __init__(self, decoder: LabelDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
        path, self.rows = decoder.path(torch.device("cpu")), list[int]()
        real = type(path).__call__

        def call(own: Any, rows: torch.Tensor, side: Any, wanted: Any) -> torch.Tensor:
            self.rows.append(len(rows))
            assert side is None or len(side) == len(rows)
            return real(own, rows, side, wanted)

        monkeypatch.setattr(type(path), "__call__", call)


# Losses of logits


@ALL
@pytest.mark.parametrize("labels", ["raw", "product", "replay", "image", "logits"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_blocks_change_nothing(
    kind: str, labels: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, two_rows: None
) -> None:
    images = None if labels == "logits" else views_of(labels, SOME)
    packed = drawn(5, CLASSES, seed=1) if labels == "logits" else LabelDecoder(file_of(labels)).read(SOME)
    student, weights = drawn(5, CLASSES, dtype=dtype), torch.linspace(-1, 2, 5)

    def found() -> tuple[torch.Tensor, torch.Tensor]:
        rows = distillation_loss(student, packed, 4.0, 2.0, kind, reduction="none", images=images)
        return rows.detach(), torch.autograd.grad((rows * weights).sum(), student)[0]

    apart = found()
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 2**26)
    for one, other in zip(apart, found(), strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=max(1e-5, torch.finfo(other.dtype).eps), atol=1e-6)


@pytest.mark.parametrize("labels", ["raw", "product", "classes", "image"])
def test_no_more_than_a_block_is_ever_decoded(labels: str, monkeypatch: pytest.MonkeyPatch, two_rows: None) -> None:
    decoder = LabelDecoder(file_of(labels))
    watched, packed = Watched(decoder, monkeypatch), decoder.read(SOME)
    loss = distillation_loss(drawn(5, CLASSES), packed, 4.0, images=views_of(labels, SOME))
    assert watched.rows == [2, 2, 1]
    loss.backward()  # type: ignore[no-untyped-call]
    assert watched.rows == [2, 2, 1] * 2


def test_small_batches_are_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = LabelDecoder(file_of("product"))
    watched, packed = Watched(decoder, monkeypatch), decoder.read(SOME)
    distillation_loss(drawn(5, CLASSES), packed, 4.0).backward()
    assert watched.rows == [5]


@ALL
def test_gradients_in_blocks_are_those_of_the_formulas(kind: str, two_rows: None) -> None:
    packed = LabelDecoder(file_of("classes")).read(SOME)
    assert torch.autograd.gradcheck(
        lambda s: distillation_loss(s, packed, 4.0, 2.0, kind, reduction="none"),
        drawn(5, CLASSES, dtype=torch.float64),
    )


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_row_larger_than_a_block_is_a_block(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1)
    decoder = LabelDecoder(file_of("product"))
    watched, packed = Watched(decoder, monkeypatch), decoder.read(SOME[:rows])
    assert distillation_loss(drawn(rows, CLASSES), packed, 4.0).isfinite()
    assert watched.rows == [1] * rows


class Largest(TorchDispatchMode):
    """The most numbers of any tensor that torch makes."""

    numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and not made._is_view():
            self.numbers = max(self.numbers, made.numel())
        return made


MANY = np.arange(64)


def test_losses_make_no_tensor_larger_than_a_block(two_rows: None) -> None:
    packed, student = LabelDecoder(file_of("product")).read(MANY), drawn(64, CLASSES)
    with Largest() as largest:
        loss = distillation_loss(student, packed, 4.0)
    assert largest.numbers <= 2 * CLASSES + len(MANY) * packed.data.shape[1]
    loss.backward()


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_layers_make_no_tensor_larger_than_a_block_and_their_gradients(reduction: str) -> None:
    packed = LabelDecoder(file_of("product")).read(MANY)
    hidden, weight = drawn(64, WIDTH), drawn(CLASSES, WIDTH)
    with Largest() as largest:
        linear_distillation_loss(hidden, weight, packed, 4.0, block=4, reduction=reduction).sum().backward()
    assert largest.numbers == hidden.numel() < len(MANY) * CLASSES


@pytest.mark.parametrize("four", [torch.tensor([[4.0]]), torch.tensor([4.0], dtype=torch.float64)])
def test_a_temperature_lends_no_shape_or_type(four: torch.Tensor, reduction: str, two_rows: None) -> None:
    teacher, (hidden, weight, _) = drawn(5, CLASSES, seed=1), layer(bias=False)

    def found(T: Any) -> list[torch.Tensor]:
        student = drawn(5, CLASSES)
        losses = (
            distillation_loss(student, teacher, T, T, reduction=reduction),
            linear_distillation_loss(hidden, weight, teacher, T, T, reduction=reduction, block=2),
        )
        gradients = [torch.autograd.grad(x.sum(), of)[0] for x, of in zip(losses, (student, hidden), strict=True)]
        return [*losses, *gradients]

    torch.testing.assert_close(found(four), found(4.0), rtol=0, atol=0)


# Losses of a last layer


def layer(bias: bool, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    b = drawn(CLASSES, dtype=dtype, seed=4) if bias else None
    return drawn(5, WIDTH, dtype=dtype, seed=2), drawn(CLASSES, WIDTH, dtype=dtype, seed=3), b


@pytest.fixture(params=["none", "sum", "mean"])
def reduction(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@ALL
@pytest.mark.parametrize("labels", ["topk, uniform tail", "product", "replay", "image", "logits"])
@pytest.mark.parametrize("block", [None, 1, 2, 5, 9])
def test_losses_of_a_layer_are_those_of_its_logits(kind: str, labels: str, block: int | None, reduction: str) -> None:
    images = None if labels == "logits" else views_of(labels, SOME)
    packed = drawn(5, CLASSES, seed=1) if labels == "logits" else LabelDecoder(file_of(labels)).read(SOME)
    hidden, weight, bias = layer(bias=block != 2)
    parts = [part for part in (hidden, weight, bias) if part is not None]
    options: dict[str, Any] = {"reduction": reduction, "images": images}
    apart = linear_distillation_loss(hidden, weight, packed, 4.0, 2.0, kind, bias=bias, block=block, **options)
    logits = torch.nn.functional.linear(hidden, weight, bias)
    whole = distillation_loss(logits, packed, 4.0, 2.0, kind, **options)
    torch.testing.assert_close(apart, whole)
    scale = torch.linspace(-1, 2, 5) if reduction == "none" else torch.tensor(3.0)
    atol = 3e-5 if labels == "image" else 1e-6  # convolutions of blocks of another size round otherwise
    for one, other in zip(*(torch.autograd.grad((r * scale).sum(), parts) for r in (apart, whole)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=atol)


@ALL
def test_gradients_of_a_layer_are_exact(kind: str, reduction: str) -> None:
    packed = LabelDecoder(file_of("product")).read(SOME)

    def loss(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = linear_distillation_loss(
            hidden, weight, packed, 4.0, 2.0, kind, bias=bias, reduction=reduction, block=2
        )
        return found

    assert torch.autograd.gradcheck(loss, layer(bias=True, dtype=torch.float64))


@pytest.mark.parametrize("learns", [(True, False, False), (False, True, False), (False, False, True), (False,) * 3])
def test_only_what_learns_gets_a_gradient(learns: tuple[bool, ...], reduction: str) -> None:
    packed, parts = LabelDecoder(file_of("product")).read(SOME), [part.detach() for part in layer(bias=True)]  # type: ignore[union-attr]
    for part, own in zip(parts, learns, strict=True):
        part.requires_grad_(own)
    hidden, weight, bias = parts
    loss = linear_distillation_loss(hidden, weight, packed, 4.0, bias=bias, reduction=reduction, block=2).sum()
    assert loss.requires_grad == any(learns)
    if any(learns):
        loss.backward()
    assert [part.grad is not None for part in parts] == list(learns)


def test_a_block_is_decoded_once_for_a_mean_and_never_more_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, (hidden, weight, _) = LabelDecoder(file_of("replay")), layer(bias=False)
    watched, packed = Watched(decoder, monkeypatch), decoder.read(SOME)
    linear_distillation_loss(hidden, weight, packed, 4.0, block=2).backward()
    assert watched.rows == [2, 2, 1]
    linear_distillation_loss(hidden, weight, packed, 4.0, block=2, reduction="none").sum().backward()
    assert watched.rows == [2, 2, 1] * 3


def test_a_mean_can_be_taken_back_twice() -> None:
    packed, (hidden, weight, _) = LabelDecoder(file_of("product")).read(SOME), layer(bias=False)
    loss = linear_distillation_loss(hidden, weight, packed, 4.0, block=2)
    first = torch.autograd.grad(loss, weight, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(loss, weight)[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_layers_in_16_bits_keep_small_gradients(dtype: torch.dtype) -> None:
    hidden, weight, bias = layer(bias=True, dtype=dtype)
    packed = LabelDecoder(file_of("product")).read(SOME)
    loss = linear_distillation_loss(hidden, weight, packed, 1.0, bias=bias, block=2)
    assert loss.dtype == torch.float32
    found = torch.autograd.grad(loss * 2.0**-12, weight)[0]
    assert found.dtype == dtype
    exact = [None if part is None else part.detach().double().requires_grad_() for part in (hidden, weight, bias)]
    truth = linear_distillation_loss(exact[0], exact[1], packed, 1.0, bias=exact[2])  # type: ignore[arg-type]
    wanted = torch.autograd.grad(truth * 2.0**-12, exact[1])[0]
    torch.testing.assert_close(found.double(), wanted, rtol=0.1, atol=float(wanted.abs().max()) / 50)


@pytest.mark.parametrize("cast", [False, True])
def test_gradients_in_fp16_do_not_end_where_fp16_does(cast: bool) -> None:
    rows, dtype = 4096, torch.float32 if cast else torch.float16
    hidden = torch.full((rows, 2), 40.0, dtype=dtype)
    weight, teacher = torch.zeros(4, 2, dtype=dtype, requires_grad=True), torch.tensor([[20.0, 0, 0, 0]] * rows)
    with torch.autocast("cpu", torch.float16, enabled=cast):
        loss = linear_distillation_loss(hidden, weight, teacher, 1.0)
    found = torch.autograd.grad(loss, weight)[0].float()
    torch.testing.assert_close(found[:, 0], torch.tensor([-30.0, 10, 10, 10]), rtol=1e-3, atol=0)


@ALL
@pytest.mark.parametrize("cast", [False, True])
@pytest.mark.parametrize("T", [1.0, 100.0])
def test_gradients_in_fp16_are_those_of_float64_with_many_classes_at_any_temperature(
    kind: str, cast: bool, T: float, reduction: str
) -> None:
    dtype, scale = torch.float32 if cast else torch.float16, 2.0**12  # that of a GradScaler
    hidden, weight, bias = (drawn(*shape, seed=5).detach().half() for shape in ((8, 32), (5000, 32), (5000,)))
    teacher = drawn(8, 5000, seed=6).detach()
    parts = [part.to(dtype).requires_grad_() for part in (hidden, weight / 8, bias)]
    with torch.autocast("cpu", torch.float16, enabled=cast):
        loss = linear_distillation_loss(*parts[:2], teacher, T, kind=kind, bias=parts[2], reduction=reduction, block=3)
    exact = [part.detach().double().requires_grad_() for part in parts]
    truth = distillation_loss(torch.nn.functional.linear(*exact), teacher, T, kind=kind, reduction=reduction)
    found = torch.autograd.grad(loss.sum() * scale, parts)
    for one, other in zip(found, torch.autograd.grad(truth.sum() * scale, exact), strict=True):
        assert (one - other).norm() <= 0.01 * other.norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("narrow", [False, True])
def test_autocast_of_a_layer_is_that_of_torch(reduction: str, dtype: torch.dtype, narrow: bool) -> None:
    packed, (hidden, weight, _) = LabelDecoder(file_of("product")).read(SOME), layer(bias=False)
    hidden = hidden.to(dtype) if narrow else hidden
    with torch.autocast("cpu", dtype):
        apart = linear_distillation_loss(hidden, weight, packed, 4.0, block=2, reduction=reduction)
        whole = distillation_loss(torch.nn.functional.linear(hidden, weight), packed, 4.0, reduction=reduction)
    torch.testing.assert_close(apart, whole)
    gradient = torch.autograd.grad(apart.sum(), weight)[0]
    assert gradient.dtype == torch.float32
    torch.testing.assert_close(gradient, torch.autograd.grad(whole.sum(), weight)[0], rtol=0.05, atol=1e-2)


def test_the_backward_pass_makes_the_products_of_the_forward_pass() -> None:
    packed, (hidden, weight, _) = LabelDecoder(file_of("product")).read(SOME), layer(bias=False)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_distillation_loss(hidden, weight, packed, 4.0, reduction="none")
        inside = torch.autograd.grad(loss.sum(), weight, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(loss.sum(), weight)[0], inside)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"hidden": torch.zeros(5)}, r"hidden must be floats \[B, d\], got torch.float32 \[5\]"),
        ({"hidden": torch.zeros(5, 6, dtype=torch.int64)}, r"hidden must be floats \[B, d\], got torch.int64"),
        ({"hidden": torch.zeros(4, 6)}, "4 rows of hidden meet labels of 5 rows"),
        ({"hidden": torch.zeros(5, 7)}, r"weight must be floats \[20, 7\], got torch.float32 \[20, 6\]"),
        ({"weight": torch.zeros(19, 6)}, r"weight must be floats \[20, 6\], got torch.float32 \[19, 6\]"),
        ({"weight": torch.zeros(24, 6)}, r"weight is for 24 classes, but the labels have 20.*pass weight\[:20\]"),
        ({"weight": torch.zeros(20, 6, device="meta")}, "weight is on meta, but hidden is on cpu"),
        ({"bias": torch.zeros(19)}, r"bias must be floats \[20\], got torch.float32 \[19\]"),
        ({"block": 0}, "block must be a whole number from 1"),
        ({"kind": "js"}, "kind must be one of kl, soft_ce, mse_logits"),
        ({"reduction": "batchmean"}, "reduction must be one of mean, sum, none"),
        ({"temperature": 0.0}, "temperature must be a finite number above 0"),
        ({"labels": torch.zeros(5)}, r"a teacher's logits \[B, C\], got torch.float32 \[5\]"),
    ],
)
def test_layers_that_do_not_fit_are_described(given: dict[str, Any], words: str) -> None:
    labels, (hidden, weight, _) = LabelDecoder(file_of("raw")).read(SOME), layer(bias=False)
    with pytest.raises(ValueError, match=words):
        linear_distillation_loss(**{"hidden": hidden, "weight": weight, "labels": labels, "temperature": 4.0, **given})


def test_layers_meet_what_labels_refuse() -> None:
    hidden, weight, _ = layer(bias=False)
    dropped = LabelDecoder(file_of("topk")).read(SOME)
    with pytest.raises(ValueError, match="these labels drop classes, which then have no logits to compare"):
        linear_distillation_loss(hidden, weight, dropped, 4.0, kind="mse_logits")
    seen = LabelDecoder(file_of("image")).read(SOME)
    with pytest.raises(ValueError, match="this prior looks at the images"):
        linear_distillation_loss(hidden, weight, seen, 4.0)
    with pytest.raises(ValueError, match="4 images were given for 5 labels"):
        linear_distillation_loss(hidden, weight, seen, 4.0, images=torch.zeros(4, 1, 4, 8))


def test_students_of_a_padded_vocabulary_are_told_what_to_do() -> None:
    labels = LabelDecoder(file_of("raw")).read(SOME)
    with pytest.raises(
        ValueError, match=r"has 24 classes, but the labels have 20; .* padding, pass logits\[..., :20\]"
    ):
        distillation_loss(torch.zeros(5, 24), labels, 4.0)
    with pytest.raises(ValueError, match="has 19 classes, but the labels have 20$"):
        distillation_loss(torch.zeros(5, 19), labels, 4.0)
    distillation_loss(torch.zeros(5, 24)[..., :20], labels, 4.0)


@pytest.mark.parametrize("reduced", ["sum", "none"])
def test_no_rows_are_a_batch_too(reduced: str) -> None:
    labels, (hidden, weight, _) = LabelDecoder(file_of("raw")).read([]), layer(bias=False)
    loss = linear_distillation_loss(hidden[:0], weight, labels, 4.0, reduction=reduced)
    loss.sum().backward()
    assert weight.grad is not None
    assert not weight.grad.any()
