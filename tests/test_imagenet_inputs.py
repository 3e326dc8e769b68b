"""What the scripts for image folders read: images, and networks by their name."""

from __future__ import annotations

import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from imagenet_parts import command, drawn, picture, refused, stub
from PIL import Image
from torch import nn

from vqlabel.convert.folder import image_tables

sys.path.insert(0, str(ROOT))  # examples are run from the repository

from examples.imagenet import models, relabel
from examples.imagenet.folder import Folder

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images/ and networks.py."""
    return drawn(tmp_path_factory.mktemp("imagenet"))


def test_images_are_numbered_as_torchvision_does(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/10.png", "a/z.JPG", "a/deep/0.png", "a/readme.txt", "B/x.jpeg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture(0).save(tmp_path / name, "PNG")
    (tmp_path / "list.txt").write_text("not a class")
    folder = Folder(tmp_path, 4)
    assert folder.names == ["B", "a", "b"]
    assert folder._paths.tolist() == [b"B/x.jpeg", b"a/z.JPG", b"a/deep/0.png", b"b/10.png", b"b/2.png"]
    assert folder.classes.tolist() == [0, 1, 1, 2, 2]
    assert len(folder) == 5
    tables = image_tables(str(tmp_path))  # of `vqlabel convert --images`
    assert tables["images.class"].tolist() == folder.classes.tolist()
    assert bytes(tables["images.name"]).split(b"\n") == folder._paths.tolist()


@pytest.mark.parametrize(("height", "width"), [(48, 48), (48, 97), (95, 48)])
def test_an_image_of_the_size_keeps_its_pixels_and_a_longer_one_is_cut_to_its_centre(
    height: int, width: int, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    picture(0, height, width).save(tmp_path / "a" / "0.png")
    left, top = round((width - 48) / 2), round((height - 48) / 2)
    wanted = np.array(picture(0, height, width))[top : top + 48, left : left + 48]
    assert (Folder(tmp_path, 48)([0])[0].permute(1, 2, 0).numpy() == wanted).all()


def test_the_shorter_side_is_resized(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.new("L", (90, 60), 77).save(tmp_path / "a" / "0.png")
    image = Folder(tmp_path, 16, resize=20)([0])
    assert image.shape == (1, 3, 16, 16)
    assert (image == 77).all()


def test_threads_memory_and_copies_read_the_same(made: Path) -> None:
    folder, numbers = Folder(made / "images", 24), np.array([15, 0, 7, 0])
    wanted = folder(numbers)
    assert torch.equal(Folder(made / "images", 24, threads=3)(numbers), wanted)
    assert torch.equal(folder.in_memory()[numbers], wanted)
    assert torch.equal(pickle.loads(pickle.dumps(folder))(numbers), wanted)
    assert folder([]).shape == (0, 3, 24, 24)


def test_what_is_no_image_folder_is_named(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="holds no folders"):
        Folder(tmp_path, 8)
    (tmp_path / "full").mkdir()
    picture(0).save(tmp_path / "full" / "0.png")
    (tmp_path / "empty").mkdir()
    for reads in (lambda: Folder(tmp_path, 8), lambda: image_tables(str(tmp_path))):
        with pytest.raises(ValueError, match=r"empty holds no images \(.jpg"):
            reads()
    with pytest.raises(ValueError, match="size must be"):
        Folder(made / "images", 0)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ValueError, match="pip install pillow"):
        Folder(made / "images", 8)


@pytest.mark.parametrize("keep", [0, 30, 400])
def test_a_broken_image_is_named(keep: int, made: Path, tmp_path: Path) -> None:
    images = shutil.copytree(made / "images", tmp_path / "images")
    broken = images / "new001" / "image_3.png"
    broken.write_bytes(broken.read_bytes()[:keep])
    said = refused(relabel.main, [str(images), *command(made, "raw", "broken")[1:]])
    assert "image_3.png cannot be read" in said
    assert "sound copy" in said
    assert not (made / "broken").exists()


# --- models


def test_torchvision_and_timm_are_asked_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = stub("torchvision.models", "get_model", monkeypatch)
    models.network("torchvision:resnet18", 10)
    models.network("torchvision:resnet18", 10, weights="DEFAULT")
    models.network("torchvision:resnet50", 10, weights="IMAGENET1K_V1")
    fresh = {"weights": None, "num_classes": 10}
    assert calls == [
        ("resnet18", fresh),
        ("resnet18", {"weights": "DEFAULT"}),
        ("resnet50", {"weights": "IMAGENET1K_V1"}),
    ]
    calls = stub("timm", "create_model", monkeypatch)
    models.network("timm:vit_tiny", 10)
    models.network("timm:vit_tiny", 10, weights="DEFAULT")
    assert calls == [("vit_tiny", {"pretrained": False, "num_classes": 10}), ("vit_tiny", {"pretrained": True})]


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet18"])
def test_a_missing_library_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = name.partition(":")[0]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ValueError, match=f"{name} needs {package}, which cannot be imported .* or take FILE.py:FUNCTION"
    ):
        models.network(name, 10)


@pytest.mark.parametrize(
    ("name", "weights", "words"),
    [
        ("resnet18", None, "a network is torchvision:NAME, timm:NAME or FILE.py:FUNCTION"),
        ("keras:resnet18", None, "got 'keras:resnet18'"),
        ("gone.py:make", None, "there is no file gone.py"),
        ("{made}/networks.py:gone", None, "has no function 'gone'"),
        ("{made}/networks.py:number", None, "gives int, but a network is a torch.nn.Module"),
        ("timm:resnet18", "gone.pt", "there is no file gone.pt"),
        ("{made}/networks.py:teacher", "{made}/pickle.pt", "holds more than tensors"),
        ("{made}/networks.py:teacher", "{made}/other.pt", "the weights of .*other.pt are of another network"),
    ],
)
def test_a_wrong_network_is_refused(name: str, weights: str | None, words: str, made: Path) -> None:
    torch.save({"net": nn.Linear(2, 2)}, made / "pickle.pt")
    torch.save(nn.Linear(2, 2).state_dict(), made / "other.pt")
    with pytest.raises(ValueError, match=words):
        models.network(name.format(made=made), 8, weights=weights and weights.format(made=made))


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"epoch": 3, "state_dict": {f"module.{n}": s[n] for n in s}}])
def test_weights_come_from_a_file(wrap: Callable[[Any], Any], made: Path, tmp_path: Path) -> None:
    name = f"{made / 'networks.py'}:plain"
    net = models.network(name, 8)
    torch.save(wrap(net.state_dict()), tmp_path / "weights.pt")
    again = models.network(name, 8, weights=str(tmp_path / "weights.pt"))
    assert models.hash_of(again) == models.hash_of(net) != models.hash_of(models.network(name, 8))
