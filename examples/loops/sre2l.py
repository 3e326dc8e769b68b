"""SRe2L's training on FKD labels (train_FKD): its protocol, without an edited torch and without its fixed batch size.

KL at a temperature as the mean over the batch, without a factor T^2; AdamW at 1e-3 with a decay of 0.01; a cosine that
steps once an epoch; a batch cut into parts whose gradients add up. Views are made and mixed on the student's device.

    python -m examples.loops.sre2l
"""

from __future__ import annotations

import math

import torch
from torch.utils.data import DataLoader

from examples.loops import tiny
from vqlabel import LabelDecoder
from vqlabel.data import DistilledDataset, ReplaySampler, collate

BATCH, PARTS, TEMPERATURE = 24, 3, 20.0


def train_fkd(images: torch.Tensor, decoder: LabelDecoder) -> None:
    """Train a student as SRe2L does."""
    data = DistilledDataset(images, decoder, augment_on="device", transform=tiny.normalised)
    sampler = ReplaySampler(decoder, seed=42)
    loader = DataLoader(data, batch_size=BATCH, sampler=sampler, collate_fn=collate, num_workers=2)
    student = tiny.student().to(tiny.DEVICE)
    adam = torch.optim.AdamW(student.parameters(), lr=1e-3, weight_decay=0.01)
    cosine = torch.optim.lr_scheduler.LambdaLR(adam, lambda e: 0.5 * (1 + math.cos(math.pi * e / decoder.epochs)))
    for epoch in range(decoder.epochs):
        sampler.set_epoch(epoch)
        total = 0.0
        for originals, labels in loader:
            views, labels = originals.to(tiny.DEVICE)(), labels.to(tiny.DEVICE)
            adam.zero_grad()
            for start in range(0, len(labels), BATCH // PARTS):
                part = slice(start, start + BATCH // PARTS)
                loss = labels[part].kl(student(views[part]), TEMPERATURE) * len(labels[part]) / len(labels)
                loss.backward()
                total += loss.item() * len(labels)
            adam.step()
        cosine.step()
        print(f"epoch {epoch}: loss {total / len(sampler):.6f}", flush=True)


if __name__ == "__main__":
    with tiny.distilled(quick=tiny.options(__doc__).quick) as (images, decoder):
        train_fkd(images, decoder)
