"""What a label file says of its rows before their bits; of text the sequences that they lie in, and the tokens."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from vqlabel.errors import Corrupt
from vqlabel.file import LabelFile
from vqlabel.known import Information
from vqlabel.scene import side_of
from vqlabel.sequences import KEY, MASK, STARTS, TOKENS, Sequences
from vqlabel.side import Views
from vqlabel.tokens import TEXT, TokenInformation, fingerprint

WINDOW = "before"  # of the metadata key of sequences, where a prior looks at tokens


def sequences_of(file: LabelFile) -> Sequences | None:
    """The sequences of a label file; None if it does not know of any, Corrupt if what it says cannot be."""
    if STARTS not in file.tensor_names:
        return None
    starts = file.tensor(STARTS)
    if starts.dtype != np.uint64 or starts.ndim != 1 or len(starts) == 0 or starts[0] != 0 or starts[-1] >= 2**62:
        raise Corrupt(f"{file.path}: tensor {STARTS!r} must be U64 [S + 1] from 0 on")
    lengths = np.diff(starts.astype(np.int64))
    keep = file.metadata.get(KEY, {}).get("keep")
    try:
        if keep == "mask":
            keep = file.tensor(MASK)
        elif isinstance(keep, dict) and "share" in keep:
            _check_share(keep["share"], int(lengths.sum()), len(file))
        found = Sequences(lengths, keep=keep)
    except (KeyError, TypeError, ValueError) as error:
        raise Corrupt(f"{file.path}: its sequences make no sense: {error}") from None
    if found.rows_total != len(file):
        raise Corrupt(f"{file.path}: {found.rows_total} positions of its sequences have a label, not {len(file)}")
    return found


def _check_share(share: Any, total: int, rows: int) -> None:
    """ValueError if these rows cannot be that share: nobody shall draw for more positions than a file bears out."""
    if isinstance(share, float) and abs(total * share - rows) > 10 * total**0.5 + 64:
        raise ValueError(f"{rows} rows are not the share {share} of {total} positions")


def information_of(file: LabelFile, views: Views | None = None, tokens: ArrayLike | None = None) -> Information | None:
    """What the file says of its rows before their bits, of images or of a text; None if it says nothing."""
    is_text = WINDOW in file.metadata.get(KEY, {}) and STARTS in file.tensor_names
    return text_of(file, tokens) if is_text else side_of(file, views)


def text_of(file: LabelFile, tokens: ArrayLike | None = None) -> TokenInformation:
    """Side information of a file whose prior looks at tokens: its own, or those that the reader gives."""
    sequences = sequences_of(file)
    if sequences is None:
        raise Corrupt(f"{file.path}: its prior looks at tokens, and tensor {STARTS!r} is missing")
    given = tokens is not None
    if tokens is None:
        if TOKENS not in file.tensor_names:
            raise ValueError(
                f"{os.path.basename(file.path)} does not hold the text that its labels are of: "
                "LabelDecoder(path, tokens=...) takes the tokens of all its sequences, one after the other"
            )
        tokens = file.tensor(TOKENS)
    if given and fingerprint(tokens) != file.metadata.get(TEXT):
        raise ValueError(
            f"the tokens [{np.size(tokens)}] are not those of the {sequences.total} positions that "
            f"{os.path.basename(file.path)} was made for: another text, another tokenizer, or another order"
        )
    told = file.metadata.get(KEY, {})
    try:
        return TokenInformation(tokens, sequences, before=told.get("before", 0), after=told.get("after", 0))
    except (TypeError, ValueError) as error:
        raise Corrupt(f"{file.path}: {error}") from None
