"""Lightning: the sampler shares the rows out itself, so Lightning need not wrap it; Lightning calls its set_epoch.

python -m examples.loops.lightning_loop
"""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader

from examples.loops import tiny
from vqlabel import LabelDecoder
from vqlabel.data import DistilledDataset, ReplaySampler, collate


class Distillation(lightning.LightningModule):
    """A student and the labels that it learns from."""

    def __init__(self, images: torch.Tensor, decoder: LabelDecoder) -> None:
        super().__init__()
        self.student = tiny.student()
        self.data = DistilledDataset(images, decoder, transform=tiny.normalised)

    def train_dataloader(self) -> Any:
        """Rows of this rank: Lightning asks for the loader when torch.distributed knows the ranks."""
        sampler = ReplaySampler(self.data.decoder)
        return DataLoader(self.data, batch_size=16, sampler=sampler, collate_fn=collate)

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        """Loss of a batch; views and labels are on the device already."""
        views, labels = batch
        loss: torch.Tensor = labels.kl(self.student(views), temperature=4)
        self.log("loss", loss, prog_bar=True, batch_size=len(labels))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.student.parameters(), lr=1e-3)


def train(images: torch.Tensor, decoder: LabelDecoder) -> None:
    """Train a student for as many epochs as there are labels of."""
    quiet = {"logger": False, "enable_checkpointing": False}
    trainer = lightning.Trainer(max_epochs=decoder.epochs, use_distributed_sampler=False, **quiet)
    trainer.fit(Distillation(images, decoder))
    print(f"loss {trainer.callback_metrics['loss'].item():.4f} in the last batch", flush=True)


if __name__ == "__main__":
    with tiny.distilled(quick=tiny.options(__doc__).quick) as (images, decoder):
        train(images, decoder)
