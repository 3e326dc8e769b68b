"""Soft labels of an image folder: a teacher looks at replayed views, and its logits go straight into a label file.

    python -m examples.imagenet.relabel IMAGES -o labels.safetensors --teacher torchvision:resnet18

With torchrun each process labels its share. Run it again after an interruption and it goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from examples.imagenet.folder import Folder, Numbers
from examples.imagenet.models import (
    MEAN,
    NAMES,
    PRETRAINED,
    STD,
    Normalised,
    add_normalisation,
    count_right,
    hash_of,
    network,
)
from vqlabel import FormatError, LabelEncoder
from vqlabel.arguments import check_whole
from vqlabel.codecs.raw import Raw
from vqlabel.codecs.topk import TopK
from vqlabel.commands import ranks
from vqlabel.data import Originals
from vqlabel.fit_once import fitted_once, forget
from vqlabel.images import Images
from vqlabel.outputs import check_free
from vqlabel.ranks import Ranks
from vqlabel.replay import ReplayRecipe
from vqlabel.side import SideInformation
from vqlabel.sources import Source, open_source
from vqlabel.terminal import say
from vqlabel.views import fingerprint

LOOKED_AT = 1000  # images, to see whether the teacher knows them
SUSPICIOUS = 0.2  # of them right: fewer are a mistake more often than a weak teacher


class Teacher:
    """The logits of a network as a function of row numbers (epoch * images + image), for LabelEncoder."""

    def __init__(self, net: Normalised, images: Images, recipe: ReplayRecipe, *, batch: int) -> None:
        self.net, self.images, self.recipe, self.batch = net, images, recipe, batch

    def __call__(self, rows: Numbers) -> torch.Tensor:
        """Logits [n, C] of rows [n]."""
        # A GPU is not waited for: it looks at one batch while the images of the next are read.
        return torch.cat([self._part(rows[at : at + self.batch]) for at in range(0, len(rows), self.batch)])

    def _part(self, rows: Numbers) -> torch.Tensor:
        parameters = self.recipe.parameters(*np.divmod(rows, self.recipe.images))
        logits: torch.Tensor = self.net(Originals.read(self.images, parameters).to(self.net.mean.device)())
        return logits


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the label file."""
    options = _parser().parse_args(arguments)
    try:
        with ranks():
            relabel(options)
    except (FormatError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")


def relabel(options: argparse.Namespace) -> None:
    """Label `epochs` views of each image."""
    here, device = Ranks.here(), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("epochs", "batch_size"):
        check_whole(f"--{name.replace('_', '-')}", getattr(options, name), 1, 2**31)
    if here.rank == 0:
        check_free(options.out)
    folder = Folder(options.images, options.source_size, threads=options.threads)
    recipe = _recipe(options, len(folder))
    net = network(options.teacher, len(folder.names), weights=options.weights)
    teacher = Normalised(net, options.mean or MEAN, options.std or STD).to(device).eval()
    _check_size(teacher, options.size)
    if here.rank == 0:
        _judge(teacher, folder, options.size, device)
    images = folder.in_memory() if options.in_memory else folder
    labeller = Teacher(teacher, Images(images), recipe, batch=options.batch_size)
    source = open_source(labeller, rows=options.epochs * len(folder))
    if source.classes != len(folder.names):
        raise ValueError(
            f"the teacher has {source.classes} outputs, but {options.images} has {len(folder.names)} classes: output i "
            "must be the i-th of the sorted folders; a FILE.py:FUNCTION may pick outputs of a larger teacher"
        )
    facts = {
        "teacher": f"{options.teacher} {hash_of(net)}",
        "replay": {"recipe": recipe.to_json(), "views": fingerprint(images, recipe)},
        "x.classes": json.dumps(folder.names),
        "x.normalisation": json.dumps({"mean": teacher.mean.flatten().tolist(), "std": teacher.std.flatten().tolist()}),
    }
    encoder = _encoder(options, source, SideInformation(folder.classes, recipe), facts)
    labels = encoder.encode(source, options.out, metadata=facts)
    if here.rank == 0:
        forget(options.out)
        print(f"{labels.path}: {len(labels):,} labels of {labels.row_bytes} bytes")


@torch.no_grad()
def _check_size(teacher: Normalised, size: int) -> None:
    """ValueError for a network that only takes views of another size."""
    try:
        teacher(torch.zeros(1, 3, size, size, device=teacher.mean.device))
    except (RuntimeError, AssertionError, ValueError) as error:  # whatever each of the libraries raises
        raise ValueError(
            f"the teacher takes no views of {size} x {size} pixels, which --size asks for: {error}"
        ) from None


def _recipe(options: argparse.Namespace, images: int) -> ReplayRecipe:
    draws = {name: getattr(options, name) for name in ("seed", "size", "flip", "cutmix", "mixup")}
    return ReplayRecipe(
        images=images, height=options.source_size, width=options.source_size, scale=tuple(options.scale), **draws
    )


def _judge(teacher: Normalised, folder: Folder, size: int, device: torch.device) -> None:
    """Say how often the teacher is right: a wrong normalisation or order of classes shows here first."""
    numbers = np.unique(np.linspace(0, len(folder) - 1, LOOKED_AT).astype(np.int64))
    right = float(count_right(teacher, folder, numbers, size=size, device=device)) / len(numbers)
    print(f"the teacher is right about {right:.1%} of {len(numbers):,} images, chance is {1 / len(folder.names):.1%}")
    if right < SUSPICIOUS:
        say("That is little. Is output i of the teacher the i-th of the sorted folders? Are --mean and --std its own?")


def _encoder(options: argparse.Namespace, source: Source, side: SideInformation, facts: dict[str, Any]) -> LabelEncoder:
    if options.codec != "vq":
        codec = Raw(source.classes) if options.codec == "raw" else TopK(source.classes, options.k)
        return LabelEncoder(codec, side)
    fit = {name: getattr(options, name) for name in ("prior", "effort", "seed")}
    fit |= {"bytes_per_label": options.bytes, "rows": options.fit_rows, "temperatures": tuple(options.temperatures)}

    def fitted() -> LabelEncoder:
        if Ranks.here().rank == 0:
            say("fitting: the teacher labels a sample first")
        return LabelEncoder.fit(source, side=side, progress=say, **fit)

    return fitted_once(options.out, {"rows": len(source), **fit, **facts}, fitted)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("relabel", description="Soft labels of an image folder in one small file.")
    parser.add_argument("images", help="folder of one folder of images a class")
    parser.add_argument("-o", "--out", required=True, metavar="LABELS", help="the label file")
    parser.add_argument("--teacher", required=True, help=NAMES)
    parser.add_argument("--weights", default=PRETRAINED, help="file, or a name of torchvision's (DEFAULT)")
    parser.add_argument("--epochs", type=int, default=300, help="labels of each image (300)")
    parser.add_argument("--source-size", type=int, default=224, help="images are resized and cut to this first (224)")
    parser.add_argument("--size", type=int, default=224, help="side of a view (224)")
    parser.add_argument("--scale", type=float, nargs=2, default=(0.08, 1.0), help="area of a crop (0.08 1)")
    parser.add_argument("--flip", type=float, default=0.5, help="probability (0.5)")
    parser.add_argument("--cutmix", type=float, default=1.0, help="probability (1)")
    parser.add_argument("--mixup", type=float, default=0.0, help="probability (0)")
    parser.add_argument("--seed", type=int, default=42, help="of the views, and of the fit (42)")
    parser.add_argument("--codec", choices=("vq", "topk", "raw"), default="vq", help="how to store a label (vq)")
    parser.add_argument("--bytes", type=float, default=8, help="vq: bytes of codes of a label (8)")
    parser.add_argument("--prior", choices=("none", "classes", "replay"), default="replay", help="vq: (replay)")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[20.0], help="vq: of the students (20)")
    parser.add_argument("--effort", type=float, default=1.0, help="vq: time to spend on the fit, against the usual 1")
    parser.add_argument("--fit-rows", type=int, default=100_000, help="vq: labels to fit on (100000)")
    parser.add_argument("--k", type=int, default=100, help="topk: logits that are kept (100)")
    parser.add_argument("--batch-size", type=int, default=256, help="views that the teacher sees together (256)")
    parser.add_argument("--threads", type=int, default=8, help="that read images (8)")
    parser.add_argument("--in-memory", action="store_true", help="read each image once and keep it, in each process")
    add_normalisation(parser, "ImageNet's")
    return parser


if __name__ == "__main__":
    main()
