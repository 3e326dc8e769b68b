"""Where a student's labels come from: every scheme that the table compares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """One way to give a student its labels."""

    scheme: str  # "hard", "full", "top", "draws", "distillkit", "vq"
    k: int = 0  # classes that are kept, or draws
    tail: str = ""  # of "top"
    preset: str = ""  # of "distillkit"
    prior: str = "none"  # of "vq", like what follows
    bytes: int = 0
    top: int = 0  # classes that codec `vq+top` corrects
    width: int = 128  # R: all 256 of the teacher fit the rows better, and others worse
    stored: str = "int8"
    form: str = "product"  # of the books; additive ones take minutes to fit and to search

    @property
    def fits(self) -> bool:
        """Whether a codec of ours is fitted for it."""
        return self.scheme == "vq"

    @property
    def name(self) -> str:
        """As it stands in the table."""
        if self.scheme == "vq":
            extra = [f"+ {self.top} exact"] * (self.top > 0)
            extra += [f"R = {self.width}"] * (self.width != Source.width) + [self.stored] * (self.stored != "int8")
            extra += [f"{self.form} books"] * (self.form != "product")
            return ", ".join([f"ours, prior {self.prior}, {self.bytes} B", *extra])
        words = {"hard": "hard labels", "full": "fp16", "draws": f"random sampling, {self.k} draws"}
        tails = {"drop": "scaled up", "ghost": "ghost token", "unigram": "unigram tail"}
        words |= {"top": f"top-{self.k}, {tails.get(self.tail)}", "distillkit": f"DistillKit, {self.preset}"}
        return words[self.scheme]


def sources() -> Iterator[Source]:
    """All of them, the most telling first: a run that is cut short has those."""
    yield from (Source("full"), Source("hard"))
    yield from (Source("vq", prior="tokens", bytes=size) for size in (16, 8))
    yield from (Source("draws", k=count) for count in (50, 25))
    yield from (Source("top", k=k, tail="unigram") for k in (50, 20))
    yield Source("vq", prior="tokens", bytes=8, top=4)
    yield Source("draws", k=12)
    yield Source("vq", prior="none", bytes=16)
    yield Source("top", k=50, tail="ghost")
    yield Source("distillkit", preset="budget")
    yield from (Source("vq", prior="tokens", bytes=size) for size in (4, 32))
    yield from (Source("vq", prior="tokens", bytes=size, top=top) for size, top in ((8, 3), (8, 2), (16, 1)))
    yield from (Source("top", k=k, tail=tail) for k, tail in ((20, "ghost"), (50, "drop"), (8, "unigram")))
    yield from (Source("vq", prior="none", bytes=size) for size in (8, 4, 32))
    yield from (Source("top", k=k, tail=tail) for k, tail in ((8, "ghost"), (20, "drop"), (8, "drop")))
    yield Source("distillkit", preset="recommended")


def decoders() -> Iterator[Source]:
    """Codecs that are measured but teach nobody: what a smaller decoder costs."""
    for size in (16, 8):
        for width in (128, 64, 32, 256):
            yield Source("vq", prior="tokens", bytes=size, width=width)
        yield Source("vq", prior="tokens", bytes=size, stored="fp16")
    yield Source("vq", prior="tokens", bytes=8, form="residual")
