"""Golden files of the codecs `vq` and `vq+top`: rows, tensors, and the logits that they decoded to when they were made.

Every number is counted, never drawn or fitted. `make golden` writes files that are missing, never another.
"""

from __future__ import annotations

import os
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vqlabel.codecs.base import Codec
from vqlabel.codecs.hybrid import Hybrid
from vqlabel.codecs.layout import Layout, PriorShape
from vqlabel.codecs.model import Decoder
from vqlabel.codecs.vq import VQ
from vqlabel.known import Information
from vqlabel.reference import pack
from vqlabel.replay import Parameters, ReplayRecipe
from vqlabel.sequences import Sequences
from vqlabel.side import SideInformation
from vqlabel.tokens import TokenInformation

FOLDER = Path(__file__).parent
FILES = runpy.run_path(str(FOLDER.parent / "make.py"))  # what writes every golden file
EXPECTED = "x.logits"  # float32 [N, C]
CLASSES, IMAGES, EPOCHS, SIDE = 6, 5, 4, 16
RECIPE = ReplayRecipe(seed=11, images=IMAGES, height=24, width=20, size=SIDE, cutmix=0.4, mixup=0.3)
DRAWS = [[2**16, 0]]
SIZES: dict[str, Any] = {"classes": CLASSES, "images": IMAGES, "width": 3, "embedding": 4, "identity": 2, "hidden": 5}

# Layout and prior by name of the file.
CODECS: dict[str, tuple[Layout, PriorShape | None]] = {
    "v1_vq_product_int8": (Layout("product", 2, 3, 4, 3, owner=(0, 1, 1, 0)), None),
    "v1_vq_residual_fp16": (Layout("residual", 3, 5, 4, 3, stored="fp16"), None),
    "v1_vq_hidden_alone": (Layout("product", 2, 4, 4, 6, linear=False, owner=(0, 0, 1, 1)), None),
    "v1_vq_classes": (Layout("residual", 2, 3, 4, 3), PriorShape("classes", features=0, **SIZES)),
    "v1_vq_replay": (Layout("residual", 2, 3, 4, 3), PriorShape("replay", features=21, **SIZES)),
    "v1_vq_tokens": (
        Layout("residual", 2, 3, 4, 3),
        PriorShape("tokens", CLASSES, 1, 3, features=3, embedding=4, identity=2, hidden=5),
    ),
    "v1_vq_image": (Layout("residual", 0, 8, 4), PriorShape("image", features=21, channels=2, pixels=3, **SIZES)),
    "v1_vq_top": (Layout("product", 2, 3, 4, owner=(1, 0, 1, 0)), None),
}
CORRECTED = {"v1_vq_top": 2}  # classes of a row


def counted(shape: tuple[int, ...], start: int) -> torch.Tensor:
    """Numbers between -1 and 1 that look like nothing in particular."""
    numbers = np.arange(start, start + int(np.prod(shape)), dtype=np.int64)
    return torch.from_numpy(((numbers * 73 % 251) / 125 - 1).astype(np.float32).reshape(shape))


def views(parameters: Parameters) -> torch.Tensor:
    """Pixels that follow from the row alone."""
    rows = zip(parameters.epochs.tolist(), parameters.images.tolist(), strict=True)
    return torch.stack([counted((2, SIDE, SIDE), 1000 * epoch + 7 * image) for epoch, image in rows])


def side(name: str) -> Information:
    """What a reader knows of the rows."""
    if name == "v1_vq_tokens":
        text = np.arange(2 * EPOCHS * IMAGES) * 5 % 7 % CLASSES
        sequences = Sequences([9, 0, len(text) - 9], keep={"every": 2, "first": 1})
        return TokenInformation(text, sequences, before=2, after=1)
    return SideInformation([3, 0, 5, 1, 3], RECIPE, draws=DRAWS, views=views)


def codec(name: str) -> tuple[Codec, NDArray[np.uint8]]:
    """Codec and rows of a file."""
    layout, shape = CODECS[name]
    decoder = Decoder(CLASSES, layout, shape)
    for index, weight in enumerate(decoder.parameters()):
        weight.data.copy_(counted(tuple(weight.shape), 17 * index))
    made = VQ(CLASSES, layout, decoder, shape, None)
    bits = (np.arange(EPOCHS * IMAGES * layout.G * layout.nbits) * 5 % 7 < 3).reshape(EPOCHS * IMAGES, -1)
    codes = np.packbits(bits, axis=1, bitorder="little")
    return (Hybrid(made, CORRECTED[name]), corrected(codes)) if name in CORRECTED else (made, codes)


def corrected(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Rows of these codes that correct one of the first three classes and one of the last three."""
    n = np.arange(len(codes))
    values = np.stack([37 * n % 256, 128 + 91 * n % 64], axis=1).astype(np.uint8)
    ids = np.stack([n % 3, 3 + n % 2], axis=1).astype(np.uint8)
    return np.concatenate([codes, values, pack(ids, 3)], axis=1)


def write(name: str, path: str | os.PathLike[str]) -> None:
    """Write the file of this name, with what it decodes to now."""
    made, rows = codec(name)
    known = side(name)
    expected = made.decode(rows, known.of(np.arange(len(rows)), tier=made.tier)).numpy()
    tensors = {**made.tensors(), **known.tensors(len(rows)), EXPECTED: expected}
    metadata = {"codec": made.config(), "classes": CLASSES, **known.facts(len(rows))}
    FILES["write_parts"]({"rows": rows, "tensors": tensors, "metadata": metadata}, path)


if __name__ == "__main__":
    FILES["write_missing"](FOLDER, CODECS, write)
