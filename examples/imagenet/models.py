"""Networks by name, their weights, and how often they are right."""

from __future__ import annotations

import argparse
import hashlib
import os
import pickle
import sys
from collections.abc import Sequence
from importlib import import_module, util
from typing import Any

import torch
from torch import nn

from examples.imagenet.folder import Folder, Numbers

NAMES = "torchvision:NAME, timm:NAME or FILE.py:FUNCTION of the number of classes"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
PRETRAINED = "DEFAULT"  # torchvision's word for the best weights that it has of a network


class Normalised(nn.Module):
    """A network that takes views of 0 to 1; on CUDA it computes in float16 where torch holds that to be safe."""

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.net = net
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        """Logits [B, C] of views [B, 3, H, W]."""
        with torch.autocast(views.device.type, torch.float16, enabled=views.is_cuda):
            logits: torch.Tensor = self.net((views - self.mean) / self.std)
        return logits


def add_normalisation(parser: argparse.ArgumentParser, default: str) -> None:
    """Options --mean and --std."""
    for name in ("mean", "std"):
        parser.add_argument(f"--{name}", type=float, nargs=3, metavar="X", help=f"of the pixels, 0 to 1 ({default})")


def network(name: str, classes: int, *, weights: str | None = None) -> nn.Module:
    """A network of NAMES for so many classes.

    weights are a file, or a name of torchvision's; PRETRAINED is known to timm too, and a function of a file is trusted
    to have seen to it. Without any the network is new.
    """
    kind, _, word = name.rpartition(":")
    in_file = weights is not None and os.path.exists(weights)
    known = None if in_file else weights
    if known not in (None, PRETRAINED) and kind != "torchvision":
        raise ValueError(f"there is no file {weights} with weights for {name}")
    size = {} if known else {"num_classes": classes}  # a pretrained head is as it is
    if kind == "torchvision":
        net = _library("torchvision.models", name).get_model(word, weights=known, **size)
    elif kind == "timm":
        net = _library("timm", name).create_model(word, pretrained=known is not None, **size)
    elif kind.endswith(".py"):
        net = _function(kind, word)(classes)
    else:
        raise ValueError(f"a network is {NAMES}, got {name!r}")
    if not isinstance(net, nn.Module):
        raise ValueError(f"{name} gives {type(net).__name__}, but a network is a torch.nn.Module")
    if in_file:
        _load(net, str(weights))
    return net


def hash_of(net: nn.Module) -> str:
    """Hash of all weights."""
    digest = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        digest.update(name.encode() + tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


@torch.no_grad()
def count_right(net: nn.Module, folder: Folder, numbers: Numbers, *, size: int, device: torch.device) -> torch.Tensor:
    """How many of these images, seen whole at this size, a network puts into their class: a number on the device."""
    right = torch.zeros((), device=device)
    for start in range(0, len(numbers), 256):
        part = numbers[start : start + 256]
        images = folder(part).to(device).float() / 255
        if folder.size != size:
            images = nn.functional.interpolate(images, (size, size), mode="bilinear", antialias=True)
        right += (net(images).argmax(1) == torch.from_numpy(folder.classes[part]).to(device)).sum()
    return right


def _library(module: str, name: str) -> Any:
    try:
        return import_module(module)
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision made for another torch
        package = module.partition(".")[0]
        raise ValueError(
            f"{name} needs {package}, which cannot be imported ({error}): install the {package} that fits your torch, "
            "or take FILE.py:FUNCTION"
        ) from None


def _function(path: str, name: str) -> Any:
    if not os.path.exists(path):
        raise ValueError(f"there is no file {path} with a function {name} that makes a network")
    spec = util.spec_from_file_location(os.path.basename(path).removesuffix(".py"), path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is no Python file")
    module = util.module_from_spec(spec)
    sys.modules.setdefault(spec.name, module)  # dataclasses and pickle look there
    spec.loader.exec_module(module)
    if not callable(getattr(module, name, None)):
        raise ValueError(f"{path} has no function {name!r} that makes a network")
    return getattr(module, name)


def _load(net: nn.Module, path: str) -> None:
    """Fill a network with the weights of a file; what torch.save wrote of a whole training will do."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(f"{path} holds more than tensors, or no weights: save net.state_dict() alone") from None
    for key in ("state_dict", "model", "student"):
        found = found[key] if isinstance(found.get(key), dict) else found
    try:
        net.load_state_dict({name.removeprefix("module."): tensor for name, tensor in found.items()})
    except RuntimeError as error:
        raise ValueError(f"the weights of {path} are of another network: {error}") from None
