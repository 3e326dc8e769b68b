"""Keys: a few bytes stand for all that a prior looks at, and a file whose lists do not fit its prior is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from decoder_parts import CLASSES, codec_of, file_of
from encoder_parts import IMAGES

from vqlabel import Corrupt, LabelDecoder, LabelEncoder, LabelFile
from vqlabel.keys import Keys
from vqlabel.replay import USER_STREAM, ReplayRecipe
from vqlabel.side import SideInformation

pytestmark = pytest.mark.usefixtures("one_thread")


RECIPE = ReplayRecipe(seed=3, images=7, height=48, width=40, size=32, cutmix=0.5)
DRAWS = [[USER_STREAM + 1, 2]]
ROWS = np.array([0, 6, 7, 700_003, 2**31 - 1])


@pytest.mark.parametrize(("rows", "size"), [(0, 4), (1, 4), (2**31, 4), (2**31 + 1, 8), (2**40, 8)])
def test_a_key_takes_4_bytes_and_in_a_huge_set_8(rows: int, size: int) -> None:
    info = SideInformation(np.arange(7), RECIPE)
    last = np.array([max(rows, 1) - 1])
    for tier in ("classes", "replay", "image"):
        keys = Keys(info, tier, rows)
        assert keys.size == size
        assert keys.of(last).shape == (1, size)
        assert keys.of([]).shape == (0, size)
        assert int.from_bytes(keys.of(last).tobytes(), "little") == last
    nothing = Keys(None, "none", rows)
    assert nothing.size == 0
    assert nothing.of(last).shape == (1, 0)
    assert nothing.side(torch.zeros(1, 0, dtype=torch.uint8)) is None


@pytest.mark.parametrize("recipe", [RECIPE, None])
@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("count", [2**31, 2**40])
def test_side_information_of_keys_is_that_of_their_rows(recipe: ReplayRecipe | None, before: int, count: int) -> None:
    info = SideInformation([5, 0, 3, 3, 9, 70_000, 2], recipe, draws=DRAWS)
    for tier in ("classes", "replay", "image"):
        keys, views = Keys(info, tier, count), torch.randn(len(ROWS), 1, 2, 2)
        codes = np.full((len(ROWS), before), 255, np.uint8)
        data = torch.from_numpy(np.concatenate([codes, keys.of(ROWS)], axis=1))
        truth = info.of(ROWS, tier="classes" if tier == "classes" else "replay")
        for part in (slice(None), slice(4, 5), slice(0, 0), slice(None, None, 2)):
            found = keys.side(data[part, before:], views[part])
            assert found is not None
            assert found.views is not None
            assert torch.equal(found.views, views[part])
            for name in ("images", "partners", "own", "other", "share", "regime", "features"):
                assert torch.equal(getattr(found, name), getattr(truth, name)[part]), name


def test_classes_and_images_that_its_prior_does_not_know_are_found(tmp_path: Path) -> None:
    file, codec = LabelFile(file_of("replay")), codec_of("replay")
    for classes, words in (
        (np.full(IMAGES, CLASSES, np.uint16), "image 0 is of class 20, but the logits have 20 classes"),
        (np.zeros(IMAGES // 2, np.uint16), "its prior knows 60 images, but it lists the classes of 30"),
    ):
        path = tmp_path / f"{len(classes)}"
        metadata = {key: file.metadata[key] for key in ("codec", "classes")}
        tensors = {**codec.tensors(), "images.class": classes}
        LabelFile.create(path, rows=0, row_bytes=file.row_bytes, tensors=tensors, metadata=metadata).close()
        with pytest.raises(Corrupt, match=words):
            LabelDecoder(path)


def test_draws_that_its_prior_does_not_look_at_are_found(tmp_path: Path) -> None:
    file, codec = LabelFile(file_of("replay")), codec_of("replay")
    metadata = {key: file.metadata[key] for key in ("codec", "classes", "replay")}
    metadata["replay"]["draws"] = DRAWS
    tensors = {**codec.tensors(), "images.class": file.tensor("images.class")}
    LabelFile.create(tmp_path / "a", rows=0, row_bytes=file.row_bytes, tensors=tensors, metadata=metadata).close()
    with pytest.raises(Corrupt, match="its prior looks at 17 features of a row, but 21 are known"):
        LabelDecoder(tmp_path / "a")


@pytest.mark.parametrize(
    ("images", "draws", "words"),
    [
        (IMAGES // 2, [], "its prior knows 60 images, but it lists the classes of 30"),
        (2 * IMAGES, [], "its prior knows 60 images, but it lists the classes of 120"),
        (IMAGES, DRAWS, "its prior looks at 17 features of a row, but 21 are known"),
    ],
)
def test_a_codec_is_not_given_other_images_or_draws_than_it_was_fitted_with(
    images: int, draws: list[list[int]], words: str
) -> None:
    recipe = ReplayRecipe(seed=3, images=images, height=48, width=40, size=32)
    side = SideInformation(np.zeros(images, np.int64), recipe, draws=draws)
    with pytest.raises(ValueError, match=f"^the codec was fitted with other side information: {words}"):
        LabelEncoder(codec_of("replay"), side)
    assert LabelEncoder(codec_of("classes"), side).side is side  # it knows classes, whichever images are of them


@pytest.mark.parametrize("images", [0, IMAGES // 2])
def test_rows_are_not_counted_by_other_images_than_have_classes(tmp_path: Path, images: int) -> None:
    file, codec = LabelFile(file_of("classes")), codec_of("classes")
    metadata = {**{key: file.metadata[key] for key in ("codec", "classes")}, "images": images}
    tensors = {**codec.tensors(), "images.class": np.zeros(IMAGES, np.uint16)}
    with LabelFile.create(
        tmp_path / "labels", rows=IMAGES, row_bytes=file.row_bytes, tensors=tensors, metadata=metadata
    ) as writer:
        writer.write(0, file.gather(np.arange(IMAGES)))
    with pytest.raises(Corrupt, match=f"'images' is {images}, but classes are listed of {IMAGES} images"):
        LabelDecoder(tmp_path / "labels")
