"""Codec `vq+top`: what is corrected is exact, the rest keeps its proportions, on every path; and what is refused."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from decoder_parts import views_of
from encoder_parts import mixed_logits, sample_of, scene

from vqlabel import Corrupt, LabelDecoder, LabelEncoder, LabelFile, reference, reference_top
from vqlabel.codecs import corrections, load_codec
from vqlabel.codecs.fitting import fit
from vqlabel.codecs.hybrid import Hybrid
from vqlabel.codecs.options import FitOptions
from vqlabel.codecs.vq import VQ
from vqlabel.inspection import in_words
from vqlabel.losses import distillation_loss, linear_distillation_loss
from vqlabel.measure import kl
from vqlabel.paths import CorrectedPath, NativePath, PlainPath
from vqlabel.sequences import Sequences
from vqlabel.tokens import TokenInformation
from vqlabel.wanted import KINDS, Wanted

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES, ROWS = 20, 300
SOME = np.array([0, 299, 61, 7, 7])
SMALL = {"effort": 0.005, "width": 12, "nbits": 4, "bytes_per_label": 2, "hidden": 0, "temperatures": (1.0,)}
TOPS = pytest.mark.parametrize("top", [1, 2, 5, 19, 20])


def peaky(rows: int = ROWS, classes: int = CLASSES) -> torch.Tensor:
    return mixed_logits(rows, classes) * 2


@functools.cache
def fitted(top: int = 3, prior: str = "none") -> Hybrid:
    sample = sample_of(peaky(), prior)
    codec = fit(sample, FitOptions(**SMALL, top=top, prior=prior), sample)
    assert isinstance(codec, Hybrid)
    return codec


def drawn(rows: int, classes: int, seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed)) * scale


def corrected(teacher: torch.Tensor, decoded: torch.Tensor, top: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [B, C] after corrections, and the classes [B, top] that have them."""
    rows = torch.from_numpy(corrections.packed(teacher, decoded, top))
    found = corrections.correct(decoded.clone(), rows, top)
    return found, corrections.choose(teacher, decoded, top)


# Corrections


@pytest.mark.parametrize("classes", [2, 3, 9, 1000, 70_000])
@pytest.mark.parametrize("top", [1, 2, 64])
def test_corrections_are_those_of_the_twin(classes: int, top: int) -> None:
    top = min(top, classes)
    teacher, decoded = drawn(3, classes), drawn(3, classes, seed=1)
    rows = corrections.packed(teacher, decoded, top)
    bits = (classes - 1).bit_length()
    assert (rows.dtype, rows.shape) == (np.uint8, (3, top + (top * bits + 7) // 8))
    truth = reference_top.correct(decoded.double().numpy(), rows, top)
    np.testing.assert_allclose(np.exp(truth).sum(1), 1, rtol=1e-9)
    found = corrections.correct(decoded.clone(), torch.from_numpy(rows), top).log_softmax(1)
    np.testing.assert_allclose(found.numpy(), truth, rtol=1e-5, atol=1e-4)


@TOPS
def test_corrected_classes_get_their_probability_and_others_keep_their_proportions(top: int) -> None:
    teacher, decoded = drawn(200, CLASSES), drawn(200, CLASSES, seed=1)
    found, ids = corrected(teacher, decoded, top)
    wanted, p = teacher.softmax(1).gather(1, ids), found.softmax(1).gather(1, ids)
    half_a_step = (wanted.log().abs() / 512 + 1e-3).sqrt()
    assert ((p / wanted).log().abs() <= top * half_a_step).all()
    others = torch.ones_like(found, dtype=torch.bool).scatter_(1, ids, False)
    left, before = (x.masked_fill(~others, -torch.inf).log_softmax(1)[others] for x in (found, decoded))
    torch.testing.assert_close(left, before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gap", [5.0, 12.0, 25.0])
def test_what_a_sure_class_leaves_is_as_exact_as_itself(gap: float) -> None:
    teacher = drawn(50, 100, scale=1.0)
    teacher[:, 7] = teacher.logsumexp(1) + gap
    found, _ = corrected(teacher, drawn(50, 100, seed=1, scale=1.0), 2)
    wanted, rest = (x.double().log_softmax(1) for x in (teacher, found))
    others = torch.arange(100) != 7
    left, right = (x[:, others].logsumexp(1) for x in (wanted, rest))
    assert ((left - right).abs() <= (gap / 512) ** 0.5 + 0.01).all(), "half a step of the grid there"


def kl_after(teacher: torch.Tensor, decoded: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """KL [B] if these classes [B, m] had their probabilities exactly."""
    p, u = teacher.double().softmax(1), decoded.double().softmax(1)
    named = torch.zeros_like(p, dtype=torch.bool).scatter_(1, ids, True)
    left, held = (1 - (x * named).sum(1, keepdim=True) for x in (p, u))
    return torch.where(named, 0.0, p * (p / (u * left / held)).log()).sum(1)


@pytest.mark.parametrize("top", [1, 2, 4])
def test_classes_are_chosen_one_after_the_other_by_what_they_take_from_the_kl(top: int) -> None:
    teacher, decoded = drawn(40, 12), drawn(40, 12, seed=1)
    chosen = torch.zeros(40, 0, dtype=torch.int64)
    for _ in range(top):
        each = [torch.cat([chosen, torch.full((40, 1), c)], 1) for c in range(12)]
        found = torch.stack([kl_after(teacher, decoded, ids) for ids in each], 1)
        taken = torch.zeros_like(found, dtype=torch.bool).scatter_(1, chosen, True)
        chosen = torch.cat([chosen, found.masked_fill(taken, torch.inf).argmin(1, keepdim=True)], 1)
    assert torch.equal(corrections.choose(teacher, decoded, top), chosen.sort(1).values)


def test_one_after_the_other_is_nearly_the_best_choice() -> None:
    teacher, decoded = drawn(100, 10), drawn(100, 10, seed=1)
    pairs = [torch.tensor(pair).expand(100, 2) for pair in itertools.combinations(range(10), 2)]
    best = torch.stack([kl_after(teacher, decoded, ids) for ids in pairs]).amin(0)
    found = kl_after(teacher, decoded, corrections.choose(teacher, decoded, 2))
    assert found.mean() <= 1.05 * best.mean()


def test_values_rounded_by_themselves_cost_little() -> None:
    teacher, decoded = drawn(500, 200, scale=4.0), drawn(500, 200, seed=1, scale=4.0)
    for top in (1, 4, 16):
        found, ids = corrected(teacher, decoded, top)
        extra = kl(teacher.double(), found.double(), 1.0) - kl_after(teacher, decoded, ids)
        assert extra.mean() < 3e-4
        assert extra.max() < 1.5e-3


# Edges


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e3, 6e4])
@TOPS
def test_logits_of_any_size_give_finite_labels(scale: float, top: int) -> None:
    teacher, decoded = drawn(20, CLASSES, scale=1.0) * scale, drawn(20, CLASSES, seed=1) * min(scale, 30)
    teacher[3:6] = teacher[3:6].sign() * scale  # hardly two of these differ
    for other in (decoded, teacher.clone(), torch.zeros_like(decoded)):
        found, ids = corrected(teacher, other, top)
        assert found.isfinite().all()
        assert (ids.diff(dim=1) > 0).all()
        assert (kl(teacher.double(), found.double(), 1.0) <= kl(teacher.double(), other.double(), 1.0) + 1e-3).all()


def test_equal_classes_are_named_by_their_number() -> None:
    level = torch.zeros(2, 30)
    assert corrections.choose(level, level, 3).tolist() == [[0, 1, 2]] * 2
    teacher = level.clone()
    teacher[:, [9, 4, 17]] = 2.0
    assert corrections.choose(teacher, level, 2).tolist() == [[4, 9]] * 2


@pytest.mark.parametrize("classes", [2, 3, 20])
def test_corrections_of_all_classes_are_the_teacher(classes: int) -> None:
    teacher = drawn(50, classes)
    found, ids = corrected(teacher, torch.zeros(50, classes), classes)
    assert (ids == torch.arange(classes)).all()
    assert kl(teacher, found, 1.0).max() < 1e-3


@TOPS
def test_rows_have_the_size_that_was_promised(top: int) -> None:
    codec = fitted(top)
    assert codec.row_bytes == 2 + top + (5 * top + 7) // 8
    assert codec.row_bits == 8 * (2 + top) + 5 * top
    assert codec.fixed_bytes == codec.vq.fixed_bytes
    for count in (0, 1, 3):
        rows = codec.encode(peaky()[:count])
        assert (rows.dtype, rows.shape) == (np.uint8, (count, codec.row_bytes))
        decoded = codec.decode(rows)
        assert (decoded.dtype, decoded.shape) == (torch.float32, (count, CLASSES))


def test_a_row_is_that_of_its_codes_and_its_corrections() -> None:
    codec, x = fitted(3), peaky()
    rows, codes = codec.encode(x), codec.vq.encode(x)
    np.testing.assert_array_equal(rows[:, :2], codes)
    np.testing.assert_array_equal(codec.encode(x), rows, "again the same")
    expected = corrections.packed(x, codec.vq.decode(codes), 3)
    np.testing.assert_array_equal(rows[:, 2:], expected)


def test_corrections_pay_on_peaky_rows() -> None:
    x = peaky()
    kls = [kl(x, codec.decode(codec.encode(x)), 1.0).mean() for codec in (fitted(3).vq, fitted(1), fitted(3))]
    assert kls[0] > 5 * kls[1] > 10 * kls[2]


# Bytes


def test_the_bytes_are_these() -> None:
    rows = corrections.packed(torch.tensor([[0.0, 3.0, -1.0, 2.0, 1.0]]), torch.zeros(1, 5), 2)
    text = "91 91 19"
    assert rows.tobytes().hex() == text.replace(" ", "")
    assert f"`{text}`" in (ROOT / "CODECS.md").read_text()


@pytest.mark.parametrize("ids", [[5, 6], [3, 3], [4, 1], [0, 7]])
def test_impossible_ids_are_corrupt(ids: list[int]) -> None:
    rows = corrections.packed(drawn(3, 5), torch.zeros(3, 5), 2)
    rows[1, 2:] = reference.pack(np.array([ids], np.uint8), 3)[0]
    with pytest.raises(Corrupt, match="row 1 of these does not name 2 of 5 classes in rising order"):
        corrections.correct(torch.zeros(3, 5), torch.from_numpy(rows), 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"top": 0}, r"codec 'vq\+top': top must be a whole number from 1 to 20, got 0"),
        ({"top": 21}, "from 1 to 20, got 21"),
        ({"top": True}, "got True"),
        ({"top": "3"}, "got '3'"),
        ({"vq": None}, r"codec 'vq\+top': vq is None, not the layout of codes"),
        ({"vq": {"id": "vq"}}, "not the layout of codes"),
        ({"vq": {"form": "residual"}}, "codec 'vq' has no setting"),
        ({"ranks": True}, "has a setting 'ranks', which it does not know"),
        ({"prior": 3}, "PriorShape needs"),
    ],
)
def test_hostile_configs_are_corrupt(changes: dict[str, Any], words: str) -> None:
    codec = fitted()
    with pytest.raises(Corrupt, match=words):
        Hybrid.load(CLASSES, {**codec.config(), **changes}, codec.tensors().__getitem__, [])
    for missing in ("top", "vq", "prior"):
        config = {name: value for name, value in codec.config().items() if name != missing}
        with pytest.raises(Corrupt, match=f"has no setting '{missing}'"):
            Hybrid.load(CLASSES, config, codec.tensors().__getitem__, [])


@pytest.mark.parametrize("top", [-1, 65, 2.0])
def test_wrong_options_are_named(top: Any) -> None:
    with pytest.raises(ValueError, match=f"top must be a whole number from 0 to 64, got {top}"):
        FitOptions(top=top)
    with pytest.raises(ValueError, match="top is 21, but the labels have 20 classes to correct"):
        fit(sample_of(peaky()), FitOptions(**SMALL, top=21), sample_of(peaky()))


# Files and paths


@functools.cache
def file_of(folder: Path, prior: str) -> str:
    path = folder / f"{prior}.safetensors"
    LabelEncoder(fitted(3, prior), scene(CLASSES)).encode(peaky(), path, progress=False)
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hybrid")


PRIORS = pytest.mark.parametrize("prior", ["none", "classes", "image"])


@PRIORS
@pytest.mark.parametrize("output", ["probs", "log_probs", "logits"])
def test_labels_of_a_file_are_those_of_the_reference(folder: Path, prior: str, output: str) -> None:
    decoder, images = LabelDecoder(file_of(folder, prior)), views_of(prior, SOME)
    exact = LabelDecoder(file_of(folder, prior), backend="reference")
    truth = exact(SOME, 2.0, output, dtype=torch.float64, images=images)
    found = decoder(SOME, 2.0, output, images=images)
    assert (found.dtype, found.shape) == (torch.float32, (len(SOME), CLASSES))
    if output == "logits":  # up to a constant a row
        found, truth = (x - x.mean(1, keepdim=True) for x in (found, truth))
    torch.testing.assert_close(found.double(), truth, rtol=2**-9, atol=2**-8)
    assert decoder(SOME, dtype=torch.float16, images=images).dtype == torch.float16


@PRIORS
def test_paths_give_the_same_labels(folder: Path, prior: str) -> None:
    decoder, images = LabelDecoder(file_of(folder, prior)), views_of(prior, SOME)
    path, codec = decoder.path(torch.device("cpu")), load_codec(LabelFile(file_of(folder, prior)))
    assert isinstance(codec, Hybrid)
    assert isinstance(path, CorrectedPath)
    assert isinstance(path._codes, NativePath)
    plain = CorrectedPath(codec, PlainPath(codec.vq, torch.device("cpu")), exact=False)
    parts = decoder.parts(decoder.read(SOME), images)
    torch.testing.assert_close(plain(*parts, Wanted()), path(*parts, Wanted()), rtol=2**-9, atol=2**-9)
    by_codec = codec.decode(parts[0].numpy(), parts[1])
    torch.testing.assert_close(plain(*parts, Wanted("logits")), by_codec, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_those_of_the_decoded_labels(folder: Path, kind: str) -> None:
    decoder = LabelDecoder(file_of(folder, "classes"))
    packed, student = decoder.read(SOME), drawn(len(SOME), CLASSES, seed=4).requires_grad_()
    apart = distillation_loss(student, packed, 1.0, 2.0, kind)
    whole = distillation_loss(student, packed.logits(), 1.0, 2.0, kind)
    layer = linear_distillation_loss(student, torch.eye(CLASSES), packed, 1.0, 2.0, kind, block=2)
    for found in (apart, layer):
        torch.testing.assert_close(found, whole)
        one, other = (torch.autograd.grad(loss, student, retain_graph=True)[0] for loss in (found, whole))
        torch.testing.assert_close(one, other)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@PRIORS
def test_a_gpu_gives_the_same_labels(folder: Path, prior: str) -> None:
    decoder, images = LabelDecoder(file_of(folder, prior)), views_of(prior, SOME)
    there = decoder.read(SOME).to("cuda")
    found = there.probs(images=None if images is None else images.cuda())
    torch.testing.assert_close(found.cpu(), decoder(SOME, images=images), rtol=2**-8, atol=2**-8)


def test_an_encoder_is_fitted_saved_and_loaded(folder: Path, tmp_path: Path) -> None:
    encoder = LabelEncoder.fit(peaky().numpy(), top=3, held_out=50, progress=False, **SMALL)
    assert isinstance(encoder.codec, Hybrid)
    encoder.save(tmp_path / "codec")
    again = LabelEncoder.load(tmp_path / "codec")
    rows = peaky()[:40]
    np.testing.assert_array_equal(again.codec.encode(rows), encoder.codec.encode(rows))
    file = again.encode(peaky().numpy(), tmp_path / "labels", progress=False)
    assert file.metadata["codec"]["id"] == "vq+top"
    assert (
        in_words(file.metadata["codec"])
        == "4 codes of 4 bits from residual books, prior: none; then 3 corrected classes"
    )
    assert file.row_bytes == encoder.codec.row_bytes
    with pytest.raises(ValueError, match="a label file holds what decoding needs, not what encoding needs"):
        load_codec(file).encode(rows)


def test_a_rate_is_found_for_the_codes_with_their_corrections() -> None:
    sample, options = sample_of(peaky()), {**SMALL, "bytes_per_label": None}
    plain, hybrid = (fit(sample, FitOptions(**options, max_kl=0.05, top=top), sample) for top in (0, 4))
    assert isinstance(plain, VQ)
    assert isinstance(hybrid, Hybrid)
    assert hybrid.vq.row_bytes < plain.row_bytes


def test_labels_of_a_text_are_corrected_too(tmp_path: Path) -> None:
    text = np.arange(ROWS) * 7 % 11
    info = TokenInformation(text, Sequences([100, ROWS - 100]), before=2, after=1)
    encoder = LabelEncoder.fit(peaky().numpy(), side=info, prior="tokens", top=3, progress=False, **SMALL)
    encoder.encode(peaky().numpy(), tmp_path / "labels", progress=False)
    decoder = LabelDecoder(tmp_path / "labels")
    exact = LabelDecoder(tmp_path / "labels", backend="reference")(SOME, dtype=torch.float64)
    torch.testing.assert_close(decoder(SOME).double(), exact, rtol=2**-9, atol=2**-9)
    assert kl(peaky()[SOME], decoder(SOME, output="logits"), 1.0).max() < 0.05
    assert distillation_loss(drawn(5, CLASSES), decoder.read(SOME), 1.0).isfinite()
