"""accelerate: it shares the batches out among its processes, so the sampler does not.

accelerate launch -m examples.loops.accelerate_loop
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from examples.loops import tiny
from vqlabel import LabelDecoder
from vqlabel.data import DistilledDataset, ReplaySampler, collate


def train(accelerator: Accelerator, images: torch.Tensor, decoder: LabelDecoder, *, first: int = 0) -> None:
    """Train a student wherever accelerate says, from epoch `first` on."""
    sampler = ReplaySampler(decoder, rank=0, world=1)  # all rows: accelerate takes every world-th batch of them
    data = DistilledDataset(images, decoder, transform=tiny.normalised)
    loader = DataLoader(data, batch_size=16, sampler=sampler, collate_fn=collate)
    student = tiny.student()
    adam = torch.optim.AdamW(student.parameters(), lr=1e-3)
    student, adam, batches = accelerator.prepare(student, adam, loader)
    for epoch in range(first, decoder.epochs):
        sampler.set_epoch(epoch)
        batches.set_epoch(epoch)  # or it goes by its own count, which begins with 0
        for views, labels in batches:  # both on the device already
            loss = labels.kl(student(views), temperature=4)
            accelerator.backward(loss)
            adam.step()
            adam.zero_grad()
        accelerator.print(f"epoch {epoch}: loss {loss.item():.4f} in its last batch", flush=True)


if __name__ == "__main__":
    options, here = tiny.options(__doc__), Accelerator()
    with tiny.distilled(quick=options.quick) as (images, decoder):
        train(here, images, decoder)
