"""What is run: sizes, seeds and the names of files that follow from them."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LIMITS = {
    "vocabulary": 300, "context": 4, "teacher_layers": 1, "teacher_width": 8, "teacher_steps": 1, "teacher_batch": 1,
    "student_layers": 1, "student_width": 8, "sequences": 2, "passes": 1, "batch": 1, "held_out": 1, "fit_rows": 10,
    "beam": 1,
}  # fmt: skip

FITS = ("fit_rows", "effort", "beam")  # settings of fits
FITTED = 1  # counts changes of how codecs are fitted and judged after which older results do not compare


@dataclass(frozen=True)
class Settings:
    """Everything that changes a result, but for the label source and the student's seed."""

    texts: str = "all"  # or "topics": the language reference alone
    vocabulary: int = 4096  # C
    context: int = 128  # tokens of a sequence
    teacher_layers: int = 4
    teacher_width: int = 256
    teacher_steps: int = 1150
    teacher_batch: int = 16  # sequences of a step
    student_layers: int = 1
    student_width: int = 128
    sequences: int = 2200  # that have labels
    passes: int = 1  # of the student over them
    batch: int = 4  # sequences of a step of the student
    held_out: int = 200  # sequences that judge
    fit_rows: int = 100_000  # that a codec is fitted on
    effort: float = 0.25  # of fits
    beam: int = 16  # rows of codes that are weighed for a label of additive books
    seed: int = 0  # of the teacher and of which sequences have labels

    def __post_init__(self) -> None:
        for name, least in LIMITS.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.texts not in ("all", "topics"):
            raise ValueError(f"texts must be all or topics, got {self.texts!r}")

    @classmethod
    def quick(cls) -> Settings:
        """Every stage in less than a minute; nothing that it finds means anything."""
        return cls(
            texts="topics", vocabulary=512, context=32, teacher_layers=1, teacher_width=32, teacher_steps=60,
            teacher_batch=16, student_width=16, passes=2, sequences=128, batch=16, held_out=16,
            fit_rows=2000, effort=0.05, beam=1,
        )  # fmt: skip

    @property
    def rows(self) -> int:
        """Positions that have a label: N."""
        return self.sequences * self.context

    def facts(self, *, fits: bool) -> dict[str, Any]:
        """What results follow from; how codecs are fitted shapes only those of labels that one of them wrote."""
        found = asdict(self)
        own = {name: found.pop(name) for name in FITS}
        return found | own | {"fitted": FITTED} if fits else found

    def path(self, kind: str, facts: Any, suffix: str) -> Path:
        """A file of the cache, named by everything that shapes it."""
        return cache_folder() / f"{kind}-{key(facts)}{suffix}"


def key(facts: Any) -> str:
    """Short name of facts: nothing stale is ever taken for something else."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def cache_folder() -> Path:
    """Where texts, models and labels are kept: VQLABEL_CACHE, or the user's cache."""
    return Path(os.environ.get("VQLABEL_CACHE", Path.home() / ".cache" / "vqlabel")) / "language"
