"""The parts of LPQLD's training: few labels, used again and again, at a falling temperature that the student follows.

The file holds a quarter of the epochs that are trained. Each image goes round its labels (label pruning), the labels'
temperature falls in steps (dynamic knowledge reuse), and the student's is fitted to the last batch of each epoch
(calibrated alignment). Losses at different temperatures do not compare, so the loop prints how often the two disagree.

    python -m examples.loops.lpqld
"""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader

from examples.loops import tiny
from vqlabel import LabelDecoder
from vqlabel.data import DistilledDataset, ReplaySampler, collate
from vqlabel.schedules import GridAlignment, Reuse, StepTemperature

ROUNDS = 4  # how often each label is used; LPQLD trains 300 epochs on 30


def train(images: torch.Tensor, decoder: LabelDecoder) -> None:
    """Train a student for longer than there are labels of."""
    epochs = ROUNDS * decoder.epochs
    schedule, align = StepTemperature(20, 0.7, every=max(epochs // 10, 1), floor=2), GridAlignment()
    student = tiny.student().to(tiny.DEVICE)
    adam = torch.optim.AdamW(student.parameters(), lr=1e-3, weight_decay=0.01)
    sampler = ReplaySampler(decoder, reuse=Reuse())
    data = DistilledDataset(images, decoder, transform=tiny.normalised)
    loader = DataLoader(data, batch_size=16, sampler=sampler, collate_fn=collate)
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        T, wrong = schedule(epoch), 0
        for views, labels in loader:
            labels = labels.to(tiny.DEVICE)
            logits, target = student(views.to(tiny.DEVICE)), labels.probs(T)
            loss = labels.kl(logits, T, align.temperature)
            adam.zero_grad()
            loss.backward()
            adam.step()
            wrong += (logits.argmax(1) != target.argmax(1)).sum().item()
        if (epoch + 1) % decoder.epochs == 0:
            at = f"T {T:.2f}, the student's {align.temperature:.2f}"
            print(f"epoch {epoch}: {at}: 0-1 loss {wrong / len(sampler):.3f}", flush=True)
        align.update(logits, target)  # for the next epoch


if __name__ == "__main__":
    with tiny.distilled(quick=tiny.options(__doc__).quick) as (images, decoder):
        train(images, decoder)
