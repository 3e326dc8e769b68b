"""Keys: what a prior has to know of a row, as bytes that travel with its codes from a loader's worker to the device.

A key is the number of its row, in 4 bytes, or 8 in a set of more than 2^31 rows. All that a prior looks at follows from
it, the recipe and the classes of the images, and is computed where the row is decoded.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from vqlabel.codecs.base import Codec
from vqlabel.errors import Corrupt
from vqlabel.file import LabelFile
from vqlabel.known import Side
from vqlabel.law import Law, law_of
from vqlabel.replay import ReplayRecipe
from vqlabel.scene import check_prior, side_of
from vqlabel.side import ImageSide, SideInformation, unmixed


def tier_of(file: LabelFile) -> str:
    """What the prior of a file looks at."""
    prior = file.metadata["codec"].get("prior")
    return str(prior.get("tier", "none")) if isinstance(prior, dict) else "none"


class Keys:
    """Keys of the rows of a set, for a prior of a tier, and the side information that they stand for."""

    def __init__(self, info: SideInformation | None, tier: str, rows: int) -> None:
        self._info, self.tier = info, tier
        self._dtype = np.dtype("<i4" if rows <= 2**31 else "<i8")
        self._laws: dict[torch.device, Law] = {}

    @classmethod
    def of_file(cls, file: LabelFile) -> Keys:
        """Keys of the rows of a file."""
        tier = tier_of(file)
        info = None if tier == "none" else side_of(file)
        if tier != "none" and info is None:
            raise Corrupt(
                f"{file.path}: its prior needs the classes of the images, and tensor 'images.class' is missing"
            )
        images = file.metadata.get("images")
        if len(file) and (images == 0 or (info is not None and images not in (None, info.images))):
            listed = "no" if info is None else info.images
            raise Corrupt(f"{file.path}: metadata key 'images' is {images}, but classes are listed of {listed} images")
        return cls(info, tier, len(file))

    def check(self, codec: Codec) -> None:
        """Corrupt if the classes, images or draws that the file lists are not those that the codec's prior knows."""
        shape = getattr(codec, "shape", None)
        if shape is None or self._info is None:
            return
        try:
            self._info.check(shape.classes)
            check_prior(self._info, shape)
        except ValueError as error:
            raise Corrupt(str(error)) from None

    @property
    def size(self) -> int:
        """Bytes of a key."""
        return 0 if self._info is None else self._dtype.itemsize

    def of(self, rows: ArrayLike) -> NDArray[np.uint8]:
        """Keys [B, size] of rows [B]."""
        numbers = np.asarray(rows).astype(self._dtype)
        return numbers.view(np.uint8).reshape(len(numbers), self._dtype.itemsize)[:, : self.size]

    def side(self, keys: torch.Tensor, views: torch.Tensor | None = None, *, by_kernel: bool = False) -> Side | None:
        """Side information of keys uint8 [B, size], where they lie; a prior that looks at views gets them too.

        by_kernel draws it there with Triton; else, and where views are stored, the CPU replays them and a GPU waits.
        """
        if self._info is None:
            return None
        # A copy even of one row, which is contiguous where it lies: wider numbers begin at their own multiples.
        apart = keys.clone(memory_format=torch.contiguous_format)
        rows = apart.view(torch.int32 if self.size == 4 else torch.int64)[:, 0]
        if self._info.recipe is None:
            side = unmixed(rows.long(), self._law(keys.device).classes)
        elif by_kernel and isinstance(self._info.recipe, ReplayRecipe):
            side = self._drawn(rows)
        else:
            tier = "classes" if self.tier == "classes" else "replay"
            side = self._info.of(rows.cpu().numpy(), tier=tier).to(keys.device)
        return replace(side, views=views)

    def _drawn(self, rows: torch.Tensor) -> ImageSide:
        from vqlabel.kernels import replay

        assert self._info is not None
        width = 0 if self.tier == "classes" else self._info.features
        images, partners, own, other, share, features = replay.side(rows, self._law(rows.device), width)
        return ImageSide(images, partners, own, other, share, features, None)

    def _law(self, device: torch.device) -> Law:
        assert self._info is not None
        if device not in self._laws:
            self._laws[device] = law_of(self._info, device)
        return self._laws[device]
