"""Originals: a batch on its way to a device that will make the views itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data._utils.collate import default_collate_fn_map

from vqlabel.images import Images
from vqlabel.replay import Parameters
from vqlabel.views import apply

Transform = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Originals:
    """Source images of B rows and what becomes of them; a call makes the views, where the images lie.

    >>> views = originals.to("cuda", non_blocking=True)()    # doctest: +SKIP
    """

    pixels: torch.Tensor  # [B + M, c, H, W]: the images, then the partners of the M mixed ones
    parameters: Parameters
    transform: Transform | None = None
    drawn: bool = False  # draws of the author's own shaped the views too, and only the author knows how

    @classmethod
    def read(
        cls, images: Images, parameters: Parameters, transform: Transform | None = None, *, drawn: bool = False
    ) -> Originals:
        """Originals of these rows."""
        partners = parameters.partners[parameters.kinds > 0]
        return cls(images(np.concatenate([parameters.images, partners])), parameters, transform, drawn)

    def __len__(self) -> int:
        return len(self.parameters)

    def __repr__(self) -> str:
        pixels = f"{self.pixels.dtype} {list(self.pixels.shape[1:])} on {self.device}"
        return f"Originals({len(self)} of {pixels}, {len(self.pixels) - len(self)} partners)"

    def __call__(self) -> torch.Tensor:
        """Views [B, c, size, size], transformed."""
        if self.drawn:
            raise ValueError(
                "these views were shaped by draws of the author's own, which the parameters do not tell: make them "
                "from .pixels and .parameters as the author did, with recipe.draws"
            )
        local = replace(self.parameters, images=np.arange(len(self)), partners=self._partners)
        views = apply(self.pixels, local)
        return views if self.transform is None else self.transform(views)

    @property
    def device(self) -> torch.device:
        """Where the images lie."""
        return self.pixels.device

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Originals:
        """The same originals there."""
        return replace(self, pixels=self.pixels.to(device, non_blocking=non_blocking))

    def pin_memory(self, device: Any = None) -> Originals:
        """The same in pinned memory; a loader with pin_memory=True calls this."""
        return replace(self, pixels=self.pixels.pin_memory())

    def __getitem__(self, rows: Any) -> Originals:
        """Some of the rows; a number gives one row, still as a batch."""
        chosen = np.atleast_1d(np.arange(len(self))[rows])
        parts = {name: values[chosen] for name, values in _arrays(self.parameters).items()}
        parameters = replace(self.parameters, **parts)
        places = np.concatenate([chosen, self._partners[chosen][parameters.kinds > 0]])
        pixels = self.pixels[torch.from_numpy(places).to(self.device)]
        return replace(self, pixels=pixels, parameters=parameters)

    @property
    def _partners(self) -> NDArray[np.int64]:
        """Where the partner of each row lies in the pixels [B]; -1 for none."""
        mixed = self.parameters.kinds > 0
        return np.where(mixed, len(self) + np.cumsum(mixed) - 1, -1)


def _arrays(parameters: Parameters) -> dict[str, NDArray[Any]]:
    return {field.name: getattr(parameters, field.name) for field in fields(Parameters) if field.name != "size"}


def joined(parts: Any, *, collate_fn_map: Any = None) -> Originals:
    """One batch of several, for torch's default_collate."""
    first: Originals = parts[0]
    columns = [_arrays(part.parameters) for part in parts]
    arrays: Any = {name: np.concatenate([column[name] for column in columns]) for name in columns[0]}
    parameters = replace(first.parameters, **arrays)
    own = [part.pixels[: len(part)] for part in parts]
    partners = [part.pixels[len(part) :] for part in parts]
    return replace(first, pixels=torch.cat(own + partners), parameters=parameters)


default_collate_fn_map[Originals] = joined
