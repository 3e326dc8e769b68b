"""What a reader knows of a row before it reads a bit of it: side information, of images or of text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import torch
    from typing_extensions import Self

# Of images each tier knows what the one before it knows, and more; "tokens" is of text.
IMAGE_TIERS = ("none", "classes", "replay", "image")
TIERS = (*IMAGE_TIERS, "tokens")
REGIMES = 33  # kinds of row: 0 for one that is not mixed, then lambda in 32 steps


class Side(ABC):
    """Side information of B rows: a dataclass of tensors with a row each, or None."""

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def regime(self) -> torch.Tensor:
        """What kind of row it is, from 0 to REGIMES - 1 [B]: how far guesses are off differs between them."""

    def __getitem__(self, rows: torch.Tensor | slice) -> Self:
        """Side information of some of the rows."""
        return self._each(lambda part: part[rows])

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return self._each(lambda part: part.to(device))

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        parts = (getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]
        return type(self)(*(None if part is None else change(part) for part in parts))


def joined(parts: Sequence[Side]) -> Side:
    """Side information of the rows of all parts; there is at least one."""
    import torch

    columns = ([getattr(part, field.name) for part in parts] for field in fields(parts[0]))  # type: ignore[arg-type]
    return type(parts[0])(*(None if column[0] is None else torch.cat(column) for column in columns))


class Information(ABC):
    """Side information of all rows of a label set."""

    @property
    def images(self) -> int:
        """Images that it tells apart."""
        return 1

    @abstractmethod
    def of(self, rows: ArrayLike, *, tier: str) -> Side:
        """Side information of rows [B], as far as this tier looks."""

    @abstractmethod
    def check(self, classes: int) -> None:
        """ValueError if it speaks of a class that no logit stands for."""

    @abstractmethod
    def facts(self, rows: int) -> dict[str, Any]:
        """Metadata of a file of so many rows by which a reader finds it again."""

    @abstractmethod
    def tensors(self, rows: int) -> dict[str, NDArray[Any]]:
        """Tensors of a file of so many rows by which a reader finds it again."""
