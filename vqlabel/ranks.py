"""Several processes that work as one: sums over all ranks of torch.distributed, or of none when it is not there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Ranks:
    """Number `rank` among `world` processes."""

    rank: int = 0
    world: int = 1

    @classmethod
    def here(cls) -> Ranks:
        """What torch.distributed says, or one process alone."""
        import torch.distributed as distributed

        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    def own(self, count: int) -> NDArray[np.int64]:
        """Which of `count` shared items are this rank's."""
        return np.arange(self.rank, count, self.world)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor added up over all ranks, in place."""
        if self.world > 1:
            import torch.distributed as distributed

            distributed.all_reduce(tensor)
        return tensor

    def wait(self) -> None:
        """Go on when all ranks are here."""
        if self.world > 1:
            import torch.distributed as distributed

            distributed.barrier()
