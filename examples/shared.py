"""What the benchmarks share: files that are never half-written, results that several programs add to, parts of work."""

from __future__ import annotations

import contextlib
import copy
import fcntl
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Nobody else who asks for this path is inside at the same time; a lock beside it is left behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def save(state: Any, path: Path) -> None:
    """torch.save that leaves the old file or the new one, nothing between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def load(path: Path, device: torch.device | str = "cpu") -> Any:
    """What save wrote; None if it is not there or damaged. Tensors and numbers only: no code is run."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        return None
    except (PermissionError, MemoryError):
        raise  # it may be whole, and what it holds may have taken hours
    except Exception as error:  # a zip can be damaged in many ways; each means: make it again
        print(f"{path} is damaged ({error}); it is made again")
        return None


def read(path: Path, empty: dict[str, Any]) -> dict[str, Any]:
    """Results so far, or `empty` ones."""
    return json.loads(path.read_text()) if path.exists() else copy.deepcopy(empty)


def write(path: Path, results: dict[str, Any]) -> None:
    """Results, the old ones or the new ones, never a half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=1) + "\n")
    partial.replace(path)


@contextlib.contextmanager
def locked(path: Path, empty: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Results, to be changed and written; several programs may do so, one after the other."""
    with alone(path):
        results = read(path, empty)
        yield results
        write(path, results)


def part_of(words: str) -> tuple[int, int]:
    """Which of several programs that share the work this is, and how many there are: "0/2" or "1/2"."""
    found = re.fullmatch(r"(\d+)/(\d+)", words)
    if found is None or int(found[1]) >= int(found[2]):
        raise ValueError(f"--part must be a number from 0 and how many there are, such as 0/2 or 1/2, got {words!r}")
    return int(found[1]), int(found[2])
