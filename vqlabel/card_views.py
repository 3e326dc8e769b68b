"""The views of a label file in words: what its card says of them."""

from __future__ import annotations

from vqlabel.file import LabelFile
from vqlabel.replay import ReplayRecipe
from vqlabel.scene import only_the_author_knows, recipe_of
from vqlabel.stored import CUTOUTS, SEEDS
from vqlabel.view_layout import ViewLayout

SEQUENCES = "sequences.starts"
CROPS = {
    "none": "whole images",
    "pixels": "crops in pixels",
    "F16": "crops as parts of the image in fp16",
    "F32": "crops as parts of the image in float32",
}
MIXES = {"cutmix": "CutMix", "mixup": "MixUp"}


def how_made(file: LabelFile) -> str:
    """How the views of the images were made, or what is stored of them."""
    if SEQUENCES in file.tensor_names:
        return "none: each label belongs to a position of a sequence"
    try:
        recipe = recipe_of(file)
    except (TypeError, ValueError):
        return "made in a way that this vqlabel does not know"
    known = []
    if recipe is not None:
        known.append(_replayed(recipe) if isinstance(recipe, ReplayRecipe) else _stored(recipe.layout))
    for tensor, what in ((SEEDS, "a seed"), (CUTOUTS, "a cutout")):
        if tensor in file.tensor_names:
            known.append(f"{what} stored with each label, which only its author's code can replay")
    return "; ".join(known) or "the file does not say how they were made"


def how_to_repeat(file: LabelFile) -> str:
    """What a label belongs to, and who can make that again: a line of Markdown."""
    if SEQUENCES in file.tensor_names:
        return "A label belongs to a position: it is of use only behind the same tokens."
    replay = file.metadata.get("replay", {})
    if only_the_author_knows(file):
        means = "something in that view only its author's code can make again."
    elif "stored" in replay:
        means = "the file remembers how that view was made."
    elif "recipe" in replay:
        means = "`vqlabel verify --images` tells whether yours give the same views."
    else:
        means = "the file does not say how to make that view again."
    return f"A label belongs to one view of an image: {means}"


def _replayed(recipe: ReplayRecipe) -> str:
    low, high = recipe.scale
    mixes = [f"{what} with probability {p:g}" for what, p in (("CutMix", recipe.cutmix), ("MixUp", recipe.mixup)) if p]
    return (
        f"replayed from seed {recipe.seed}, epoch and image: a crop of {low:.3g} to {high:.3g} of the "
        f"{recipe.height} x {recipe.width} pixels, scaled to {recipe.size} x {recipe.size}, flipped with probability "
        f"{recipe.flip:g}; {' and '.join(mixes) + f' by {recipe.pairing}' if mixes else 'no mixing'}"
    )


def _stored(layout: ViewLayout) -> str:
    same = layout.height and layout.width
    source = f"images of {layout.height} x {layout.width} pixels" if same else "images of different sizes"
    flips = "flips" if layout.flips else "no flips"
    mix = f"{MIXES[layout.mix]} among {layout.batch:,} rows at a time" if layout.mix in MIXES else "no mixing"
    shown = f"{source}, shown at {layout.size} x {layout.size}"
    return f"stored with each label: {CROPS[layout.crops]}, {flips}, {mix}; {shown}"
