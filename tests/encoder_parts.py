"""What the tests of the encoder share: a codec small enough to see through, logits, and processes that encode."""

# ruff: noqa: D102 - vqlabel/codecs/base.py says what each method does
from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from vqlabel.codecs.base import Codec
from vqlabel.codecs.options import FitOptions
from vqlabel.codecs.sample import Sample
from vqlabel.replay import Parameters, ReplayRecipe
from vqlabel.sampling import side_of_rows
from vqlabel.side import SideInformation

CLASSES = 10


class Nearest(Codec):
    """The nearest of 16 rows of a table: one codebook, one byte. What searches is kept apart, as in `vq`."""

    id: ClassVar[str] = "nearest"
    row_bits = 4

    def __init__(self, table: torch.Tensor, *, tier: str = "none", searches: bool = True) -> None:
        super().__init__(table.shape[1])
        self.table, self.tier, self.searches = table, tier, searches

    def config(self) -> dict[str, Any]:
        return {"id": self.id, "prior": self.tier}

    def tensors(self) -> dict[str, NDArray[Any]]:
        return {"books": self.table.numpy()}

    def search_tensors(self) -> dict[str, NDArray[Any]]:
        return {"search.norms": np.zeros(1, np.float32)}

    @classmethod
    def load(cls, classes: int, config: dict[str, Any], read: Any, names: list[str]) -> Nearest:
        return cls(torch.from_numpy(read("books")), tier=config["prior"], searches="search.norms" in names)

    def encode(self, logits: torch.Tensor, side: Any = None) -> NDArray[np.uint8]:
        if not self.searches:
            raise ValueError("this codec comes from a label file")
        assert (side is None) == (self.tier == "none")
        centred = logits - logits.mean(1, keepdim=True)
        return torch.cdist(centred, self.table).argmin(1).to(torch.uint8)[:, None].numpy()

    def decode(self, rows: NDArray[np.uint8], side: Any = None) -> torch.Tensor:
        return self.table[torch.from_numpy(rows[:, 0].astype(np.int64))]


class Fitting:
    """Stands in for vqlabel.codecs.fitting: takes the first rows as its table, remembers what it was given."""

    sample: Sample
    held_out: Sample

    def fit(self, sample: Sample, options: FitOptions, held_out: Sample, say: Callable[[str], None]) -> Codec:
        self.sample, self.held_out = sample, held_out
        say("fitted")
        return Nearest(sample.logits[:16].float(), tier=options.prior)


def logits(rows: int, classes: int = CLASSES, seed: int = 0) -> NDArray[np.float32]:
    """Logits that no block boundary divides."""
    return np.random.default_rng(seed).standard_normal((rows, classes)).astype(np.float32) * 3


def ranks(script: str, folder: Path, world: int = 2) -> list[int]:
    """Run a script in `world` processes that torch.distributed joins; their exit statuses."""
    head = f"""
    import os, signal, sys
    import numpy as np, torch, torch.distributed as distributed
    rank, folder = int(sys.argv[1]), {str(folder)!r}
    distributed.init_process_group("gloo", init_method="file://{folder}/meeting", rank=rank, world_size={world})
    """
    code = textwrap.dedent(head) + textwrap.dedent(script)
    (folder / "meeting").unlink(missing_ok=True)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    paths = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.path.dirname(__file__)}
    run = [sys.executable, "-c", code]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        processes += [subprocess.Popen([*run, str(rank)], env=paths, **quiet) for rank in range(world)]  # type: ignore[call-overload]
        return [process.wait(timeout=100) for process in processes]
    finally:
        for process in processes:
            process.kill()


def views(parameters: Parameters) -> torch.Tensor:
    """Something to look at: one channel that shows where the crop lay."""
    crops = torch.from_numpy(parameters.crops.astype(np.float32)) / 48
    return crops[:, None, :, None].expand(-1, 1, 4, 8) + torch.arange(8.0) / 8


IMAGES = 60
RECIPE = ReplayRecipe(seed=7, images=IMAGES, height=48, width=48, size=32, cutmix=0.5)


def scene(classes: int) -> SideInformation:
    """What there is to know of the rows of mixed_logits."""
    return SideInformation(np.arange(IMAGES) % classes, RECIPE, views=views)


def mixed_logits(rows: int, classes: int, seed: int = 5) -> torch.Tensor:
    """Centred logits that the classes of both images explain in part, as lambda mixes them, and the crops in part."""
    random = torch.Generator().manual_seed(seed)
    means, basis = torch.randn(classes, 6, generator=random) * 3, torch.randn(6, classes, generator=random)
    about = scene(classes).of(range(rows))
    latent = means[about.own] * about.share[:, None] + means[about.other] * (1 - about.share[:, None])
    latent += about.features[:, :4] @ torch.randn(4, 6, generator=random) * 1.5
    latent += torch.randn(rows, 6, generator=random) * 0.5
    found = latent @ basis + 0.1 * torch.randn(rows, classes, generator=random)
    return found - found.mean(1, keepdim=True)


def sample_of(data: torch.Tensor, tier: str = "none") -> Sample:
    """Rows to fit on, with what a prior of this tier looks at."""
    if tier == "none":
        return Sample(data, None, len(data))
    side = side_of_rows(scene(data.shape[1]), np.arange(len(data)), tier)
    return Sample(data, side, len(data), images=IMAGES)


def teacher_logits(rows: int, classes: int) -> NDArray[np.float32]:
    """Logits that lean on the class of the image, in a few directions: something to be learned."""
    random = np.random.default_rng(5)
    means, basis = random.standard_normal((classes, 6)) * 3, random.standard_normal((6, classes))
    kind = np.arange(rows) % 60 % classes
    latent = means[kind] + random.standard_normal((rows, 6)) * 2
    return (latent @ basis + 0.1 * random.standard_normal((rows, classes))).astype(np.float32)
