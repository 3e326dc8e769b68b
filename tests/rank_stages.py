"""What test_fit.py runs in one process and in two: stages of a fit and whole ones, as tensors and numbers by name."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from encoder_parts import mixed_logits, sample_of

from vqlabel.codecs.fitting import fit
from vqlabel.codecs.kmeans import kmeans
from vqlabel.codecs.options import FitOptions
from vqlabel.codecs.sample import Sample
from vqlabel.codecs.spectrum import principal
from vqlabel.measure import measure
from vqlabel.ranks import Ranks


def own(data: torch.Tensor, tier: str, here: Ranks) -> Sample:
    """The share of a rank in a sample."""
    whole, rows = sample_of(data, tier), slice(here.rank, None, here.world)
    side = None if whole.side is None else whole.side[rows]
    return Sample(whole.logits[rows], side, len(data), here, whole.images)


def stages(here: Ranks) -> dict[str, Any]:
    """Everything that ranks should agree on."""
    data = mixed_logits(1001, 20)
    spectrum = principal(own(data, "none", here), 8, seed=0)
    heaps = torch.randn(12, 4, generator=torch.Generator().manual_seed(1)) * 20
    points = heaps[torch.arange(900) % 12] + torch.randn(900, 4, generator=torch.Generator().manual_seed(2))
    # All words begin at the same place, and get others among far rows, of which the first rank has most.
    lost = torch.cat([torch.zeros(600, 4), points[:300] * (1 + 9 * (torch.arange(300) % 2 == 0)[:, None])])
    codec = fit(own(data, "classes", here), FitOptions(prior="classes", nbits=4, width=8, **RATE), EMPTY)
    arrays = codec.tensors()
    lone = fit(own(data[:1], "none", here), FitOptions(nbits=2, width=4, **RATE), EMPTY)
    return {
        "mean": spectrum.mean,
        "basis": spectrum.basis,
        "variances": spectrum.variances,
        "kmeans": kmeans(points[here.rank :: here.world], 12, here, seed=0),
        "lost words": kmeans(lost[here.rank :: here.world], 15, here, seed=0, rounds=2),
        "one row": lone.decode(lone.encode(data[:1]))[0],
        "digest": hashlib.sha256(b"".join(arrays[name].tobytes() for name in sorted(arrays))).hexdigest(),
        "kl": measure(codec, own(data, "classes", here), (20.0,))["kl"]["20"],
    }


RATE: dict[str, Any] = {"bytes_per_label": 1, "effort": 0.04}
EMPTY = Sample(torch.zeros(0, 20), None, 0)
