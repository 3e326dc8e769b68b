"""The commands that make, read and compare labels."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import GOLDEN, Run, interrupted
from encoder_parts import CLASSES, Fitting, logits

from vqlabel import LabelEncoder, LabelFile
from vqlabel.codecs.raw import Raw
from vqlabel.replay import ReplayRecipe
from vqlabel.side import SideInformation

ROWS = 9000


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """Logits as .npy."""
    np.save(tmp_path / "logits.npy", logits(ROWS))
    return tmp_path / "logits.npy"


def centred() -> np.ndarray[Any, Any]:
    data = logits(ROWS)
    return data - data.mean(1, keepdims=True)


def test_encode_then_decode_gives_the_logits_back(run: Run, teacher: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.safetensors"
    status, said, err = run("encode", teacher, "-o", out, "--format", "raw", "--teacher", "resnet18")
    assert (status, err) == (0, "")
    for words in ("labels.safetensors: 9,000 rows", "codec: every logit as float16", "bytes a label, codes: 20"):
        assert words in said
    assert LabelFile(out).metadata["teacher"] == "resnet18"
    assert run("decode", out, "-o", tmp_path / "all.npy") == (0, "", "")
    back = np.load(tmp_path / "all.npy")
    assert (back.dtype, back.shape) == (np.float32, (ROWS, CLASSES))
    np.testing.assert_allclose(back, centred(), atol=1e-2)
    assert run("decode", out, "-o", tmp_path / "some.npy", "--rows", "100:5000", "--temperature", "4") == (0, "", "")
    softened = torch.softmax(torch.from_numpy(back[100:5000]) / 4, 1)
    np.testing.assert_array_equal(np.load(tmp_path / "some.npy"), softened.numpy())
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--rows", "5"), "--rows is A:B, such as 0:1000, got '5'"),
        (("--rows=-1:5",), "--rows is A:B"),
        (("--rows", "5:9001"), "--rows 5:9001 is not within the 9000 rows of the file"),
        (("--rows", "6:5"), "is not within"),
        *((("--temperature", T), "--temperature must be 1e-15 to 1000") for T in ("0", "1e-16", "1e6", "inf", "nan")),
    ],
)
def test_decode_says_what_it_cannot_do(
    run: Run, tmp_path: Path, teacher: Path, arguments: tuple[str, ...], words: str
) -> None:
    LabelEncoder(Raw(CLASSES)).encode(teacher, tmp_path / "labels")
    status, out, err = run("decode", tmp_path / "labels", "-o", tmp_path / "out.npy", *arguments)
    assert (status, out) == (1, "")
    assert words in err
    (tmp_path / "out.npy").write_bytes(b"mine")
    assert "out.npy exists; delete it" in run("decode", tmp_path / "labels", "-o", tmp_path / "out.npy")[2]


@pytest.mark.parametrize("temperature", ["1e-15", "1e-3", "1000"])
def test_decoded_probabilities_are_right_at_every_temperature_that_is_taken(
    run: Run, tmp_path: Path, temperature: str
) -> None:
    wanted = np.array([[3e37, 0, -3e37], [1, 1, 0], [-(2.0**20), 5, 5]])
    with LabelFile.create(
        tmp_path / "labels",
        rows=3,
        row_bytes=12,
        metadata={"codec": {"id": "raw", "dtype": "F32"}, "classes": 3},
    ) as writer:
        writer.write(0, wanted.astype("<f4").view(np.uint8))
    assert run("decode", tmp_path / "labels", "-o", tmp_path / "out.npy", "--temperature", temperature)[0] == 0
    softened = torch.from_numpy((wanted - wanted.max(1, keepdims=True)) / float(temperature)).softmax(1).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), softened, atol=1e-6)


def test_fit_then_encode_is_encode(run: Run, fitting: Fitting, teacher: Path, tmp_path: Path) -> None:
    status, said, err = run("fit", teacher, "-o", tmp_path / "codec", "--rows", 2000, "--temperatures", "4,20")
    assert (status, err) == (0, "fitted\n")
    assert "mean KL at T = 20: " in said
    assert fitting.sample.total == 2000
    assert run("encode", teacher, "-o", tmp_path / "a", "--codec", tmp_path / "codec")[0] == 0
    options = ("--rows", 2000, "--temperatures", "4,20")
    assert run("encode", teacher, "-o", tmp_path / "b", *options)[0] == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "codec", "logits.npy"]
    status, said, _ = run("inspect", tmp_path / "a")
    assert status == 0
    for words in ("bytes a label, codes", "times smaller than fp16", "mean KL at T = 4 ", "same first class", "500"):
        assert words in said


def test_an_interrupted_encode_goes_on_with_the_fit_it_had(
    run: Run, fitting: Fitting, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("encode", teacher, "-o", tmp_path / "undisturbed", "--bytes", 1)[0] == 0
    interrupted("encode", teacher, "-o", tmp_path / "labels", "--bytes", 1)
    assert {"labels.fit", "labels.partial"} <= set(os.listdir(tmp_path))
    monkeypatch.setattr(fitting, "fit", lambda *arguments: pytest.fail("fitted once more"))
    assert run("encode", teacher, "-o", tmp_path / "labels", "--bytes", 1)[0] == 0
    assert (tmp_path / "labels").read_bytes() == (tmp_path / "undisturbed").read_bytes()
    assert not (tmp_path / "labels.fit").exists()


def test_another_fit_is_not_mistaken_for_the_one_asked_for(
    run: Run, fitting: Fitting, teacher: Path, tmp_path: Path
) -> None:
    interrupted("encode", teacher, "-o", tmp_path / "labels", "--seed", 1)
    kept = (tmp_path / "labels.fit").read_bytes()
    status, _, err = run("encode", teacher, "-o", tmp_path / "labels", "--seed", 2)
    assert status == 1
    assert "labels.partial was begun with other settings, for which" in err
    assert (tmp_path / "labels.fit").read_bytes() == kept
    (tmp_path / "labels.fit").unlink()
    status, _, err = run("encode", teacher, "-o", tmp_path / "labels", "--seed", 2)
    assert status == 1
    assert "labels.partial was begun with other settings (tensor books)" in err


def test_a_label_file_brings_its_recipe_along(run: Run, fitting: Fitting, tmp_path: Path) -> None:
    recipe = ReplayRecipe(seed=7, images=90, height=48, width=48, size=32, cutmix=0.5)
    side = SideInformation(np.arange(90) % CLASSES, recipe)
    raw = tmp_path / "raw.safetensors"
    LabelEncoder(Raw(CLASSES), side).encode(logits(ROWS), raw, metadata={"teacher": "t"})
    np.save(tmp_path / "logits.npy", logits(ROWS))
    for index, arguments in enumerate(((raw,), (raw, "--like", raw), (tmp_path / "logits.npy", "--like", raw))):
        out = tmp_path / f"{index}"
        assert run("encode", *arguments, "-o", out, "--prior", "replay")[0] == 0
        assert fitting.sample.side is not None
        file = LabelFile(out)
        assert file.metadata["replay"]["recipe"] == recipe.to_json()
        assert (file.metadata["epochs"], file.metadata["images"]) == (100, 90)
        assert file.metadata.get("teacher") == (None if "logits" in str(arguments[0]) else "t")  # nobody said whose
        assert file.tensor("images.class").tolist() == side.classes.tolist()
    status, _, err = run("fit", tmp_path / "logits.npy", "-o", tmp_path / "codec", "--prior", "replay")
    assert status == 1
    assert "give side=, or --like" in err


def test_labels_of_a_file_keep_their_own_teacher_whatever_they_are_like(run: Run, tmp_path: Path) -> None:
    ours, like = tmp_path / "ours.safetensors", tmp_path / "like.safetensors"
    for path, teacher in ((ours, "mine"), (like, "another")):
        LabelEncoder(Raw(CLASSES)).encode(logits(90), path, metadata={"teacher": teacher})
    for told, wanted in (((), "mine"), (("--teacher", "said"), "said")):
        out = tmp_path / wanted
        assert run("encode", ours, "-o", out, "--format", "int8", "--like", like, *told)[0] == 0
        assert LabelFile(out).metadata["teacher"] == wanted


@pytest.mark.parametrize(("rows", "epochs"), [(90, 9), (30, 3), (180, 18), (95, None)])
def test_other_epochs_of_the_images_of_a_file_are_counted(
    run: Run, tmp_path: Path, rows: int, epochs: int | None
) -> None:
    like = tmp_path / "like.safetensors"
    LabelEncoder(Raw(CLASSES)).encode(logits(90), like, metadata={"images": 10, "epochs": 9})
    np.save(tmp_path / "logits.npy", logits(rows))
    order = ("encode", tmp_path / "logits.npy", "-o", tmp_path / "out", "--format", "raw", "--like", like)
    assert run(*order)[0] == 0
    facts = LabelFile(tmp_path / "out").metadata
    assert (facts.get("images"), facts.get("epochs")) == (epochs and 10, epochs)


@pytest.mark.parametrize("command", ["decode", "compare", "encode"])
def test_a_prior_that_looks_at_images_is_not_for_the_command_line(run: Run, tmp_path: Path, command: str) -> None:
    path = GOLDEN / "codecs" / "v1_vq_image.safetensors"
    more = {"compare": ("--teacher", path)}.get(command, ("-o", tmp_path / "out"))
    status, out, err = run(command, path, *more)
    assert (status, out) == (1, "")
    assert "its prior looks at the augmented images, and no option can give these: LabelDecoder takes them" in err


def test_words_that_no_option_takes_are_refused_before_the_work(run: Run, teacher: Path, tmp_path: Path) -> None:
    for told, words in (
        (("--temperatures", "20,,5"), "argument --temperatures: numbers with commas between them, such as 4,20, not"),
        (("--teacher", "resnet\udcff"), r"argument --teacher: 'resnet\udcff' is not UTF-8"),
    ):
        status, _, err = run("encode", teacher, "-o", tmp_path / "out", *told)
        assert (status, words in err) == (2, True), err


def test_options_that_would_be_ignored_are_refused(run: Run, teacher: Path, tmp_path: Path) -> None:
    out = ("-o", tmp_path / "labels")
    for given, words in (
        (("--codec", "x", "--max-kl", 1), "--max-kl says how to fit a codec, but with --codec none is fitted"),
        (("--format", "raw", "--seed", 1), "--seed says how to fit a codec, but with --format raw none is fitted"),
        (("--format", "raw", "--k", 3), "--k is how many logits topk keeps, but the codec is raw"),
        (("--k", 3, "--bytes", 1), "--k is how many logits topk keeps, but the codec is vq"),
        (("--codec", "x", "--k", 3), "--k is how many logits topk keeps, but the codec is x"),
        (("--codec", "x", "--format", "vq"), "--format vq says how to store a label, and --codec that x does: say one"),
    ):
        status, _, err = run("encode", teacher, *out, *given)
        assert (status, words in err) == (1, True), err
    assert run("encode", teacher, *out, "--bytes", 4, "--max-kl", 1)[0] == 2


@pytest.mark.parametrize("command", ["decode", "compare", "encode"])
def test_one_flipped_bit_of_a_row_is_found(run: Run, teacher: Path, tmp_path: Path, command: str) -> None:
    labels = tmp_path / "labels.safetensors"
    run("encode", teacher, "-o", labels, "--format", "raw")
    data = bytearray(labels.read_bytes())
    data[-1] ^= 1
    labels.write_bytes(data)
    more = {"decode": ("-o", tmp_path / "out.npy"), "compare": ("--teacher", teacher)}
    status, out, err = run(command, labels, *more.get(command, ("-o", tmp_path / "out", "--format", "int8")))
    assert (status, out) == (1, "")
    assert "do not match their checksum; fetch the file again" in err
    assert not (tmp_path / "out.npy").exists()


def test_a_folder_that_cannot_take_the_output_is_noticed_before_the_work(
    run: Run, fitting: Fitting, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("encode", teacher, "-o", tmp_path / "labels", "--format", "raw")
    monkeypatch.setattr(fitting, "fit", lambda *arguments: pytest.fail("fitted for nothing"))
    orders = (("fit", teacher), ("encode", teacher), ("decode", tmp_path / "labels"))
    for order in orders:
        status, _, err = run(*order, "-o", tmp_path / "nowhere" / "out")
        assert (status, err) == (1, f"error: {tmp_path}/nowhere is not there: make the folder that out is to lie in\n")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    for order in orders:
        status, _, err = run(*order, "-o", tmp_path / "out")
        assert (status, f"{tmp_path} may not be written to, so out cannot lie there" in err) == (1, True), err
    assert sorted(os.listdir(tmp_path)) == ["labels", "logits.npy"]


def test_labels_are_encoded_and_compared_from_a_url(
    run: Run, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VQLABEL_CACHE", str(tmp_path / "cache"))
    run("encode", teacher, "-o", tmp_path / "raw.safetensors", "--format", "raw")
    url = f"file://{tmp_path}/raw.safetensors"
    assert run("encode", url, "-o", tmp_path / "int8", "--format", "int8")[0] == 0
    assert run("compare", url, tmp_path / "int8", "--teacher", url)[0] == 0


def test_torchrun_makes_the_same_file_and_speaks_once(run: Run, teacher: Path, tmp_path: Path) -> None:
    run("encode", teacher, "-o", tmp_path / "alone", "--format", "topk", "--k", 3)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = ["-m", "vqlabel", "encode", str(teacher), "-o", str(tmp_path / "two"), "--format", "topk", "--k", "3"]
    both: Any = subprocess.run([*torchrun, *command], capture_output=True, text=True, check=False)
    assert both.returncode == 0, both.stderr
    assert both.stdout.count("9,000 rows") == 1
    assert (tmp_path / "two").read_bytes() == (tmp_path / "alone").read_bytes()


def test_help_does_not_wait_for_torch() -> None:
    code = """if True:
    import sys
    from vqlabel.cli import main
    try:
        main(["encode", "--help"])
    finally:
        print("torch" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--temperatures" in done.stdout
    assert done.stdout.endswith("False\n")
