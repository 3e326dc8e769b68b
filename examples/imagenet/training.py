"""A student while it learns: what changes from epoch to epoch, kept and taken up again."""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Sequence
from typing import Any

import torch

from examples.imagenet.models import MEAN, STD, Normalised, network
from vqlabel import LabelDecoder
from vqlabel.data import ReplaySampler
from vqlabel.ranks import Ranks
from vqlabel.schedules import GridAlignment, Reuse

SETTINGS = (
    "student",
    "batch_size",
    "epochs",
    "temperature",
    "schedule",
    "align",
    "reuse",
    "lr",
    "weight_decay",
    "seed",
)


class Training:
    """Whatever changes while a student learns, and so belongs into a checkpoint."""

    def __init__(self, options: argparse.Namespace, decoder: LabelDecoder, device: torch.device) -> None:
        torch.manual_seed(options.seed)
        net = network(options.student, decoder.classes)
        self.device = device
        mean, std = _normalisation(options, decoder)
        self.student = Normalised(net, mean, std).to(device)
        self.sampler = ReplaySampler(decoder, seed=options.seed, reuse=Reuse() if options.reuse else None)
        self.adam = torch.optim.AdamW(_groups(net, options.weight_decay), lr=options.lr)
        self.cosine = torch.optim.lr_scheduler.LambdaLR(
            self.adam, lambda epoch: 0.5 * (1 + math.cos(math.pi * epoch / options.epochs))
        )
        self.scaler = torch.amp.GradScaler("cuda", enabled=device.type == "cuda")
        self.align = GridAlignment() if options.align == "grid" else None
        self.settings = {name: getattr(options, name) for name in SETTINGS} | {"processes": Ranks.here().world}
        self.settings |= {"labels": decoder.file.fingerprint, "mean": list(mean), "std": list(std)}

    def parts(self) -> dict[str, Any]:
        """What has a state, by name."""
        found = {"student": self.student.net, "adam": self.adam, "cosine": self.cosine, "scaler": self.scaler}
        return found | ({"align": self.align} if self.align else {})

    def save(self, path: str) -> None:
        """Keep everything at the end of an epoch."""
        state = {name: part.state_dict() for name, part in self.parts().items()}
        state |= {"sampler": self.sampler.state_dict(consumed=len(self.sampler)), "settings": self.settings}
        torch.save(state, f"{path}.partial")
        os.replace(f"{path}.partial", path)

    def load(self, path: str) -> int:
        """The epoch to go on with: 0 if nothing was kept."""
        if not os.path.exists(path):
            return 0
        state = _read(path)
        then = state["settings"]
        for name, value in self.settings.items():
            if then.get(name) != value:
                raise ValueError(
                    f"{path} is of a training with {name} {then.get(name)} instead of {value}: say that again to go "
                    "on with it, or name another --checkpoint"
                )
        for name, part in self.parts().items():
            part.load_state_dict(state[name])
        self.sampler.load_state_dict(state["sampler"])
        return self.sampler.epoch + 1


def _read(path: str) -> dict[str, Any]:
    """What `save` wrote."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception:  # whatever torch makes of bytes that it did not write
        state = None
    if not isinstance(state, dict) or not isinstance(state.get("settings"), dict):
        raise ValueError(f"{path} is no checkpoint of a training: delete it, or name another --checkpoint")
    return state


def _normalisation(options: argparse.Namespace, decoder: LabelDecoder) -> tuple[Sequence[float], Sequence[float]]:
    teachers = json.loads(decoder.file.metadata.get("x.normalisation", "{}"))
    return options.mean or teachers.get("mean", MEAN), options.std or teachers.get("std", STD)


def _groups(net: torch.nn.Module, decay: float) -> list[dict[str, Any]]:
    """Biases and the parameters of norms do not decay."""
    matrices = [weight for weight in net.parameters() if weight.ndim > 1]
    others = [weight for weight in net.parameters() if weight.ndim <= 1]
    return [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
