"""A student of stored labels: KL at a temperature on replayed views of an image folder.

    python -m examples.imagenet.train IMAGES labels.safetensors --student torchvision:resnet18 --val VAL

With torchrun the processes share each batch. Run it again after an interruption and it goes on with the next epoch.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from examples.imagenet.folder import Folder
from examples.imagenet.models import NAMES, Normalised, add_normalisation, count_right
from examples.imagenet.training import Training
from vqlabel import FormatError, LabelDecoder
from vqlabel.arguments import check_whole
from vqlabel.commands import ranks
from vqlabel.data import DistilledDataset, ReplaySampler, collate
from vqlabel.outputs import check_folder
from vqlabel.ranks import Ranks
from vqlabel.schedules import ConstantTemperature, CosineTemperature, StepTemperature, TemperatureSchedule
from vqlabel.terminal import say


def main(arguments: Sequence[str] | None = None) -> None:
    """Train a student."""
    options = _parser().parse_args(arguments)
    try:
        with ranks():
            train(options)
    except (FormatError, OSError, ValueError, FloatingPointError) as error:
        sys.exit(f"error: {error}")


def train(options: argparse.Namespace) -> None:
    """Train from the last checkpoint on, or from the start."""
    here, device = Ranks.here(), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    decoder = LabelDecoder(options.labels)
    _check(options, decoder)
    training = Training(options, decoder, device)
    loader = _loader(options, decoder, training.sampler)
    val = _val_folder(options, decoder)
    first = training.load(options.checkpoint)
    student = DistributedDataParallel(training.student) if here.world > 1 else training.student
    schedule = _schedule(options)
    if first == options.epochs and here.rank == 0:
        print(f"{options.checkpoint} has learned for {first} epochs: nothing is left to do")
    for epoch in range(first, options.epochs):
        began = time.perf_counter()
        training.sampler.set_epoch(epoch)
        # Dropout and the like: drawn for each epoch, so that a resumed run draws the same.
        torch.manual_seed(options.seed + 1 + epoch * here.world + here.rank)
        loss, rows = _one_epoch(training, student, loader, schedule(epoch))
        words = f"epoch {epoch}: loss {loss:.6f}, {rows / (time.perf_counter() - began):,.0f} views/s"
        if not math.isfinite(loss):
            raise FloatingPointError(f"{words}; begin again with a lower --lr and another --checkpoint")
        if here.rank == 0:
            training.save(options.checkpoint)
        if val and ((epoch + 1) % options.val_every == 0 or epoch + 1 == options.epochs):
            words += f", top-1 {_top1(training.student, val):.2%}"
        if here.rank == 0:
            print(words, flush=True)


def _check(options: argparse.Namespace, decoder: LabelDecoder) -> None:
    """Say what an epoch would be lost for."""
    options.epochs = check_whole("--epochs", decoder.epochs if options.epochs is None else options.epochs, 1, 2**31)
    check_whole("--val-every", options.val_every, 1, 2**31)
    check_folder(options.checkpoint)
    if options.epochs > decoder.epochs and not options.reuse:
        raise ValueError(
            f"{options.labels} holds {decoder.epochs} epochs, not {options.epochs}: --reuse reads them again"
        )


def _loader(options: argparse.Namespace, decoder: LabelDecoder, sampler: ReplaySampler) -> DataLoader[Any]:
    """Batches of this rank, of images that are those that the labels were made for."""
    if options.batch_size % sampler.world:
        raise ValueError(f"--batch-size {options.batch_size} cannot be shared evenly by {sampler.world} processes")
    threads = max(options.workers, 1) if options.in_memory else 1  # workers read side by side already
    folder = Folder(options.images, _sizes(decoder)[0], threads=threads)
    _check_images(folder, options, decoder)
    return DataLoader(
        DistilledDataset(folder.in_memory() if options.in_memory else folder, decoder, augment_on="device"),
        batch_size=options.batch_size // sampler.world,
        sampler=sampler,
        collate_fn=collate,
        num_workers=options.workers,
        persistent_workers=options.workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def _check_images(folder: Folder, options: argparse.Namespace, decoder: LabelDecoder) -> None:
    if len(folder) != decoder.images:
        raise ValueError(f"{options.images} holds {len(folder)} images, but {options.labels} labels {decoder.images}")
    known = "views" in decoder.file.metadata.get("replay", {})
    if not known and Ranks.here().rank == 0:
        say(f"{options.labels} holds no reference views: nobody knows whether it was made for these images")
    verdict = decoder.file.verify(images=folder if known else None)
    if not verdict:
        raise ValueError(f"{options.labels} does not fit {options.images}: {verdict}")


def _one_epoch(
    training: Training, student: torch.nn.Module, loader: DataLoader[Any], temperature: float
) -> tuple[float, int]:
    """Mean loss, and how many views all ranks saw."""
    training.student.train()
    device, align, scaler = training.device, training.align, training.scaler
    total, rows = torch.zeros((), dtype=torch.float64, device=device), 0
    for originals, labels in loader:
        views, labels = originals.to(device, non_blocking=True)(), labels.to(device, non_blocking=True)
        logits = student(views).float()
        loss = labels.kl(logits, temperature, align.temperature if align else None)
        training.adam.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(training.adam)
        scaler.update()
        total += loss.detach() * len(labels)  # not .item(): that would wait for the device
        rows += len(labels)
    training.cosine.step()
    if align:
        align.update(logits, labels.probs(temperature))  # the student's temperature in the next epoch
    loss_sum, all_rows = Ranks.here().sum(torch.stack([total, torch.full_like(total, rows)])).tolist()
    return loss_sum / all_rows, int(all_rows)


def _val_folder(options: argparse.Namespace, decoder: LabelDecoder) -> Folder | None:
    if not options.val:
        return None
    size = _sizes(decoder)[1]
    folder = Folder(options.val, size, resize=round(size * 256 / 224), threads=max(options.workers, 1))
    if len(folder.names) != decoder.classes:
        raise ValueError(f"{options.val} has {len(folder.names)} classes, but the labels {decoder.classes}")
    return folder


def _top1(student: Normalised, folder: Folder) -> float:
    """Accuracy on whole images: each rank looks at its share."""
    here = Ranks.here()
    own = here.own(len(folder))
    right = count_right(student.eval(), folder, own, size=folder.size, device=student.mean.device)
    return float(here.sum(right)) / len(folder)


def _sizes(decoder: LabelDecoder) -> tuple[int, int]:
    """Sides of a source image and of a view."""
    recipe = decoder.recipe
    if recipe is not None and not recipe.height:
        raise ValueError(
            f"{decoder.file.path} stores crops as parts of images of many sizes, but images are cut to one size here: "
            "make the views in a data set of your own, and add labels with decoder.collate"
        )
    return (recipe.height, recipe.size) if recipe else (224, 224)


def _schedule(options: argparse.Namespace) -> TemperatureSchedule:
    start, epochs = options.temperature, options.epochs
    if options.schedule == "step":  # LPQLD's: ten steps in a training
        return StepTemperature(start, 0.7, every=max(epochs // 10, 1), floor=min(2.0, start))
    return CosineTemperature(start, 1.0, epochs=epochs) if options.schedule == "cosine" else ConstantTemperature(start)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("train", description="Train a student on stored labels.")
    parser.add_argument("images", help="the folder that the labels were made for")
    parser.add_argument("labels", help="the label file")
    parser.add_argument("--student", required=True, help=NAMES)
    parser.add_argument("--checkpoint", default="student.pt", help="kept after each epoch (student.pt)")
    parser.add_argument("--val", metavar="DIR", help="image folder to measure top-1 on, its classes in the same order")
    parser.add_argument("--val-every", type=int, default=10, metavar="N", help="epochs (10)")
    parser.add_argument("--batch-size", type=int, default=128, help="of all processes together (128)")
    parser.add_argument("--epochs", type=int, help="of training (as many as there are labels of)")
    parser.add_argument("--temperature", type=float, default=20.0, help="of labels and student (20)")
    parser.add_argument(
        "--schedule", choices=("constant", "step", "cosine"), default="constant", help="of temperatures"
    )
    parser.add_argument(
        "--align", choices=("none", "grid"), default="none", help="the student's own temperature, LPQLD"
    )
    parser.add_argument("--reuse", action="store_true", help="read labels again when training is longer than they are")
    parser.add_argument("--lr", type=float, default=1e-3, help="of AdamW, at the start of a cosine (0.001)")
    parser.add_argument("--weight-decay", type=float, default=0.01, help="of weights, not of biases and norms (0.01)")
    parser.add_argument("--workers", type=int, default=8, help="processes that read images, for each rank (8)")
    parser.add_argument("--in-memory", action="store_true", help="read each image once and keep it")
    parser.add_argument("--seed", type=int, default=0, help="of first weights and of the order of images (0)")
    add_normalisation(parser, "what the teacher had")
    return parser


if __name__ == "__main__":
    main()
