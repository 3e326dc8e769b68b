"""A fitted codec kept beside the labels until these are finished, so that an interrupted run goes on with it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from vqlabel.encoder import LabelEncoder
from vqlabel.errors import FormatError
from vqlabel.file import LabelFile
from vqlabel.format import checksum
from vqlabel.known import Information
from vqlabel.ranks import Ranks
from vqlabel.sources import Source
from vqlabel.storage import PARTIAL

MARKED = 64  # rows


def kept(out: str) -> str:
    """Where the codec of a label file that is being written is kept."""
    return f"{out}.fit"


def fitted_once(
    out: str, asked: dict[str, Any], fit: Callable[[], LabelEncoder], side: Information | None = None
) -> LabelEncoder:
    """The codec that was fitted for `out` when the same was asked, or is now; `side` where its file cannot hold it."""
    here, path, words = Ranks.here(), kept(out), json.dumps(asked)
    there = _asked(path)
    found = there == words
    if there is None and os.path.exists(path):
        raise FileExistsError(
            f"{path} is where the codec is kept until {out} is finished, and holds something else: move it"
        )
    if there is not None and not found and os.path.exists(out + PARTIAL):
        raise ValueError(
            f"{out}{PARTIAL} was begun with other settings, for which {path} was fitted; encode with those to finish "
            "it, or delete both and begin again"
        )
    here.wait()  # all have looked
    if not found:
        encoder = fit()
        if here.rank == 0:
            for name in (path, path + PARTIAL):
                with suppress(FileNotFoundError):
                    os.unlink(name)
            encoder.save(path, metadata={"x.fit": words})
        here.wait()
    return LabelEncoder.load(path, side=side)  # read back even by the rank that fitted it: all have the same bits


def mark(source: Source) -> int:
    """Checksum of some rows: a file of the same name may hold other logits than it did."""
    rows = np.unique(np.linspace(0, max(len(source) - 1, 0), MARKED).astype(np.int64))[: len(source)]
    return checksum(source.take(rows).float().numpy())


def forget(out: str) -> None:
    """The labels are finished: their codec is in their file."""
    if _asked(kept(out)) is not None:
        os.unlink(kept(out))


def _asked(path: str) -> str | None:
    """What the codec that is kept here was fitted for; None for a file that no interrupted run has left."""
    try:
        found = LabelFile(path).metadata.get("x.fit")
    except (OSError, FormatError):
        return None
    return found if isinstance(found, str) else None
