"""What the documents say runs, and what they promise is kept."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import re
import shlex
import shutil
import sys
from pathlib import Path

import distillkit_sets
import numpy as np
import pytest
from conftest import ROOT, script
from foreign import write_sre2l

import vqlabel
from vqlabel import cli

sys.path.insert(0, str(ROOT))  # examples are run from the repository

from examples.imagenet import relabel, train

MODULES = [
    info.name.removeprefix("vqlabel.")
    for info in pkgutil.walk_packages(vqlabel.__path__, "vqlabel.")
    if info.name != "vqlabel.__main__"
]
TEXTS = [path.relative_to(ROOT) for folder in ("", "docs/", "examples/**/") for path in ROOT.glob(f"{folder}*.md")]
PAGES = [text for text in TEXTS if "```python\n" in (ROOT / text).read_text()]
CONVERTED = ("docs/convert.md", "docs/recipes.md")  # that begin with label files of others
PARSERS = {
    "vqlabel": cli._parser,
    "examples.imagenet.relabel": relabel._parser,
    "examples.imagenet.train": train._parser,
}
COMMAND = re.compile(rf"(?:\$ )?(?:(?:python|torchrun .*) -m )?({'|'.join(map(re.escape, PARSERS))}) (.*)")


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_run(name: str) -> None:
    module = importlib.import_module(f"vqlabel.{name}")
    assert module.__doc__ is not None
    assert doctest.testmod(module).failed == 0


def test_some_docstrings_have_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    examples = [test for name in MODULES for test in finder.find(importlib.import_module(f"vqlabel.{name}"))]
    assert sum(len(test.examples) for test in examples) >= 5


@pytest.fixture(scope="module")
def label_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of label files made of small sets of others."""
    folder = tmp_path_factory.mktemp("converted")
    write_sre2l(folder / "syn_label", images=40, batch=16, side=224)
    for image in range(40):
        path = folder / f"syn_data/{image // 4:03}/{image:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()  # nobody looks into it
    write_tinyvit(folder / "tinyvit")
    config = distillkit_sets.small()
    distillkit_sets.save(folder / "distillkit", config, [distillkit_sets.sequences(config, [2, 3])])
    options = {"syn_label": ["--images", str(folder / "syn_data")], "tinyvit": ["--classes", "10"], "distillkit": []}
    for name, said in options.items():
        out = folder / f"{'sre2l' if name == 'syn_label' else name}.safetensors"
        with pytest.raises(SystemExit, match="0"):
            cli.main(["convert", str(folder / name), str(out), *said])
    return folder


def write_tinyvit(folder: Path) -> None:
    """Two epochs of six images, as TinyViT saves them."""
    records = np.zeros(6, [("seed", "<i4"), ("ids", "<i2", (3,)), ("values", "<f2", (3,))])
    records["ids"], records["values"] = np.arange(3), 0.25
    for epoch in range(2):
        target = folder / f"logits_top3_epoch{epoch}"
        target.mkdir(parents=True)
        (target / "rank0-values.bin").write_bytes(records.tobytes())
        (target / "rank0-keys.txt").write_text("".join(f"image{number}\n" for number in range(6)))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("page", PAGES, ids=str)
def test_python_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if str(page) in CONVERTED:
        for path in request.getfixturevalue("label_files").glob("*.safetensors"):
            shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VQLABEL_CACHE", str(tmp_path / "cache"))
    names: dict[str, object] = {"__name__": "page"}
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.S)
    assert blocks, "a page whose Python is not found is not checked"
    for block in blocks:  # one that raises fails
        exec(compile(block, f"<{page}>", "exec"), names)


def commands(text: Path) -> list[tuple[str, list[str]]]:
    """Commands of ours in the blocks of a page: what is called, and its arguments."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / text).read_text(), flags=re.S | re.M)
    lines = "\n".join(block for language, block in blocks if not language)
    found = []
    for line in lines.replace("\\\n", " ").split("\n"):
        called = COMMAND.match(line)
        if called:
            found.append((called[1], shlex.split(called[2], comments=True)))
    return found


def understood(name: str, arguments: list[str]) -> bool:
    try:
        PARSERS[name]().parse_args(arguments)
    except SystemExit:
        return False
    return True


def test_commands_are_found() -> None:
    assert ("vqlabel", ["verify", "labels.safetensors"]) in commands(Path("README.md"))
    assert sum(len(commands(text)) for text in TEXTS) >= 30


@pytest.mark.parametrize("text", [text for text in TEXTS if commands(text)], ids=str)
def test_commands_of_a_page_exist(text: Path) -> None:
    assert [f"{name} {shlex.join(words)}" for name, words in commands(text) if not understood(name, words)] == []


def test_the_reference_is_made_of_the_docstrings() -> None:
    made = script(ROOT / "docs" / "make_api.py")
    assert made.PAGE.read_text() == made.page(), "run python docs/make_api.py"


@pytest.mark.parametrize("text", TEXTS, ids=str)
def test_links_lead_somewhere(text: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / text).read_text()):
        if not target.startswith("http"):
            assert os.path.exists((ROOT / text).parent / target), f"{text} links to {target}"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index


def test_make_targets_that_documents_name_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for text in TEXTS:
        for target in re.findall(r"`make (\w+)", (ROOT / text).read_text()):
            assert re.search(rf"^{target}:", makefile, flags=re.M), f"{text}: make {target}"
