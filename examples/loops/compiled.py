"""torch.compile of a step. The student is compiled; labels.kl stands behind a graph break, on purpose.

Decoding is C++ on the CPU and Triton on a GPU, with nothing left for a compiler to fuse.

    python -m examples.loops.compiled
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader

from examples.loops import tiny
from vqlabel import LabelDecoder
from vqlabel.data import DistilledDataset, ReplaySampler, collate
from vqlabel.packed import PackedLabels


def compiled(student: torch.nn.Module, backend: str) -> Callable[[torch.Tensor, PackedLabels], Any]:
    """The loss of a batch, compiled."""

    @torch.compile(backend=backend)
    def loss_of(views: torch.Tensor, labels: PackedLabels) -> torch.Tensor:
        return labels.kl(student(views), temperature=4)

    return loss_of


def train(images: torch.Tensor, decoder: LabelDecoder, backend: str) -> None:
    """Train a student with a compiled step."""
    student = tiny.student().to(tiny.DEVICE)
    adam = torch.optim.AdamW(student.parameters(), lr=1e-3)
    loss_of, sampler = compiled(student, backend), ReplaySampler(decoder)
    data = DistilledDataset(images, decoder, transform=tiny.normalised)
    loader = DataLoader(data, batch_size=20, sampler=sampler, collate_fn=collate)
    for epoch in range(decoder.epochs):
        sampler.set_epoch(epoch)
        total = 0.0
        for views, labels in loader:
            loss = loss_of(views.to(tiny.DEVICE), labels.to(tiny.DEVICE))
            adam.zero_grad()
            loss.backward()
            adam.step()
            total += loss.item() * len(labels)
        print(f"epoch {epoch}: loss {total / len(sampler):.4f}", flush=True)


if __name__ == "__main__":
    options = tiny.options(__doc__, backend="inductor")
    with tiny.distilled(quick=options.quick) as (images, decoder):
        train(images, decoder, options.backend)
