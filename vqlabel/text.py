"""What a label file says of its rows before their bits; of text the sequences that they lie in, and the tokens."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vqlabel.errors import Corrupt
from vqlabel.file import LabelFile
from vqlabel.known import Information
from vqlabel.scene import side_of
from vqlabel.sequences import KEY, MASK, MOST_POSITIONS, STARTS, TOKENS, Sequences
from vqlabel.side import Views
from vqlabel.tokens import TEXT, TokenInformation, fingerprint

WINDOW = "before"  # of the metadata key of sequences, where a prior looks at tokens


def sequences_of(file: LabelFile) -> Sequences | None:
    """The sequences of a label file; None if it does not know of any, Corrupt if what it says cannot be."""
    if STARTS not in file.tensor_names:
        return None
    starts = file.tensor(STARTS)
    if starts.dtype != np.uint64 or starts.ndim != 1 or len(starts) == 0 or starts[0] != 0 or starts.max() >= 2**62:
        raise Corrupt(f"{file.path}: tensor {STARTS!r} must be U64 [S + 1] from 0 on")
    _check_size(file, int(starts[-1]))
    lengths = np.diff(starts.astype(np.int64))
    keep = file.metadata.get(KEY, {}).get("keep")
    try:
        if keep == "mask":
            keep = file.tensor(MASK)
        found = Sequences(lengths, keep=keep)
    except (KeyError, TypeError, ValueError) as error:
        raise Corrupt(f"{file.path}: its sequences make no sense: {error}") from None
    if found.rows_total != len(file):
        raise Corrupt(f"{file.path}: {found.rows_total} positions of its sequences have a label, not {len(file)}")
    return found


def _check_size(file: LabelFile, total: int) -> None:
    """Corrupt if a file of this size, or its text, cannot be of so many positions."""
    if total > MOST_POSITIONS * file.header.file_bytes:
        raise Corrupt(
            f"{file.path}: a file of {file.header.file_bytes} bytes cannot be of {total} positions, more than "
            f"{MOST_POSITIONS} for each byte"
        )
    text = file.header.tensors.get(TOKENS)
    if text is not None and (text.dtype, text.shape) != (np.dtype("<u4"), (total,)):
        raise Corrupt(f"{file.path}: tensor {TOKENS!r} is {text.dtype} {list(text.shape)}, not uint32 [{total}]")


def information_of(file: LabelFile, views: Views | None = None) -> Information | None:
    """What the file says of its rows before their bits, of images or of a text; None if it says nothing."""
    is_text = WINDOW in file.metadata.get(KEY, {}) and STARTS in file.tensor_names
    return text_of(file) if is_text else side_of(file, views)


def text_of(file: LabelFile, given: NDArray[Any] | None = None) -> TokenInformation:
    """Side information of a file whose prior looks at tokens: its own, or those of `given_text`."""
    sequences = sequences_of(file)
    if sequences is None:
        raise Corrupt(f"{file.path}: its prior looks at tokens, and tensor {STARTS!r} is missing")
    if given is None and TOKENS not in file.tensor_names:
        raise ValueError(
            f"{os.path.basename(file.path)} does not hold the text that its labels are of: "
            "LabelDecoder(path, tokens=...) takes the tokens of all its sequences, one after the other, and --text a "
            "file of them"
        )
    text, told = file.tensor(TOKENS) if given is None else given, file.metadata.get(KEY, {})
    try:
        return TokenInformation(text, sequences, before=told.get("before", 0), after=told.get("after", 0))
    except (TypeError, ValueError) as error:
        raise Corrupt(f"{file.path}: {error}") from None


def given_text(file: LabelFile, sequences: Sequences | None, tokens: ArrayLike) -> NDArray[Any]:
    """The tokens that a reader gives; ValueError unless they are the text that the labels of this file are of."""
    name, numbers = os.path.basename(file.path), np.asarray(tokens)
    if sequences is None or TEXT not in file.metadata:
        raise ValueError(f"{name} does not say which text its labels are of, so nothing can be compared with tokens=")
    if numbers.size and numbers.dtype.kind not in "iu":
        raise TypeError(f"tokens must be whole numbers [{sequences.total}], got {numbers.dtype} {list(numbers.shape)}")
    here = numbers.shape == (sequences.total,) and (not numbers.size or 0 <= numbers.min() <= numbers.max() < 2**31)
    if not here or fingerprint(numbers) != file.metadata[TEXT]:
        raise ValueError(
            f"the tokens {list(numbers.shape)} are not those of the {sequences.total} positions that {name} was made "
            "for: another text, another tokenizer, or another order"
        )
    return numbers
