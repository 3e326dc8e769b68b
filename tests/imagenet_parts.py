"""What the tests of the scripts for image folders share: pictures, networks, command lines, stand-ins for libraries."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import nn

CLASSES, EACH = 8, 2
EPOCHS = 600  # 9,600 rows: three blocks of an encoder

# Class i has the colour of corner i of the RGB cube, and the teacher knows the corners.
NETWORKS = """
import torch
from torch import nn

def teacher(classes):
    corners = torch.tensor([[2.0 * (i >> bit & 1) - 1 for bit in range(3)] for i in range(classes)])
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes))
    net.load_state_dict({"2.weight": corners, "2.bias": torch.zeros(classes)})
    return net

def plain(classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, classes))

def stateful(classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), plain_head(classes))

def plain_head(classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))

def number(classes):
    return classes
"""


def picture(number: int, height: int = 48, width: int = 48) -> Any:
    """A noisy image of class number // EACH, its own like no other."""
    random = np.random.default_rng(number)
    colour = [255 * (number // EACH >> bit & 1) for bit in range(3)]
    noise = random.integers(0, 160, (height, width, 3)) * random.random()
    return Image.fromarray(np.abs(np.array(colour) - noise).astype(np.uint8))


def drawn(folder: Path) -> Path:
    """The folder, with images/ and networks.py in it."""
    for number in range(CLASSES * EACH):
        name = folder / "images" / f"new{number // EACH:03d}" / f"image_{number}.png"
        name.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(name)
    (folder / "networks.py").write_text(NETWORKS)
    return folder


def refused(main: Callable[[list[str]], None], arguments: list[str]) -> str:
    """What a script says when it gives up."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    return str(stopped.value)


def command(made: Path, codec: str, out: str, *more: str) -> list[str]:
    """Arguments of relabel that take a moment."""
    teacher = f"{made / 'networks.py'}:teacher"
    sizes = ["--epochs", str(EPOCHS), "--source-size", "48", "--size", "8", "--batch-size", "1024", "--in-memory"]
    fit = ["--bytes", "1", "--effort", "0.01", "--fit-rows", "600", "--codec", codec]
    return [str(made / "images"), "-o", str(made / out), "--teacher", teacher, *sizes, *fit, *more]


def training(made: Path, checkpoint: Path, *more: str, student: str = "stateful") -> list[str]:
    """Arguments of train: batches of 4, so four steps an epoch."""
    net = f"{made / 'networks.py'}:{student}"
    places = [str(made / "images"), str(made / "vq.safetensors"), "--student", net, "--checkpoint", str(checkpoint)]
    return [*places, "--batch-size", "4", "--epochs", "3", "--workers", "0", *more]


def stub(name: str, function: str, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A module in place of a library; what its function is called with is kept."""
    module, calls = ModuleType(name), []

    def make(*arguments: Any, **options: Any) -> nn.Module:
        calls.append((*arguments, options))
        return nn.Linear(2, 2)

    setattr(module, function, make)
    if "." in name:
        monkeypatch.setitem(sys.modules, name.partition(".")[0], ModuleType("parent"))
    monkeypatch.setitem(sys.modules, name, module)
    return calls
