"""What is measured: one cell for each codec, rate and rival, and the numbers that ours have to reach."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

# Largest mean KL at T = 20, CutMix p = 0.5, by prior and bytes of codes.
MUST_REACH = {
    ("none", 4): 3.9e-3, ("none", 8): 1.5e-3, ("none", 16): 4.9e-4,
    ("classes", 0): 1.3e-2, ("classes", 2): 4.85e-3, ("classes", 4): 2.4e-3, ("classes", 8): 9.5e-4,
    ("classes", 16): 4.2e-4,
    ("replay", 0): 7.8e-3, ("replay", 2): 3.0e-3, ("replay", 4): 1.65e-3, ("replay", 8): 7.8e-4,
    ("replay", 16): 3.8e-4,
    ("image", 0): 2.1e-3, ("image", 2): 9.8e-4,
}  # fmt: skip
MUST_CLASSES, MUST_MIXING, MUST_TEMPERATURE = 1000, 0.5, 20.0
MOST_BYTES = {"none": 300_000, "classes": 300_000, "replay": 800_000, "image": 800_000}  # beside the codes, int8

RATES = {"none": (4, 8, 16), "classes": (0, 2, 4, 8, 16), "replay": (0, 2, 4, 8, 16), "image": (0, 2, 4, 8, 16)}
VQAE_RATES = (8, 16)  # of the paper's own form: an encoder and a decoder with a hidden layer, trained from end to end
COOL_RATES = {"none": (4, 8), "classes": (2, 4, 8), "replay": (2, 4, 8), "image": (2, 4)}  # fitted at T = 4 too
FP16_RATE = 4  # where tables of int8 and of fp16 are compared
KEPT = (10, 50, 100)
EQUAL_BYTES = (2, 4, 8, 16)
RIVALS = (
    *(f"PQ{m}x8" for m in EQUAL_BYTES),
    *(f"PCA64,PQ{m}x8" for m in EQUAL_BYTES),
    *(f"OPQ{m}_64,PQ{m}x8" for m in EQUAL_BYTES),
    *(f"OPQ{m}_128,PQ{m}x8" for m in EQUAL_BYTES),
    *(f"PCA64,RQ{m}x8" for m in (2, 4, 8)),
    "PCA32,int8",
    "PCA64,int8",
    *(f"LPQLD MR-{k}" for k in KEPT),
    *(f"TinyViT, k = {k}" for k in KEPT),
    "int8",
    "fp16",
    "fp16, zstd -19",
    "fp16, bytes shuffled, zstd -19",
    "fp16, zlib",
    "fp16, bytes shuffled, lzma",
    *(f"OPQ{m},PQ{m}x8" for m in EQUAL_BYTES[1:]),  # of all C dimensions: last, because each takes minutes
)


@dataclass(frozen=True)
class Cell:
    """One measurement: a codec of ours, a rival, or the bound below all that a prior leaves."""

    kind: str  # "codec", "rival", "bound"
    prior: str = "none"
    bytes: int = 0  # of codes, for a codec
    temperature: float = 20.0  # it is fitted for
    stored: str = "int8"
    form: str = "auto"
    name: str = ""  # of a rival

    def __str__(self) -> str:
        if self.kind == "rival":
            return f"rival {self.name}"
        if self.kind == "bound":
            return f"bound, prior {self.prior}"
        return f"prior {self.prior}, {self.bytes} B, fit at T = {self.temperature:g}, {self.form}, {self.stored}"

    def key(self, classes: int, mixing: float, effort: float) -> str:
        """Name of the cell in the results: all that shapes what is found."""
        return f"C = {classes}, p = {mixing:g}, {self}" + ("" if effort == 1 else f", effort {effort:g}")


def cells() -> Iterator[Cell]:
    """All of them; those of a prior one after the other, because they share a large part of the work."""
    for prior, rates in RATES.items():
        yield Cell("bound", prior)
        for rate in rates:
            yield Cell("codec", prior, rate)
        yield Cell("codec", prior, FP16_RATE, stored="fp16")
        for rate in VQAE_RATES if prior == "none" else ():
            yield Cell("codec", prior, rate, form="vqae")
        for rate in COOL_RATES[prior]:
            yield Cell("codec", prior, rate, temperature=4.0)
    for name in RIVALS:
        yield Cell("rival", name=name)
