"""`vq`: a row is a few codes; a label is a prior's guess plus a codeword of each book, expanded by a small decoder."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from vqlabel import _native
from vqlabel.codecs.base import Codec, Read
from vqlabel.codecs.checks import check_logits, check_rows, check_settings, check_side, claimed
from vqlabel.codecs.closest import Closest, closest
from vqlabel.codecs.layout import Layout, PriorShape
from vqlabel.codecs.model import Decoder
from vqlabel.codecs.search import Search
from vqlabel.codecs.stored import restore, store
from vqlabel.errors import Corrupt
from vqlabel.known import Side
from vqlabel.reference import code_dtype


class VQ(Codec):
    """Codes of G books; fitted by `vqlabel.codecs.fitting.fit`.

    One that comes from a label file decodes; one that was just fitted, or that LabelEncoder.load gives, encodes too.
    """

    id: ClassVar[str] = "vq"

    def __init__(
        self,
        classes: int,
        layout: Layout,
        decoder: Decoder,
        shape: PriorShape | None,
        search: Search | None,
        arrays: dict[str, NDArray[Any]] | None = None,  # the decoder as the file has it that it comes from
    ) -> None:
        super().__init__(classes)
        self.layout = layout
        self.shape = shape
        self.tier = shape.tier if shape else "none"
        self.search = search
        self._arrays = store(dict(decoder.named_parameters()), layout.stored) if arrays is None else arrays
        # What a reader will have: all that is measured is measured on it.
        self.decoder = _restored(classes, layout, shape, self._arrays.__getitem__).to(decoder.bias.device)

    @property
    def row_bits(self) -> int:
        """G codes of nbits each."""
        return self.layout.G * self.layout.nbits

    def config(self) -> dict[str, Any]:
        """Layout and shape of the prior."""
        return {"id": self.id, **self.layout.to_json(), "prior": self.shape.to_json() if self.shape else None}

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Weights of the decoder as they are stored."""
        return dict(self._arrays)

    def search_tensors(self) -> dict[str, NDArray[Any]]:
        """Where the codes came from; empty for a codec of a label file."""
        return self.search.tensors() if self.search else {}

    @classmethod
    def load(cls, classes: int, config: dict[str, Any], read: Read, names: list[str]) -> VQ:
        """Codec of a file."""
        check_settings(config, [*Layout.__dataclass_fields__, "prior"])
        with claimed(config):
            layout = Layout.from_json({name: config[name] for name in Layout.__dataclass_fields__})
            shape = None if config["prior"] is None else PriorShape.from_json(config["prior"])
            if shape and (shape.classes != classes or shape.width > layout.width):
                raise Corrupt(f"codec 'vq': its prior is for {shape.classes} classes and width {shape.width}")
        arrays: dict[str, NDArray[Any]] = {}
        decoder = _restored(classes, layout, shape, lambda name: arrays.setdefault(name, read(name)))
        search = Search.load(classes, layout, shape, read) if "search.basis" in names else None
        return cls(classes, layout, decoder, shape, search, arrays)

    def check_encodes(self) -> None:
        """ValueError if this codec only decodes, because it comes from a label file."""
        if self.search is None:
            raise ValueError("a label file holds what decoding needs, not what encoding needs; use the saved encoder")

    def encode(self, logits: torch.Tensor, side: Side | None = None) -> NDArray[np.uint8]:
        """Packed rows [B, ceil(G * nbits / 8)]."""
        self.check_encodes()
        assert self.search is not None
        centred = check_logits(logits, self.classes)
        check_side(side, self.shape, len(centred))
        choices = self.search.choices(self.search.points(centred, side))
        codes = self._closest.choose(choices, centred, side)
        return _native.pack(codes.cpu().numpy().astype(code_dtype(self.layout.nbits)), self.layout.nbits)

    @cached_property
    def _closest(self) -> Closest:
        return closest(self.decoder, self.search.weighed if self.search else ())

    def decode(self, rows: NDArray[np.uint8], side: Side | None = None) -> torch.Tensor:
        """Logits float32 [B, C], on the device of the decoder."""
        packed = check_rows(rows, self.row_bytes)
        return self.decode_codes(_native.unpack(packed, self.layout.nbits, self.layout.G), side)

    def decode_codes(self, codes: NDArray[Any], side: Side | None = None) -> torch.Tensor:
        """Logits float32 [B, C] of codes [B, G]."""
        check_side(side, self.shape, len(codes))
        device = self.decoder.bias.device
        with torch.no_grad():
            numbers = torch.from_numpy(codes.astype(np.int64)).to(device)
            logits: torch.Tensor = self.decoder(numbers, None if side is None else side.to(device))
        return logits


def _restored(classes: int, layout: Layout, shape: PriorShape | None, read: Read) -> Decoder:
    """The decoder of these tensors; Corrupt if they are not what it needs."""
    with torch.device("meta"):  # sizes that a file claims take no memory before its tensors bear them out
        decoder = Decoder(classes, layout, shape)
    shapes = {name: tuple(weight.shape) for name, weight in decoder.named_parameters()}
    decoder.load_state_dict(restore(shapes, layout.stored, read), assign=True)
    return decoder.requires_grad_(False)
