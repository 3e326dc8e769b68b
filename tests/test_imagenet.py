"""The scripts for image folders: relabel, train, resume, share among ranks, and refuse what does not fit."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from encoder_parts import ranks
from imagenet_parts import CLASSES, EPOCHS, NETWORKS, command, drawn, picture, refused, training

from vqlabel import LabelDecoder, LabelEncoder, LabelFile
from vqlabel.codecs.raw import Raw
from vqlabel.encoding import Blocks
from vqlabel.side import SideInformation
from vqlabel.views import apply

sys.path.insert(0, str(ROOT))  # examples are run from the repository

from examples.imagenet import models, relabel, train
from examples.imagenet.folder import Folder

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images/, networks.py, their labels raw.safetensors and vq.safetensors, and kept.fit of the latter."""
    folder = drawn(tmp_path_factory.mktemp("imagenet"))
    relabel.main(command(folder, "raw", "raw.safetensors"))
    load = LabelEncoder.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LabelEncoder, "load", lambda path, **side: load(shutil.copy(path, folder / "kept.fit"), **side))
        relabel.main(command(folder, "vq", "vq.safetensors"))
    return folder


def state(checkpoint: Path) -> Any:
    return torch.load(checkpoint, weights_only=True)


# --- relabel


def test_labels_say_how_they_were_made_and_are_the_teachers(made: Path) -> None:
    file = LabelFile(made / "raw.safetensors")
    folder = Folder(made / "images", 48)
    assert (len(file), file.metadata["images"], file.metadata["epochs"]) == (9600, 16, EPOCHS)
    assert file.metadata["teacher"].startswith(f"{made / 'networks.py'}:teacher ")
    assert json.loads(file.metadata["x.classes"]) == folder.names
    assert json.loads(file.metadata["x.normalisation"])["mean"] == pytest.approx(models.MEAN)
    assert file.verify(images=folder)
    raw, vq = (LabelDecoder(made / f"{codec}.safetensors") for codec in ("raw", "vq"))
    teacher = models.Normalised(models.network(f"{made / 'networks.py'}:teacher", 8), models.MEAN, models.STD)
    rows = np.array([0, 17, 9599])
    assert raw.recipe is not None
    views = apply(folder, raw.recipe.parameters(*np.divmod(rows, 16)))
    torch.testing.assert_close(raw(rows), teacher(views).softmax(1), atol=2e-3, rtol=0)
    assert (vq(range(9600), 20) - raw(range(9600), 20)).abs().mean() < 0.01
    assert not list(made.glob("*.safetensors.*"))  # neither .partial nor .fit


@pytest.mark.parametrize("codec", ["raw", "vq"])
def test_an_interrupted_relabel_goes_on_to_the_same_bytes(
    codec: str, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded, blocks = Blocks.encoded, []

    def interrupted(self: Blocks, index: int) -> Any:
        blocks.append(index)
        if blocks == [0, 1]:
            raise KeyboardInterrupt
        return encoded(self, index)

    monkeypatch.setattr(Blocks, "encoded", interrupted)
    arguments = command(made, codec, f"{codec}.again")
    with pytest.raises(KeyboardInterrupt):
        relabel.main(arguments)
    monkeypatch.setattr(LabelEncoder, "fit", None)  # the codec is fitted already
    if codec == "raw":
        assert "begun with other settings (replay" in refused(relabel.main, [*arguments, "--seed", "1"])
    relabel.main(arguments)
    assert blocks == [0, 1, 0, 1, 2]  # a chunk of raw is a block, and block 0 is compared; a chunk of vq is the file
    assert (made / f"{codec}.again").read_bytes() == (made / f"{codec}.safetensors").read_bytes()


def test_topk_is_stored_too(made: Path) -> None:
    relabel.main(command(made, "topk", "topk", "--k", "2", "--epochs", "3"))
    assert LabelFile(made / "topk").metadata["codec"]["k"] == 2


@pytest.mark.parametrize(
    ("more", "right", "warned"), [((), "100.0%", False), (("--mean", "2", "2", "2"), "12.5%", True)]
)
def test_the_teacher_is_judged_first(
    more: tuple[str, ...], right: str, warned: bool, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    relabel.main(command(made, "raw", f"judged{warned}", "--epochs", "1", *more))
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == f"the teacher is right about {right} of 16 images, chance is 12.5%"
    assert ("--mean and --std" in err) == warned


def test_what_cannot_be_labelled_is_refused(made: Path, tmp_path: Path) -> None:
    assert "exists; delete it" in refused(relabel.main, command(made, "raw", "raw.safetensors"))
    wrong = command(made, "raw", "wrong")
    wrong[wrong.index("--teacher") + 1] = "resnet18"
    assert "error: a network is torchvision:NAME" in refused(relabel.main, wrong)
    fewer = shutil.copytree(made / "images", tmp_path / "fewer")
    shutil.rmtree(fewer / "new007")
    torch.save(models.network(f"{made / 'networks.py'}:teacher", 8).state_dict(), tmp_path / "eight.pt")
    eight = [str(fewer), *wrong[1:], "--weights", str(tmp_path / "eight.pt")]
    (tmp_path / "eight.py").write_text(f"{NETWORKS}\ndef eight(classes):\n    return teacher(8)\n")
    eight[eight.index("--teacher") + 1] = f"{tmp_path / 'eight.py'}:eight"
    assert "the teacher has 8 outputs, but" in refused(relabel.main, eight)


def test_options_that_make_no_labels_are_refused_before_the_work(made: Path) -> None:
    (made / "fixed.py").write_text(
        "from torch import nn\ndef fixed(classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(192, classes))\n"
    )
    for more, words in (
        (("--epochs", "0"), "--epochs must be a whole number from 1 to"),
        (("--batch-size", "0"), "--batch-size must be a whole number from 1 to"),
        (("--teacher", f"{made / 'fixed.py'}:fixed", "--size", "9"), "the teacher takes no views of 9 x 9 pixels"),
        (("-o", str(made / "nowhere" / "out")), "nowhere is not there: make the folder that out is to lie in"),
        (("-o", f"{made}/new/"), "new/' names no file: say a name"),
    ):
        assert words in refused(relabel.main, command(made, "raw", "out", *more))


# --- train


def test_a_resumed_student_is_the_uninterrupted_one(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--align", "grid", "--schedule", "step")
    train.main(training(made, tmp_path / "whole.pt", *more))
    epochs: list[int] = []
    one_epoch = train._one_epoch

    def interrupted(*arguments: Any) -> Any:
        epochs.append(len(epochs))
        if len(epochs) == 2:
            raise KeyboardInterrupt
        return one_epoch(*arguments)

    monkeypatch.setattr(train, "_one_epoch", interrupted)
    again = training(made, tmp_path / "again.pt", *more)
    with pytest.raises(KeyboardInterrupt):
        train.main(again)
    assert state(tmp_path / "again.pt")["sampler"]["epoch"] == 0
    train.main(again)
    assert len(epochs) == 4
    train.main(again)
    assert capsys.readouterr().out.endswith("again.pt has learned for 3 epochs: nothing is left to do\n")
    assert "with lr 0.001 instead of 0.1" in refused(train.main, [*again, "--lr", "0.1"])
    whole, resumed = state(tmp_path / "whole.pt"), state(tmp_path / "again.pt")
    assert whole.pop("settings") == resumed.pop("settings")
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)
    assert whole["cosine"]["last_epoch"] == 3


def test_a_student_learns_and_is_validated(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--val", str(made / "images"), "--val-every", "2", "--epochs", "25", "--lr", "0.03", "--in-memory")
    train.main(training(made, tmp_path / "student.pt", *more, student="plain"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 25
    assert all(("top-1" in line) == (epoch % 2 == 1 or epoch == 24) for epoch, line in enumerate(lines))
    assert "views/s" in lines[0]
    losses = [float(line.split()[3].rstrip(",")) for line in lines]
    assert losses[-1] < losses[0] / 2
    assert float(lines[-1].split()[-1].rstrip("%")) >= 50


def test_images_of_other_labels_are_refused(made: Path, tmp_path: Path) -> None:
    images = shutil.copytree(made / "images", tmp_path / "images")
    command = [str(images), *training(made, tmp_path / "none.pt")[1:]]
    shutil.copy(images / "new003" / "image_6.png", images / "new001" / "image_2.png")
    assert "other images, another order of them" in refused(train.main, command)
    (images / "new001" / "image_2.png").unlink()
    assert "holds 15 images, but" in refused(train.main, command)
    assert not (tmp_path / "none.pt").exists()


def test_labels_without_reference_views_are_taken_with_a_warning(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = LabelDecoder(made / "raw.safetensors").recipe
    side = SideInformation(Folder(made / "images", 48).classes, recipe)
    LabelEncoder(Raw(CLASSES), side).encode(torch.randn(16, CLASSES), made / "unseen", progress=False)
    arguments = training(made, tmp_path / "student.pt", "--epochs", "1")
    train.main([arguments[0], str(made / "unseen"), *arguments[2:]])
    assert "holds no reference views" in capsys.readouterr().err


def test_a_training_that_makes_no_sense_is_refused(made: Path, tmp_path: Path) -> None:
    arguments = training(made, tmp_path / "student.pt")
    assert "holds 600 epochs, not 601: --reuse" in refused(train.main, [*arguments, "--epochs", "601"])
    (tmp_path / "val" / "a").mkdir(parents=True)
    picture(0).save(tmp_path / "val" / "a" / "0.png")
    assert "has 1 classes, but the labels 8" in refused(train.main, [*arguments, "--val", str(tmp_path / "val")])
    assert "begin again with a lower --lr" in refused(train.main, [*arguments, "--lr", "1e30"])
    for option, value in (("--epochs", "0"), ("--epochs", "-2"), ("--val-every", "0")):
        assert f"{option} must be a whole number from 1 " in refused(train.main, [*arguments, option, value])
    assert "gone is not there" in refused(train.main, [*arguments, "--checkpoint", str(tmp_path / "gone" / "a.pt")])


@pytest.mark.parametrize("kept", [b"", b"no checkpoint", {"weight": torch.zeros(2)}, [1]])
def test_what_is_no_checkpoint_is_named(kept: Any, made: Path, tmp_path: Path) -> None:
    path = tmp_path / "student.pt"
    path.write_bytes(kept) if isinstance(kept, bytes) else torch.save(kept, path)
    assert f"{path} is no checkpoint of a training: delete it, or name" in refused(train.main, training(made, path))


def test_a_checkpoint_knows_its_labels_and_its_normalisation(made: Path, tmp_path: Path) -> None:
    arguments = training(made, tmp_path / "student.pt", "--epochs", "1")
    train.main(arguments)
    assert "with mean [0.485" in refused(train.main, [*arguments, "--mean", "0", "0", "0"])
    copied = shutil.copy(made / "vq.safetensors", tmp_path / "copied")  # the same labels by another name
    train.main([arguments[0], str(copied), *arguments[2:]])
    assert "with labels " in refused(train.main, [arguments[0], str(made / "raw.safetensors"), *arguments[2:]])


def test_reused_labels_train_for_longer(made: Path, tmp_path: Path) -> None:
    relabel.main(command(made, "raw", "short", "--epochs", "2"))
    arguments = training(made, tmp_path / "student.pt", "--reuse", "--schedule", "cosine", "--workers", "1")
    train.main([arguments[0], str(made / "short"), *arguments[2:]])
    assert state(tmp_path / "student.pt")["sampler"]["epoch"] == 2


def test_two_ranks_make_the_same_labels_and_train_alike(made: Path, tmp_path: Path) -> None:
    shutil.copy(made / "kept.fit", made / "two_vq.fit")  # two ranks that fit would round some sums in another way
    one, two = (training(made, tmp_path / f"{name}.pt", student="plain") for name in ("one", "two"))
    script = f"""
    sys.path.insert(0, {str(ROOT)!r})
    from examples.imagenet import relabel, train
    relabel.main({command(made, "raw", "two_raw")!r})
    relabel.main({command(made, "vq", "two_vq")!r})
    train.main({two!r})
    """
    assert ranks(script, tmp_path) == [0, 0]
    for codec in ("raw", "vq"):
        assert (made / f"two_{codec}").read_bytes() == (made / f"{codec}.safetensors").read_bytes()
    train.main(one)
    torch.testing.assert_close(state(tmp_path / "two.pt")["student"], state(tmp_path / "one.pt")["student"])


# --- the documents


def test_commands_of_the_documents_are_understood() -> None:
    pages = [ROOT / "examples" / "imagenet" / name for name in ("README.md", "relabel.py", "train.py")]
    text = "".join(page.read_text().replace("\\\n", " ") for page in pages)
    commands = re.findall(r"-m examples\.imagenet\.(relabel|train) ([^#\n]*)", text)
    assert len(commands) >= 8
    for script, arguments in commands:
        {"relabel": relabel, "train": train}[script]._parser().parse_args(arguments.split())
