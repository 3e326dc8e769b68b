"""Side information in and out of a label file: the recipe and the classes of its images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqlabel.errors import Corrupt
from vqlabel.file import LabelFile
from vqlabel.replay import ReplayRecipe
from vqlabel.side import SideInformation, Views

CLASSES = "images.class"
OURS = ("codec", "classes", "temperatures", "measured", "format", "format_version")  # metadata that is not the user's


def side_of(file: LabelFile, views: Views | None = None) -> SideInformation | None:
    """What the file says of its rows before their bits: None if it has no table of the images' classes."""
    if CLASSES not in file.tensor_names:
        return None
    classes, replay = file.tensor(CLASSES), file.metadata.get("replay", {})
    try:
        recipe = ReplayRecipe.from_json(replay["recipe"]) if "recipe" in replay else None
        return SideInformation(classes, recipe, draws=draws_of(file), views=views)
    except (TypeError, ValueError) as error:
        raise Corrupt(f"{file.path}: {error}") from None


def draws_of(file: LabelFile) -> Any:
    """The author's own draws that shaped the views of the file, [[stream, block], ...], as they stand there."""
    return file.metadata["codec"].get("draws", file.metadata.get("replay", {}).get("draws", []))


def tensors_of(side: SideInformation | None) -> dict[str, NDArray[Any]]:
    """The table of the images' classes, as narrow as they allow."""
    if side is None:
        return {}
    return {CLASSES: side.classes.astype(np.uint16 if side.classes.max() < 2**16 else np.uint32)}


def metadata_of(side: SideInformation | None, rows: int) -> dict[str, Any]:
    """Metadata by which `side_of` finds the side information again; rows that are no whole epochs name none."""
    if side is None:
        return {}
    found: dict[str, Any] = {"images": side.images}
    if rows % side.images == 0:
        found["epochs"] = rows // side.images
    if side.recipe is not None:
        found["replay"] = {"recipe": side.recipe.to_json()} | ({"draws": side.draws} if side.draws else {})
    return found


def check_classes(side: SideInformation | None, classes: int) -> None:
    """ValueError if an image belongs to a class that no logit stands for."""
    if side is not None and not 0 <= side.classes.min() <= side.classes.max() < classes:
        bad = int(np.flatnonzero((side.classes < 0) | (side.classes >= classes))[0])
        raise ValueError(f"image {bad} is of class {side.classes[bad]}, but the logits have {classes} classes")


def joined(facts: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of a file: what the encoder knows and what the user adds, which may not contradict it."""
    taken = [key for key in given if key in OURS]
    if taken:
        raise ValueError(f"metadata {taken[0]!r} is what the encoder itself says; yours begin with 'x.'")
    both = {**facts, **given}
    if "replay" in facts and "replay" in given:
        both["replay"] = {**given["replay"], **facts["replay"]}  # reference views are the user's, the recipe is not
        if given["replay"].get("recipe", facts["replay"]["recipe"]) != facts["replay"]["recipe"]:
            raise ValueError("the replay recipe in the metadata is not that of the side information")
    return both
