"""What the command line says of the rows: the images or the text that they are of, and who made their labels."""

from __future__ import annotations

import argparse
import zipfile
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqlabel.errors import FormatError
from vqlabel.file import LabelFile
from vqlabel.known import Information
from vqlabel.scene import side_of
from vqlabel.sequences import KEY, STARTS, TOKENS, Sequences
from vqlabel.sources import Source
from vqlabel.text import sequences_of
from vqlabel.tokens import TokenInformation

ARRAYS = ("tokens", "lengths", "kept")  # of a text


def side(options: argparse.Namespace, codec: LabelFile | None = None) -> Information | None:
    """What is known of the rows beforehand; of a text the window that a fitted codec looks at, if one is given."""
    if options.text is not None and options.like is not None:
        raise ValueError("--text says which text the rows are of, and --like that they are those of a file: say one")
    window = {key: value for key, value in _window(codec).items() if key in ("before", "after")}
    if options.text is not None:
        return TokenInformation(*open_text(options.text), **window, store=options.keep_text)
    like = _like(options)
    if like is None:
        return None
    if STARTS in like.tensor_names:
        return TokenInformation(*_text_of(like), **window, store=options.keep_text)
    batch = like.metadata.get("replay", {}).get("recipe", {}).get("pairing") == "batch"
    return None if batch and options.prior in (None, "none") else side_of(like)


def metadata(options: argparse.Namespace, source: Source) -> dict[str, Any]:
    """Metadata of the label file that are neither the codec's nor those of the rows."""
    like = _like(options)
    found: dict[str, Any] = {}
    if like is not None:
        carried = ("replay", "teacher", "tokenizer", *(("epochs", "images") if len(like) == source.rows else ()))
        found = {key: like.metadata[key] for key in carried if key in like.metadata}
    if options.teacher:
        found["teacher"] = options.teacher
    return found


def tokens(options: argparse.Namespace) -> NDArray[Any] | None:
    """The tokens of a text that a reader has, for label files that do not hold it."""
    return None if options.text is None else open_text(options.text)[0]


def open_text(path: str) -> tuple[NDArray[Any], Sequences]:
    """Tokens and sequences of a .npz file with tokens [positions] and lengths [documents], or of a label file.

    kept, boolean [positions], may lie beside them: it says which positions have a label.
    """
    if path.endswith(".safetensors"):
        return _text_of(LabelFile(path))
    try:
        with open(path, "rb") as file:
            arrays = np.load(file, allow_pickle=False)
            names = list(getattr(arrays, "files", []))
            found = {name: arrays[name] for name in ARRAYS if name in names}
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: not a .npz file of numbers: {error}") from None
    if not {"tokens", "lengths"} <= found.keys():
        held = ", ".join(names) or "one array"
        raise ValueError(
            f"{path} holds {held:.80}, but a text is a .npz of tokens [positions] and lengths [documents], or a label "
            "file that holds one"
        )
    try:
        sequences = Sequences(found["lengths"], keep=found.get("kept"))
        return sequences.text(found["tokens"]), sequences
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def _text_of(file: LabelFile) -> tuple[NDArray[Any], Sequences]:
    sequences = sequences_of(file)
    if sequences is None or TOKENS not in file.tensor_names:
        raise ValueError(f"{file.path} does not hold the text that its labels are of: --text says it")
    return file.tensor(TOKENS), sequences


def _window(codec: LabelFile | None) -> dict[str, Any]:
    return {} if codec is None else codec.metadata.get(KEY, {})


def _like(options: argparse.Namespace) -> LabelFile | None:
    """The label file that says what the rows are: the one named, or the logits themselves."""
    if options.like is not None:
        return LabelFile(options.like)
    if not options.logits.endswith(".safetensors"):
        return None
    try:
        return LabelFile(options.logits)
    except FormatError:
        return None  # logits in a plain safetensors file
