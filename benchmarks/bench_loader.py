"""Labels in a DataLoader: what they take of its throughput and its workers' memory, and the time to the first batch."""

from __future__ import annotations

import functools
import multiprocessing
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.bench_file import forget
from benchmarks.race import RECORDS, race
from vqlabel import LabelDecoder, LabelFile
from vqlabel.codecs.layout import Layout, PriorShape
from vqlabel.codecs.model import Decoder
from vqlabel.codecs.vq import VQ
from vqlabel.data import DistilledDataset, ReplaySampler, collate
from vqlabel.replay import ReplayRecipe
from vqlabel.side import SideInformation
from vqlabel.views import apply

CLASSES, IMAGES, BATCH, T = 1000, 2048, 256, 4.0
KEYS = 1_281_167  # images of ImageNet
RECIPE = ReplayRecipe(seed=1, images=IMAGES, height=64, width=64, size=64, cutmix=0.5)
LAYOUT = Layout("residual", 8, 8, 40, 104)


def label_file(path: Path, rows: int, prior: str) -> LabelFile:
    """Random codes of 8 bytes and a random decoder, of the sizes that a fit chooses."""
    side = SideInformation(np.arange(IMAGES) % CLASSES, RECIPE)
    features = 0 if prior == "classes" else side.of([0]).features.shape[1]
    shape = None if prior == "none" else PriorShape(prior, CLASSES, IMAGES, 40, features)
    decoder = Decoder(CLASSES, LAYOUT, shape)
    for weight in decoder.parameters():
        torch.nn.init.normal_(weight, 0, weight.shape[-1] ** -0.5)
    codec = VQ(CLASSES, LAYOUT, decoder, shape, None)
    metadata = {"codec": codec.config(), "classes": CLASSES, **side.facts(rows)}
    tensors = {**codec.tensors(), **side.tensors(rows)}
    random = np.random.default_rng(0).integers(0, 256, (min(rows, 2**20), 8)).astype(np.uint8)
    with LabelFile.create(path, rows=rows, row_bytes=8, tensors=tensors, metadata=metadata) as writer:
        for start in range(0, rows, len(random)):
            writer.write(start, random[: rows - start])
    return LabelFile(path)


class Views(Dataset[torch.Tensor]):
    """The same views, and no labels."""

    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def __getitems__(self, rows: list[int]) -> torch.Tensor:
        return apply(self.images, RECIPE.parameters(*np.divmod(np.array(rows), IMAGES)))


def as_it_is(batch: Any) -> Any:
    return batch


def drained(loader: DataLoader[Any], use: Callable[[Any], object]) -> None:
    for batch in loader:
        use(batch)


def alone(decoder: LabelDecoder, use: Callable[[Any], object]) -> None:
    for start in range(0, IMAGES, BATCH):
        use(decoder.read(range(start, start + BATCH)))


@pytest.mark.parametrize("prior", ["none", "classes", "replay"])
@pytest.mark.parametrize("workers", [0, 2])
def test_loader(benchmark: Any, tmp_path: Path, workers: int, prior: str) -> None:
    label_file(tmp_path / "labels", IMAGES, prior)
    images = torch.randint(0, 256, (IMAGES, 3, 64, 64), dtype=torch.uint8)
    decoder = LabelDecoder(tmp_path / "labels")
    sampler = ReplaySampler(decoder, shuffle=False)
    options: dict[str, Any] = {"sampler": range(IMAGES), "batch_size": BATCH, "num_workers": workers}
    options |= {"persistent_workers": workers > 0}
    with_labels: Any = DataLoader(DistilledDataset(images, decoder), collate_fn=collate, **options)
    without: Any = DataLoader(Views(images), collate_fn=as_it_is, **options)
    views, labels = next(iter(with_labels))
    assert torch.equal(views, next(iter(without)))
    assert torch.equal(labels.data, decoder.read(list(sampler)[:BATCH]).data)
    runners = {
        "packed labels": functools.partial(drained, with_labels, as_it_is),
        "no labels": functools.partial(drained, without, as_it_is),
        "decoded to probabilities": functools.partial(drained, with_labels, lambda batch: batch[1].probs(T)),
        "the labels alone, packed": functools.partial(alone, decoder, lambda labels: labels),
        "the labels alone, decoded": functools.partial(alone, decoder, lambda labels: labels.probs(T)),
    }
    size = f"{labels.data.shape[1]} bytes a row to the device"
    case = {"op": "loader of 3 x 64 x 64 views", "per": "row", "case": f"{workers} workers, prior {prior}, {size}"}
    race(benchmark, case, runners, dict.fromkeys(runners, IMAGES), rounds=9)


def test_first_batch(benchmark: Any, tmp_path: Path) -> None:
    path, pickled = tmp_path / "labels", tmp_path / "batch.pt"
    label_file(path, IMAGES * 1000, "classes")
    torch.save(torch.randn(BATCH, CLASSES).half(), pickled)
    rows = np.random.default_rng(0).integers(0, IMAGES * 1000, BATCH)
    runners = {
        "vqlabel": lambda: LabelDecoder(path)(rows, T),
        "torch.load fp16 + softmax": lambda: torch.softmax(torch.load(pickled).float() / T, -1),
    }

    def cold() -> None:
        forget(path)
        forget(pickled)

    case = {"op": "open a file and decode the first batch", "per": "batch", "case": "16 MB of rows, cold"}
    race(benchmark, case, runners, dict.fromkeys(runners, 1), prepare=cold)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A label file of 1 GiB."""
    path = tmp_path_factory.mktemp("large") / "labels"
    label_file(path, 2**27, "classes")
    yield path
    path.unlink()


def test_memory_of_workers(benchmark: Any, large: Path) -> None:
    decoder = LabelDecoder(large)
    keys = {f"n{i // 1300:08d}_{i}": i for i in range(KEYS)}
    names = [f"n{i // 1300:08d}_{i}" for i in range(KEYS)]
    lists = [[f"epoch_{e}/batch_{b}.tar", list(range(256))] for e in range(300) for b in range(49)]
    draw = np.random.default_rng(0).integers
    holders: dict[str, Callable[[], object]] = {
        "packed rows of 1 GiB": lambda: decoder.read(draw(0, len(decoder), 1024)),
        "decoded there": lambda: decoder(draw(0, len(decoder), 1024), T),
        "dictionary of keys": lambda: [keys[names[i]] for i in draw(0, KEYS, 1024)],
        "lists of batches": lambda: [lists[i] for i in draw(0, len(lists), 1024)],
    }
    nothing = extra_bytes(lambda: draw(0, KEYS, 1024))
    found = {name: max(extra_bytes(use) - nothing, 0) for name, use in holders.items()}
    case = {"op": "proportional memory of one more worker", "per": "worker", "case": "forked", "unit": "bytes"}
    ours = max(next(iter(found.values())), 1)
    RECORDS.extend({**case, "name": name, "p50": size, "ratio": size / ours} for name, size in found.items())
    benchmark.extra_info.update(found)
    benchmark.pedantic(holders["packed rows of 1 GiB"], rounds=3)


def extra_bytes(use: Callable[[], object]) -> float:
    """What a third and a fourth worker add to the proportional set size of all."""
    return (workers_bytes(use, 4) - workers_bytes(use, 2)) / 2


def workers_bytes(use: Callable[[], object], count: int) -> int:
    """Proportional set size of this process and so many forked workers that use something 200 times."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(count + 1)
    workers = [context.Process(target=work, args=(use, barrier)) for _ in range(count)]
    for worker in workers:
        worker.start()
    barrier.wait()
    total = proportional(os.getpid()) + sum(proportional(worker.pid) for worker in workers)
    barrier.wait()
    for worker in workers:
        worker.join()
    return total


def work(use: Callable[[], object], barrier: Any) -> None:
    torch.set_num_threads(1)
    for _ in range(200):
        use()
    barrier.wait()  # all are at work when they are measured
    barrier.wait()


def proportional(pid: int | None) -> int:
    """Bytes of a process; those it shares count in equal parts for all that have them."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
