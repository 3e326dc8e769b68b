"""What the documents say runs, and what they promise is kept."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import re
from pathlib import Path

import pytest
from conftest import ROOT

import vqlabel

MODULES = [info.name for info in pkgutil.iter_modules(vqlabel.__path__) if info.name != "__main__"]
TEXTS = [path.relative_to(ROOT) for folder in ("", "docs/", "examples/**/") for path in ROOT.glob(f"{folder}*.md")]


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_run(name: str) -> None:
    module = importlib.import_module(f"vqlabel.{name}")
    assert module.__doc__ is not None
    assert doctest.testmod(module).failed == 0


def test_some_docstrings_have_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    examples = [test for name in MODULES for test in finder.find(importlib.import_module(f"vqlabel.{name}"))]
    assert sum(len(test.examples) for test in examples) >= 5


def test_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    assert blocks
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)


@pytest.mark.parametrize("text", TEXTS, ids=str)
def test_links_lead_somewhere(text: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / text).read_text()):
        if not target.startswith("http"):
            assert os.path.exists((ROOT / text).parent / target), f"{text} links to {target}"


def test_make_targets_that_documents_name_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for text in TEXTS:
        for target in re.findall(r"`make (\w+)", (ROOT / text).read_text()):
            assert re.search(rf"^{target}:", makefile, flags=re.M), f"{text}: make {target}"
