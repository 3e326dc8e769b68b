"""Images or labels: how the error falls with either, and what to spend a number of bytes on."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from examples.glyphs import data
from examples.glyphs.retention_table import WARM, Entry, entries
from examples.glyphs.settings import Settings

IPCS = (1, 2, 5, 10)
PIXELS = data.SIDE**2  # bytes of an image
EXPONENTS = np.arange(0.05, 2.01, 0.05)
PARAMETERS = 5  # of a law
BUDGETS = (3e6, 6e6, 12e6, 24e6, 48e6)  # bytes of images and labels together


@dataclass(frozen=True)
class Law:
    """Error = floor + few * I^-alpha + coarse * (1 + L)^-beta, of I images a class and L bytes of labels an image."""

    floor: float
    few: float
    coarse: float
    alpha: float
    beta: float
    error: float  # root mean square of what it misses, in points of accuracy
    worst: float  # the most that it misses
    students: int  # that it was fitted to

    @property
    def doubt(self) -> str:
        """Why it is no law; empty if it may be one."""
        if self.students < 2 * PARAMETERS:
            return f"{self.students} students are few for {PARAMETERS} parameters"
        least, most = EXPONENTS[0], EXPONENTS[-1]
        if not all(least < exponent < most for exponent in (self.alpha, self.beta)):
            return f"the best exponent is at an end of those tried, {least:g} to {most:g}"
        return ""

    def accuracy(self, ipc: Any, label_bytes: Any) -> Any:
        """Per cent."""
        return 100 - self.floor - self.few * ipc**-self.alpha - self.coarse * (1 + label_bytes) ** -self.beta

    def __str__(self) -> str:
        if self.doubt:
            return f"no law: {self.doubt}"
        images, labels = f"{self.few:.1f} I^-{self.alpha:.2f}", f"{self.coarse:.1f} (1 + L)^-{self.beta:.2f}"
        misses = f"misses by {self.error:.2f} points (root mean square), by {self.worst:.1f} at most"
        return f"error = {self.floor:.1f} + {images} + {labels}; {misses}"


def fit(ipc: NDArray[np.float64], label_bytes: NDArray[np.float64], accuracy: NDArray[np.float64]) -> Law:
    """The law nearest to what students reached [n]; none of its parts is negative."""
    best: Law | None = None
    for alpha, beta in itertools.product(EXPONENTS, EXPONENTS):
        columns = np.stack([np.ones_like(ipc), ipc**-alpha, (1 + label_bytes) ** -beta], axis=1)
        weights = _not_negative(columns, 100 - accuracy)
        missed = np.abs(columns @ weights - (100 - accuracy))
        error = float(np.sqrt(np.mean(missed**2)))
        if best is None or error < best.error:
            floor, few, coarse = weights.tolist()
            best = Law(floor, few, coarse, float(alpha), float(beta), error, float(missed.max()), len(missed))
    if best is None:
        raise ValueError("there are no students to fit a law to")
    return best


def _not_negative(columns: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least squares over all choices of columns, of which there are few, with weights that are not below 0."""
    best, least = np.zeros(columns.shape[1]), np.inf
    for count in range(1, columns.shape[1] + 1):
        for some in itertools.combinations(range(columns.shape[1]), count):
            found = np.linalg.lstsq(columns[:, some], wanted, rcond=None)[0]
            error = float(np.sum((columns[:, some] @ found - wanted) ** 2))
            if (found >= 0).all() and error < least:
                best, least = np.zeros(columns.shape[1]), error
                best[list(some)] = found
    return best


def points(results: dict[str, Any], settings: Settings) -> list[tuple[int, float, float, Entry]]:
    """IPC, bytes of labels an image, all-in, and accuracy: of hard labels, fp16, LPLD, and ours of prior `replay`."""
    found = []
    for ipc in IPCS:
        for entry in entries(results, dataclasses.replace(settings, ipc=ipc)):
            source, accuracy = entry.source, entry.mean(WARM)
            known = source.scheme in ("hard", "fp16", "lpld") or (source.scheme, source.prior) == ("vq", "replay")
            plain = source.schedule == "constant" and (source.keep == 1 or source.scheme == "lpld")
            if accuracy is not None and known and plain:
                found.append((ipc, settings.epochs * entry.bytes["all"], accuracy, entry))
    return found


def draw(axes: Any, found: list[tuple[int, float, float, Entry]], settings: Settings) -> Law:
    """Accuracy against images a class for equal bytes of everything: lines by a law, dots as students reached it."""
    ours = [each for each in found if each[3].source.scheme in ("vq", "hard")]
    law = fit(*(np.array(column, np.float64) for column in list(zip(*ours, strict=True))[:3]))
    ipc = np.geomspace(min(IPCS), max(IPCS), 100)
    for budget in () if law.doubt else BUDGETS:
        label_bytes = budget / (settings.classes * ipc) - PIXELS
        enough = label_bytes >= 0  # for the images alone
        axes.plot(ipc[enough], law.accuracy(ipc[enough], label_bytes[enough]), label=f"{budget / 1e6:g} MB")
    for scheme, marker in (("vq", "o"), ("hard", "_"), ("fp16", ">"), ("lpld", "^")):
        some = [(i, accuracy) for i, _, accuracy, entry in found if entry.source.scheme == scheme]
        if some:
            axes.plot(*zip(*some, strict=True), marker, color="0.4", markersize=4, label=f"students, {scheme}")
    axes.set(xscale="log", xlabel="images a class", ylabel=f"accuracy of the student, %, T = {WARM:g}", title=str(law))
    axes.set_xticks(IPCS, [str(number) for number in IPCS])
    axes.title.set_fontsize(8)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    return law
