"""A decoder as the kernels want it: columns in the order of the books, everything padded with zeros.

    h      = h0 + spread * (sum of codewords)         R numbers, R' with padding
    x      = [h; gelu(V h + c)], or without the h     X numbers
    logits = W x + b                                  C numbers, C' with padding

A product book owns any dimensions of h. They are laid side by side in slices of D columns, D = 1, 2, 4 or 8, so that a
codeword's part of a slice is one load; a book of more than D dimensions has several slices. Widths are padded to the
sum of two powers of two, because a block of a kernel has a power of two of columns: 192 are 128 + 64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

WIDEST_SLICE = 8  # columns: 16 bytes of fp16, the largest load
ROW_LIMIT = 1024  # classes of which a kernel holds all at once
CLASS_BLOCK = 128  # more are padded to a multiple of this
PADDING = -1e20  # the logit of a class that is not there: no probability, but finite, so that 0 times it is 0
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Tables:
    """Tensors of a decoder and their sizes, on one device; made by `make_tables`."""

    form: str  # "product", "residual", or "prior" if there are no books
    G: int
    nbits: int
    R: int
    C: int
    hidden: bool
    linear: bool
    books: torch.Tensor  # product [slices, K, D], residual [G K, R']
    groups: torch.Tensor  # int32 [slices]: the book of each slice
    places: torch.Tensor  # int32 [R']: the column of h0 for each column of h, -1 for padding
    weight: torch.Tensor  # [C', X]
    bias: torch.Tensor  # [C'], in float32 or better; PADDING for padding
    inner: torch.Tensor  # [X - R', R'], or [X, R'] if not linear
    inner_bias: torch.Tensor  # [rows of inner], as bias

    @property
    def K(self) -> int:  # noqa: N802 - the alphabet of the project
        """Codewords of a book."""
        return int(2**self.nbits)

    @property
    def D(self) -> int:  # noqa: N802 - the alphabet of the project
        """Columns of a slice."""
        return self.books.shape[-1] if self.form == "product" else 1

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return (self.G * self.nbits + 7) // 8

    @property
    def latent_width(self) -> int:
        """R', columns of h."""
        return len(self.places)

    @property
    def width(self) -> int:
        """X, columns of x."""
        return self.weight.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.weight.device

    def parts(self) -> tuple[list[torch.Tensor], list[int], str]:
        """Tensors, whole numbers and the word, for an operator that knows nothing else; `from_parts` undoes it."""
        values = self._values()
        return values[7:], [int(value) for value in values[1:7]], self.form

    @classmethod
    def from_parts(cls, tensors: Sequence[torch.Tensor], sizes: Sequence[int], form: str) -> Tables:
        """Tables of these parts."""
        G, nbits, R, C, hidden, linear = sizes
        values: list[Any] = [form, G, nbits, R, C, bool(hidden), bool(linear), *tensors]
        return cls(*values)

    def _values(self) -> list[Any]:
        return [getattr(self, field.name) for field in fields(self)]


def make_tables(tensors: Mapping[str, torch.Tensor], layout: Any, *, dtype: torch.dtype = torch.float16) -> Tables:
    """Tables of the float tensors of a file, by their names there: books, weight, bias, inner, inner_bias.

    layout has form, G, nbits, linear and owner, as `vqlabel.codecs.layout.Layout`. Other tensors are left alone.
    """
    if dtype not in DTYPES:
        raise ValueError(f"tables can be {', '.join(map(str, DTYPES))}, not {dtype}")
    C, R, H = _checked_sizes(tensors, layout)
    wide = torch.promote_types(dtype, torch.float32)
    tensors = {name: tensor.detach().to(wide) for name, tensor in tensors.items()}
    weight = tensors["weight"]
    order, groups, D = _order(layout, R)
    places = torch.tensor(order, device=weight.device)
    x = torch.cat([_columns(weight[:, :R], places), weight[:, R:]], 1) if layout.linear else weight
    rows, X = _class_rows(C), padded(x.shape[1])
    units = X - len(order) * layout.linear if H else 0
    inner = tensors["inner"] if H else weight.new_zeros(0, R)
    made: dict[str, tuple[torch.Tensor, torch.dtype]] = {
        "books": (_books(tensors, layout, places, D), dtype),
        "groups": (torch.tensor(groups, device=weight.device), torch.int32),
        "places": (places, torch.int32),
        "weight": (_grown(x, rows, X), dtype),
        "bias": (torch.cat([tensors["bias"], weight.new_full((rows - C,), PADDING)]), wide),
        "inner": (_grown(_columns(inner, places), units, len(order)), dtype),
        "inner_bias": (_grown(tensors["inner_bias"][:, None] if H else inner[:, :1], units, 1)[:, 0], wide),
    }
    values: list[Any] = [layout.form if layout.G else "prior", layout.G, layout.nbits, R, C, H > 0, layout.linear]
    return Tables(*values, *(tensor.to(kind).contiguous() for tensor, kind in made.values()))


def largest(tables: Tables, *, spread: float = 1.0, h0: float = 0.0) -> float:
    """A bound on the numbers that kernels hold in the type of the tables, where a prior gives magnitudes up to these.

    They are the tables' own, h and the hidden layer. Not finite if a table is not.
    """
    words = tables.bias.new_zeros(tables.latent_width)
    if tables.form == "product":
        words = tables.books.abs().amax(1).flatten().to(words.dtype)
    elif tables.form == "residual":
        words = tables.books.abs().reshape(tables.G, tables.K, -1).amax(1).sum(0, dtype=words.dtype)
    parts = [tables.weight, h := spread * words + h0]
    if tables.hidden:
        inner = tables.inner.to(words.dtype).abs()
        parts += [inner, inner @ h + tables.inner_bias.abs()]  # gelu makes nothing larger
    return torch.stack([part.abs().amax().to(words.dtype) for part in parts]).max().item()


def two_powers(width: int) -> tuple[int, int]:
    """The least a + b >= width where a >= b are powers of two from 16; b may be 0.

    >>> two_powers(192), two_powers(100), two_powers(3)
    ((128, 64), (64, 64), (16, 0))
    """
    a = max(16, 2 ** ((width - 1).bit_length()))
    if width <= a // 2 or a == 16:
        return a, 0
    b = max(16, 2 ** ((width - a // 2 - 1).bit_length()))
    return (a // 2, b) if b < a // 2 else (a, 0)


def padded(width: int) -> int:
    """Columns that two blocks hold."""
    return sum(two_powers(width))


def _checked_sizes(tensors: Mapping[str, torch.Tensor], layout: Any) -> tuple[int, int, int]:
    """C, R and H; ValueError if a tensor has another shape than the others and the layout say."""
    weight = tensors["weight"]
    H = tensors["inner"].shape[0] if "inner" in tensors else 0
    C, R = weight.shape[0], tensors["inner"].shape[1] if H else weight.shape[1]
    books = {"residual": (layout.G * 2**layout.nbits, R), "product": (R, 2**layout.nbits)}[layout.form]
    expected = {"weight": (C, R * layout.linear + H), "bias": (C,)}
    expected |= {"books": books} if layout.G else {}
    expected |= {"inner": (H, R), "inner_bias": (H,)} if H else {}
    for name, shape in expected.items():
        if name not in tensors or tuple(tensors[name].shape) != shape:
            found = tuple(tensors[name].shape) if name in tensors else "missing"
            raise ValueError(f"tensor {name!r} is {found}, but the layout and the other tensors need {shape}")
    if layout.G and layout.form == "product" and len(layout.owner) != R:
        raise ValueError(f"owner names the book of {len(layout.owner)} dimensions, but h has {R}")
    return C, R, H


def _class_rows(C: int) -> int:
    """Rows of W: whole blocks of classes, or one block of all."""
    if C <= ROW_LIMIT:
        return max(CLASS_BLOCK, int(2 ** (C - 1).bit_length()))
    return -(-C // CLASS_BLOCK) * CLASS_BLOCK


def _order(layout: Any, R: int) -> tuple[list[int], list[int], int]:
    """The dimension in each column of h, -1 for padding; the book of each slice; and D."""
    if layout.form != "product" or not layout.G:
        return [*range(R), *[-1] * (padded(R) - R)], [0], 1
    owned = [[r for r in range(R) if layout.owner[r] == g] for g in range(layout.G)]
    D = min(WIDEST_SLICE, int(2 ** (max(map(len, owned)) - 1).bit_length()))
    order, groups = [], []
    for g, own in enumerate(owned):
        order += own + [-1] * (-len(own) % D)
        groups += [g] * -(-len(own) // D)
    empty = padded(len(order)) - len(order)
    return order + [-1] * empty, groups + [0] * (empty // D), D


def _books(tensors: Mapping[str, torch.Tensor], layout: Any, places: torch.Tensor, D: int) -> torch.Tensor:
    if not layout.G:
        return tensors["weight"].new_zeros(1, 1)
    if layout.form == "residual":
        return _columns(tensors["books"], places)
    return _columns(tensors["books"].T, places).T.reshape(len(places) // D, D, -1).transpose(1, 2)


def _columns(matrix: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Columns of a matrix [rows, R] where h has them, zeros for padding."""
    return matrix[:, places.clamp_min(0)] * (places >= 0)


def _grown(matrix: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """With zeros below and to the right."""
    return torch.nn.functional.pad(matrix, (0, columns - matrix.shape[1], 0, rows - matrix.shape[0]))
