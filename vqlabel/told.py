"""What the command line says of the rows: the images or the text that they are of, and who made their labels."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqlabel.dumps import arrays_of
from vqlabel.errors import FormatError
from vqlabel.file import LabelFile
from vqlabel.keys import tier_of
from vqlabel.known import Information
from vqlabel.label_source import LabelSource, open_labels
from vqlabel.scene import side_of
from vqlabel.sequences import KEY, MASK, STARTS, TOKENS, Sequences
from vqlabel.side import NAMES
from vqlabel.sources import Source, open_source
from vqlabel.stored import VIEWS
from vqlabel.terminal import one_line, say
from vqlabel.text import sequences_of
from vqlabel.tokens import TEXT, TokenInformation, fingerprint


def source(options: argparse.Namespace, path: str) -> Source:
    """Source of the logits at a path; the text goes with labels that are of one and do not hold it."""
    file = _label_file(path)
    if file is not None:
        _check_readable(file)
        if options.text is not None and TEXT in file.metadata:
            return open_labels(file, tokens=tokens(options))
    return open_source(path, classes=getattr(options, "classes", None))


def labels(file: LabelFile, text: NDArray[Any] | None) -> LabelSource:
    """Labels of a file, decoded; text is its tokens, if it does not hold them."""
    _check_readable(file)
    return LabelSource(file, tokens=text)


def _check_readable(file: LabelFile) -> None:
    if tier_of(file) == "image":
        raise ValueError(
            f"{file.path}: its prior looks at the augmented images, and no option can give these: LabelDecoder takes "
            "them, as images="
        )


def tokens(options: argparse.Namespace) -> NDArray[Any] | None:
    """The tokens of a text that a reader has, for label files that do not hold it."""
    return None if options.text is None else open_text(options.text)[0]


def side(options: argparse.Namespace) -> Information | None:
    """What is known of the rows before their labels: the text or the images that they are of."""
    text = text_side(options)
    if text is None and not options.keep_text:
        raise ValueError("--no-keep-text leaves a text out of the label file, but there is none: --text says it")
    like = _like(options)
    if text is not None or like is None or STARTS in like.tensor_names:
        return text
    batch = like.metadata.get("replay", {}).get("recipe", {}).get("pairing") == "batch"
    return None if batch and options.prior in (None, "none") else side_of(like)


def codec_side(options: argparse.Namespace, codec: LabelFile) -> Information | None:
    """What is known of the rows and is not in the file of their codec: a text, or views that are stored."""
    text, like = text_side(options, codec), _like(options)
    stored = like is not None and "stored" in like.metadata.get("replay", {})
    return side_of(like) if text is None and like is not None and stored else text


def text_side(options: argparse.Namespace, codec: LabelFile | None = None) -> TokenInformation | None:
    """The text that the rows are of, if one is told, with the window that the codec of a file looks at."""
    if options.text is not None and options.like is not None:
        raise ValueError("--text says which text the rows are of, and --like that they are those of a file: say one")
    like = _like(options)
    knows = codec or like
    window = knows.metadata.get(KEY, {}) if knows else {}
    words = {key: window[key] for key in ("before", "after") if key in window} | {"store": options.keep_text}
    if options.text is not None:
        return TokenInformation(*open_text(options.text), **words)
    if like is None or STARTS not in like.tensor_names:
        return None
    prior = options.prior if codec is None else tier_of(codec)
    if TOKENS not in like.tensor_names and prior != "tokens":
        say(f"{one_line(like.path)} does not hold its text, so its documents are left out: --text keeps them")
        return None
    return TokenInformation(*_text_of(like), **words)


def facts(side: Information | None) -> list[str]:
    """Which text this is, with its documents and the positions that have a label."""
    if not isinstance(side, TokenInformation):
        return []
    mask = side.sequences.tensors().get(MASK, np.zeros(0, np.uint8))
    return [fingerprint(part) for part in (side.tokens, side.sequences.lengths, mask)]


def metadata(options: argparse.Namespace, source: Source) -> dict[str, Any]:
    """Metadata of the label file that are neither the codec's nor those of the rows."""
    like, own = _like(options), _label_file(options.logits)
    found: dict[str, Any] = {} if like is None else _metadata_of(like, source.rows, of_text=options.text is not None)
    if own is not None and "teacher" in own.metadata:  # and not like's: that may be of another teacher
        found["teacher"] = own.metadata["teacher"]
    if options.teacher:
        found["teacher"] = options.teacher
    return found


def _metadata_of(like: LabelFile, rows: int, *, of_text: bool) -> dict[str, Any]:
    """What a label file says of its rows, as far as it holds for so many rows."""
    whole = ("epochs", "images") if len(like) == rows else ()
    carried = ("tokenizer", *(("replay", *whole) if not of_text else ()))
    found = {key: like.metadata[key] for key in carried if key in like.metadata}
    if "stored" in found.get("replay", {}) and not whole:
        raise ValueError(
            f"{like.path} has stored the views of its {len(like)} rows, but the logits have {rows}: are they of other "
            "images, or of other epochs?"
        )
    images = like.metadata.get("images", 0)
    if not whole and not of_text and STARTS not in like.tensor_names and images and rows % images == 0:
        found |= {"images": images, "epochs": rows // images}  # of the same images, more epochs or fewer
    return found


def tensors(options: argparse.Namespace, source: Source) -> dict[str, NDArray[Any]]:
    """Tensors that are neither the codec's nor say which rows these are: names of images, and views that are stored."""
    like = _like(options)
    if like is None or options.text is not None or len(like) != source.rows:
        return {}
    names = [name for name in like.tensor_names if name == NAMES or name.startswith(VIEWS)]
    return {name: like.column(name) for name in names}


def open_text(path: str) -> tuple[NDArray[Any], Sequences]:
    """Tokens and sequences of a .npz file with tokens [positions] and lengths [documents], or of a label file.

    kept, boolean [positions], may lie beside them: it says which positions have a label.
    """
    if path.endswith(".safetensors"):
        return _text_of(LabelFile(path))
    found, names = arrays_of(path, ("tokens", "lengths", "kept"))
    if not {"tokens", "lengths"} <= found.keys():
        raise ValueError(
            f"{path} holds {names:.80}, but a text is a .npz of tokens [positions] and lengths [documents], or a label "
            "file that holds one"
        )
    kept = found.get("kept")
    if kept is not None and kept.dtype != np.bool_:
        raise ValueError(f"{path}: kept must be a boolean for each position, got {kept.dtype} {list(kept.shape)}")
    try:
        sequences = Sequences(found["lengths"], keep=kept)
        return sequences.text(found["tokens"]), sequences
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def _text_of(file: LabelFile) -> tuple[NDArray[Any], Sequences]:
    sequences = sequences_of(file)
    if sequences is None:
        raise ValueError(f"{file.path}: its labels are not of a text, or it does not say so")
    if TOKENS not in file.tensor_names:
        raise ValueError(f"{file.path} does not hold the text that its labels are of: a .npz file with --text says it")
    return file.tensor(TOKENS), sequences


def _like(options: argparse.Namespace) -> LabelFile | None:
    """The label file that says what the rows are: the one named, or the logits themselves."""
    return LabelFile(options.like) if options.like is not None else _label_file(options.logits)


def _label_file(path: str) -> LabelFile | None:
    """The label file at a path of logits; None if it is none."""
    if not path.endswith(".safetensors"):
        return None
    try:
        return LabelFile(path)
    except FormatError:
        return None  # logits in a plain safetensors file
