"""What was found so far: one file, which several programs may add to."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from examples.language import training


@contextlib.contextmanager
def locked(path: Path) -> Iterator[dict[str, Any]]:
    """The results, to be changed and written; several programs may do so, one after the other."""
    with training.alone(path):
        results = read(path)
        yield results
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(results, indent=1) + "\n")
        partial.replace(path)


def read(path: Path) -> dict[str, Any]:
    """The results so far."""
    if path.exists():
        return json.loads(path.read_text())  # type: ignore[no-any-return]
    return {"text": {}, "teachers": {}, "cells": {}, "codecs": {}}
