"""The card of a label file: what it says, and that a file's own words are only words in it."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import GOLDEN, exit_status
from markdown_it import MarkdownIt

from vqlabel import LabelFile
from vqlabel.card import card, check_name, plain, section, updated
from vqlabel.card_views import how_made
from vqlabel.replay import ReplayRecipe
from vqlabel.terminal import one_line
from vqlabel.view_layout import ViewLayout

GOOD = GOLDEN / "v1_vq_g3x11.safetensors"
EVIL = (
    "a|b\n## c <script>x</script> [d](javascript:e) `f` <!-- end: labels.safetensors --> ![g](http://h) www.i.j \x1b[2J"
)
RECIPE = ReplayRecipe(seed=7, images=5, height=48, width=40, size=32, cutmix=0.5)


def written(path: Path, rows: int = 10, **metadata: Any) -> LabelFile:
    """A file of nothing but metadata."""
    settings = {"codec": {"id": "raw"}, "classes": 4, **metadata}
    with LabelFile.create(path, rows=rows, row_bytes=8, metadata=settings) as writer:
        writer.write(0, np.zeros((rows, 8), np.uint8))
    return LabelFile(path)


def table(text: str) -> dict[str, str]:
    """Cells of the card's table."""
    return dict(re.findall(r"^\| ([^|]+) \| (.*) \|$", text, flags=re.M))


def html(text: str) -> str:
    """A card as a browser gets it, without its front matter."""
    return str(MarkdownIt("commonmark").enable("table").render(text.split("---\n", 2)[2]))


def front(text: str) -> Any:
    """What the hub reads of a card."""
    return yaml.safe_load(text.split("---\n")[1])


def test_card_says_what_a_label_costs_and_how_good_it_is(tmp_path: Path) -> None:
    measured = {"rows": 1000, "kl": {"4": 0.0125, "20": 0.001}, "top1": 0.875}
    file = written(tmp_path / "x", measured=measured, teacher="resnet18", temperatures=[4, 20.0], epochs=2, images=5)
    found = table(card(file, "me/labels"))
    assert found["labels"] == "10"
    assert found["which are"] == "2 epochs of 5 images"
    assert found["teacher"] == "resnet18"
    assert found["codec"] == "every logit as float16"
    assert found["bytes a label, codes"] == "8"
    assert found["bytes a label, all in"] == f"{file.header.file_bytes / 10:.3f}"
    assert found["times smaller than fp16"] == "0.0"
    assert found[r"mean KL at T \= 20"] == r"1.000e-03"
    assert found["temperatures it was fitted for"] == "4, 20"
    assert found["bytes of the file"] == f"{file.header.file_bytes:,}"


def test_card_says_how_views_are_made(tmp_path: Path) -> None:
    known = written(tmp_path / "known", rows=5, images=5, replay={"recipe": RECIPE.to_json()})
    words = table(card(known))["views"]
    for part in ("seed 7", "48 x 40", "32 x 32", "CutMix with probability 0.5", "by pair"):
        assert part in words
    assert "verify --images" in card(known)
    assert "does not say how they were made" in table(card(written(tmp_path / "none")))["views"]
    strange = written(tmp_path / "strange", replay={"recipe": {"seed": 1, "swirl": 2}})
    assert "does not know" in table(card(strange))["views"]


IMPORTED = GOLDEN / "v1_imported.safetensors"


def with_views(path: Path, stored: dict[str, Any] | None, **tensors: Any) -> LabelFile:
    """A file of 3 epochs of 2 images that remembers its views."""
    metadata = {"codec": {"id": "raw"}, "classes": 4, "epochs": 3, "images": 2}
    if stored is not None:
        layout = ViewLayout(images=2, **stored)
        tensors["views.rows"] = np.zeros((6, layout.row_bytes), np.uint8)
        tensors["views.boxes"] = np.zeros((3 * layout.batches, 4), np.uint16)
        tensors["views.lambdas"] = np.zeros(3 * layout.batches, np.float64)
        metadata["replay"] = {"stored": layout.to_json()}
    with LabelFile.create(path, rows=6, row_bytes=8, tensors=tensors, metadata=metadata) as writer:
        writer.write(0, np.zeros((6, 8), np.uint8))
    return LabelFile(path)


def test_card_of_an_imported_set_says_what_is_stored_and_what_is_missing() -> None:
    text = card(LabelFile(IMPORTED))
    found = table(text)
    for part in ("stored with each label", "crops in pixels", ", flips", "CutMix among 2 rows", "8 x 6", "8 x 8"):
        assert part in found["views"]
    assert (found["labels"], found["rows without a label"]) == ("5", "1 of 6")
    assert found["which are"] == "2 epochs of 3 images, with gaps"
    assert "5 soft labels of 2 classes" in text
    assert "the file remembers how that view was made" in text
    assert "does not say" not in text


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ({"height": 0, "width": 0, "size": 9}, "whole images, no flips, no mixing; images of different sizes"),
        ({"height": 0, "width": 0, "size": 9, "crops": "F16"}, "parts of the image in fp16, no flips"),
        (
            {"height": 4, "width": 5, "size": 9, "crops": "F32", "flips": True},
            "in float32, flips, no mixing; images of 4",
        ),
        ({"height": 4, "width": 5, "size": 9, "mix": "mixup", "batch": 1024}, "MixUp among 1,024 rows at a time"),
    ],
)
def test_whatever_is_stored_of_views_has_words(stored: dict[str, Any], words: str, tmp_path: Path) -> None:
    file = with_views(tmp_path / "x", stored)
    assert re.sub(r"\\(.)", r"\1", table(card(file))["views"]).startswith("stored with each label: ")
    assert words in how_made(file)
    assert "rows without a label" not in card(file)


def test_what_only_its_author_can_replay_is_said(tmp_path: Path) -> None:
    seeds = with_views(tmp_path / "seeds", None, **{"views.seeds": np.zeros(6, np.uint32)})
    assert how_made(seeds) == "a seed stored with each label, which only its author's code can replay"
    both = {"height": 4, "width": 5, "size": 9}
    cutouts = with_views(tmp_path / "cutouts", both, **{"views.cutouts": np.zeros((6, 7), np.float32)})
    assert how_made(cutouts).endswith("; a cutout stored with each label, which only its author's code can replay")
    for file in (seeds, cutouts):
        assert "something in that view only its author's code can make again" in card(file)


def test_labels_of_tokens_have_no_views(tmp_path: Path) -> None:
    starts = {"sequences.starts": np.array([0, 6], np.uint64), "sequences.tokens": np.zeros(6, np.uint32)}
    text = card(with_views(tmp_path / "x", None, **starts))
    assert "a position of a sequence" in table(text)["views"]
    assert "view of an image" not in text


def test_stored_views_that_make_no_sense_are_only_words(tmp_path: Path) -> None:
    for number, stored in enumerate((EVIL, [], {}, {EVIL: EVIL}, {"images": EVIL, "crops": EVIL, "mix": [EVIL]})):
        file = written(tmp_path / str(number), rows=5, images=5, epochs=1, replay={"stored": stored})
        assert how_made(file) == "made in a way that this vqlabel does not know"
        assert "script" not in card(file)


@pytest.mark.parametrize(
    ("rows", "size"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (9_999, "1K<n<10K"), (10_000, "10K<n<100K")],
)
def test_front_matter_is_yaml_with_the_hubs_words_and_no_licence(tmp_path: Path, rows: int, size: str) -> None:
    read = front(card(written(tmp_path / "x", rows=rows)))
    assert read["size_categories"] == [size]
    assert "vqlabel" in read["tags"]
    assert "license" not in read


def test_the_lines_that_load_are_python_and_name_the_file(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({}, {}, "LabelDecoder('labels.safetensors')"),
        ({}, {"repo_id": "me/x", "name": "a/b.safetensors"}, "LabelDecoder('hf://datasets/me/x/a/b.safetensors')"),
        ({}, {"repo_id": "me/x", "repo_type": "model"}, "LabelDecoder('hf://me/x/labels.safetensors')"),
        ({"codec": {"id": "vq", "prior": {"tier": "image"}}}, {}, "images=views"),
        ({"codec": {"id": "vq+top", "prior": {"tier": "tokens"}}}, {}, "LabelDecoder('labels.safetensors', tokens="),
        ({"temperatures": ["x", 0, -1, True, 20]}, {}, "temperature=20"),
    ]
    for index, (metadata, options, words) in enumerate(cases):
        text = card(written(tmp_path / str(index), **metadata), **options)
        code = re.findall(r"```python\n(.*?)```", text, flags=re.S)[0]
        compile(code, "card", "exec")
        assert words in code
        assert len(code.splitlines()) == 3


def test_a_file_without_classes_is_loaded_as_rows(make_file: Callable[..., Any]) -> None:
    text = card(LabelFile(make_file(3, 2)[0]))
    assert "LabelFile('labels.safetensors')" in text
    assert "LabelDecoder" not in text


def test_words_of_a_file_do_nothing_in_a_card(tmp_path: Path) -> None:
    hostile = {
        "teacher": EVIL,
        "created_by": EVIL * 100,
        "codec": {"id": EVIL, "form": EVIL},
        "measured": {"kl": {EVIL: EVIL, "1": {"x": [EVIL]}}, "top1": EVIL, "rows": None},
        "temperatures": [EVIL, None, {}, 1e300],
        "replay": {"recipe": {EVIL: 1}},
        "x.mine": EVIL,
    }
    file = written(tmp_path / "x", **hostile)
    text = card(file, "me/labels")
    assert "\x1b" not in text
    shown, quiet = html(text), html(card(written(tmp_path / "y", replay={"recipe": {}})))
    for tag in ("<script", "<a ", "<img", "<h2", "<code", "<!--", "<p>"):
        assert shown.count(tag) == quiet.count(tag), tag
    assert f"<td>{escape(one_line(EVIL))}</td>" in shown
    assert shown.count("<td>") == 2 * shown.count("<tr>") - 2  # two cells a row, and a header without text
    assert not re.search(r"(?<!hf)://|www\.", re.sub(r"\\.", "", text))  # which some make links of, unasked
    assert front(text).keys() == {"tags", "size_categories"}
    assert len(text) < 10_000
    assert updated(text, section(file, "me/labels", "labels.safetensors", "dataset"), "labels.safetensors") == text


def test_plain_text_survives_being_shown() -> None:
    every = "".join(map(chr, range(32, 127)))
    assert re.sub(r"\\([^a-zA-Z0-9\s])", r"\1", plain(every)) == every
    assert plain("résumé-18, 1.5 %") == "résumé-18, 1.5 %"
    assert plain("") == ""


def test_a_new_part_takes_the_place_of_the_old_one_and_of_nothing_else() -> None:
    file = LabelFile(GOOD)
    old, new = section(file, None, "a.safetensors", "dataset"), section(file, "me/x", "a.safetensors", "dataset")
    other = section(file, None, "ba.safetensors", "dataset")
    for before, after in (("", ""), ("# Mine\n\n", "\nand mine\r\n"), ("---\nlicense: mit\n---\n" + other, other)):
        assert updated(before + old + after, new, "a.safetensors") == before + new + after
    assert updated("# Mine", new, "a.safetensors") == f"# Mine\n\n{new}"
    assert updated("# Mine\n" + other, new, "a.safetensors") == f"# Mine\n{other}\n{new}"


def test_broken_marks_are_left_to_the_user() -> None:
    part = section(LabelFile(GOOD), None, "a.safetensors", "dataset")
    begin, end = part.splitlines()[0], part.splitlines()[-1]
    for broken in (begin, end, f"{end}\n{begin}", part + part, part + end):
        with pytest.raises(ValueError, match="repair it, or leave it as it is with --no-card"):
            updated(broken, part, "a.safetensors")


def test_names_on_the_hub_are_plain() -> None:
    for good in ("labels.safetensors", "a/b-4.2_x.safetensors"):
        check_name(good)
    for bad in (
        "",
        "labels",
        "README.md",
        "../x.safetensors",
        "a/../x.safetensors",
        "/x.safetensors",
        "a//b.safetensors",
    ):
        with pytest.raises(ValueError, match="ending in .safetensors"):
            check_name(bad)
    for bad in ("-->.safetensors", "a b.safetensors", ".x.safetensors", "é.safetensors", "x" * 200 + ".safetensors"):
        with pytest.raises(ValueError, match="ending in .safetensors"):
            check_name(bad)


def test_card_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status("card", GOOD) == 0
    assert capsys.readouterr().out == card(LabelFile(GOOD))
