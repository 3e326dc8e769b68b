"""Small networks for 32 x 32 grey images: one teacher family, three kinds of student."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn


def convolution(inputs: int, outputs: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """3 x 3 convolution, batch norm, ReLU."""
    return linear(inputs, outputs, stride=stride, groups=groups).append(nn.ReLU(inplace=True))


def linear(inputs: int, outputs: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """The same without the ReLU."""
    layer = nn.Conv2d(inputs, outputs, 3, stride, padding=1, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


def head(features: int, hidden: int, classes: int) -> nn.Sequential:
    """Pool to 2 x 2, one hidden layer, logits."""
    norm = nn.BatchNorm1d(hidden)
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * features, hidden, bias=False),
        norm,
        nn.ReLU(inplace=True),
        nn.Linear(hidden, classes),
    )


def convnet(classes: int, widths: Sequence[int], hidden: int) -> nn.Sequential:
    """One convolution and a pooling per stage."""
    *pooled, last = itertools.pairwise((1, *widths))
    stages: list[nn.Module] = []
    for inputs, outputs in pooled:
        # A ReLU gives the same before the pooling, of four times as many numbers.
        stages += [linear(inputs, outputs), nn.Sequential(nn.MaxPool2d(2), nn.ReLU(inplace=True))]
    return nn.Sequential(*stages, convolution(*last), head(widths[-1], hidden, classes))


class Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.body = nn.Sequential(convolution(inputs, outputs, stride=2), second, nn.BatchNorm2d(outputs))
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(inputs, outputs, 1, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images [B, inputs, H, W] to [B, outputs, H / 2, W / 2]."""
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet(classes: int, widths: Sequence[int], hidden: int) -> nn.Sequential:
    """A stem, then one residual block per stage."""
    blocks = [Residual(inputs, outputs) for inputs, outputs in itertools.pairwise(widths)]
    return nn.Sequential(convolution(1, widths[0], stride=2), *blocks, head(widths[-1], hidden, classes))


def depthwise(classes: int, widths: Sequence[int], hidden: int) -> nn.Sequential:
    """Convolutions per channel, mixed by 1 x 1 convolutions."""
    stages: list[nn.Module] = [convolution(1, widths[0], stride=2)]
    for inputs, outputs in itertools.pairwise(widths):
        mix = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
        stages += [convolution(inputs, inputs, stride=2, groups=inputs), mix]
    return nn.Sequential(*stages, head(widths[-1], hidden, classes))


def parameters(net: nn.Module) -> int:
    """Numbers that a network has learned."""
    return sum(p.numel() for p in net.parameters())


def teacher(classes: int) -> nn.Sequential:
    """About 1.4 million parameters at 1,000 classes."""
    return convnet(classes, (32, 64, 128, 256), 512)


STUDENTS = {
    "convnet": lambda classes: convnet(classes, (24, 48, 96, 192), 256),
    "resnet": lambda classes: resnet(classes, (24, 48, 96, 192), 256),
    "depthwise": lambda classes: depthwise(classes, (32, 96, 192, 256), 256),
}


def student(name: str, classes: int) -> nn.Sequential:
    """A student by name; ValueError for one that is not there."""
    if name not in STUDENTS:
        raise ValueError(f"student must be one of {', '.join(STUDENTS)}, got {name!r}")
    return STUDENTS[name](classes)
