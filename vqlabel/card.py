"""The card of a label file: what README.md of its repository on a hub says of it.

Whatever a file says of itself is somebody else's text: `plain` lets none of it act as Markdown or HTML, and none of it
goes into the YAML at the top.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from typing import Any

from vqlabel.card_views import how_made, how_to_repeat
from vqlabel.file import LabelFile
from vqlabel.gaps import MISSING, count_missing
from vqlabel.inspection import label_facts
from vqlabel.sequences import TOKENS
from vqlabel.terminal import one_line

NAME = "labels.safetensors"  # of a label file in a repository
SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")  # the hub's categories end at these
LONGEST = 300  # characters of a text that a file brings along

FRONT = """\
---
# license: name yours here, such as cc-by-4.0
tags:
- vqlabel
- soft-labels
- knowledge-distillation
- dataset-distillation
size_categories:
- {size}
---
"""


def show(options: argparse.Namespace) -> int:
    """Print the card of a label file."""
    print(card(LabelFile(options.labels)), end="")
    return 0


def card(file: LabelFile, repo_id: str | None = None, *, name: str = NAME, repo_type: str = "dataset") -> str:
    """README.md for a repository that holds this file as `name`; its licence is left to the user."""
    return f"{FRONT.format(size=_size(len(file)))}\n# Soft labels\n\n{section(file, repo_id, name, repo_type)}"


def section(file: LabelFile, repo_id: str | None, name: str, repo_type: str) -> str:
    """The part of a card between the marks, and these."""
    begin, end = _marks(name)
    classes = f" of {file.metadata['classes']:,} classes" if "classes" in file.metadata else ""
    lead = f"{len(file) - _missing(file):,} soft labels{classes} in one safetensors file, to be read with vqlabel."
    table = "\n".join(f"| {plain(what)} | {plain(value)} |" for what, value in _facts(file))
    load = _snippet(file, _address(repo_id, name, repo_type))
    limits = "\n".join(_limits(file))
    parts = f"## {plain(name)}", lead, f"| | |\n|---|---|\n{table}", load, f"What to keep in mind:\n\n{limits}"
    return "\n\n".join([begin, *parts, end]) + "\n"


def updated(readme: str, part: str, name: str) -> str:
    """A card with `part` where the one of this name was, or at its end; all else is the user's and stays."""
    begin, end = _marks(name)
    found = readme.count(begin), readme.count(end)
    if found == (0, 0):
        return f"{readme}{'' if readme.endswith(chr(10)) else chr(10)}\n{part}"
    if found != (1, 1) or readme.index(begin) > readme.index(end):
        raise ValueError(
            f"README.md has {found[0]} lines {begin!r} and {found[1]} lines {end!r}, where one of each is allowed, in "
            "this order: repair it, or leave it as it is with --no-card"
        )
    return readme[: readme.index(begin)] + part.rstrip("\n") + readme[readme.index(end) + len(end) :]


def plain(text: Any) -> str:
    """Text that shows as it is in a line or a table of Markdown, and does nothing else."""
    line = one_line(text)
    short = line if len(line) <= LONGEST else line[:LONGEST] + "…"
    return re.sub(r"(?<=www)\.|[!-$&(-+/:-@[-`{-~]", r"\\\g<0>", short, flags=re.IGNORECASE)


def check_name(name: str) -> None:
    """ValueError for a name that a label file in a repository cannot have."""
    part = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
    if not re.fullmatch(rf"({part}/)*{part}", name) or not name.endswith(".safetensors") or len(name) > 200:
        raise ValueError(
            f"a file on the hub has a name such as {NAME} or imagenet/4-bytes.safetensors: letters, digits, '_', '-' "
            f"and '.', ending in .safetensors; got {name!r:.80}"
        )


def _marks(name: str) -> tuple[str, str]:
    check_name(name)
    begin = f"<!-- begin: {name}, by vqlabel; the next push of it replaces all up to its end -->"
    return begin, f"<!-- end: {name} -->"


def _size(rows: int) -> str:
    """The hub's word for so many rows."""
    bounds = [1000 * 10**i for i in range(len(SIZES))]
    above = [word for word, bound in zip(SIZES, bounds, strict=True) if rows >= bound]
    if not above:
        return f"n<{SIZES[0]}"
    return f"n>{SIZES[-1]}" if len(above) == len(SIZES) else f"{above[-1]}<n<{SIZES[len(above)]}"


def _facts(file: LabelFile) -> Iterator[tuple[str, str]]:
    known, missing = file.metadata, _missing(file)
    yield "labels", f"{len(file) - missing:,}"
    if "epochs" in known and "images" in known:
        gaps = ", with gaps" if missing else ""
        yield "which are", f"{known['epochs']:,} epochs of {known['images']:,} images{gaps}"
    if missing:
        yield "rows without a label", f"{missing:,} of {len(file):,}"
    yield "teacher", known.get("teacher") or "not named"
    yield from label_facts(file)
    yield "temperatures it was fitted for", ", ".join(f"{t:g}" for t in _temperatures(known)) or "not named"
    yield "views", how_made(file)
    yield "bytes of the file", f"{file.header.file_bytes:,}"
    yield "made by", known.get("created_by") or "not named"


def _missing(file: LabelFile) -> int:
    """How many rows have no label."""
    return count_missing(file.column(MISSING), len(file)) if file.has_gaps else 0


def _temperatures(metadata: dict[str, Any]) -> list[float]:
    """Those of the metadata that can be one."""
    given = metadata.get("temperatures", [])
    return [t for t in given if isinstance(t, (int, float)) and not isinstance(t, bool) and 0 < t < 1e6][:20]


def _address(repo_id: str | None, name: str, repo_type: str) -> str:
    kind = "" if repo_type == "model" else f"{repo_type}s/"
    return name if repo_id is None else f"hf://{kind}{repo_id}/{name}"


def _snippet(file: LabelFile, address: str) -> str:
    """How to load the labels: text from the file has no place in it."""
    if "classes" not in file.metadata:
        lines = "from vqlabel import LabelFile", f"file = LabelFile({address!r})", "rows = file.gather([0])  # packed"
    else:
        codec = file.metadata["codec"]
        prior = codec.get("prior")
        tier = prior.get("tier") if isinstance(prior, dict) else "none"
        views = ", images=views" if tier == "image" else ""
        text = ", tokens=tokens" if tier == "tokens" and TOKENS not in file.tensor_names else ""
        T = next(iter(_temperatures(file.metadata)), 1)
        call = f"probabilities = decoder([0], temperature={T:g}{views})  # [1, {file.metadata['classes']}]"
        lines = "from vqlabel import LabelDecoder", f"decoder = LabelDecoder({address!r}{text})", call
    code = "\n".join(lines)
    return f"```\npip install 'vqlabel[hub]'\n```\n\n```python\n{code}\n```"


def _limits(file: LabelFile) -> Iterator[str]:
    yield f"- {how_to_repeat(file)}"
    if _temperatures(file.metadata):
        yield "- At temperatures far from those it was fitted for, labels are further from the teacher's."
    if isinstance(file.metadata.get("measured", {}).get("kl"), dict):
        yield (
            "- The KL was measured by whoever made the file, on held-out labels. It ranks ways to store labels; what a "
            "student makes of them it does not say."
        )
    yield "- A label is a teacher's opinion, its mistakes and biases included."
