"""The images of a method as one file with where they come from, made once."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

import vqlabel
from examples import shared
from examples.glyphs import data, teacher
from examples.glyphs.settings import Settings
from examples.glyphs.synthesis import cda, lpld, optimise, random, rded, sre2l
from examples.glyphs.synthesis.options import Patches, Plain

PLANS = {"sre2l": sre2l.plan, "cda": cda.plan, "lpld": lpld.plan, "noise": sre2l.plan}
KEY = "glyphs"  # of the metadata: one, because more have no order


def images(settings: Settings) -> torch.Tensor:
    """Images uint8 [ipc * C, 1, 32, 32] of the settings' method; image i is of class i modulo C."""
    if settings.method == "random":
        return random.images(settings)  # as fast as reading them
    with safe_open(stored(settings), "pt") as file:
        found: torch.Tensor = file.get_tensor("images")
    return found.to(settings.device)


def stored(settings: Settings) -> Path:
    """The file of the images, made now unless it is there."""
    path = settings.images_path()
    with shared.alone(path):  # it may take hours: nobody does the same beside it
        if not _whole(path):
            running = path.with_suffix(".running")
            _write(path, *_make(settings, running))
            running.unlink(missing_ok=True)
    return path


def _make(settings: Settings, running: Path) -> tuple[torch.Tensor, dict[str, Any]]:
    """The images, and what is to be known of them."""
    options = settings.synthesis
    told: dict[str, Any] = {"method": settings.method, "settings": settings.facts(), "seed": settings.seed}
    told |= {"synthesis": dataclasses.asdict(options), "glyphs": settings.glyphs.fingerprint(), "versions": versions()}
    if isinstance(options, Plain):
        return random.images(settings), told
    net, _ = teacher.train(settings)
    told["teacher"] = teacher.fingerprint(net)
    if isinstance(options, Patches):
        return rded.images(settings, net, options), told
    plan = PLANS[settings.method](settings, net, options)
    made, told["losses"] = optimise.images(settings, net, plan, options, running)
    return made, told


def provenance(path: Path) -> dict[str, Any]:
    """What a file says of its images."""
    with safe_open(path, "numpy") as file:
        told: dict[str, Any] = json.loads(file.metadata()[KEY])
    return told


def versions() -> dict[str, str]:
    """What the pixels depend on beside the settings."""
    return {
        "vqlabel": vqlabel.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "data": data.renderer(),
    }


def _whole(path: Path) -> bool:
    try:
        with safe_open(path, "pt"):
            return True
    except FileNotFoundError:
        return False
    except SafetensorError as error:
        print(f"{path} is damaged ({error}); it is made again")
        return False


def _write(path: Path, made: torch.Tensor, told: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    save_file({"images": made.cpu().contiguous()}, partial, {KEY: json.dumps(told, sort_keys=True)})
    os.replace(partial, path)
