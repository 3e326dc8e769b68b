"""A plain torch loop with vqlabel's labels: an unmodified DataLoader, workers that live on from epoch to epoch.

python -m examples.loops.plain
"""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader

from examples.loops import tiny
from vqlabel import LabelDecoder
from vqlabel.data import DistilledDataset, ReplaySampler, collate


def train(images: torch.Tensor, decoder: LabelDecoder) -> None:
    """Train a student for as many epochs as there are labels of."""
    student = tiny.student().to(tiny.DEVICE)
    adam = torch.optim.AdamW(student.parameters(), lr=1e-3)
    sampler = ReplaySampler(decoder)
    loader = DataLoader(
        DistilledDataset(images, decoder, transform=tiny.normalised),
        batch_size=16,
        sampler=sampler,
        collate_fn=collate,
        num_workers=2,
        persistent_workers=True,
        pin_memory=tiny.DEVICE.type == "cuda",
    )
    for epoch in range(decoder.epochs):
        sampler.set_epoch(epoch)  # the rows carry the epoch to the workers
        total = 0.0
        for views, labels in loader:
            views, labels = (part.to(tiny.DEVICE, non_blocking=True) for part in (views, labels))
            loss = labels.kl(student(views), temperature=4)
            adam.zero_grad()
            loss.backward()
            adam.step()
            total += loss.item() * len(labels)
        print(f"epoch {epoch}: loss {total / len(sampler):.4f}", flush=True)


if __name__ == "__main__":
    with tiny.distilled(quick=tiny.options(__doc__).quick) as (images, decoder):
        train(images, decoder)
