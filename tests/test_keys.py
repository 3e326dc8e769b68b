"""Keys: a file whose lists of images and classes do not fit its prior is no label file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from decoder_parts import CLASSES, codec_of, file_of
from encoder_parts import IMAGES

from vqlabel import Corrupt, LabelDecoder, LabelFile

pytestmark = pytest.mark.usefixtures("one_thread")


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
