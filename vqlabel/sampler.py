"""ReplaySampler: which rows an epoch reads, in which order, on which rank."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from vqlabel.arguments import check_whole
from vqlabel.pruning import MOST, Reuse
from vqlabel.ranks import Ranks
from vqlabel.stored import StoredViews

if TYPE_CHECKING:
    from vqlabel.decoder import LabelDecoder


class ReplaySampler(Sampler[int]):
    """Row numbers of one epoch, each image once, for the `sampler` of a DataLoader.

    A row number says epoch and image, so workers of any kind, persistent ones too, know the epoch of what they are
    asked for. Call `set_epoch` before each epoch.

    The order is drawn from seed and epoch; shuffle=False takes images as they are numbered, and shuffle="stored", for a
    file that came from somebody else's, as they were labelled. Rows without a label are passed over.

    Ranks share an epoch out as torch's DistributedSampler does: evenly, by repeating a few rows or, with drop_last, by
    leaving a few out. rank and world are those of torch.distributed unless given. Say rank=0, world=1 to those who
    share a sampler out themselves: accelerate, and Lightning without use_distributed_sampler=False.

    The loader that accelerate makes counts epochs from 0 by itself and calls `set_epoch` with its count whenever it is
    iterated. Tell it the epoch too, `loader.set_epoch(epoch)`, or a run that goes on later begins with epoch 0 again.

    Epoch e of training reads epoch e of the file, and training ends with it. With reuse, a `vqlabel.schedules.Reuse`,
    training is as long as you like: it says which epoch of the file each image is read from. Resume with the same one.
    """

    def __init__(
        self,
        decoder: LabelDecoder,
        *,
        shuffle: bool | str = True,
        seed: int = 0,
        rank: int | None = None,
        world: int | None = None,
        drop_last: bool = False,
        reuse: Reuse | None = None,
    ) -> None:
        here = Ranks.here()
        self.world = check_whole("world", here.world if world is None else world, 1, 2**31)
        self.rank = check_whole("rank", here.rank if rank is None else rank, 0, self.world - 1)
        seed = _checked_seed(seed, shuffle)
        if reuse is not None and not isinstance(reuse, Reuse):
            raise TypeError(f"reuse must be a Reuse, such as Reuse('image'), got {reuse!r:.80}")
        self.shuffle, self.seed, self.drop_last, self.reuse = shuffle, seed, drop_last, reuse
        self._images, self._epochs, self._file = decoder.images, decoder.epochs, decoder.file
        self._views = self._stored_views(decoder) if shuffle == "stored" else None
        self._labelled = self._with_label() if reuse is not None and decoder.file.has_gaps else None
        self.epoch, self._done = 0, 0  # rows of the epoch that all ranks together are through with
        self._read: tuple[int, int] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of this epoch; nothing happens if it is there, or in it by `load_state_dict`."""
        epoch = operator.index(epoch)
        self._check_epoch(epoch)
        if epoch != self.epoch:
            self.epoch, self._done = epoch, 0

    def __iter__(self) -> Iterator[int]:
        self._check_epoch(self.epoch)
        if self._read == (self.epoch, self._done):
            warnings.warn(
                f"epoch {self.epoch} is read again: without sampler.set_epoch(epoch) before each epoch, all of them "
                "get the views and labels of this one",
                stacklevel=2,
            )
        self._read = self.epoch, self._done
        return iter(self._rows().tolist())

    def __len__(self) -> int:
        """Rows that this rank has left in the epoch."""
        left = max(self._count() - self._done, 0)
        return left // self.world if self.drop_last else -(-left // self.world)

    def state_dict(self, consumed: int = 0) -> dict[str, Any]:
        """Where training is, when this rank has trained on `consumed` rows since it began to iterate.

        Say it yourself: with workers, more rows have been asked for than trained on. All ranks must be equally far. It
        may be loaded by another number of ranks.
        """
        done = min(self._done + check_whole("consumed", consumed, 0, len(self)) * self.world, self._count())
        return {"epoch": self.epoch, "done": done, "seed": self.seed, "shuffle": self.shuffle, "images": self._images}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was: the next iteration gives what is left of that epoch."""
        if state.get("images") != self._images:
            raise ValueError(f"the state is of {state.get('images')} images, but the file has {self._images}")
        found: list[Any] = [state.get(key) for key in ("epoch", "done", "seed", "shuffle")]
        epoch, done, seed, shuffle = found
        self._check_epoch(epoch)
        done = check_whole("done", done, 0, self._images)
        seed = _checked_seed(seed, shuffle)
        if (shuffle == "stored") != (self.shuffle == "stored"):
            raise ValueError(f"the state is of a sampler with shuffle={shuffle!r}, but this one has {self.shuffle!r}")
        self.epoch, self._done, self.seed, self.shuffle = operator.index(epoch), done, seed, shuffle
        self._read = None

    def _rows(self) -> NDArray[np.int64]:
        left = self._order()[self._done :]
        # np.resize repeats from the start, as often as it takes
        own = np.resize(left, len(self) * self.world)[self.rank :: self.world] if len(self) else left[:0]
        return own + self._stored(own) * self._images

    def _order(self) -> NDArray[np.int64]:
        """Images of the epoch that have a label, in the order in which they are read."""
        if self._views is not None:
            order = self._views.order(int(self._stored(np.zeros(1, np.int64))[0]))
        else:
            order = np.arange(self._images)
            if self.shuffle:
                order = np.random.default_rng((self.seed, self.epoch)).permutation(order)
        if self._labelled is not None:
            return order[self._labelled[order]]
        return order[~self._file.missing(order + self.epoch * self._images)] if self._file.has_gaps else order

    def _count(self) -> int:
        """Images of the epoch that have a label."""
        return len(self._order()) if self._file.has_gaps else self._images

    def _stored(self, images: NDArray[np.int64]) -> NDArray[np.int64]:
        """Epochs of the file [B] that these images are read from: with reuse, the next where a label is missing."""
        if self.reuse is None:
            return np.full(len(images), self.epoch)
        stored = self.reuse.epochs(self.epoch, images, kept=self._epochs)
        if self._labelled is not None and self._views is None:
            while (gone := self._file.missing(images + stored * self._images)).any():
                stored[gone] = (stored[gone] + 1) % self._epochs
        return stored

    def _with_label(self) -> NDArray[np.bool_]:
        """Whether each image [images] has a label in any epoch."""
        found = np.zeros(self._images, np.bool_)
        for epoch in range(self._epochs):
            found |= ~self._file.missing(np.arange(epoch * self._images, (epoch + 1) * self._images))
        return found

    def _stored_views(self, decoder: LabelDecoder) -> StoredViews:
        if not isinstance(decoder.recipe, StoredViews) or not decoder.recipe.layout.ordered:
            raise ValueError(f"{self._file.path} does not say in which order it was made: shuffle is True or False")
        if self.reuse is not None and (self.reuse.granularity != "epoch" or self._file.has_gaps):
            raise ValueError("shuffle='stored' reads whole epochs: take reuse=Reuse('epoch'), of a file without gaps")
        return decoder.recipe

    def _check_epoch(self, epoch: Any) -> None:
        check_whole("epoch", epoch, 0, MOST)
        if epoch >= self._epochs and not (self.reuse and self._epochs):
            advice = (
                "train fewer epochs, or read them again with reuse=Reuse()" if self._epochs else "it has no whole one"
            )
            found = f"{self._file.path}, which has {self._epochs} epochs of {self._images} images"
            raise ValueError(f"epoch {epoch} is not in {found}: {advice}")


def _checked_seed(seed: Any, shuffle: Any) -> int:
    if not isinstance(shuffle, bool) and shuffle != "stored":
        raise ValueError(f"shuffle must be True, False or 'stored', got {shuffle!r:.80}")
    return check_whole("seed", seed, 0, 2**64 - 1)
