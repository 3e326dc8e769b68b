"""Everything in a label file against its checksums, and images against the views that the labels were made for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from vqlabel.format import Header
from vqlabel.storage import Array, chunk_is_sound, joined, spelled, unsound_tensors


@dataclass(frozen=True)
class Verdict:
    """What `LabelFile.verify` found damaged or different; nothing, if it is true."""

    bad_rows: list[range] = field(default_factory=list)
    bad_tensors: list[str] = field(default_factory=list)
    bad_views: str = ""  # in what the images differ from those that the labels were made for

    def __bool__(self) -> bool:
        return not self.bad_rows and not self.bad_tensors and not self.bad_views

    def __str__(self) -> str:
        damaged = [spelled(self.bad_rows)] if self.bad_rows else []
        damaged += [f"tensor {name!r}" for name in self.bad_tensors]
        parts = ["damaged: " + ", ".join(damaged)] if damaged else []
        parts += [self.bad_views] if self.bad_views else []
        return "; ".join(parts) or "every checksum matches"


def check(fd: int, header: Header, crcs: Array, progress: Callable[[int], object] | None) -> Verdict:
    """Compare all tensors and all chunks of rows with their checksums."""
    bad_tensors = unsound_tensors(fd, header)
    bad_chunks = []
    for index, crc in enumerate(crcs.tolist()):
        rows = header.chunk(index)
        if not chunk_is_sound(fd, header, index, crc):
            bad_chunks.append(rows)
        if progress is not None:
            progress(len(rows) * header.row_bytes)
    return Verdict(joined(bad_chunks), bad_tensors)


def differing_views(metadata: dict[str, Any], images: Any) -> str:
    """Why these images are not those of the label set; nothing if they are."""
    from vqlabel.replay import ReplayRecipe
    from vqlabel.views import check_fingerprint

    replay = metadata.get("replay", {})
    if "recipe" not in replay or "views" not in replay:
        raise ValueError("the file holds no reference views to compare images with")
    recipe = ReplayRecipe.from_json(replay["recipe"])
    try:
        check_fingerprint(images, recipe, replay["views"])
    except (TypeError, ValueError) as error:
        return str(error)
    return ""
