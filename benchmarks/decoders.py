"""A decoder of random weights and a batch of rows, for bench_decode.py and bench_loss.py; and torch's way with them."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch.nn import functional
from vqlabel.kernels.tables import Tables, make_tables

G, NBITS = 24, 8
SHAPES = [(1024, 1000, 64), (1024, 1000, 192), (4096, 10_450, 192), (1024, 50_257, 192)]  # B, C, R
SMALL = [(256, 1000, 64)]  # without a GPU


@dataclass(frozen=True)
class Batch:
    """Rows, what a prior makes of them, and a decoder: product books in fp16 on a GPU, in fp32 elsewhere."""

    rows: torch.Tensor
    h0: torch.Tensor
    tables: Tables
    books: torch.Tensor  # [G K, R] with zeros where a book owns nothing, as embedding_bag wants them
    weight: torch.Tensor
    bias: torch.Tensor

    def eager_logits(self) -> torch.Tensor:
        """Logits [B, C] by an embedding bag and a product."""
        codes = self.rows.int() + torch.arange(G, dtype=torch.int32, device=self.rows.device) * 2**NBITS
        h = functional.embedding_bag(codes, self.books, mode="sum") + self.h0.to(self.books.dtype)
        return torch.addmm(self.bias, h, self.weight.T)


def made(B: int, C: int, R: int, device: str) -> Batch:
    """A batch of this size."""
    generator = torch.Generator(device).manual_seed(0)
    dtype = torch.float16 if device == "cuda" else torch.float32
    owner = [r * G // R for r in range(R)]
    draw = {name: torch.randn(*shape, generator=generator, device=device) for name, shape in
            (("books", (R, 2**NBITS)), ("weight", (C, R)), ("bias", (C,)), ("h0", (B, R)))}  # fmt: skip
    h0, weights = draw.pop("h0"), {**draw, "weight": draw["weight"] / 8}
    layout = SimpleNamespace(form="product", G=G, nbits=NBITS, linear=True, owner=owner)
    own = torch.tensor(owner, device=device) == torch.arange(G, device=device)[:, None]
    books = (weights["books"].T[None] * own[:, None]).reshape(G * 2**NBITS, R).to(dtype)
    rows = torch.randint(0, 256, (B, G), dtype=torch.uint8, generator=generator, device=device)
    tables = make_tables(weights, layout, dtype=dtype)
    return Batch(rows, h0, tables, books, weights["weight"].to(dtype), weights["bias"].to(dtype))


def spelled(B: int, C: int, R: int) -> str:
    """A shape in words."""
    return f"{B:,} rows, {C:,} classes, R = {R}"


def work(batch: Batch, moved: int, products: int) -> dict[str, float]:
    """What any way has to do: read rows and tables, move so many bytes of labels, make so many products with W."""
    B, tables = len(batch.rows), batch.tables
    tensors = [batch.rows, batch.h0, *tables.parts()[0]]
    flops = 2.0 * B * tables.C * tables.R * products
    return {"units": B, "bytes": float(moved + sum(tensor.nbytes for tensor in tensors)), "flops": flops}
