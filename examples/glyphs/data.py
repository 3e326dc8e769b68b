"""The classes and their renderings: 32 x 32 grey images of characters, in faces to learn from and faces held out.

A class is a code point that all faces of a family cover and that looks like no class before it. An oblique face does
not slant every symbol, so some renderings are the same in a face that is held out (`Glyphs.unseen`). The same
matplotlib gives the same bytes; `fingerprint` says which.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDE = 32
GLYPH_SIDE = 26  # longest side of a glyph; the rest is margin
RENDER_POINTS = 48
ALIKE = 0.85  # two classes may correlate up to this, averaged over the first face of each style

ALL_TRAIN = ("Sans", "Sans-Bold", "Sans-Oblique", "Serif", "Serif-Bold", "Serif-Italic", "SansMono", "SansMono-Bold")
ALL_TEST = ("Sans-BoldOblique", "Serif-BoldItalic", "SansMono-Oblique", "SansMono-BoldOblique")
SANS_TRAIN, SANS_TEST = ("Sans", "Sans-Bold", "Sans-Oblique"), ("Sans-BoldOblique",)


@dataclass(frozen=True)
class Family:
    """Faces that must cover a class: to learn from, held out, and those that tell whether classes look alike."""

    train: Sequence[str]
    test: Sequence[str]
    compared: Sequence[str]
    alike: float


FAMILIES = {
    "all": Family(ALL_TRAIN, ALL_TEST, ("Sans", "Serif"), ALIKE),  # over 1,000 classes
    "all-close": Family(ALL_TRAIN, ALL_TEST, ("Sans", "Serif"), 0.97),  # about 2,000, some hard to tell apart
    "sans": Family(SANS_TRAIN, SANS_TEST, ("Sans",), 0.97),  # over 4,000
}


@dataclass(frozen=True)
class Glyphs:
    """Renderings of C classes: uint8 [faces, C, 32, 32], white on black."""

    code_points: NDArray[np.int32]  # [C]
    train: NDArray[np.uint8]
    test: NDArray[np.uint8]

    @property
    def classes(self) -> int:
        """C."""
        return len(self.code_points)

    @property
    def unseen(self) -> NDArray[np.bool_]:
        """Whether no face to learn from has this very rendering [test faces, C]: obliques do not slant every symbol."""
        unseen: NDArray[np.bool_] = np.array([(face != self.train).any((2, 3)).all(0) for face in self.test])
        return unseen

    def fingerprint(self) -> str:
        """Hash of everything: the same only if every pixel is."""
        digest = hashlib.sha256()
        for array in (self.code_points, self.train, self.test):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]


def load(classes: int, family: str = "all", cache: Path | None = None) -> Glyphs:
    """Renderings of the first `classes` classes of a family, from the cache if they are there and whole."""
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")
    path = (cache or cache_folder()) / f"glyphs-{family}-{renderer()}.npz"
    every = _read(path)
    if every is None:
        every = render(FAMILIES[family])
        _write(path, every)
    if not 2 <= classes <= every.classes:
        raise ValueError(f"classes must be 2 to {every.classes} in family {family!r}, got {classes}")
    return Glyphs(every.code_points[:classes], every.train[:, :classes], every.test[:, :classes])


def cache_folder() -> Path:
    """Where renderings, teachers and labels are kept: VQLABEL_CACHE, or the user's cache."""
    return Path(os.environ.get("VQLABEL_CACHE", Path.home() / ".cache" / "vqlabel")) / "glyphs"


def renderer() -> str:
    """What made the pixels."""
    import matplotlib
    from matplotlib import ft2font

    return f"matplotlib-{matplotlib.__version__}-freetype-{ft2font.__freetype_version__}"


def render(family: Family) -> Glyphs:
    """Every class of a family."""
    fonts = {face: _font(face) for face in (*family.train, *family.test)}
    covered = sorted(set.intersection(*(set(font.get_charmap()) for font in fonts.values())))
    compared = {face: [_rendering(fonts[face], code) for code in covered] for face in family.compared}
    kept = _different(np.array([compared[face] for face in family.compared]), family.alike)
    codes = np.array(covered, np.int32)[kept]
    images = {face: [_rendering(font, int(code)) for code in codes] for face, font in fonts.items()}
    train, test = (np.array([images[face] for face in faces], np.uint8) for faces in (family.train, family.test))
    return Glyphs(codes, train, test)


def _font(face: str) -> Any:
    import matplotlib
    from matplotlib.ft2font import FT2Font

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"DejaVu{face}.ttf"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: this matplotlib came without its fonts; `pip install matplotlib`")
    font = FT2Font(str(path))
    font.set_size(RENDER_POINTS, 72)
    return font


def _rendering(font: Any, code: int) -> NDArray[np.uint8]:
    from matplotlib.ft2font import LoadFlags

    font.set_text(chr(code), 0, flags=LoadFlags.NO_HINTING)
    font.draw_glyphs_to_bitmap()
    ink = np.array(font.get_image())
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    if len(rows) == 0:
        return canvas  # a space: like every other space, and so no class
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = GLYPH_SIDE / max(ink.shape)
    height, width = (max(1, round(side * scale)) for side in ink.shape)
    small = _area(ink.shape[0], height) @ ink.astype(np.float64) @ _area(ink.shape[1], width).T
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    canvas[top : top + height, left : left + width] = np.floor(small + 0.5)
    return canvas


def _area(source: int, target: int) -> NDArray[np.float64]:
    """Matrix [target, source] that resizes a line by averaging over areas."""
    edges = np.arange(target + 1) * (source / target)
    upper = np.minimum(edges[1:, None], np.arange(source) + 1)
    lower = np.maximum(edges[:-1, None], np.arange(source))
    overlap: NDArray[np.float64] = np.maximum(upper - lower, 0) * (target / source)
    return overlap


def _different(images: NDArray[np.uint8], alike: float) -> NDArray[np.intp]:
    """Positions of the images [faces, N, 32, 32] that correlate with no kept one before them."""
    flat = images.astype(np.float64).reshape(*images.shape[:2], -1)
    flat -= flat.mean(-1, keepdims=True)
    norms = np.linalg.norm(flat, axis=-1, keepdims=True)
    vectors = np.concatenate(list(flat / np.maximum(norms, 1e-9)), axis=1) / np.sqrt(len(flat))
    similar = vectors @ vectors.T > alike
    kept: list[int] = []
    for index in range(len(vectors)):
        if norms[:, index].all() and not similar[index, kept].any():
            kept.append(index)
    return np.array(kept)


def _read(path: Path) -> Glyphs | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            glyphs = Glyphs(stored["code_points"], stored["train"], stored["test"])
            return glyphs if str(stored["fingerprint"]) == glyphs.fingerprint() else None
    except FileNotFoundError:
        return None
    except Exception as error:  # a zip can be damaged in many ways; each means: render again
        print(f"{path} is damaged ({error}); rendering again")
        return None


def _write(path: Path, glyphs: Glyphs) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez_compressed(
                file,
                code_points=glyphs.code_points,
                train=glyphs.train,
                test=glyphs.test,
                fingerprint=np.array(glyphs.fingerprint()),
            )
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise
