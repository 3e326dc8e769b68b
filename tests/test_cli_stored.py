"""The command line carries views that a file has stored, and names of images, into the files that it makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run

from vqlabel import LabelDecoder, LabelEncoder, LabelFile
from vqlabel.codecs.raw import Raw
from vqlabel.side import CLASSES, NAMES, SideInformation
from vqlabel.stored import BOXES, ROWS, SEEDS, StoredViews
from vqlabel.view_layout import ViewLayout

IMAGES, EPOCHS, BATCH, C = 40, 10, 8, 5
LOGITS = np.random.default_rng(1).normal(size=(EPOCHS * IMAGES, C)).astype(np.float32)
FIT = ("--bytes", 1, "--prior", "classes", "--effort", 0.01, "--temperatures", 1)


def views() -> tuple[ViewLayout, dict[str, Any]]:
    """Stored views of all epochs, of which most are mixed."""
    layout = ViewLayout(IMAGES, 20, 30, 16, "pixels", flips=True, mix="cutmix", batch=BATCH)
    random = np.random.default_rng(0)
    records = []
    for _ in range(EPOCHS):
        crops = np.tile([1, 2, 8, 9], (IMAGES, 1))
        places, partners = random.permutation(IMAGES), random.permutation(IMAGES)
        records.append(layout.pack(places, crops, random.random(IMAGES) < 0.5, partners))
    boxes = np.tile(np.array([2, 2, 8, 8], "<u2"), (EPOCHS * layout.batches, 1))
    return layout, {ROWS: np.concatenate(records), BOXES: boxes}


@pytest.fixture(autouse=True)
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LabelFile:
    """Labels with stored views, as `convert` writes them, in stored.safetensors, and their logits beside it."""
    monkeypatch.chdir(tmp_path)
    layout, tensors = views()
    side = SideInformation(np.arange(IMAGES) % C, StoredViews(layout, tensors.__getitem__))
    tensors |= {NAMES: np.frombuffer(b"a\nb", np.uint8), SEEDS: np.arange(len(LOGITS), dtype=np.uint32)}
    np.save("logits.npy", LOGITS)
    np.save("less.npy", LOGITS[:IMAGES])
    return LabelEncoder(Raw(C), side).encode(LOGITS, "stored.safetensors", tensors=tensors)


def same_views(file: LabelFile, other: LabelFile) -> bool:
    """Whether both hold the same tensors that tell of images and views."""
    names = [CLASSES, NAMES, ROWS, BOXES, SEEDS]
    return all((file.tensor(name) == other.tensor(name)).all() for name in names)


@pytest.mark.parametrize("said", [("stored.safetensors",), ("logits.npy", "--like", "stored.safetensors")])
@pytest.mark.parametrize("how", [FIT, ("--format", "int8"), ("--format", "raw")])
def test_labels_made_of_others_keep_their_views(run: Run, stored: LabelFile, said: Any, how: Any) -> None:
    status, _, error = run("encode", *said, "-o", "out.safetensors", *how)
    assert status == 0, error
    file = LabelFile("out.safetensors")
    assert same_views(file, stored)
    decoder = LabelDecoder(file.path)
    assert decoder.recipe is not None
    rows = np.arange(len(file))
    assert torch.isfinite(decoder(rows)).all()
    kinds = [LabelDecoder(each.path).recipe.parameters(3, rows[:IMAGES]).kinds for each in (file, stored)]  # type: ignore[union-attr]
    assert (kinds[0] == kinds[1]).all()
    assert kinds[0].any()


def test_a_codec_that_was_fitted_with_stored_views_needs_them_again(run: Run, stored: LabelFile) -> None:
    status, _, error = run("fit", "logits.npy", "--like", "stored.safetensors", "-o", "codec", *FIT)
    assert status == 0, error
    encode = ("encode", "logits.npy", "-o", "out.safetensors", "--codec", "codec")
    status, _, error = run(*encode)
    assert status == 1
    assert "the views of these rows are stored" in error
    status, _, error = run(*encode, "--like", "stored.safetensors")
    assert status == 0, error
    both = ("encode", "logits.npy", "--like", "stored.safetensors", "-o", "both.safetensors", *FIT)
    assert run(*both)[0] == 0
    assert same_views(LabelFile("out.safetensors"), stored)
    assert (LabelFile("out.safetensors").gather(range(90)) == LabelFile("both.safetensors").gather(range(90))).all()


def test_logits_of_other_rows_than_the_views_are_refused_before_a_fit(run: Run) -> None:
    for how in (FIT, ("--format", "raw")):
        status, _, error = run("encode", "less.npy", "--like", "stored.safetensors", "-o", "out.safetensors", *how)
        assert status == 1
        assert "stored.safetensors has stored the views of its 400 rows, but the logits have 40" in error
        assert not list(Path().glob("out*"))


def test_a_file_that_says_its_views_are_stored_holds_them() -> None:
    layout, tensors = views()
    side = SideInformation(np.arange(IMAGES) % C, StoredViews(layout, tensors.__getitem__))
    for encoder, more in (
        (LabelEncoder(Raw(C), side), {}),
        (LabelEncoder(Raw(C)), {"metadata": {"replay": {"stored": layout.to_json()}}}),
    ):
        with pytest.raises(ValueError, match=r"no label can be used without them: give tensor 'views\.rows'"):
            encoder.encode(LOGITS, "out.safetensors", **more)  # type: ignore[arg-type]
    other = {"replay": {"stored": {**layout.to_json(), "batch": 4}}}
    with pytest.raises(ValueError, match="the replay recipe in the metadata is not that of the side information"):
        LabelEncoder(Raw(C), side).encode(LOGITS, "out.safetensors", metadata=other, tensors=tensors)
    assert not list(Path().glob("out*"))
