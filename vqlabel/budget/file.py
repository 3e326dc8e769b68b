"""What a label file of ours takes: its header is built as a writer builds it, of tensors without contents."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqlabel._version import __version__
from vqlabel.budget.ask import Ask, Store
from vqlabel.codecs.layout import SCALE, Layout, PriorShape
from vqlabel.creation import CHUNK_BYTES, MAX_CODES_BYTES
from vqlabel.format import CHUNK_CRCS, CODES, CRCS, FORMAT_VERSION, build_header
from vqlabel.known import REGIMES
from vqlabel.metadata import format_metadata
from vqlabel.pruning import stored_rows
from vqlabel.replay import ReplayRecipe
from vqlabel.side import GEOMETRY

NBITS, WIDTH = 8, 64
# What a fit chooses, without its modules, which load torch; a test holds the two together.
BYTES_PER_CLASS = {"none": 285, "classes": 285, "replay": 780, "image": 755}
PRIOR_WIDTH = {"classes": 40, "replay": 64, "image": 64}
MAX_RESIDUAL_BITS, MAX_HIDDEN, NARROW, BOOK_SHARE = 64, 160, 40, 0.3
NUMBER = 0.0123456789012345  # as long as a measured one is in JSON

Shapes = dict[str, tuple[int, ...]]


def label_file(ask: Ask) -> Store:
    """Codes, tables, header and checksums of one file; views are replayed and take nothing."""
    rows = stored_rows(ask.count, ask.rounds, keep=1 if ask.keep is None else ask.keep)
    shape = prior_shape(ask)
    layout = choose(ask, shape)
    tensors = _tensors(shapes(ask.dataset.classes, layout, shape)) | _image_classes(ask)
    row_bytes = -(-layout.G * layout.nbits // 8)
    if rows * row_bytes > MAX_CODES_BYTES:
        raise ValueError(
            f"vqlabel: {rows:,} rows ({rows // ask.count:,} epochs of {ask.count:,} images) of {row_bytes} bytes were "
            f"asked for, but a file holds {MAX_CODES_BYTES:,} bytes of rows; ask for fewer epochs or images"
        )
    header = build_header(rows, row_bytes, tensors, format_metadata(_metadata(ask, layout, shape, rows)))
    codes = rows * row_bytes
    tables = sum(tensor.nbytes for name, tensor in header.tensors.items() if name not in (CODES, CHUNK_CRCS, CRCS))
    return Store(rows, 1, codes, tables, containers=ask.up(header.file_bytes) - codes - tables)


def prior_shape(ask: Ask) -> PriorShape | None:
    """Sizes of the prior."""
    if ask.prior == "none":
        return None
    return PriorShape(
        tier=ask.prior,
        classes=ask.dataset.classes,
        images=ask.count,
        width=min(PRIOR_WIDTH[ask.prior], WIDTH, ask.dataset.classes - 1),
        features=0 if ask.prior == "classes" else GEOMETRY,
        channels=3 if ask.prior == "image" else 0,
    )


def choose(ask: Ask, shape: PriorShape | None) -> Layout:
    """Form and number of the books, and a hidden layer that fills up the room for tables."""
    C, G = ask.dataset.classes, int(ask.bytes * 8) // NBITS
    width, room = min(WIDTH, C - 1), BYTES_PER_CLASS[ask.prior] * C
    form = "residual" if G * NBITS <= MAX_RESIDUAL_BITS else "product"
    if form == "residual" and G * 2**NBITS * width > BOOK_SHARE * room:
        width = min(width, max(NARROW, shape.width if shape else 1))
    if form == "product":
        G = min(G, width)
    owner = tuple(r % G for r in range(width)) if form == "product" else ()
    layout = Layout(form, G, NBITS, width, 0, True, owner, "int8")
    used = sum(math.prod(sides) for sides in shapes(C, layout, shape).values())
    hidden = max(0, min(MAX_HIDDEN, (room - used - 4 * C) // (C + width + 4) // 8 * 8))
    return replace(layout, hidden=hidden)


def shapes(classes: int, layout: Layout, shape: PriorShape | None) -> Shapes:
    """Weights of CODECS.md, "vq", by name."""
    found: Shapes = {"books": layout.book_shape} if layout.G else {}
    found |= {"weight": (classes, layout.inputs), "bias": (classes,)}
    if layout.hidden:
        found |= {"inner": (layout.hidden, layout.width), "inner_bias": (layout.hidden,)}
    if shape:
        parts = _class_prior(shape) if shape.tier == "classes" else _net_prior(shape)
        found |= {"spread": (REGIMES,)} | {f"prior.{name}": sides for name, sides in parts.items()}
    return found


def _class_prior(shape: PriorShape) -> Shapes:
    gate, width = (REGIMES,), shape.width
    return {"table": (shape.classes, width), "own_gate": gate, "other_gate": gate, "level": (REGIMES, width)}


def _net_prior(shape: PriorShape) -> Shapes:
    found: Shapes = {"table": (shape.classes, shape.embedding), "image": (shape.images, shape.identity)}
    inputs = 2 * shape.embedding + 2 * shape.identity + 2 + shape.features
    if shape.tier == "image":
        inputs += shape.pixels
        found |= _sight(shape)
    for name, sides in (("first", inputs), ("second", shape.hidden)):
        found |= {f"{name}.weight": (shape.hidden, sides), f"{name}.bias": (shape.hidden,)}
    found |= {"last.weight": (shape.width, shape.hidden), "last.bias": (shape.width,)}
    return found | {"mix.weight": (shape.width, shape.embedding)}


def _sight(shape: PriorShape) -> Shapes:
    found: Shapes = {"sight.join.weight": (shape.pixels, 1024), "sight.join.bias": (shape.pixels,)}
    for n, (i, o) in enumerate(((shape.channels, 16), (16, 32), (32, 64))):
        found |= {f"sight.convolutions.{n}.weight": (o, i, 3, 3), f"sight.convolutions.{n}.bias": (o,)}
        found |= {f"sight.norms.{n}.weight": (o,), f"sight.norms.{n}.bias": (o,)}
    return found


def _tensors(found: Shapes) -> dict[str, NDArray[Any]]:
    """Arrays as a file has them, with one number in memory each."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, sides in found.items():
        arrays[name] = np.broadcast_to(np.zeros((), np.float16 if len(sides) == 1 else np.int8), sides)
        if len(sides) > 1:
            arrays[name + SCALE] = np.broadcast_to(np.float16(0), sides[:1])
    return arrays


def _image_classes(ask: Ask) -> dict[str, NDArray[Any]]:
    number = np.uint16(0) if ask.dataset.classes <= 2**16 else np.uint32(0)
    return {"images.class": np.broadcast_to(number, ask.count)}


def _metadata(ask: Ask, layout: Layout, shape: PriorShape | None, rows: int) -> dict[str, Any]:
    """As much text as an encoder writes; its length matters, not what it says."""
    row_bytes = max(1, -(-layout.G * layout.nbits // 8))
    recipe = ReplayRecipe(seed=0, images=ask.count, height=256, width=256, size=224, cutmix=1.0)
    measured = {"rows": 5000, "kl": dict.fromkeys(("1", "4", "20"), NUMBER)}
    return {
        "format": "vqlabel",
        "format_version": FORMAT_VERSION,
        "rows_per_chunk": 2 ** max(0, (CHUNK_BYTES // row_bytes).bit_length() - 1),
        "created_by": f"vqlabel {__version__}",
        "codec": {"id": "vq", **layout.to_json(), "prior": shape.to_json() if shape else None},
        "classes": ask.dataset.classes,
        "temperatures": [20.0],
        "measured": measured | dict.fromkeys(("top1", "used", "entropy"), NUMBER),
        "images": ask.count,
        "epochs": rows // ask.count,
        "replay": {"recipe": recipe.to_json()},
    }
