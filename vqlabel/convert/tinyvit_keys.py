"""The keys of TinyViT's labels: one line of text for each record, in the order in which an epoch met the images.

Images are numbered as their keys sort, keys of digits alone as numbers. Millions of keys are held once, as an array of
bytes; no more than a few hundred thousand lines are in memory beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from vqlabel.convert.torch_files import UnreadableFile

AT_ONCE = 4 * 2**20  # bytes of text
LONGEST = 100  # bytes of a key
DIGITS = 10  # of a number; shorter ones have spaces before them, which sort before digits and start no key

Keys = NDArray[np.bytes_]  # sortable, see DIGITS


def lines(path: str) -> Iterator[list[bytes]]:
    """Keys of a file, some at a time; UnreadableFile at the first that is none."""
    rest = b""
    with open(path, "rb") as file:
        while block := file.read(AT_ONCE):
            *found, rest = (rest + block).split(b"\n")
            found = [line.strip() for line in found]
            _check(found, rest)
            if found:
                yield found
    if rest:
        raise UnreadableFile(f"it is cut off in its last line, {rest!r:.80}")


def _check(found: list[bytes], rest: bytes) -> None:
    lengths = [len(line) for line in found]
    if max(lengths, default=0) > LONGEST or len(rest) > 2 * LONGEST:
        raise UnreadableFile(f"it has lines of more than {LONGEST} bytes, which are no keys")
    text = b"\n".join(found)
    if min(lengths, default=1) == 0 or b"\0" in text:
        raise UnreadableFile("it has empty lines, or bytes that are no text")
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise UnreadableFile(f"it is not UTF-8: {error}") from None


def count_lines(path: str, most: int) -> tuple[int, str]:
    """How many keys a file begins with, and what is wrong where they end, or where there are not `most` of them."""
    count = 0
    try:
        for part in lines(path):
            count += len(part)
    except UnreadableFile as error:
        return min(count, most), str(error)
    return min(count, most), "" if count == most else f"it has {count} keys, but beside it are {most} records"


def sortable(found: list[bytes]) -> Keys:
    """Keys [n] that sort as images are numbered."""
    keys = np.array(found)
    digits = np.char.isdigit(keys) & (np.char.str_len(keys) <= DIGITS)
    return np.where(digits, np.char.rjust(keys, DIGITS), keys) if digits.any() else keys


def different(parts: Iterable[Keys]) -> Keys:
    """All keys, sorted, each once."""
    keys = np.concatenate([*parts, np.zeros(0, "S1")])
    keys.sort()
    again = keys[1:] == keys[:-1]
    return keys[np.concatenate([[True], ~again])] if again.any() else keys


def find(keys: Keys, wanted: Keys) -> NDArray[np.int64]:
    """Place [n] of each key wanted among sorted keys, -1 where it is none of them."""
    found = np.full(len(wanted), -1, np.int64)
    if not len(keys):
        return found
    order = wanted.argsort()  # those that are close together are found much faster
    # Cut to the width of the keys, or all of those would be widened; what was cut is then equal to none.
    places = keys.searchsorted(wanted[order].astype(keys.dtype))
    places = np.minimum(places, len(keys) - 1)
    there = keys[places] == wanted[order]
    found[order[there]] = places[there]
    return found


def text(keys: Keys) -> bytes:
    """Keys as they were written, one a line."""
    return b"\n".join(key.lstrip(b" ") for key in keys.tolist())
