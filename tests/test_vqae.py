"""form="vqae": encoder, books and decoder that were trained together, and what of them a file holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from encoder_parts import sample_of, teacher_logits

from vqlabel import Corrupt, LabelEncoder, LabelFile
from vqlabel.codecs import fitting, load_codec
from vqlabel.codecs.foundation import Foundation, build
from vqlabel.codecs.layout import Layout
from vqlabel.codecs.model import Decoder
from vqlabel.codecs.options import FitOptions
from vqlabel.codecs.sample import Sample
from vqlabel.codecs.search import Search
from vqlabel.codecs.vq import VQ
from vqlabel.codecs.vqae import PATIENCE, Trainer, narrowed
from vqlabel.measure import measure

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS, CLASSES = 3000, 20
FIT = FitOptions(bytes_per_label=2, nbits=4, form="vqae", width=16, effort=0.1)


def centred(rows: int, classes: int = CLASSES) -> torch.Tensor:
    """Logits with something to be learned, more than a linear decoder can say."""
    logits = torch.from_numpy(teacher_logits(rows, classes)).relu()
    return logits - logits.mean(1, keepdim=True)


@pytest.fixture(scope="module")
def rows() -> tuple[Sample, Sample]:
    """Rows to fit on and rows to judge by."""
    logits = centred(ROWS)
    return sample_of(logits[500:]), sample_of(logits[:500])


@pytest.fixture(scope="module")
def fitted(rows: tuple[Sample, Sample]) -> VQ:
    """After training."""
    return fitting.fit(rows[0], FIT, rows[1])


def test_training_lowers_the_kl_of_rows_it_has_not_seen(
    rows: tuple[Sample, Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "REFIT_STEPS", 0)
    found = {}
    for steps in (0, 1500):
        monkeypatch.setattr(fitting, "STEPS", steps)
        found[steps] = measure(fitting.fit(rows[0], FIT, rows[1]), rows[1], (20.0,))["kl"]["20"]
    assert found[1500] < 0.9 * found[0], found


def test_the_start_is_that_of_product_books(rows: tuple[Sample, Sample]) -> None:
    still = FitOptions(bytes_per_label=2, nbits=4, form="vqae", width=16, effort=0, stored="fp16")
    product = FitOptions(bytes_per_label=2, nbits=4, form="product", width=16, effort=0, stored="fp16")
    pair = [fitting.fit(rows[0], options, rows[1]) for options in (still, product)]
    labels = [codec.decode(codec.encode(rows[1].logits)) for codec in pair]
    torch.testing.assert_close(labels[0], labels[1], atol=0.02, rtol=0.01)


def parts(sample: Sample, books: torch.Tensor, layout: Layout) -> tuple[Search, Decoder, Foundation]:
    foundation = narrowed(build(sample, FIT, lambda _: None), layout.width)
    spectrum = foundation.spectrum
    decoder = Decoder(sample.classes, layout, None)
    decoder.books.data.copy_(books)
    return Search(layout, spectrum.mean, foundation.basis, books, foundation.spread, None), decoder, foundation


def test_codewords_that_nobody_uses_get_a_new_place(rows: tuple[Sample, Sample]) -> None:
    layout = Layout("product", 2, 3, 4, 8, False, (0, 1, 0, 1))
    books = torch.full((4, 8), 1e4)
    books[:, 0] = 0  # the nearest of both books, always
    search, decoder, foundation = parts(rows[0], books, layout)
    trainer = Trainer(search, decoder, foundation, (20.0,), [1.0], 0)
    batches = trainer.watched(torch.arange(100) for _ in range(PATIENCE + 1))
    for _ in range(PATIENCE):
        trainer.loss(next(batches))
    assert float(trainer.decoder.books.detach().max()) == 1e4
    next(batches)
    moved = trainer.decoder.books.detach()
    assert torch.equal(moved[:, 0], books[:, 0])
    latent = trainer.latent(rows[0].logits).detach()
    for own in ([0, 2], [1, 3]):
        nearest = (moved[own, 1:].T[:, None] - latent[None, :, own]).abs().amax(2).amin(1)
        torch.testing.assert_close(nearest, torch.zeros(7), atol=1e-4, rtol=0)
    assert len(trainer.search().codes(latent)[:, 0].unique()) == 8


def test_a_label_file_does_not_hold_the_encoder(fitted: VQ, tmp_path: Path) -> None:
    encoder = LabelEncoder(fitted)
    data = teacher_logits(ROWS, CLASSES)
    file = encoder.encode(data, tmp_path / "labels", progress=False)
    assert not [name for name in file.tensor_names if name.startswith("search")]
    encoder.save(tmp_path / "kept")
    assert "search.encoder.inner" in LabelFile(tmp_path / "kept").tensor_names
    loaded = LabelEncoder.load(tmp_path / "kept")
    again = loaded.encode(data, tmp_path / "again", progress=False)
    assert Path(again.path).read_bytes() == Path(file.path).read_bytes()


def test_a_decoder_without_a_linear_part_comes_back_from_a_file(fitted: VQ, tmp_path: Path) -> None:
    assert not fitted.layout.linear
    assert fitted.layout.form == "product"
    assert fitted.layout.width == min(16, 4 * fitted.layout.G)
    data = teacher_logits(100, CLASSES)
    file = LabelEncoder(fitted).encode(data, tmp_path / "labels", progress=False)
    codec = load_codec(file)
    assert torch.equal(codec.decode(file.gather(range(100))), fitted.decode(fitted.encode(torch.from_numpy(data))))


def test_an_encoder_of_the_wrong_shape_is_refused(fitted: VQ) -> None:
    arrays = {**fitted.tensors(), **fitted.search_tensors()}
    arrays["search.encoder.outer"] = arrays["search.encoder.outer"][:, 1:]
    with pytest.raises(Corrupt, match="search.encoder.outer"):
        VQ.load(CLASSES, fitted.config(), arrays.__getitem__, list(arrays))


def test_the_same_seed_gives_the_same_codec(fitted: VQ, rows: tuple[Sample, Sample]) -> None:
    again = fitting.fit(rows[0], FIT, rows[1])
    for before, after in ((fitted.tensors(), again.tensors()), (fitted.search_tensors(), again.search_tensors())):
        assert before.keys() == after.keys()
        assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_prior_is_refused() -> None:
    with pytest.raises(ValueError, match="form 'vqae' takes prior 'none', got 'classes'"):
        FitOptions(form="vqae", prior="classes")


@pytest.mark.parametrize(("count", "classes"), [(1, 5), (3, 20), (40, 2), (200, 2)])
def test_little_to_learn_from_is_no_reason_to_fail(count: int, classes: int) -> None:
    sample = sample_of(centred(count, classes))
    options = FitOptions(codebooks=1, nbits=6, form="vqae", effort=0.05)
    codec = fitting.fit(sample, options, sample)
    assert torch.isfinite(codec.decode(codec.encode(sample.logits))).all()
    assert measure(codec, sample, (20.0,))["kl"]["20"] < 1e-2


def test_constant_rows_and_no_books_survive() -> None:
    sample = sample_of(torch.zeros(50, 5))
    for codebooks in (0, 1):
        codec = fitting.fit(sample, FitOptions(codebooks=codebooks, form="vqae", effort=0.05), sample)
        assert measure(codec, sample)["kl"]["1"] < 1e-6
