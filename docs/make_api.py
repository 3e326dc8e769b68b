"""Makes docs/api.md of the docstrings of the public names: python docs/make_api.py."""

from __future__ import annotations

import inspect
import re
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

ERRORS = ("FormatError", "NotALabelFile", "NewerVersion", "Truncated", "Unfinished", "Corrupt")
NAMES = {
    "vqlabel": ("LabelDecoder", "LabelEncoder", "LabelFile", *ERRORS),
    "vqlabel.data": ("DistilledDataset", "ReplaySampler", "collate", "Collate", "Batch", "Originals"),
    "vqlabel.losses": ("distillation_loss", "linear_distillation_loss"),
    "vqlabel.schedules": (
        "ConstantTemperature",
        "CosineTemperature",
        "StepTemperature",
        "TemperatureSchedule",
        "GridAlignment",
        "SmoothAlignment",
        "Reuse",
        "stored_rows",
    ),
    "vqlabel.replay": ("ReplayRecipe", "Parameters"),
    "vqlabel.side": ("SideInformation", "ImageSide"),
    "vqlabel.sequences": ("Sequences",),
    "vqlabel.tokens": ("TokenInformation",),
    "vqlabel.sequence_source": ("SequenceSource",),
    "vqlabel.censored": ("TopKSource",),
    "vqlabel.huggingface": ("LabelCollator", "teacher_of", "fingerprint", "check_tokenizer"),
    "vqlabel.export": ("to_distillkit",),
    "vqlabel.views": ("apply", "fingerprint", "check_fingerprint"),
    "vqlabel.convert": ("open_foreign", "detect", "Options", "Imported"),
    "vqlabel.budget": ("budget", "Budget", "DataSet"),
}
GIVEN = {
    "vqlabel.packed": ("PackedLabels",),
    "vqlabel.writer": ("LabelWriter",),
    "vqlabel.stored": ("StoredViews", "ViewLayout"),
    "vqlabel.verify": ("Verdict",),
}
PLUMBING = {"name", "decode", "loss", "parts", "path", "spool", "tables", "widths"}  # methods that only we call
PAGE = Path(__file__).with_name("api.md")
HEAD = """# The public names

Made by `python docs/make_api.py` from the docstrings; do not edit. `help(name)` in Python shows their examples too.
N rows, C classes, B rows of a batch, G codes of a row: [concepts.md](concepts.md) has the words.
"""
LONGEST = 32  # of a default value that is shown
EXAMPLE = re.compile(r"\s*>>>")
CODE = re.compile(r"(`[^`]*`)")


def page() -> str:
    """Text of docs/api.md."""
    parts = [HEAD, *(_module(module, names) for module, names in NAMES.items())]
    parts.append("## What these give\n\nObjects that you get from the names above and need not make yourself.\n")
    parts += [_entry(module, name) for module, names in GIVEN.items() for name in names]
    return "\n".join(parts)


def _module(module: str, names: tuple[str, ...]) -> str:
    parts = [f"## {module}\n", f"{_prose(import_module(module))}\n", *(_entry(module, name) for name in names)]
    return "\n".join(parts)


def _entry(module: str, name: str) -> str:
    """A class or function, its docstring without examples, and the public parts of a class."""
    thing = getattr(import_module(module), name)
    if not inspect.isclass(thing):
        return f"**`{name}{_signature(thing)}`**\n\n{_prose(thing)}\n"
    signature = "" if issubclass(thing, Exception) or inspect.isabstract(thing) else _signature(thing)
    parts = "".join(f"- {part}\n" for part in _parts(thing, name))
    return f"**`{name}{signature}`**\n\n{_prose(thing)}\n" + (f"\n{parts}" if parts else "")


def _parts(kind: type, name: str) -> list[str]:
    """Methods and properties of a class of ours, with the first sentence of each; not those of a base with an entry."""
    listed = {name for names in (*NAMES.values(), *GIVEN.values()) for name in names} - {name}
    bases = [base for base in kind.__mro__ if base.__module__.startswith("vqlabel") and base.__name__ not in listed]
    found: dict[str, str] = {}
    for base in bases:
        for part, thing in vars(base).items():
            if (part == "__call__" or not part.startswith("_")) and part not in PLUMBING and part not in found:
                found[part] = _part(part, thing)
    return [text for text in found.values() if text]


def _part(name: str, thing: Any) -> str:
    if isinstance(thing, (property, cached_property)):
        return f"`.{name}`: {_first(thing)}"
    inner = thing.__func__ if isinstance(thing, (classmethod, staticmethod)) else thing
    if not inspect.isfunction(inner):
        return ""
    shown = "" if name == "__call__" else f".{name}"
    return f"`{shown}{_signature(inner, bound=not isinstance(thing, staticmethod))}`: {_first(inner)}"


def _signature(thing: Any, *, bound: bool = False) -> str:
    """Names and defaults, without types: the same in every version of Python."""
    words: list[str] = []
    starred = False
    for name, parameter in list(inspect.signature(thing).parameters.items())[bound:]:
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            words.append("*")
            starred = True
        stars = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
        words.append(stars + name + _default(parameter.default))
    return f"({', '.join(words)})"


def _default(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return ""
    # A callable would show where it lies in memory; a dataclass calls what makes a default <factory>.
    plain = isinstance(value, (bool, int, float, str, tuple, type(None))) and len(repr(value)) <= LONGEST
    return f"={value!r}" if plain else f"={value}" if str(value).startswith("torch.") else "=..."


def _prose(thing: Any) -> str:
    """Paragraphs of a docstring that are no examples, as Markdown."""
    paragraphs = inspect.cleandoc(thing.__doc__ or "").split("\n\n")
    return "\n\n".join(_escaped(text) for text in paragraphs if not EXAMPLE.match(text))


def _first(thing: Any) -> str:
    """First paragraph of a docstring, in a line."""
    return _escaped(" ".join(inspect.cleandoc(thing.__doc__ or "").split("\n\n")[0].split()))


def _escaped(text: str) -> str:
    """Stars as stars, but for those in code."""
    if text.startswith("    "):
        return text
    return "".join(part if part.startswith("`") else part.replace("*", r"\*") for part in CODE.split(text))


if __name__ == "__main__":
    PAGE.write_text(page())
