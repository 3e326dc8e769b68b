"""Label sets of others, read as ours: `vqlabel convert`, and `open_foreign` for programs."""

from __future__ import annotations

import os
from importlib import import_module

from vqlabel.convert.imported import Imported, Options

__all__ = ["KINDS", "Imported", "Options", "detect", "open_foreign"]

# By name, so that what only one of them needs is imported for that one: each module has `knows(path)`, whether a folder
# looks like its kind of set, and `open_set(path, options)`.
KINDS = {
    "sre2l": "vqlabel.convert.sre2l",
    "lpqld": "vqlabel.convert.lpqld",
    "fkd": "vqlabel.convert.fkd",
    "tinyvit": "vqlabel.convert.tinyvit",
    "distillkit": "vqlabel.convert.distillkit",
}
ALIASES = {"cda": "sre2l", "lpld": "sre2l"}  # the same files: LPLD adds a list of the images of each epoch


def detect(path: str) -> str:
    """Kind of the set at this path; ValueError if it is none, or could be several."""
    if not os.path.isdir(path):
        raise ValueError(f"{path} is not a folder: a label set to convert is a folder of files")
    found = [kind for kind in KINDS if import_module(KINDS[kind]).knows(path)]
    if len(found) != 1:
        what = " and ".join(found) or "none of the sets that are known"
        raise ValueError(f"{path} looks like {what}: say --from, which is one of {', '.join([*KINDS, *ALIASES])}")
    return found[0]


def open_foreign(path: str, options: Options, kind: str | None = None) -> Imported:
    """The set at this path, every file looked into."""
    asked = kind or detect(path)
    name = ALIASES.get(asked, asked)
    if name not in KINDS:
        raise ValueError(f"--from is one of {', '.join([*KINDS, *ALIASES])}, got {asked!r:.80}")
    if not os.path.isdir(path):
        raise ValueError(f"{path} is not a folder: a label set to convert is a folder of files")
    imported: Imported = import_module(KINDS[name]).open_set(path, options)
    return imported
