"""The prior of text: windows of tokens, and labels that lean on them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import pytest
import torch

from vqlabel import Corrupt, LabelDecoder, LabelEncoder
from vqlabel.codecs.layout import PriorShape
from vqlabel.codecs.priors import make_prior
from vqlabel.codecs.raw import Raw
from vqlabel.sequences import Sequences
from vqlabel.side import SideInformation
from vqlabel.tokens import TokenInformation, TokenSide

C, LENGTHS = 12, [40, 0, 7, 300, 1, 900]
SEQUENCES = Sequences(LENGTHS)
TOKENS = np.random.default_rng(3).integers(0, C, SEQUENCES.total)

pytestmark = pytest.mark.usefixtures("one_thread")


def logits_of(rows: Any, info: TokenInformation) -> torch.Tensor:
    """Logits that follow from the tokens around a position, and a little from nothing."""
    table = torch.randn(info.features, C + 1, C, generator=torch.Generator().manual_seed(1))
    window = torch.from_numpy(info.window(rows)) + 1
    noise = torch.randn(SEQUENCES.total, C, generator=torch.Generator().manual_seed(2))
    return sum(table[k, window[:, k]] for k in range(info.features)) + 0.3 * noise[torch.from_numpy(np.asarray(rows))]


@pytest.fixture(scope="module")
def encoder() -> LabelEncoder:
    info = TokenInformation(TOKENS, SEQUENCES, before=2, after=1)
    logits = logits_of(np.arange(SEQUENCES.total), info)
    sizes: dict[str, Any] = {"bytes_per_label": 1, "temperatures": (1.0,), "effort": 0.2, "hidden": 0}
    return LabelEncoder.fit(logits, side=info, prior="tokens", progress=False, held_out=100, **sizes)


@pytest.fixture(scope="module")
def path(encoder: LabelEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("text") / "labels.safetensors"
    assert isinstance(encoder.side, TokenInformation)
    encoder.encode(logits_of(np.arange(SEQUENCES.total), encoder.side), found, progress=False)
    return found


def test_a_window_ends_where_its_sequence_does() -> None:
    info = TokenInformation([5, 6, 7, 8, 9], Sequences([3, 0, 2]), before=3, after=2)
    assert info.window([0, 2, 3]).tolist() == [[-1, -1, 5, 6, 7], [5, 6, 7, -1, -1], [-1, -1, 8, 9, -1]]


def test_a_window_of_a_kept_position_looks_at_those_that_are_not() -> None:
    info = TokenInformation([5, 6, 7, 8], Sequences([4], keep={"every": 2, "first": 1}), before=2, after=1)
    assert info.window([0, 1]).tolist() == [[5, 6, 7], [7, 8, -1]]


def test_windows_of_an_empty_text_are_empty() -> None:
    assert TokenInformation([], Sequences([0])).window([]).shape == (0, 5)


def test_the_prior_saves_what_the_text_tells(encoder: LabelEncoder) -> None:
    assert isinstance(encoder.side, TokenInformation)
    logits = logits_of(np.arange(SEQUENCES.total), encoder.side)
    sizes: dict[str, Any] = {"bytes_per_label": 1, "temperatures": (1.0,), "effort": 0.2, "hidden": 0}
    without = LabelEncoder.fit(logits, progress=False, held_out=100, **sizes)
    assert encoder.measured is not None
    assert without.measured is not None
    assert encoder.measured["kl"]["1"] < 0.5 * without.measured["kl"]["1"]


def test_labels_are_the_same_by_every_way(encoder: LabelEncoder, path: Path) -> None:
    rows = [0, 39, 40, 46, 47, 346, 347, 1247]
    info = encoder.side
    assert isinstance(info, TokenInformation)
    decoder = LabelDecoder(path)
    packed = decoder.read(rows)
    assert packed.data.shape == (len(rows), 1 + 4 * info.features)
    found = packed.probs()
    codes = decoder.file.gather(np.array(rows))
    assert torch.allclose(found, encoder.codec.decode(codes, info.of(rows)).softmax(1), atol=1e-4)
    assert torch.allclose(found, LabelDecoder(path, backend="reference")(rows).float(), atol=1e-4)
    again = pickle.loads(pickle.dumps(packed))
    assert again.decoder is decoder
    assert torch.equal(again.probs(), found)


def test_a_file_without_its_text_takes_it_from_the_reader(encoder: LabelEncoder, path: Path, tmp_path: Path) -> None:
    bare = LabelEncoder(encoder.codec, TokenInformation(TOKENS, SEQUENCES, before=2, after=1, store=False))
    short = tmp_path / "short.safetensors"
    bare.encode(logits_of(np.arange(SEQUENCES.total), encoder.side), short, progress=False)  # type: ignore[arg-type]
    assert short.stat().st_size < path.stat().st_size
    with pytest.raises(ValueError, match="does not hold the text"):
        LabelDecoder(short)
    decoder = LabelDecoder(short, tokens=TOKENS)
    assert torch.equal(decoder([3, 700]), LabelDecoder(path)([3, 700]))
    assert torch.equal(pickle.loads(pickle.dumps(decoder))([3, 700]), decoder([3, 700]))
    other = TOKENS.copy()
    other[5] = (other[5] + 1) % C
    with pytest.raises(ValueError, match="another text, another tokenizer, or another order"):
        LabelDecoder(short, tokens=other)
    for wrong in ([1, 2, 3], TOKENS + 2**32, TOKENS.reshape(2, -1)):  # what wraps to the same 32 bits is no such token
        with pytest.raises(ValueError, match=r"the tokens \[.*\] are not those of the 1248 positions"):
            LabelDecoder(short, tokens=wrong)
    with pytest.raises(TypeError, match=r"tokens must be whole numbers \[1248\], got float64"):
        LabelDecoder(short, tokens=TOKENS.astype(float))


def test_labels_without_their_text_go_to_another_process_with_their_decoder(
    encoder: LabelEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = LabelEncoder(encoder.codec, TokenInformation(TOKENS, SEQUENCES, before=2, after=1, store=False))
    bare.encode(np.zeros((SEQUENCES.total, C), np.float32), tmp_path / "short", progress=False)
    decoder = LabelDecoder(tmp_path / "short", tokens=TOKENS)
    packed = decoder.read([3, 700])
    alone, together = pickle.dumps(packed), pickle.dumps((decoder, packed))
    monkeypatch.setattr("vqlabel.decoder._OPEN", WeakValueDictionary())  # as it is in another process
    with pytest.raises(
        ValueError, match=r"does not hold the text .* go with theirs: pickle.dumps\(\(labels.decoder, la"
    ):
        pickle.loads(alone)
    _, found = pickle.loads(together)
    assert found.decoder is not decoder
    assert torch.equal(found.probs(), packed.probs())


def test_a_text_that_is_given_is_compared_whatever_the_codec_looks_at(tmp_path: Path) -> None:
    encoder = LabelEncoder(Raw(C), TokenInformation([1, 2, 3], Sequences([3]), store=False))
    path = encoder.encode(np.zeros((3, C), np.float32), tmp_path / "raw.safetensors", progress=False).path
    assert LabelDecoder(path).tokens is None
    assert np.array_equal(LabelDecoder(path, tokens=[1, 2, 3]).tokens, [1, 2, 3])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="another text"):
        LabelDecoder(path, tokens=[1, 3, 2])
    images = LabelEncoder(Raw(C)).encode(np.zeros((3, C), np.float32), tmp_path / "x.safetensors", progress=False)
    with pytest.raises(ValueError, match="does not say which text its labels are of"):
        LabelDecoder(images.path, tokens=[1, 2, 3])


def test_labels_of_an_empty_text_are_read_again(encoder: LabelEncoder, tmp_path: Path) -> None:
    info = TokenInformation([], Sequences([0, 0]), before=2, after=1)
    path = tmp_path / "empty.safetensors"
    LabelEncoder(encoder.codec, info).encode(np.zeros((0, C), np.float32), path, progress=False)
    packed, mask = LabelDecoder(path).of_sequences([0, 1])
    assert (len(packed), tuple(mask.shape)) == (0, (2, 0))
    assert packed.probs().shape == (0, C)


def test_a_kept_encoder_meets_another_text(encoder: LabelEncoder, tmp_path: Path) -> None:
    encoder.save(tmp_path / "encoder.safetensors")
    with pytest.raises(ValueError, match="prior of this codec is 'tokens': give side="):
        LabelEncoder.load(tmp_path / "encoder.safetensors")
    info = TokenInformation([1, 2, 3], Sequences([3]), before=2, after=1)
    loaded = LabelEncoder.load(tmp_path / "encoder.safetensors", side=info)
    file = loaded.encode(torch.randn(3, C, generator=torch.Generator().manual_seed(0)), tmp_path / "b", progress=False)
    assert LabelDecoder(file.path)([0, 1, 2]).shape == (3, C)


@pytest.mark.parametrize(
    ("tokens", "options", "words"),
    [
        ([1, 2], {}, r"tokens must be whole numbers \[3\]"),
        ([1.0, 2.0, 3.0], {}, "tokens must be whole numbers"),
        ([1, -2, 3], {}, "tokens must be 0 to"),
        ([1, 2, 3], {"before": 0}, "before must be a whole number from 1 to 64"),
        ([1, 2, 3], {"after": 65}, "after must be"),
    ],
)
def test_a_text_that_makes_no_sense_is_refused(tokens: Any, options: dict[str, int], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        TokenInformation(tokens, Sequences([3]), **options)


def test_a_text_of_another_tokenizer_is_refused() -> None:
    info = TokenInformation([1, 99, 3], Sequences([3]))
    with pytest.raises(ValueError, match="token 99 at position 1 is beyond the 12 classes"):
        LabelEncoder.fit(np.zeros((3, C), np.float32), side=info, prior="tokens", progress=False)


def test_as_many_logits_as_positions_are_needed(encoder: LabelEncoder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the sequences have 1248 rows, but the logits have 5"):
        encoder.encode(np.zeros((5, C), np.float32), tmp_path / "x.safetensors", progress=False)


@pytest.mark.parametrize(
    ("prior", "side"),
    [("tokens", SideInformation([0, 1, 2])), ("classes", TokenInformation([1, 2, 3], Sequences([3])))],
)
def test_a_prior_is_fitted_on_side_information_of_its_kind_only(prior: str, side: Any) -> None:
    words = f"prior '{prior}' does not go with a {type(side).__name__}: 'tokens' takes a TokenInformation"
    with pytest.raises(ValueError, match=words):
        LabelEncoder.fit(np.zeros((3, C), np.float32), side=side, prior=prior, progress=False)


def test_side_information_of_images_tells_the_prior_nothing(encoder: LabelEncoder) -> None:
    with pytest.raises(ValueError, match="prior is of tier 'tokens', but the side information is a ImageSide"):
        encoder.codec.encode(torch.zeros(2, C), SideInformation([0, 1]).of([0, 1], tier="replay"))
    with pytest.raises(ValueError, match="looks at 3 tokens of a row, but 5"):
        encoder.codec.encode(torch.zeros(1, C), TokenSide(torch.zeros(1, 5, dtype=torch.int64)))
    for bad in (-2, C):
        with pytest.raises(ValueError, match=f"a token is {bad}, but this prior knows 0 to 11"):
            encoder.codec.encode(torch.zeros(1, C), TokenSide(torch.full((1, 3), bad)))


def test_a_file_that_lost_its_sequences_is_corrupt(encoder: LabelEncoder, path: Path) -> None:
    prior = make_prior(PriorShape("tokens", C, 1, 4, features=3))
    assert prior(TokenSide(torch.full((2, 3), -1))).shape == (2, 4)
    from vqlabel import LabelFile

    file = LabelFile(path)
    tensors = {name: file.tensor(name) for name in file.tensor_names if not name.startswith("sequences.")}
    metadata = {key: value for key, value in file.metadata.items() if key not in ("rows_per_chunk", "format_version")}
    writer = LabelFile.create(
        path.with_name("lost.safetensors"), rows=1, row_bytes=1, tensors=tensors, metadata=metadata
    )
    writer.write(0, np.zeros((1, 1), np.uint8))
    writer.close()
    with pytest.raises(Corrupt, match="prior looks at tokens, and tensor 'sequences.starts' is missing"):
        LabelDecoder(path.with_name("lost.safetensors"))
