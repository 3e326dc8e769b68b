"""Text that is installed already: the Python reference, docstrings and comments of the library and of packages.

A document is a topic of `pydoc` or a file. Every sixteenth file, by the hash of its name, is held out whole, and a long
line counts once, wherever it stands, so that nothing held out was seen before.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from platform import python_version

PACKAGES = {
    "torch": "BSD-3-Clause",
    "numpy": "BSD-3-Clause",
    "matplotlib": "matplotlib license (PSF-based)",
    "networkx": "BSD-3-Clause",
    "sympy": "BSD-3-Clause",
}
LICENCE = "PSF-2.0"  # of Python itself
SKIPPED = {"test", "tests", "testing", "site-packages", "__pycache__"}
HELD_OUT = 16  # one document in so many
LONG = 40  # characters from which on a line is kept only the first time
LINES = 3  # of a string in a call that is taken for documentation
LEAST = 200  # characters of a document


@dataclass(frozen=True)
class Corpus:
    """Documents by name, to learn from and held out, and what they were taken from."""

    train: dict[str, str]
    held_out: dict[str, str]
    sources: dict[str, str]  # name: version and licence

    def fingerprint(self) -> str:
        """Hash of every character and of where it came from."""
        digest = hashlib.sha256(repr(sorted(self.sources.items())).encode())
        for part in (self.train, self.held_out):
            for name, text in part.items():
                digest.update(f"{name}\0{text}\0".encode(errors="replace"))
        return digest.hexdigest()[:16]


def sources(texts: str) -> dict[str, str]:
    """Versions and licences of what is there of the corpus "all" or "topics"."""
    found = {"python": f"{python_version()}, {LICENCE}"}
    if texts == "all":
        here = {name: licence for name, licence in PACKAGES.items() if util.find_spec(name) is not None}
        found |= {name: f"{metadata.version(name)}, {licence}" for name, licence in here.items()}
    return found


def load(texts: str) -> Corpus:
    """The corpus "all" or "topics"; which packages are there shapes the first."""
    documents = _topics()
    if texts == "all":
        for name in sources(texts):
            documents |= _documents(name, _folder(name))
    kept = deduplicated(documents)
    held = {name: text for name, text in kept.items() if is_held_out(name)}
    return Corpus({name: text for name, text in kept.items() if name not in held}, held, sources(texts))


def is_held_out(name: str) -> bool:
    """Whether the document of this name judges instead of teaching."""
    return hashlib.sha256(name.encode()).digest()[0] % HELD_OUT == 0


def deduplicated(documents: dict[str, str]) -> dict[str, str]:
    """Documents without the long lines of earlier ones, and without those that are short then."""
    seen: set[str] = set()
    kept = {}
    for name, text in documents.items():
        lines = []
        for line in text.splitlines():
            if len(line) < LONG or line not in seen:
                lines.append(line)
                seen.add(line)
        if len("\n".join(lines)) >= LEAST:
            kept[name] = "\n".join(lines)
    return kept


def _topics() -> dict[str, str]:
    from pydoc_data.topics import topics

    return {f"topics/{name}": text for name, text in sorted(topics.items())}


def _folder(name: str) -> Path:
    if name == "python":
        return Path(sysconfig.get_paths()["stdlib"])
    spec = util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ValueError(f"package {name} has no folder here")
    return Path(spec.origin).parent


def _documents(name: str, folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*.py")):
        inner = path.relative_to(folder)
        if SKIPPED.isdisjoint(inner.parts):
            text = prose(path.read_text(encoding="utf-8", errors="ignore"))
            found[f"{name}/{inner.as_posix()}"] = text
    return found


def prose(source: str) -> str:
    """Docstrings and whole-line comments of a Python file, in their order; nothing if it is no Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError):
            return ""
    strings = list(_strings(tree.body))
    inside = {line for node in strings for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}
    pieces = [(node.lineno, inspect.cleandoc(str(node.value))) for node in strings]
    pieces += _comments(source, inside)
    return "\n\n".join(text for _, text in sorted(pieces) if " " in text)


def _strings(body: list[ast.stmt]) -> Iterator[ast.Constant]:
    """Strings that are statements, and long ones in calls that are: `add_docstr(f, ...)`."""
    for statement in body:
        if isinstance(statement, ast.Expr):
            value = statement.value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value
            elif isinstance(value, ast.Call):
                yield from (node for node in value.args if isinstance(node, ast.Constant) and _long(node.value))
        yield from _strings(getattr(statement, "body", []))
        yield from _strings(getattr(statement, "orelse", []))


def _long(value: object) -> bool:
    return isinstance(value, str) and value.count("\n") >= LINES


def _comments(source: str, inside: set[int]) -> Iterator[tuple[int, str]]:
    """Blocks of comments with the number of their first line."""
    block: list[str] = []
    lines = [line.strip() for line in source.splitlines()]
    for number, line in enumerate([*lines, ""], 1):
        if line.startswith("#") and number not in inside:
            block.append(line.lstrip("#").strip())
        elif block:
            yield number - len(block), "\n".join(block)
            block = []
