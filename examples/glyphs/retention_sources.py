"""Where a student's labels come from: every scheme that the table compares, and what each of them stores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from examples.glyphs import structure, teacher

TEMPERATURES = (20.0, 4.0, 2.0)
MADE_AT = {"tinyvit": 1.0, "one": 1.0}  # labels that are of this temperature: students of it too
PRUNED = (10, 20, 40)  # LPLD: one batch in so many is kept
KEPT = (10, 50, 100)  # logits of LPQLD's MR-k and of TinyViT
RATES = {
    "replay": (16, 8, 4, 2, 0, 1),
    "classes": (8, 4, 2, 0, 16, 1),
    "none": (16, 8, 4),
    "image": (2, 0, 4, 8, 16, 1),
}
FAISS = ("OPQ4_64,PQ4x8", "OPQ8_64,PQ8x8", "OPQ16_64,PQ16x8", "PCA64,RQ4x8", "PCA64,RQ8x8", "OPQ16_128,PQ16x8")
VQAE_RATES = (8, 16, 57)  # 57 bytes are 35 times less than fp16, the middle of what the paper says of itself
FIT = 20.0  # the temperature that codecs are fitted for unless a source says otherwise


@dataclass(frozen=True)
class Source:
    """One way to give a student its labels."""

    scheme: str
    prior: str = "none"  # of codec `vq`, like the bytes
    bytes: int = 0
    keep: int = 1  # one epoch (ours) or batch (LPLD, LPQLD) in so many is stored
    k: int = 0  # logits that a sparse label keeps
    age: float = 1.0  # of the teacher
    index: str = ""  # name of a faiss index
    schedule: str = "constant"  # of the temperature; "step" is LPQLD's
    alignment: str = "none"  # of the student's temperature; "grid" is LPQLD's, "smooth" ours
    fit: float = FIT  # the temperature that a codec is fitted for

    @property
    def name(self) -> str:
        """As it stands in the table."""
        words = {
            "vq": f"ours, prior {self.prior}, {self.bytes} B", "vqae": f"our VQAE, {self.bytes} B",
            "one": f"one label per image, teacher at {self.age:g}", "teacher": "the teacher instead of labels",
            "lpld": "LPLD", "lpqld": f"LPQLD MR-{self.k}", "tinyvit": f"TinyViT, k = {self.k}",
            "faiss": f"faiss {self.index}", **{name: f"{what} {self.k}" for name, what in structure.SCHEMES.items()},
        }  # fmt: skip
        extra = [f"pruned {self.keep}x"] * (self.keep > 1) + ["DKR"] * (self.schedule != "constant")
        extra += [f"fitted for T = {self.fit:g}"] * (self.fit != FIT)
        extra += {"none": [], "grid": ["CA"], "smooth": ["smooth CA"]}[self.alignment]
        return " + ".join([words.get(self.scheme, self.scheme), *extra])

    @property
    def form(self) -> str:
        """Of the codec that is fitted."""
        return "vqae" if self.scheme == "vqae" else "auto"

    @property
    def fits(self) -> bool:
        """Whether a codec of ours is fitted for it."""
        return self.scheme in ("vq", "vqae")

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Those of its students: one where it sets the temperature itself, or was fitted for one of its own."""
        if self.scheme == "hard" or self.schedule != "constant":
            return TEMPERATURES[:1]
        own = (MADE_AT[self.scheme],) if self.scheme in MADE_AT else ()
        return TEMPERATURES + own if self.fit == FIT else (self.fit,)


def sources() -> Iterator[Source]:
    """All of them, the most telling first: a run that is cut short has those."""
    yield from (Source("fp16"), Source("hard"))
    first = {prior: rates[:5] if prior == "replay" else rates[:2] for prior, rates in RATES.items()}
    yield from (Source("vq", prior, size) for prior, rates in first.items() for size in rates)
    yield from (Source("vq", "replay", 8, keep=keep) for keep in (10, 3))
    yield from _rivals()
    rest = {prior: [size for size in rates if size not in first[prior]] for prior, rates in RATES.items()}
    yield from (Source("vq", prior, size) for prior, sizes in rest.items() for size in sizes)
    yield from (Source("vq", "classes", 8, keep=keep) for keep in (10, 3))
    yield from (Source("vq", prior, size, keep=10) for prior, size in (("classes", 4), ("none", 8), ("replay", 4)))
    yield Source("vq", "replay", 8, keep=30)  # one epoch of labels, all the time
    yield from (Source("vq", "replay", size, fit=4.0) for size in (16, 8))
    for alignment in ("grid", "smooth", "none"):
        yield Source("vq", "replay", 8, keep=10, schedule="step", alignment=alignment)
    yield Source("fp16", schedule="step")


def _rivals() -> Iterator[Source]:
    yield Source("int8")
    yield from (Source("one", age=age) for age in teacher.AGES)
    yield from (Source("lpld", keep=keep) for keep in PRUNED)
    yield from (Source("lpqld", k=k) for k in KEPT)
    yield from (Source("lpqld", k=k, keep=10) for k in KEPT)
    yield from (Source("faiss", index=index) for index in FAISS)
    yield from (Source("vqae", bytes=size) for size in VQAE_RATES)
    yield from (Source("tinyvit", k=k) for k in KEPT)
    yield from (Source("lpqld", k=k, keep=10, schedule="step") for k in KEPT)
    yield from (Source("lpqld", k=k, keep=10, schedule="step", alignment="grid") for k in KEPT)
    yield Source("lpqld", k=50, keep=10, schedule="step", alignment="smooth")
