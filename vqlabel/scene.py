"""Side information in and out of a label file: the recipe or the stored views, and the classes of its images."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from vqlabel.arguments import check_whole
from vqlabel.errors import Corrupt
from vqlabel.file import LabelFile
from vqlabel.known import Information
from vqlabel.replay import ReplayRecipe
from vqlabel.side import CLASSES, SideInformation, Views
from vqlabel.stored import BOXES, CUTOUTS, LAMBDAS, ROWS, SEEDS, StoredViews
from vqlabel.tokens import TokenInformation
from vqlabel.view_layout import ViewLayout

if TYPE_CHECKING:
    from vqlabel.codecs.layout import PriorShape

REPLAYED = {"recipe": "recipe", "stored": "recipe", "draws": "list of draws"}  # what side information says of views
OURS = ("codec", "classes", "temperatures", "measured", "format", "format_version")  # metadata that is not the user's


def side_of(file: LabelFile, views: Views | None = None) -> SideInformation | None:
    """What the file says of its rows before their bits: None if it has no table of the images' classes."""
    if CLASSES not in file.tensor_names:
        return None
    try:
        return SideInformation(file.tensor(CLASSES), recipe_of(file), draws=draws_of(file), views=views)
    except (TypeError, ValueError) as error:
        raise Corrupt(f"{file.path}: {error}") from None


def recipe_of(file: LabelFile) -> ReplayRecipe | StoredViews | None:
    """How the views of the file were made: drawn by a recipe, or stored; None if it does not say."""
    replay = file.metadata.get("replay", {})
    if "stored" in replay:
        return _stored(file, replay["stored"])
    return ReplayRecipe.from_json(replay["recipe"]) if "recipe" in replay else None


def _stored(file: LabelFile, fields: Any) -> StoredViews:
    layout, tensors = ViewLayout.from_json(fields), file.header.tensors
    if layout.images != file.metadata.get("images"):
        raise ValueError(f"its views are of {layout.images} images, its labels of {file.metadata.get('images')}")
    epochs = len(file) // layout.images
    wanted: dict[str, tuple[Any, ...]] = {ROWS: (np.dtype("u1"), (len(file), layout.row_bytes))}
    if layout.mix == "cutmix":
        wanted[BOXES] = np.dtype("<u2"), (epochs * layout.batches, 4)
    if layout.mix == "mixup":
        wanted[LAMBDAS] = np.dtype("<f8"), (epochs * layout.batches,)
    for name, (dtype, shape) in wanted.items():
        found = tensors.get(name)
        if found is None or (found.dtype, found.shape) != (dtype, shape):
            there = "not there" if found is None else f"{found.dtype} {list(found.shape)}"
            raise ValueError(f"stored views need tensor {name!r}, {dtype} {list(shape)}, which is {there}")
    return StoredViews(layout, file.column)


def check_stored(tensors: Container[str], metadata: Mapping[str, Any]) -> None:
    """ValueError for a file that says its views are stored, and would not hold them."""
    if "stored" in metadata.get("replay", {}) and ROWS not in tensors:
        raise ValueError(
            f"the views of these rows are stored, so no label can be used without them: give tensor {ROWS!r}, and "
            f"{BOXES!r} or {LAMBDAS!r} where they are mixed"
        )


def draws_of(file: LabelFile) -> Any:
    """The author's own draws that shaped the views of the file, [[stream, block], ...], as they stand there."""
    return file.metadata["codec"].get("draws", file.metadata.get("replay", {}).get("draws", []))


def only_the_author_knows(file: LabelFile) -> bool:
    """Whether something shaped the views that no Parameters tell of: draws, seeds or cutouts of the author's own."""
    return bool(draws_of(file)) or not {SEEDS, CUTOUTS}.isdisjoint(file.tensor_names)


def check_prior(side: Information, shape: PriorShape | None) -> None:
    """ValueError if the prior of a codec knows other images, or looks at something else, than these rows have."""
    if shape is None or shape.tier == "classes" or not isinstance(side, (SideInformation, TokenInformation)):
        return
    if shape.tier != "tokens" and shape.images != side.images:
        raise ValueError(f"its prior knows {shape.images} images, but it lists the classes of {side.images}")
    if shape.features != side.features:
        raise ValueError(
            f"its prior looks at {shape.features} features of a row, but {side.features} are known: the draws, or the "
            "tokens around it, are not those that it was fitted with"
        )


def joined(facts: Mapping[str, Any], given: Mapping[str, Any], *, tier: str = "none") -> dict[str, Any]:
    """Metadata of a file: what the encoder knows and what the user adds, which may not contradict it.

    tier is what the codec's prior looks at: to "none" the user may say himself how views were made.
    """
    taken = [key for key in given if key in OURS]
    if taken:
        raise ValueError(f"metadata {taken[0]!r} is what the encoder itself says; yours begin with 'x.'")
    for key in given:
        if key != "replay" and key in facts and given[key] != facts[key]:
            raise ValueError(
                f"metadata {key!r} is {given[key]!r:.80}, but the side information says {facts[key]!r:.80}"
            )
    known, told = facts.get("replay", {}), _told(given)
    for key, what in REPLAYED.items() if known or tier != "none" else ():
        if key in told and told[key] != known.get(key, []):
            raise ValueError(f"the replay {what} in the metadata is not that of the side information")
    both = {**facts, **given}
    # Reference views are the user's, the recipe is not.
    return {**both, "replay": {**told, **known}} if "replay" in both else both


def _told(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a user says of the replay."""
    told = given.get("replay", {})
    if not isinstance(told, Mapping):
        raise ValueError(f"metadata 'replay' is a dict, such as {{\"recipe\": recipe.to_json()}}, got {told!r:.80}")
    return told


def with_images(metadata: Mapping[str, Any], rows: int) -> Mapping[str, Any]:
    """Metadata of so many rows in which epochs are of images: a reader counts by these."""
    if "epochs" not in metadata or "images" in metadata:
        return metadata
    return {**metadata, "images": rows // check_whole("metadata 'epochs'", metadata["epochs"], 1, 2**62)}
