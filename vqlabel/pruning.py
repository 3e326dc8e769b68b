"""Label pruning: a file holds fewer epochs of labels than training has, and training reads them again.

Epochs of labels are drawn alike, so the ones to keep are simply the first: what is stored is rows 0 to `stored_rows`,
and every row keeps its number, its view and its label. `Reuse` says which of them an epoch of training reads.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from numbers import Real

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vqlabel import _native
from vqlabel.arguments import check_whole, check_word, keep_whole

REUSE_STREAM = 4  # of the draws that a seed gives; 0 to 2 are those of a replay recipe, see csrc/replay.hpp
MOST = 2**32 - 1  # numbers of epochs and images are words of a counter


def stored_rows(images: int, epochs: int, *, keep: float) -> int:
    """Rows to store for this part of the labels of a training: whole epochs, the nearest number of them but at least 1.

    >>> stored_rows(5000, 300, keep=0.1)  # 30 epochs
    150000
    """
    images, epochs = check_whole("images", images, 0, MOST), check_whole("epochs", epochs, 1, MOST)
    if not isinstance(keep, Real) or isinstance(keep, bool) or not 0 < keep <= 1:
        raise ValueError(f"keep must be a part of the labels, above 0 and up to 1, got {keep!r:.80}")
    return images * max(1, round(epochs * float(keep)))


@dataclass(frozen=True)
class Reuse:
    """Which stored epoch each image takes its view and label from, in an epoch of training.

    granularity says who shares a draw: each "image" has its own, so an epoch of training mixes all stored ones; a
    number is that of the images of a block, of neighbours in the file; "epoch" takes whole stored epochs.

    draw "cycle" uses each label of an image once before any is used again: in `kept` epochs of training each image
    goes round its `kept` labels, from a drawn one on; whole epochs come in the order of the file. "random" draws anew
    each time.

    The draws are a function of seed, epoch and image alone: all ranks agree, and there is no state to save. Every image
    is read once an epoch whatever is drawn.

    >>> reuse = Reuse(seed=3)
    >>> [reuse.epochs(epoch, [0, 1, 2], kept=3).tolist() for epoch in range(3)]
    [[0, 1, 0], [1, 2, 1], [2, 0, 2]]
    >>> Reuse("epoch").epochs(7, [0, 1, 2], kept=3).tolist()
    [1, 1, 1]

    A `ReplaySampler` takes it as it is. Who has the numbers of a batch's images from elsewhere asks for rows by
    `decoder.rows(reuse.epochs(epoch, images, kept=decoder.epochs), images)`.
    """

    granularity: str | int = "image"
    draw: str = "cycle"
    _: KW_ONLY
    seed: int = 0

    def __post_init__(self) -> None:
        if self.granularity not in ("image", "epoch"):
            block = check_whole("granularity, where it is not 'image' or 'epoch',", self.granularity, 1, MOST)
            object.__setattr__(self, "granularity", block)
        check_word("draw", self.draw, ("cycle", "random"))
        keep_whole(self, "seed", 0, 2**64 - 1)

    def epochs(self, epoch: int, images: ArrayLike, *, kept: int) -> NDArray[np.int64]:
        """Stored epochs [B], below `kept`, of these images [B] in an epoch of training."""
        epoch, kept = check_whole("epoch", epoch, 0, MOST), check_whole("kept", kept, 1, MOST)
        units = self._units(images)
        if self.draw == "random":
            return self._drawn(units, epoch, kept)
        if self.granularity == "epoch":
            return units + epoch % kept
        # Where an image begins is drawn again for each round, or neighbours would meet in the same order for ever.
        return (self._drawn(units, epoch // kept, kept) + epoch) % kept

    def _units(self, images: ArrayLike) -> NDArray[np.int64]:
        """Number of what shares a draw [B]."""
        numbers = np.asarray(images)
        if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
            raise TypeError(f"images must be whole numbers [B], got {numbers.dtype} {list(numbers.shape)}")
        if numbers.size and not 0 <= numbers.min() <= numbers.max() <= MOST:
            raise ValueError(f"images must be 0 to {MOST}, got {numbers.min()} to {numbers.max()}")
        numbers = numbers.astype(np.int64)
        if isinstance(self.granularity, int):
            return numbers // self.granularity
        return numbers if self.granularity == "image" else np.zeros_like(numbers)

    def _drawn(self, units: NDArray[np.int64], turn: int, kept: int) -> NDArray[np.int64]:
        """Numbers below `kept` [B] that units [B] draw in a turn."""
        counters = np.zeros((len(units), 4), np.uint32)
        counters[:, 0], counters[:, 1], counters[:, 2] = units, turn, REUSE_STREAM
        return _native.philox(counters, self.seed)[:, 0].astype(np.int64) % kept
