"""Pixels of replayed views: equal to cropping and resizing one by one, and told apart when they are not the same."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import exit_status
from torch.utils.data import Dataset

from vqlabel import LabelFile, reference
from vqlabel.replay import CUTMIX, MIXUP, ReplayRecipe
from vqlabel.views import apply, check_fingerprint, fingerprint

RECIPE = ReplayRecipe(seed=3, images=60, height=40, width=48, size=32, cutmix=0.4, mixup=0.4)
IMAGES = torch.randint(0, 256, (60, 3, 40, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "recipe",
    [
        RECIPE,
        RECIPE.unmixed(),
        dataclasses.replace(RECIPE, size=7, scale=(0.01, 0.1)),
        dataclasses.replace(RECIPE, size=1),
    ],
)
def test_batches_are_what_single_images_are(recipe: ReplayRecipe) -> None:
    views = recipe.parameters(1, np.arange(60))
    assert {CUTMIX, MIXUP} <= set(views.kinds.tolist()) or not recipe.cutmix
    torch.testing.assert_close(apply(IMAGES, views), reference.apply(IMAGES, views), atol=2e-5, rtol=0)


def test_batch_pairing_is_applied_too() -> None:
    recipe = dataclasses.replace(RECIPE, pairing="batch", cutmix=1.0, mixup=0.0)
    views = recipe.parameters(1, np.arange(20), batch=0)
    torch.testing.assert_close(apply(IMAGES, views), reference.apply(IMAGES, views), atol=2e-5, rtol=0)


def test_images_may_come_from_a_function() -> None:
    views = RECIPE.parameters(1, np.arange(60))
    asked = []

    def read(ids: np.ndarray) -> torch.Tensor:  # type: ignore[type-arg]
        asked.append(len(ids))
        return IMAGES[torch.from_numpy(ids)].float() / 255

    torch.testing.assert_close(apply(read, views), apply(IMAGES, views))
    assert asked == [60, int((views.kinds > 0).sum())]


def test_source_of_one_pixel_and_no_rows() -> None:
    recipe = dataclasses.replace(RECIPE, height=1, width=1)
    views = apply(torch.full((60, 1, 1, 1), 0.25), recipe.parameters(0, np.arange(60)))
    torch.testing.assert_close(views, torch.full((60, 1, 32, 32), 0.25))
    assert apply(IMAGES, RECIPE.parameters(0, [])).shape == (0, 3, 32, 32)


def test_fingerprint_knows_its_images() -> None:
    stored = fingerprint(IMAGES, RECIPE)
    assert len(stored) == 8
    check_fingerprint(IMAGES, RECIPE, stored)
    check_fingerprint((IMAGES.float() / 255 + 0.003).clamp(0, 1), RECIPE, stored)
    for wrong in (IMAGES.flip(0), IMAGES.flip(-1), IMAGES.roll(1, 0), 255 - IMAGES):
        with pytest.raises(ValueError, match=r"reference view \d differs from the one the labels were made for"):
            check_fingerprint(wrong, RECIPE, stored)
    with pytest.raises(ValueError, match="reference view 0 differs"):
        check_fingerprint(IMAGES, dataclasses.replace(RECIPE, seed=4), stored)


def test_verify_tells_whether_the_images_are_the_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "labels"
    replay = {"recipe": RECIPE.to_json(), "views": fingerprint(IMAGES, RECIPE)}
    with LabelFile.create(path, rows=0, row_bytes=1, metadata={"codec": {"id": "raw"}, "replay": replay}):
        pass
    file = LabelFile(path)
    assert file.verify(images=IMAGES)
    verdict = file.verify(images=IMAGES.flip(0))
    assert not verdict
    assert str(verdict).startswith("reference view 0 differs from the one the labels were made for: other images")
    for images, status, words in (
        (IMAGES, 0, "the images are the ones"),
        (IMAGES.flip(0), 1, "reference view 0 differs"),
    ):
        np.save(tmp_path / "images.npy", images.numpy())
        assert exit_status("verify", path, "--images", tmp_path / "images.npy") == status
        output = capsys.readouterr()
        assert words in output.out + output.err


class Items(Dataset[tuple[torch.Tensor, int]]):
    """The images as a map-style data set."""

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        return IMAGES[number], 7


def test_images_are_compared_in_whatever_form_a_data_set_takes_them(tmp_path: Path) -> None:
    replay = {"recipe": RECIPE.to_json(), "views": fingerprint(Items(), RECIPE)}
    assert replay["views"] == fingerprint(IMAGES, RECIPE)
    path = tmp_path / "labels"
    with LabelFile.create(path, rows=0, row_bytes=1, metadata={"codec": {"id": "raw"}, "replay": replay}):
        pass
    file = LabelFile(path)
    assert file.verify(images=Items())
    assert file.verify(images=list(IMAGES))
    for wrong, words in (
        (list(IMAGES.flip(0)), "reference view 0 differs"),
        (list(IMAGES)[:-1], "the recipe is of 60 images, but there are 59"),
        (IMAGES.numpy(), r"images are an array: give torch.from_numpy\(images\)"),
        (7, "images must be a tensor .*, a function .* or a map-style data set, got int"),
    ):
        assert re.search(words, str(file.verify(images=wrong)))


def test_files_without_views_say_so(tmp_path: Path) -> None:
    with LabelFile.create(tmp_path / "labels", rows=0, row_bytes=1, metadata={"codec": {"id": "raw"}}):
        pass
    with pytest.raises(ValueError, match="the file holds no reference views to compare images with"):
        LabelFile(tmp_path / "labels").verify(images=IMAGES)


@pytest.mark.parametrize(
    ("replay", "words"),
    [
        ({"recipe": 5, "views": []}, "a replay recipe is a JSON object, got 5"),
        ({"recipe": RECIPE.to_json(), "views": 7}, "the stored reference views are 7, not a list of 8"),
        ({"recipe": RECIPE.to_json(), "views": [1] * 8}, "reference view 0 differs"),
        ({"recipe": RECIPE.to_json(), "views": ["zz"] * 8}, "non-hexadecimal"),
        (
            {"recipe": {**RECIPE.to_json(), "images": 2**32}, "views": ["00"] * 8},
            "the recipe is of 4294967296 images, but there are 60",
        ),
        (
            {"recipe": {**RECIPE.to_json(), "size": 2**15}, "views": ["00"] * 8},
            "size must be a whole number from 1 to 4096",
        ),
    ],
)
def test_hostile_recipes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], replay: dict[str, object], words: str
) -> None:
    path = tmp_path / "labels"
    with LabelFile.create(path, rows=0, row_bytes=1, metadata={"codec": {"id": "raw"}, "replay": replay}):
        pass
    np.save(tmp_path / "images.npy", IMAGES.numpy())
    assert exit_status("verify", path, "--images", tmp_path / "images.npy") == 1
    assert re.search(words, capsys.readouterr().err)
