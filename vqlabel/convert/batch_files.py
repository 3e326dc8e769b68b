"""One file of a batch as SRe2L, CDA, LPLD and LPQLD write it, taken apart and checked.

A list, of which the first items are coords [b, 4] (top, left, height, width as fractions of the image), flips [b] or
cutouts [b, 7] for ImageNet-21K; then mix_index [b], lambda and box of the mix, or None; then the labels: logits [b, C],
or the k largest of them [b, k] and their classes [b, k].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vqlabel.convert.torch_files import UnreadableFile, load_list

FLOATS = {torch.float16: "F16", torch.float32: "F32"}
HEAD_BYTES = 2**15  # before here the crops begin, which are the first that is stored
CUTOUT = 7  # numbers of a cutout: its middle, its sides, its colour


@dataclass(frozen=True)
class BatchFile:
    """What one file says of b rows."""

    crops: torch.Tensor  # [b, 4] fractions, fp16 or fp32
    flips: torch.Tensor | None  # bool [b]
    cutouts: torch.Tensor | None  # [b, 7]
    mix_index: NDArray[np.int64] | None  # [b] places in the batch
    lam: float
    box: tuple[int, int, int, int] | None  # first and last row, first and last column of the partner's part
    labels: list[torch.Tensor]  # logits [b, C], or values and classes [b, k]; mapped, not read

    def __len__(self) -> int:
        return len(self.crops)

    @property
    def kind(self) -> tuple[Any, ...]:
        """What all files of a set have in common."""
        shapes = tuple((part.dtype, part.shape[1]) for part in self.labels)
        return self.crops.dtype, self.flips is not None, self.cutouts is not None, shapes

    @property
    def mix(self) -> str:
        """How the rows were mixed."""
        if self.mix_index is None:
            return "none"
        return "mixup" if self.box is None else "cutmix"


def read_batch(path: str) -> BatchFile:
    """The file of a batch; UnreadableFile or FileNotFoundError if it is none."""
    items = load_list(path, (6, 7, 8))
    crops = _tensor(items[0], "the crops", 4)
    rows = len(crops)
    flips = cutouts = None
    if isinstance(items[1], torch.Tensor) and items[1].ndim == 2:
        cutouts = _tensor(items[1], "the cutouts", CUTOUT, rows)
    elif isinstance(items[1], torch.Tensor) and items[1].shape == (rows,):
        flips = items[1].bool()
    else:
        raise UnreadableFile(f"its second item is neither {rows} flips nor {rows} cutouts")
    if len(items) == 8 or not _could_be_indices(items[2]):
        raise UnreadableFile("its views were changed by RandAugment, which is not known here")
    mix_index = None if items[2] is None else _indices(items[2], rows)
    lam, box = _mix(items[3], items[4], mix_index)
    return BatchFile(crops, flips, cutouts, mix_index, lam, box, _labels(items[5:], rows))


def label_places(path: str, found: BatchFile) -> list[int]:
    """Where in the file each part of the labels begins; -1 where that is not certain.

    A mapped file lies in memory as it lies on disk: what stands in one stands as far apart in the other.
    """
    first = found.crops
    with open(path, "rb") as file:
        start = file.read(HEAD_BYTES).find(first.numpy().tobytes()) if len(found) else -1
        places = [start + part.data_ptr() - first.data_ptr() if start >= 0 else -1 for part in found.labels]
        for index, (place, part) in enumerate(zip(places, found.labels, strict=True)):
            file.seek(max(place, 0))
            if not part.is_contiguous() or file.read(part[:1].nbytes) != part[:1].numpy().tobytes():
                places[index] = -1
    return places


def _could_be_indices(item: Any) -> bool:
    return item is None or (isinstance(item, torch.Tensor) and item.ndim == 1 and not item.is_floating_point())


def _tensor(item: Any, what: str, width: int | None, rows: int | None = None) -> torch.Tensor:
    fits = isinstance(item, torch.Tensor) and item.ndim == 2 and item.dtype in FLOATS
    if not fits or (width and item.shape[1] != width) or (rows is not None and len(item) != rows):
        found = f"{item.dtype} {list(item.shape)}" if isinstance(item, torch.Tensor) else type(item).__name__
        wanted = ["b" if rows is None else rows, width or "C"]
        raise UnreadableFile(f"{what} must be fp16 or fp32 [{wanted[0]}, {wanted[1]}], got {found}")
    return item  # type: ignore[no-any-return]


def _indices(item: torch.Tensor, rows: int) -> NDArray[np.int64]:
    numbers = item.numpy().astype(np.int64)
    if len(numbers) != rows or not 0 <= numbers.min(initial=0) <= numbers.max(initial=0) < max(rows, 1):
        raise UnreadableFile(f"it mixes {len(numbers)} rows with rows up to {numbers.max(initial=0)}, but has {rows}")
    return numbers


def _mix(lam: Any, box: Any, mix_index: Any) -> tuple[float, tuple[int, int, int, int] | None]:
    if mix_index is None:
        return 1.0, None
    if not isinstance(lam, (int, float)) or not 0 <= lam <= 1:
        raise UnreadableFile(f"lambda must be 0 to 1, got {lam!r:.80}")
    if box is None:
        return float(lam), None
    numbers = [int(part) for part in box] if isinstance(box, list) and len(box) == 4 else []
    if not numbers or not (0 <= numbers[0] <= numbers[2] and 0 <= numbers[1] <= numbers[3]):
        raise UnreadableFile(f"the box of the mix is {box!r:.80}, not four numbers of which the later are larger")
    return float(lam), (numbers[0], numbers[2], numbers[1], numbers[3])


def _labels(items: list[Any], rows: int) -> list[torch.Tensor]:
    first = _tensor(items[0], "the labels", None, rows)
    if len(items) == 1:
        return [first]
    ids = items[1]
    if not isinstance(ids, torch.Tensor) or ids.is_floating_point() or ids.shape != first.shape:
        raise UnreadableFile(f"there are labels {list(first.shape)}, but no class numbers of the same shape")
    return [first, ids]
