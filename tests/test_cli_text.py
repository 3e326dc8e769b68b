"""Labels of a text from the command line: documents are kept, the prior sees the tokens, and no other text will do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run, interrupted

from vqlabel import LabelDecoder, LabelEncoder, LabelFile
from vqlabel.codecs.raw import Raw
from vqlabel.sequences import Sequences
from vqlabel.side import SideInformation

LENGTHS = [90, 0, 1, 209]
TOKENS = np.random.default_rng(0).integers(0, 40, sum(LENGTHS))
LOGITS = np.random.default_rng(1).normal(size=(40, 40)).astype(np.float32)[TOKENS]
WHY = ": is it another text, or is it not said which positions have a label?"
FIT = ("--prior", "tokens", "--bytes", "2", "--effort", "0.01", "--temperatures", "1")


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be in a folder of logits.npy and text.npz."""
    monkeypatch.chdir(tmp_path)
    np.save("logits.npy", LOGITS)
    np.savez("text.npz", tokens=TOKENS, lengths=LENGTHS)


def done(found: tuple[int, str, str]) -> None:
    assert found[0] == 0, found[2]


def test_a_text_is_kept_with_its_labels(run: Run) -> None:
    done(run("encode", "logits.npy", "-o", "labels.safetensors", "--text", "text.npz", *FIT))
    decoder = LabelDecoder("labels.safetensors")
    assert decoder.tokens is not None
    assert decoder.sequences is not None
    assert decoder.tokens.tolist() == TOKENS.tolist()
    assert decoder.sequences.lengths.tolist() == LENGTHS
    packed, mask = decoder.of_sequences([2, 0])
    assert (len(packed), mask.sum(1).tolist()) == (91, [1, 90])
    done(run("decode", "labels.safetensors", "-o", "decoded.npy"))
    np.testing.assert_allclose(np.load("decoded.npy"), decoder(np.arange(300), output="logits"), atol=1e-3)


def test_only_some_positions_may_have_labels(run: Run) -> None:
    kept = np.arange(300) % 3 == 0
    np.savez("some.npz", tokens=TOKENS, lengths=LENGTHS, kept=kept)
    np.save("some.npy", LOGITS[kept])
    done(run("encode", "some.npy", "-o", "labels.safetensors", "--text", "some.npz", "--format", "raw"))
    sequences = LabelDecoder("labels.safetensors").sequences
    assert sequences is not None
    assert (sequences.total, sequences.rows_total) == (300, 100)
    status, _, error = run("encode", "logits.npy", "-o", "more.safetensors", "--text", "some.npz", "--format", "raw")
    assert (status, error) == (1, f"error: the sequences have 100 rows, but the logits have 300{WHY}\n")


def test_a_text_that_is_left_out_is_given_by_the_reader(run: Run) -> None:
    done(run("encode", "logits.npy", "-o", "labels.safetensors", "--text", "text.npz", "--no-keep-text", *FIT))
    assert "sequences.tokens" not in LabelFile("labels.safetensors").tensor_names
    status, _, error = run("decode", "labels.safetensors", "-o", "decoded.npy")
    assert status == 1
    assert "labels.safetensors does not hold the text that its labels are of" in error
    assert "and --text a file of them" in error
    done(run("decode", "labels.safetensors", "-o", "decoded.npy", "--text", "text.npz"))
    decoder = LabelDecoder("labels.safetensors", tokens=TOKENS)
    np.testing.assert_allclose(np.load("decoded.npy"), decoder(np.arange(300), output="logits"), atol=1e-3)
    np.savez("other.npz", tokens=TOKENS[::-1], lengths=LENGTHS)
    status, _, error = run("decode", "labels.safetensors", "-o", "again.npy", "--text", "other.npz")
    assert status == 1
    assert "another text, another tokenizer, or another order" in error


def test_files_with_and_without_their_text_are_compared(run: Run) -> None:
    done(run("encode", "logits.npy", "-o", "own.safetensors", "--text", "text.npz", *FIT))
    done(run("encode", "logits.npy", "-o", "none.safetensors", "--text", "text.npz", "--no-keep-text", *FIT))
    done(run("encode", "logits.npy", "-o", "plain.safetensors", "--format", "raw"))
    files = ("own.safetensors", "none.safetensors", "plain.safetensors")
    status, said, error = run("compare", *files, "--teacher", "logits.npy", "--text", "text.npz", "--json")
    assert (status, error) == (0, "")
    assert said.count('"kl"') == 3
    status, _, error = run("compare", *files, "--teacher", "logits.npy")
    assert status == 1
    assert "none.safetensors does not hold the text" in error


def test_export_takes_the_text_that_a_file_leaves_out(run: Run) -> None:
    options = ("-o", "labels.safetensors", "--text", "text.npz", "--no-keep-text", "--format", "topk", "--k", "5")
    done(run("encode", "logits.npy", *options))
    status, _, error = run("export", "labels.safetensors", "set", "--to", "distillkit")
    assert status == 1
    assert "the tokens of each sequence: give it with --text or tokens=" in error
    done(run("export", "labels.safetensors", "set", "--to", "distillkit", "--text", "text.npz"))
    done(run("convert", "set", "again.safetensors"))
    assert LabelDecoder("again.safetensors").file.tensor("sequences.tokens").tolist() == TOKENS.tolist()


def test_a_prior_of_tokens_is_fitted_to_a_set_of_others(run: Run) -> None:
    done(run("encode", "logits.npy", "-o", "labels.safetensors", "--text", "text.npz", "--format", "raw"))
    done(run("export", "labels.safetensors", "set", "--to", "distillkit", "--k", "40"))
    done(run("convert", "set", "small.safetensors", "--tail", "uniform", *FIT))
    decoder = LabelDecoder("small.safetensors")
    assert decoder.file.metadata["codec"]["prior"]["tier"] == "tokens"
    assert decoder.file.metadata["sequences"] == {"before": 3, "after": 2}
    packed, mask = decoder.of_sequences([0, 2])
    assert (len(packed.probs(1.0)), mask.sum(1).tolist()) == (91, [90, 1])


def test_a_fitted_codec_encodes_another_text(run: Run) -> None:
    done(run("fit", "logits.npy", "-o", "codec.safetensors", "--text", "text.npz", *FIT))
    np.save("more.npy", LOGITS[:200])
    np.savez("more.npz", tokens=TOKENS[:200], lengths=[200])
    done(run("encode", "more.npy", "-o", "more.safetensors", "--codec", "codec.safetensors", "--text", "more.npz"))
    decoder = LabelDecoder("more.safetensors")
    assert repr(decoder.sequences) == repr(Sequences([200]))
    status, _, error = run("encode", "more.npy", "-o", "no.safetensors", "--codec", "codec.safetensors")
    assert status == 1
    assert "the prior of this codec is 'tokens'" in error


def test_labels_that_are_encoded_again_stay_those_of_their_text(run: Run) -> None:
    done(run("encode", "logits.npy", "-o", "fp16.safetensors", "--text", "text.npz", "--format", "raw"))
    done(run("encode", "fp16.safetensors", "-o", "small.safetensors", *FIT))
    done(run("encode", "logits.npy", "-o", "like.safetensors", "--like", "fp16.safetensors", "--format", "int8"))
    for name in ("small.safetensors", "like.safetensors"):
        sequences = LabelDecoder(name).sequences
        assert sequences is not None
        assert sequences.lengths.tolist() == LENGTHS


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"tokens": TOKENS}, "holds tokens, but a text is a .npz of tokens [positions] and lengths [documents]"),
        ({"tokens": TOKENS[1:], "lengths": LENGTHS}, "tokens must be whole numbers [300], one for each position"),
        ({"tokens": TOKENS, "lengths": [301, -1]}, "sequence 1 has the length -1"),
        ({"tokens": TOKENS, "lengths": LENGTHS, "kept": TOKENS > 300}, "the sequences have 0 rows, but the logits"),
        ({"tokens": TOKENS, "lengths": LENGTHS, "kept": [True]}, "a mask must be boolean [300], got bool [1]"),
        ({"tokens": TOKENS, "lengths": LENGTHS, "kept": TOKENS}, "kept must be a boolean for each position, got int64"),
        ({"tokens": TOKENS, "lengths": np.array([2**64 - 300, 600], np.uint64)}, "more than can be numbered"),
        ({"tokens": TOKENS + 10, "lengths": LENGTHS}, "is beyond the 40 classes of the logits"),
        ({"tokens": TOKENS.astype(object), "lengths": LENGTHS}, "not a .npz file of numbers"),
    ],
)
def test_a_text_that_cannot_be_is_told(run: Run, arrays: dict[str, Any], words: str) -> None:
    np.savez("bad.npz", **arrays)
    status, _, error = run("encode", "logits.npy", "-o", "labels.safetensors", "--text", "bad.npz", "--format", "raw")
    assert status == 1
    assert words in error


def test_what_goes_together_is_told(run: Run) -> None:
    encode = ("encode", "logits.npy", "-o", "labels.safetensors")
    status, _, error = run(*encode, *FIT)
    assert status == 1
    assert "prior 'tokens' needs to know the text behind the rows: give side=, or --text" in error
    done(run("encode", "logits.npy", "-o", "fp16.safetensors", "--text", "text.npz", "--format", "raw"))
    status, _, error = run(*encode, "--text", "text.npz", "--like", "fp16.safetensors")
    assert status == 1
    assert "say one" in error
    status, _, error = run(*encode, "--text", "text.npz", "--prior", "classes")
    assert status == 1
    assert "prior 'classes' does not go with a TokenInformation" in error
    status, _, error = run(*encode, "--text", "logits.npy")
    assert status == 1
    assert "logits.npy: not a .npz file of numbers, as np.savez writes it" in error
    status, _, error = run(*encode, "--no-keep-text")
    assert status == 1
    assert "--text says it" in error


@pytest.mark.parametrize("rows", [299, 100])
def test_logits_of_fewer_rows_than_the_text_are_not_fitted(run: Run, rows: int) -> None:
    np.save("fewer.npy", LOGITS[:rows])
    for command in ("fit", "encode"):
        status, _, error = run(command, "fewer.npy", "-o", "out.safetensors", "--text", "text.npz", *FIT)
        assert status == 1
        assert f"the sequences have 300 rows, but the logits have {rows}" in error
        assert not list(Path().glob("out*"))


def test_images_and_texts_are_kept_apart(run: Run) -> None:
    side = SideInformation(np.arange(300) % 40)
    LabelEncoder(Raw(40), side).encode(LOGITS, "images.safetensors", metadata={"images": 300, "epochs": 1})
    status, _, error = run("encode", "logits.npy", "-o", "out.safetensors", "--text", "images.safetensors")
    assert status == 1
    assert "images.safetensors: its labels are not of a text" in error
    done(run("encode", "images.safetensors", "-o", "out.safetensors", "--text", "text.npz", "--format", "raw"))
    assert not {"images", "epochs", "replay"} & LabelFile("out.safetensors").metadata.keys()
    fit = ("--prior", "classes", *FIT[2:])
    done(run("fit", "logits.npy", "-o", "codec.safetensors", "--like", "images.safetensors", *fit))
    arguments = ("-o", "mixed.safetensors", "--codec", "codec.safetensors", "--text", "text.npz")
    status, _, error = run("encode", "logits.npy", *arguments)
    assert status == 1
    assert "prior 'classes' does not go with a TokenInformation" in error
    assert not list(Path().glob("mixed*"))


def test_labels_without_their_text_can_be_encoded_again(run: Run) -> None:
    text = ("--text", "text.npz")
    done(run("encode", "logits.npy", "-o", "raw.safetensors", *text, "--no-keep-text", "--format", "raw"))
    status, _, error = run("encode", "raw.safetensors", "-o", "int8.safetensors", "--format", "int8")
    assert status == 0
    assert "its documents are left out: --text keeps them" in error
    done(run("fit", "logits.npy", "-o", "codec.safetensors", "--bytes", "1", "--effort", "0.01"))
    done(run("encode", "raw.safetensors", "-o", "small.safetensors", "--codec", "codec.safetensors"))
    done(run("encode", "logits.npy", "-o", "vq.safetensors", *text, "--no-keep-text", *FIT))
    done(run("encode", "vq.safetensors", "-o", "again.safetensors", *text, "--format", "raw"))
    done(run("compare", "again.safetensors", "--teacher", "vq.safetensors", *text))
    np.savez("other.npz", tokens=TOKENS[::-1], lengths=LENGTHS)
    status, _, error = run(
        "encode", "raw.safetensors", "-o", "no.safetensors", "--text", "other.npz", "--format", "raw"
    )
    assert status == 1
    assert "another text, another tokenizer, or another order" in error


def test_an_interrupted_run_is_not_gone_on_with_for_another_text(run: Run) -> None:
    encode = ("encode", "logits.npy", "-o", "out.safetensors", "--text", "text.npz", *FIT)
    interrupted(*encode)
    kept = Path("out.safetensors.fit").read_bytes()
    np.savez("text.npz", tokens=TOKENS[::-1], lengths=LENGTHS)
    status, _, error = run(*encode)
    assert status == 1
    assert "encode with those to finish it, or delete both and begin again" in error
    assert Path("out.safetensors.fit").read_bytes() == kept
    np.savez("text.npz", tokens=TOKENS, lengths=LENGTHS)
    done(run(*encode))
    assert not Path("out.safetensors.fit").exists()


@pytest.mark.parametrize("data", [b"", b"x" * 9, b"PK\3\4" + b"x" * 99])
def test_what_is_no_archive_is_told(run: Run, data: bytes) -> None:
    Path("bad.npz").write_bytes(data)
    for arguments in (("logits.npy", "--text", "bad.npz"), ("bad.npz", "--classes", "40")):
        status, _, error = run("encode", *arguments, "-o", "out.safetensors", "--format", "raw")
        assert status == 1
        assert "bad.npz: not a .npz file" in error


def test_no_file_is_written_that_no_reader_would_take(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    starts = np.array([0, 2**30], np.uint64)
    sequences = Sequences([2**30], keep={"every": 2**28})
    with pytest.raises(ValueError, match="may be of 1024 positions for each byte: leave sequences without labels out"):
        LabelFile.create(
            folder / "labels.safetensors",
            rows=sequences.rows_total,
            row_bytes=8,
            tensors={"sequences.starts": starts},
            metadata={"codec": {"id": "raw"}},
        )
    assert not list(folder.iterdir())
