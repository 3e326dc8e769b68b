"""Sizes of a `vq` codec as its config says them: checked when they come from a file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from vqlabel.arguments import check_whole, check_word
from vqlabel.known import TIERS

FORMS = ("product", "residual")
STORED = ("int8", "fp16")
SCALE = ".scale"  # what follows the name of an int8 tensor in that of its scales
STEPS = 127  # of a scale that an int8 weight may have
MOST = 2**16  # of any width
Sizes = TypeVar("Sizes", "Layout", "PriorShape")


@dataclass(frozen=True)
class Layout:
    """Sizes of a decoder, and how its books lie in the latent vector.

    form "product": dimension r belongs to book owner[r] alone. form "residual": each book owns all dimensions.
    """

    form: str
    G: int
    nbits: int
    width: int  # R
    hidden: int = 0  # H
    linear: bool = True  # whether W sees h itself, or only the hidden layer
    owner: tuple[int, ...] = ()
    stored: str = "int8"

    def __post_init__(self) -> None:
        check_word("form", self.form, FORMS)
        check_word("stored", self.stored, STORED)
        for name, least, most in (("G", 0, MOST), ("nbits", 1, 16), ("width", 1, MOST), ("hidden", 0, MOST)):
            check_whole(name, getattr(self, name), least, most)
        if not isinstance(self.linear, bool) or not (self.linear or self.hidden):
            raise ValueError(f"linear is {self.linear!r:.40} with a hidden layer of {self.hidden}: nothing is decoded")
        expected = self.width if self.form == "product" and self.G else 0
        if not isinstance(self.owner, tuple) or len(self.owner) != expected:
            raise ValueError(f"owner must name the book of {expected} dimensions, got {self.owner!r:.80}")
        for book in self.owner:
            check_whole("owner", book, 0, self.G - 1)
        if self.owner and len(set(self.owner)) != self.G:
            raise ValueError(f"{self.G - len(set(self.owner))} of {self.G} books own no dimension")

    @property
    def K(self) -> int:  # noqa: N802 - the alphabet of the project
        """Codewords of a book."""
        return int(2**self.nbits)

    @property
    def inputs(self) -> int:
        """Columns of W."""
        return self.width * self.linear + self.hidden

    @property
    def book_shape(self) -> tuple[int, int]:
        """Of all books together: residual a row for each codeword, product one for each dimension."""
        if self.form == "residual":
            return self.G * self.K, self.width
        return (self.width if self.G else 0), self.K

    def to_json(self) -> dict[str, Any]:
        """Fields, for the codec's config."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @classmethod
    def from_json(cls, found: Any) -> Layout:
        """Layout of a config; ValueError for one that makes no sense."""
        return _from_json(cls, found)


@dataclass(frozen=True)
class PriorShape:
    """Sizes of a prior."""

    tier: str
    classes: int
    images: int
    width: int  # of h0: the leading dimensions of the latent vector
    features: int = 0  # of side information, beyond classes, images and lambda
    embedding: int = 48  # of a class
    identity: int = 16  # of an image
    hidden: int = 384
    channels: int = 0  # of a view
    pixels: int = 96  # features that the convolutions make of a view

    def __post_init__(self) -> None:
        check_word("prior tier", self.tier, TIERS[1:])
        for name in ("classes", "images"):
            check_whole(f"prior {name}", getattr(self, name), 1, 2**31)
        for name in ("width", "embedding", "identity", "hidden", "pixels"):
            check_whole(f"prior {name}", getattr(self, name), 1, MOST)
        for name in ("features", "channels"):
            check_whole(f"prior {name}", getattr(self, name), 0, MOST)
        if (self.tier == "image") != (self.channels > 0):
            raise ValueError(f"a prior of tier {self.tier!r} looks at {self.channels} channels")

    def to_json(self) -> dict[str, Any]:
        """Fields, for the codec's config."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Any) -> PriorShape:
        """Shape of a config; ValueError for one that makes no sense."""
        return _from_json(cls, found)


def _from_json(kind: type[Sizes], found: Any) -> Sizes:
    names = {field.name for field in fields(kind)}
    if not isinstance(found, dict) or set(found) != names:
        raise ValueError(f"{kind.__name__} needs {', '.join(sorted(names))} and nothing else, got {found!r:.200}")
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in found.items()}
    return kind(**values)
