"""Why the images matter: how alike those of a class are, and how much their labels tell that is new."""

from __future__ import annotations

import numpy as np
import torch

from examples.glyphs import distill, teacher
from examples.glyphs.rate_measure import Labels
from examples.glyphs.settings import Settings

SAMPLE = 5_000  # rows that the rank is taken of, and images whose labels are compared
TEMPERATURES = (20.0, 4.0)


def measure(settings: Settings, labels: Labels) -> dict[str, float]:
    """Similarity of a class's images, divergence of an image's labels, and effective rank of all labels."""
    net, images = teacher.train(settings)[0], distill.images(settings)
    found = {"similarity": similarity(features(net, images), settings.classes)}
    count = len(images)
    some = np.sort(np.random.default_rng(0).permutation(count)[: max(1, SAMPLE // settings.epochs)])
    rows = some[:, None] + count * np.arange(settings.epochs)
    for temperature in TEMPERATURES:
        logits = labels.logits[torch.from_numpy(rows)].float() / temperature
        found[f"divergence, T = {temperature:g}"] = divergence(logits)
        found[f"rank, T = {temperature:g}"] = rank(logits.flatten(0, 1).softmax(1))
    return found


def features(net: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What the teacher's last layer sees of the images themselves [N, hidden]."""
    seen: list[torch.Tensor] = []
    handle = net[-1][-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))  # type: ignore[index]
    try:
        with torch.inference_mode():
            for part in torch.split(images, 500):
                net(((part.float() / 255 - 0.5) * 2).contiguous(memory_format=torch.channels_last))
    finally:
        handle.remove()
    return torch.cat(seen)


def similarity(found: torch.Tensor, classes: int) -> float:
    """Mean cosine of two images of a class; image i is of class i modulo C. 1 where a class has but one."""
    unit = torch.nn.functional.normalize(found.double(), dim=1).view(-1, classes, found.shape[1])
    count = len(unit)
    if count == 1:
        return 1.0
    whole = unit.sum(0).square().sum(1)  # of all pairs, each image with itself among them
    return float(((whole - count) / (count * (count - 1))).mean())


def divergence(logits: torch.Tensor) -> float:
    """Mean KL between two labels of one image, of logits [images, epochs, C] over their temperature."""
    log, count = logits.double().log_softmax(2), logits.shape[1]
    own = (log.exp() * log).sum(2).mean(1)
    crossed = (log.exp().mean(1) * log.mean(1)).sum(1)  # over all pairs, each label with itself among them
    return float((own - crossed).mean()) * count / max(1, count - 1)


def rank(labels: torch.Tensor) -> float:
    """Effective rank of labels [N, C] around their mean: exp of the entropy of their normalised singular values."""
    values = torch.linalg.svdvals((labels - labels.mean(0)).double())
    share = values / values.sum().clamp_min(1e-300)
    return float(torch.exp(torch.special.entr(share).sum()))
