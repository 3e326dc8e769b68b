"""Two processes that share each epoch: the sampler asks torch.distributed which rows are its own.

torchrun --standalone --nproc-per-node 2 -m examples.loops.ddp
"""

from __future__ import annotations

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from examples.loops import tiny
from vqlabel import LabelDecoder
from vqlabel.data import DistilledDataset, ReplaySampler, collate


def train(images: torch.Tensor, decoder: LabelDecoder) -> None:
    """Train a student, half of each epoch in each of two processes."""
    student = DistributedDataParallel(tiny.student())
    adam = torch.optim.AdamW(student.parameters(), lr=1e-3)
    sampler = ReplaySampler(decoder)
    data = DistilledDataset(images, decoder, transform=tiny.normalised)
    loader = DataLoader(data, batch_size=8, sampler=sampler, collate_fn=collate)
    for epoch in range(decoder.epochs):
        sampler.set_epoch(epoch)
        total = torch.zeros(2)
        for views, labels in loader:
            loss = labels.kl(student(views), temperature=4)
            adam.zero_grad()
            loss.backward()
            adam.step()
            total += torch.tensor([loss.item() * len(labels), len(labels)])
        distributed.all_reduce(total)
        if distributed.get_rank() == 0:
            print(f"epoch {epoch}: loss {total[0] / total[1]:.4f} over {int(total[1])} rows", flush=True)


if __name__ == "__main__":
    options = tiny.options(__doc__)
    distributed.init_process_group("gloo")
    with tiny.distilled(quick=options.quick) as (images, decoder):
        train(images, decoder)
    distributed.destroy_process_group()
