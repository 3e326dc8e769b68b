"""Side information of images: classes, mixing partners, boxes and views of each row, as tensors for the priors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vqlabel.arguments import whole_numbers
from vqlabel.known import REGIMES, Information, Side
from vqlabel.replay import CUTMIX, MIXUP, USER_STREAM, Parameters, ReplayRecipe
from vqlabel.stored import StoredViews

if TYPE_CHECKING:
    import torch

CLASSES, NAMES = "images.class", "images.name"  # tensors of a file
GEOMETRY = 17  # features of a view's boxes and flips

Views: TypeAlias = "Callable[[Parameters], torch.Tensor]"


@dataclass(frozen=True)
class ImageSide(Side):
    """Side information of B views of images."""

    images: torch.Tensor  # int64 [B]
    partners: torch.Tensor  # int64 [B] the image itself where nothing is mixed
    own: torch.Tensor  # int64 [B] class of the image
    other: torch.Tensor  # int64 [B] class of its partner
    share: torch.Tensor  # float32 [B] lambda: what remains of the image itself
    features: torch.Tensor  # float32 [B, GEOMETRY + 4 * draws] between about -1 and 1
    views: torch.Tensor | None  # float32 [B, c, H, W] what the student is about to see; tier "image" only

    def __len__(self) -> int:
        return len(self.images)

    @property
    def regime(self) -> torch.Tensor:
        """Lambda as a number from 0 to REGIMES - 1 [B]."""
        steps = (self.share * (REGIMES - 1)).long().clamp(0, REGIMES - 2) + 1
        return steps.where(self.share < 1, 0)


class SideInformation(Information):
    """Side information of a whole set, recomputed from its recipe; row = epoch * images + image.

    classes holds the class of each image. The recipe may be views that a file has stored; without one the rows are
    unmixed. `draws` are streams and blocks of the user's own draws that shape a view, such as a rotation:
    [[stream, block], ...]. views makes the pixels, for a prior that looks at them.

    >>> recipe = ReplayRecipe(seed=7, images=3, height=48, width=48, size=32, cutmix=1.0)
    >>> side = SideInformation([0, 1, 2], recipe).of([5, 0])
    >>> side.images.tolist(), side.own.tolist()
    ([2, 0], [2, 0])
    """

    def __init__(
        self,
        classes: ArrayLike,
        recipe: ReplayRecipe | StoredViews | None = None,
        *,
        draws: Sequence[Sequence[int]] = (),
        views: Views | None = None,
    ) -> None:
        table = np.asarray(classes)
        if table.ndim != 1 or table.dtype.kind not in "iu" or len(table) == 0:
            raise TypeError(f"classes must be whole numbers [images], got {table.dtype} {list(table.shape)}")
        if recipe is not None and recipe.images != len(table):
            raise ValueError(f"the recipe is for {recipe.images} images, but there are classes of {len(table)}")
        if recipe is not None and recipe.pairing != "pair":
            raise ValueError("rows of a recipe with pairing='batch' cannot be replayed one by one")
        if draws and isinstance(recipe, StoredViews):
            raise ValueError("draws of your own come from a replay recipe, but these views are stored")
        self.classes = table.astype(np.int64)
        self.recipe = recipe
        self.draws = [_checked(draw) for draw in draws]
        self.views = views

    @property
    def images(self) -> int:
        """Images of the set, and so rows of an epoch."""
        return len(self.classes)

    @property
    def features(self) -> int:
        """Features of a row, for the priors that look at them."""
        return GEOMETRY + 4 * len(self.draws) * (self.recipe is not None)

    def of(self, rows: ArrayLike, *, tier: str = "replay") -> ImageSide:
        """Side information of rows [B], as far as this tier looks."""
        epochs, images = np.divmod(whole_numbers("rows", rows, 2**62), self.images)
        if self.recipe is None:
            if tier == "image":
                raise ValueError(
                    "this prior looks at views, and without a replay recipe nobody knows how they were made"
                )
            return self._unmixed(images)
        parameters = self._recipe_for(tier).parameters(epochs, images)
        partners = np.where(parameters.kinds > 0, parameters.partners, images)
        share = np.where(parameters.kinds > 0, parameters.shares, 1.0).astype(np.float32)
        features = self._features(parameters) if tier in ("replay", "image") else np.zeros((len(images), 0), np.float32)
        return self._side(images, partners, share, features, self._views(parameters, tier))

    def check(self, classes: int) -> None:
        """ValueError if an image belongs to a class that no logit stands for."""
        if not 0 <= self.classes.min() <= self.classes.max() < classes:
            bad = int(np.flatnonzero((self.classes < 0) | (self.classes >= classes))[0])
            raise ValueError(f"image {bad} is of class {self.classes[bad]}, but the logits have {classes} classes")

    def facts(self, rows: int) -> dict[str, Any]:
        """Metadata of a file; rows that are no whole epochs name none."""
        found: dict[str, Any] = {"images": self.images}
        if rows % self.images == 0:
            found["epochs"] = rows // self.images
        if isinstance(self.recipe, ReplayRecipe):
            found["replay"] = {"recipe": self.recipe.to_json()} | ({"draws": self.draws} if self.draws else {})
        elif self.recipe is not None:
            found["replay"] = {"stored": self.recipe.layout.to_json()}
        return found

    def tensors(self, rows: int) -> dict[str, NDArray[Any]]:
        """The table of the images' classes, as narrow as they allow."""
        return {CLASSES: self.classes.astype(np.uint16 if self.classes.max() < 2**16 else np.uint32)}

    def _recipe_for(self, tier: str) -> ReplayRecipe | StoredViews:
        """The recipe, as far as this tier looks; ValueError if it looks at crops that nobody knows in pixels."""
        assert self.recipe is not None
        if isinstance(self.recipe, ReplayRecipe) or self.recipe.height:
            return self.recipe
        if tier == "classes":
            return self.recipe.of_size(1, 1)  # it looks at no crop, so that of any image will do
        raise ValueError(
            f"prior {tier!r} looks at the crops, which are stored as parts of images of different sizes: take prior "
            "'classes', or say the size that all images have with StoredViews.of_size"
        )

    def _unmixed(self, images: NDArray[np.int64]) -> ImageSide:
        import torch

        return unmixed(torch.from_numpy(images), torch.from_numpy(self.classes))

    def _side(self, images: NDArray[Any], partners: NDArray[Any], *rest: Any) -> ImageSide:
        import torch

        share, features, views = rest
        numbers = images, partners, self.classes[images], self.classes[partners], share, features
        return ImageSide(*[torch.from_numpy(np.ascontiguousarray(part)) for part in numbers], views)  # type: ignore[call-arg]

    def _features(self, parameters: Parameters) -> NDArray[np.float32]:
        assert self.recipe is not None
        extent = np.array([self.recipe.height, self.recipe.width] * 2, np.float32)
        mixed = (parameters.kinds > 0)[:, None]
        parts = [
            _centred(parameters.crops / extent),
            parameters.flips[:, None],
            parameters.kinds[:, None] == [CUTMIX, MIXUP],
            parameters.shares[:, None] * mixed,
            _centred(parameters.cuts / parameters.size) * (parameters.kinds == CUTMIX)[:, None],
            _centred(parameters.partner_crops / extent) * mixed,
            parameters.partner_flips[:, None],
        ]
        for stream, block in self.draws:
            assert isinstance(self.recipe, ReplayRecipe)
            words = self.recipe.draws(parameters.epochs, parameters.images, stream, block)
            parts.append(words * (2 / 2**32) - 1)
        return np.concatenate(parts, axis=1).astype(np.float32)

    def _views(self, parameters: Parameters, tier: str) -> torch.Tensor | None:
        if tier != "image":
            return None
        if self.views is None:
            raise ValueError("this prior looks at the images: give SideInformation a function views=, which makes them")
        return self.views(parameters)


def unmixed(rows: torch.Tensor, classes: torch.Tensor) -> ImageSide:
    """Side information of rows int64 [B] without a recipe, where they and the classes [images] lie."""
    images = rows % len(classes)
    share = classes.new_ones(len(rows)).float()
    return ImageSide(
        images, images, classes[images], classes[images], share, share.new_zeros(len(rows), GEOMETRY), None
    )


def _checked(draw: Any) -> list[int]:
    """Stream and block of a draw; TypeError for anything else, whoever says it."""
    pair = list(draw) if isinstance(draw, (list, tuple)) else []
    if len(pair) != 2 or not all(type(n) is int and 0 <= n < 2**32 for n in pair) or pair[0] < USER_STREAM:
        raise TypeError(f"a draw is [stream, block], with a stream from {USER_STREAM} on, got {draw!r:.80}")
    return pair


def _centred(boxes: NDArray[Any]) -> NDArray[Any]:
    """Boxes top, left, height, width as fractions, to centre and extent between -1 and 1."""
    return np.concatenate([2 * boxes[:, :2] + boxes[:, 2:] - 1, 2 * boxes[:, 2:] - 1], axis=1)
