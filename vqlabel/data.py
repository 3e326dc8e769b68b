"""Views and labels in an unmodified DataLoader.

    decoder = LabelDecoder(path)
    dataset, sampler = DistilledDataset(images, decoder), ReplaySampler(decoder)
    loader = DataLoader(dataset, batch_size=256, sampler=sampler, collate_fn=collate, num_workers=8)
    for epoch in range(decoder.epochs):
        sampler.set_epoch(epoch)
        for views, labels in loader:
            loss = labels.to(device).kl(student(views.to(device)), temperature=20)

The numbers of rows that the sampler gives carry the epoch, so the same image meets the label of the same view whatever
the batch size, the number of workers or of ranks. Who has a data set that makes the views itself lets its samples carry
the row number, the index that the sampler asked for, as in {"image": view, "row": index}, and adds the labels to its
batches: `collate_fn=decoder.collate(default_collate, row="row")`.
"""

from __future__ import annotations

import operator
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, default_collate

from vqlabel.images import Images, Source
from vqlabel.originals import Originals, Transform
from vqlabel.packed import PackedLabels
from vqlabel.sampler import ReplaySampler
from vqlabel.scene import only_the_author_knows
from vqlabel.stored import StoredViews
from vqlabel.views import apply

if TYPE_CHECKING:
    from vqlabel.decoder import LabelDecoder

__all__ = ["Batch", "Collate", "DistilledDataset", "Originals", "ReplaySampler", "collate"]

Views: TypeAlias = torch.Tensor | Originals
PLACES = ("worker", "device", None)


class Batch(Sequence[tuple[Views, PackedLabels]]):
    """Rows that were read together: `collate` takes them as they are, torch's default_collate one by one."""

    def __init__(self, views: Views, labels: PackedLabels) -> None:
        self.views, self.labels = views, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> Any:
        return self.views[index], self.labels[index]

    def __iter__(self) -> Iterator[tuple[Views, PackedLabels]]:
        return (self[index] for index in range(len(self)))


class DistilledDataset(Dataset[tuple[Views, PackedLabels]]):
    """Views of images and their packed labels, by row number (epoch * images + image).

    images are a tensor [N, c, H, W] of uint8 or floats, a function from image numbers to such a tensor, or a map-style
    data set whose items are an image or (image, ...). `decoder.file.verify(images=...)` tells whether they are the ones
    that the labels were made for.

    augment_on says where the recipe of the file is replayed: "worker" gives views; "device" gives `Originals`, of which
    `originals.to(device)()` makes the views there; None gives the images as they are. transform is applied to the
    batch of views, say to normalise them; with "device" it travels with the batch, so it must pickle.
    """

    def __init__(
        self,
        images: Source,
        decoder: LabelDecoder,
        *,
        augment_on: str | None = "worker",
        transform: Transform | None = None,
    ) -> None:
        if augment_on not in PLACES:
            raise ValueError(f"augment_on must be 'worker', 'device' or None, got {augment_on!r:.80}")
        self.images, self.decoder = Images(images), decoder
        self.augment_on, self.transform = augment_on, transform
        self.recipe = decoder.recipe if augment_on else None
        self._drawn = only_the_author_knows(decoder.file)
        self._check_images()
        if augment_on:
            self._check_recipe()
        if augment_on == "device":
            _check_pickles(transform)
        decoder.load()

    def __len__(self) -> int:
        """Rows of all epochs."""
        return len(self.decoder)

    def __iter__(self) -> Iterator[tuple[Views, PackedLabels]]:
        """Rows that have a label, in their order: without this, the first that has none would seem to be the end."""
        return (self[row] for row in range(len(self)) if not self.decoder.file.missing([row])[0])

    def __getitem__(self, row: int) -> tuple[Views, PackedLabels]:
        """View [c, size, size], or Originals of one, and the label of a row."""
        found: tuple[Views, PackedLabels] = self.__getitems__([operator.index(row)])[0]
        return found

    def __getitems__(self, rows: Sequence[int]) -> Batch:
        """A whole batch, read at once; a loader calls this."""
        numbers = np.asarray(rows)
        labels = self.decoder.read(numbers)
        return Batch(self._views(*np.divmod(numbers.astype(np.int64), self.decoder.images)), labels)

    def _views(self, epochs: NDArray[np.int64], numbers: NDArray[np.int64]) -> Views:
        if self.recipe is None:
            views = self.images(numbers)
        else:
            parameters = self.recipe.parameters(epochs, numbers)
            if self.augment_on == "device":
                return Originals.read(self.images, parameters, self.transform, drawn=self._drawn)
            views = apply(self.images, parameters)
        return views if self.transform is None else self.transform(views)

    def _check_images(self) -> None:
        expected = self.decoder.images
        if self.images.count not in (None, expected):
            raise ValueError(f"there are {self.images.count} images, but {self.decoder.file.path} labels {expected}")

    def _check_recipe(self) -> None:
        path, recipe = self.decoder.file.path, self.recipe
        if recipe is None:
            raise ValueError(
                f"{path} has no replay recipe, so nobody knows how its views were made; augment_on=None gives the "
                "images as they are"
            )
        if recipe.pairing == "batch":
            raise ValueError(f"{path} mixes whole batches (pairing='batch'), so its rows cannot be replayed one by one")
        if recipe.images != self.decoder.images:
            raise ValueError(f"{path} replays {recipe.images} images, but labels {self.decoder.images}")
        size = self.images.shape[1:]
        if isinstance(recipe, StoredViews) and not recipe.height and size:
            self.recipe = recipe = recipe.of_size(*size)  # parts of whatever image they are given
        if size and size != (recipe.height, recipe.width):
            found, wanted = f"{size[0]} x {size[1]}", f"{recipe.height} x {recipe.width}"
            raise ValueError(f"images are {found} pixels, but {path} replays views of images of {wanted}: resize them")
        if self.augment_on == "worker" and self._drawn:
            raise ValueError(
                f"the views of {path} were shaped by draws of its author's own, or cut out: make views from the "
                "pixels and parameters of the batch's Originals (augment_on='device'), or use your own data set "
                "and decoder.collate"
            )


def collate(samples: Any) -> Any:
    """Batch (views, PackedLabels) of what DistilledDataset gives, for `collate_fn`."""
    return (samples.views, samples.labels) if isinstance(samples, Batch) else default_collate(samples)


class Collate:
    """Your own collate_fn, and the labels: added to a tuple or list at its end, to a dict as "labels".

    row is where a sample has its row number (epoch * images + image, not its class): its place or key, or a function
    from a sample to it.
    """

    def __init__(
        self, decoder: LabelDecoder, collate: Callable[[Any], Any], row: Callable[[Any], Any] | int | str
    ) -> None:
        if not callable(row) and not isinstance(row, (int, str)):
            raise TypeError(f"row must be a function of a sample, or a place or key in it, got {row!r:.80}")
        self._decoder, self._collate, self._row = decoder, collate, row
        decoder.load()

    def __call__(self, samples: Any) -> Any:
        """The batch of these samples, with labels."""
        labels = self._decoder.read(np.array([self._number(sample) for sample in samples], np.int64))
        batch = self._collate(samples)
        if isinstance(batch, Mapping):
            if "labels" in batch:
                raise ValueError("the batch has 'labels' already; call them something else, such as 'classes'")
            return {**batch, "labels": labels}
        if isinstance(batch, list):
            return [*batch, labels]
        return (*batch, labels) if isinstance(batch, tuple) else (batch, labels)

    def _number(self, sample: Any) -> int:
        found = self._row(sample) if callable(self._row) else sample[self._row]
        try:
            return operator.index(found)
        except TypeError:
            raise TypeError(f"row={self._row!r:.80} gives {found!r:.80}, which is no row number") from None


def _check_pickles(transform: Transform | None) -> None:
    """TypeError for a transform that could not leave a worker: a loader would wait for its batch for ever."""
    try:
        pickle.dumps(transform)
    except Exception as error:
        raise TypeError(
            f"with augment_on='device' the transform travels with each batch, but {transform!r:.80} does not pickle "
            f"({error}); take a function or class of a module, no lambda"
        ) from None
