"""One file of a batch as SRe2L, CDA, LPLD and LPQLD write it, taken apart and checked.

A list, of which the first items are coords [b, 4] (top, left, height, width as fractions of the image), flips [b] or
cutouts [b, 7] for ImageNet-21K; then mix_index [b], lambda and box of the mix, or None; then the labels: logits [b, C],
or the k largest of them [b, k] and their classes [b, k].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from vqlabel.convert.torch_files import INTEGERS, UnreadableFile, check_crops, load_list

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
    if not rows:
        raise UnreadableFile("it is a batch of no rows")
    check_crops(crops.numpy())
    flips = cutouts = None
    if isinstance(items[1], torch.Tensor) and items[1].ndim == 2:
        cutouts = _tensor(items[1], "the cutouts", CUTOUT, rows)
    else:
        flips = _flips(items[1], rows)
    if len(items) == 8 or not (items[2] is None or (isinstance(items[2], torch.Tensor) and items[2].ndim == 1)):
        raise UnreadableFile("its views were changed by RandAugment, which is not known here")
    mix_index = None if items[2] is None else _indices(items[2], rows)
    lam, box = _mix(items[3], items[4], mix_index)
    return BatchFile(crops, flips, cutouts, mix_index, lam, box, _labels(items[5:], rows))


def label_places(path: str, found: BatchFile) -> list[int]:
    """Where in the file each part of the labels begins; -1 where that is not certain.

    A mapped file lies in memory as it lies on disk: what stands in one stands as far apart in the other. What had to be
    copied does not.
    """
    first = found.crops
    with open(path, "rb") as file:
        start = file.read(HEAD_BYTES).find(first.numpy().tobytes())
        places = [start + part.data_ptr() - first.data_ptr() if start >= 0 else -1 for part in found.labels]
        there = [_is_at(place, part, file) for place, part in zip(places, found.labels, strict=True)]
    return [place if sure else -1 for place, sure in zip(places, there, strict=True)]


def _is_at(place: int, part: torch.Tensor, file: BinaryIO) -> bool:
    """Whether the first and the last row of a part are where a file has them if the part begins at a place."""
    for row in (0, len(part) - 1):
        wanted = part[row].numpy().tobytes()
        file.seek(max(place, 0) + row * len(wanted))
        if place < 0 or file.read(len(wanted)) != wanted:
            return False
    return True


def _flips(item: Any, rows: int) -> torch.Tensor:
    if not isinstance(item, torch.Tensor) or item.shape != (rows,):
        raise UnreadableFile(f"its second item is neither {rows} flips nor {rows} cutouts")
    if item.dtype == torch.bool:
        return item
    flips = item.bool()
    if item.dtype not in INTEGERS or not torch.equal(flips.to(item.dtype), item):
        raise UnreadableFile(f"its flips are {item.dtype} {item.tolist()!s:.80}, not true or false, or 1 or 0")
    return flips


def _tensor(item: Any, what: str, width: int | None, rows: int | None = None) -> torch.Tensor:
    fits = isinstance(item, torch.Tensor) and item.ndim == 2 and item.dtype in FLOATS
    if not fits or not item.shape[1] or (width and item.shape[1] != width) or (rows is not None and len(item) != rows):
        found = f"{item.dtype} {list(item.shape)}" if isinstance(item, torch.Tensor) else type(item).__name__
        wanted = ["b" if rows is None else rows, width or "C"]
        raise UnreadableFile(f"{what} must be fp16 or fp32 [{wanted[0]}, {wanted[1]}], got {found}")
    return item  # type: ignore[no-any-return]


def _indices(item: torch.Tensor, rows: int) -> NDArray[np.int64]:
    if item.dtype not in INTEGERS:
        raise UnreadableFile(f"its mix_index is {item.dtype} {item.tolist()!s:.80}, not whole numbers of rows")
    numbers = item.numpy().astype(np.int64)
    if len(numbers) != rows or not 0 <= numbers.min() <= numbers.max() < rows:
        found = f"up to {numbers.max(initial=0)} and down to {numbers.min(initial=0)}"
        raise UnreadableFile(f"it mixes {len(numbers)} rows with rows {found}, but has rows 0 to {rows - 1}")
    return numbers


def _mix(lam: Any, box: Any, mix_index: Any) -> tuple[float, tuple[int, int, int, int] | None]:
    if mix_index is None:
        return 1.0, None
    if not isinstance(lam, (int, float)) or isinstance(lam, bool) or not 0 <= lam <= 1:
        raise UnreadableFile(f"lambda must be 0 to 1, got {lam!r:.80}")
    if box is None:
        return float(lam), None
    parts = [_number(part) for part in box] if isinstance(box, list) else []
    whole = len(parts) == 4 and all(type(part) is int for part in parts)  # True is an int too, and no number
    if not whole or not (0 <= parts[0] <= parts[2] and 0 <= parts[1] <= parts[3]):
        raise UnreadableFile(f"the box of the mix is {box!r:.80}, not four whole numbers, the later ones larger")
    return float(lam), (parts[0], parts[2], parts[1], parts[3])


def _number(part: Any) -> Any:
    return part.item() if isinstance(part, torch.Tensor) and part.numel() == 1 else part


def _labels(items: list[Any], rows: int) -> list[torch.Tensor]:
    first = _tensor(items[0], "the labels", None, rows)
    if len(items) == 1:
        return [first]
    ids = items[1]
    if not isinstance(ids, torch.Tensor) or ids.dtype not in INTEGERS or ids.shape != first.shape:
        raise UnreadableFile(f"there are labels {list(first.shape)}, but no class numbers of the same shape")
    return [first, ids]
