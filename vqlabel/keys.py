"""Keys: what a prior has to know of a row, as bytes that travel with its codes from a loader's worker to the device.

`classes` takes the two classes and the regime of lambda, 5 bytes up to 32,768 classes. The priors that know each image
take the numbers of image and partner, lambda and the features of the view, 12 bytes and 4 a feature.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from vqlabel.codecs.base import Codec
from vqlabel.errors import Corrupt
from vqlabel.file import LabelFile
from vqlabel.scene import check_classes, side_of
from vqlabel.side import REGIMES, Side, SideInformation


class Keys:
    """Keys of the rows of a set, for a prior of a tier, and the side information that they stand for."""

    def __init__(self, info: SideInformation | None, tier: str) -> None:
        self._info, self.tier = info, tier
        self._classes: dict[torch.device, torch.Tensor] = {}
        fields: list[tuple[str, str]] = []
        if info is not None and tier == "classes":
            number = "<i2" if info.classes.max() < 2**15 else "<i4"
            fields = [("own", number), ("other", number), ("regime", "u1")]
        elif info is not None and tier in ("replay", "image"):
            features = info.of([0]).features.shape[1]
            fields = [("images", "<i4"), ("partners", "<i4"), ("share", "<f4"), ("features", f"({features},)<f4")]
        self._dtype = np.dtype(fields)

    @classmethod
    def of_file(cls, file: LabelFile) -> Keys:
        """Keys of the rows of a file."""
        codec = file.metadata["codec"]
        prior = codec.get("prior") if codec["id"] == "vq" else None
        tier = prior.get("tier", "none") if isinstance(prior, dict) else "none"
        info = None if tier == "none" else side_of(file)
        if tier != "none" and info is None:
            raise Corrupt(
                f"{file.path}: its prior needs the classes of the images, and tensor 'images.class' is missing"
            )
        images = file.metadata.get("images")
        if len(file) and (images == 0 or (info is not None and images not in (None, info.images))):
            listed = "no" if info is None else info.images
            raise Corrupt(f"{file.path}: metadata key 'images' is {images}, but classes are listed of {listed} images")
        return cls(info, tier)

    def check(self, codec: Codec) -> None:
        """Corrupt if the classes or images that the file lists are not those that the codec's prior knows."""
        shape = getattr(codec, "shape", None)
        if shape is None or self._info is None:
            return
        try:
            check_classes(self._info, shape.classes)
        except ValueError as error:
            raise Corrupt(str(error)) from None
        if shape.tier != "classes" and shape.images != self._info.images:
            raise Corrupt(f"its prior knows {shape.images} images, but it lists the classes of {self._info.images}")

    @property
    def size(self) -> int:
        """Bytes of a key."""
        return self._dtype.itemsize if self._dtype.names else 0

    def of(self, rows: ArrayLike) -> NDArray[np.uint8]:
        """Keys [B, size] of rows [B]."""
        numbers = np.asarray(rows, np.int64)
        if self._info is None or not self.size:
            return np.zeros((len(numbers), 0), np.uint8)
        side = self._info.of(numbers, tier="classes" if self.tier == "classes" else "replay")
        keys = np.empty(len(numbers), self._dtype)
        for name in self._dtype.names or ():
            keys[name] = getattr(side, name).numpy()
        return keys.view(np.uint8).reshape(len(numbers), self.size)

    def side(self, keys: torch.Tensor, views: torch.Tensor | None = None) -> Side | None:
        """Side information of keys uint8 [B, size], where they lie; a prior that looks at views gets them too."""
        if not self.size:
            return None
        if self.tier == "classes":
            return self._side_of_classes(keys)
        images, partners = self._field(keys, "images").long(), self._field(keys, "partners").long()
        table = self._table(keys.device)
        share, features = self._field(keys, "share"), self._field(keys, "features")
        return Side(images, partners, table[images], table[partners], share, features, views)

    def _side_of_classes(self, keys: torch.Tensor) -> Side:
        own, other = self._field(keys, "own").long(), self._field(keys, "other").long()
        regime = self._field(keys, "regime").float()
        # The middle of the regime: a prior of this tier asks no more.
        share = torch.where(regime > 0, (regime - 0.5) / (REGIMES - 1), 1.0)
        return Side(own, other, own, other, share, share.new_zeros(len(keys), 0), None)

    def _field(self, keys: torch.Tensor, name: str) -> torch.Tensor:
        """Numbers [B], or [B, n] of a field of several."""
        assert self._dtype.fields is not None
        dtype, offset = self._dtype.fields[name][:2]
        kind = {"i2": torch.int16, "i4": torch.int32, "f4": torch.float32, "u1": torch.uint8}[dtype.base.str[1:]]
        # A copy even of one row, which is contiguous where it lies: wider numbers begin at their own multiples.
        part = keys[:, offset : offset + dtype.itemsize].clone(memory_format=torch.contiguous_format).view(kind)
        return part if dtype.shape else part[:, 0]

    def _table(self, device: torch.device) -> torch.Tensor:
        assert self._info is not None
        if device not in self._classes:
            self._classes[device] = torch.from_numpy(self._info.classes).to(device)
        return self._classes[device]
