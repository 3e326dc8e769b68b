"""A fitted codec kept beside the labels until these are finished, so that an interrupted run goes on with it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from vqlabel.encoder import LabelEncoder
from vqlabel.errors import FormatError
from vqlabel.file import LabelFile
from vqlabel.known import Information
from vqlabel.ranks import Ranks
from vqlabel.storage import PARTIAL


def kept(out: str) -> str:
    """Where the codec of a label file that is being written is kept."""
    return f"{out}.fit"


def fitted_once(
    out: str, asked: dict[str, Any], fit: Callable[[], LabelEncoder], side: Information | None = None
) -> LabelEncoder:
    """The codec that was fitted for `out` when the same was asked, or is now; `side` where its file cannot hold it."""
    here, path, words = Ranks.here(), kept(out), json.dumps(asked)
    try:
        there = LabelFile(path).metadata.get("x.fit")
    except (OSError, FormatError):
        there = None
    found = there == words
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


def forget(out: str) -> None:
    """The labels are finished: their codec is in their file."""
    with suppress(FileNotFoundError):
        os.unlink(kept(out))
