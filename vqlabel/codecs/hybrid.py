"""`vq+top`: the codes of a `vq` row, and the probabilities of the few classes that these get most wrong."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from vqlabel.arguments import check_whole
from vqlabel.blocks import row_blocks
from vqlabel.codecs.base import Codec, Read
from vqlabel.codecs.checks import check_logits, check_rows, check_settings, claimed
from vqlabel.codecs.corrections import correct, id_bits, packed
from vqlabel.codecs.layout import PriorShape
from vqlabel.codecs.options import MOST_CORRECTED
from vqlabel.codecs.vq import VQ
from vqlabel.errors import Corrupt
from vqlabel.known import Side

OWN = ("id", "prior")  # settings of the codec `vq` that are not among those of its layout


class Hybrid(Codec):
    """Codes of a VQ and `top` corrected classes, for labels that are nearly all of their mass in a few classes.

    A corrected class has its own probability, the others share what is left in the proportions of the VQ.
    """

    id: ClassVar[str] = "vq+top"

    def __init__(self, vq: VQ, top: int) -> None:
        super().__init__(vq.classes)
        self.vq, self.tier = vq, vq.tier
        self.top = check_whole("top", top, 1, min(MOST_CORRECTED, vq.classes))

    @property
    def shape(self) -> PriorShape | None:
        """Sizes of the prior."""
        return self.vq.shape

    @property
    def row_bits(self) -> int:
        """Whole bytes of codes, a byte for each value, the ids."""
        return 8 * (self.vq.row_bytes + self.top) + self.top * id_bits(self.classes)

    def config(self) -> dict[str, Any]:
        """What is added to the codes, their layout, and the prior."""
        settings = self.vq.config()
        layout = {name: value for name, value in settings.items() if name not in OWN}
        return {"id": self.id, "top": self.top, "vq": layout, "prior": settings["prior"]}

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Those of the VQ."""
        return self.vq.tensors()

    def search_tensors(self) -> dict[str, NDArray[Any]]:
        """Those of the VQ."""
        return self.vq.search_tensors()

    @classmethod
    def load(cls, classes: int, config: dict[str, Any], read: Read, names: list[str]) -> Hybrid:
        """Codec of a file."""
        check_settings(config, ["top", "vq", "prior"])
        layout = config["vq"]
        if not isinstance(layout, dict) or set(OWN) & set(layout):
            raise Corrupt(f"codec {cls.id!r}: vq is {layout!r:.80}, not the layout of codes")
        vq = VQ.load(classes, {"id": VQ.id, **layout, "prior": config["prior"]}, read, names)
        with claimed(config):
            return cls(vq, config["top"])

    def check_encodes(self) -> None:
        """ValueError if this codec only decodes, because it comes from a label file."""
        self.vq.check_encodes()

    def encode(self, logits: torch.Tensor, side: Side | None = None) -> NDArray[np.uint8]:
        """Packed rows [B, row_bytes]."""
        codes, centred = self.vq.encode(logits, side), check_logits(logits, self.classes)
        rows = np.zeros((len(codes), self.row_bytes), np.uint8)
        rows[:, : self.vq.row_bytes] = codes
        for part in row_blocks(len(codes), 4 * self.classes):
            decoded = self.vq.decode(codes[part], None if side is None else side[part])
            rows[part, self.vq.row_bytes :] = packed(centred[part], decoded.to(centred.device), self.top)
        return rows

    def decode(self, rows: NDArray[np.uint8], side: Side | None = None) -> torch.Tensor:
        """Logits float32 [B, C], on the device of the decoder; Corrupt for impossible ids."""
        rows, codes = check_rows(rows, self.row_bytes), self.vq.row_bytes
        logits = self.vq.decode(rows[:, :codes], side)
        return correct(logits, torch.from_numpy(rows[:, codes:]).to(logits.device), self.top)
