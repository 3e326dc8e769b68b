"""The metadata of a label file: text in the file, typed in Python. FORMAT.md, "Metadata", is the same table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from vqlabel.errors import Corrupt, NewerVersion
from vqlabel.gaps import FEATURE as GAPS

# What the text of a known key stands for. Keys that begin with "x." belong to the user; other keys are reserved.
TEXT, COUNT, OBJECT, LIST = "text", "a whole number", "a JSON object", "a JSON list"
KINDS = {
    "format": TEXT,
    "format_version": COUNT,
    "rows_per_chunk": COUNT,
    "codec": OBJECT,
    "requires": LIST,
    "classes": COUNT,
    "epochs": COUNT,
    "images": COUNT,
    "replay": OBJECT,
    "teacher": TEXT,
    "temperatures": LIST,
    "measured": OBJECT,
    "created_by": TEXT,
    "sequences": OBJECT,
    "text": TEXT,
    "tokenizer": TEXT,
}
REQUIRED = ("format", "format_version", "rows_per_chunk", "codec")
KNOWN_FEATURES = frozenset({GAPS})  # what `requires` may ask of this reader
MAX_BITS = 24  # of a code


def read_json(text: str) -> Any:
    """Strict JSON: no repeated key, no NaN, no lone surrogate, no depth that would end the interpreter."""
    try:
        value = json.loads(text, object_pairs_hook=_no_repeats, parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except RecursionError:
        raise ValueError("too deeply nested") from None
    return value


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"{name!r:.80} appears twice")
        result[name] = value
    return result


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def parse_metadata(texts: Mapping[str, Any]) -> dict[str, Any]:
    """Typed values of the metadata of a file; unknown keys are passed over unless they are the user's."""
    missing = [key for key in REQUIRED if key not in texts]
    if missing:
        raise Corrupt(f"metadata key {missing[0]!r} is missing")
    metadata = {}
    for key, text in texts.items():
        if not isinstance(text, str):
            raise Corrupt(f"metadata {key!r:.80} is not text")
        if key in KINDS or key.startswith("x."):
            metadata[key] = _parse_value(key, text)
    _check_values(metadata)
    return metadata


def _parse_value(key: str, text: str) -> Any:
    kind = KINDS.get(key, TEXT)
    if kind == TEXT:
        return text
    if kind == COUNT:
        if text.isascii() and text.isdigit() and len(text) <= 18 and (text == "0" or text[0] != "0"):
            return int(text)
        raise Corrupt(f"metadata {key!r} is {text!r:.40}, not {kind}")
    try:
        value = read_json(text)
    except ValueError as error:
        raise Corrupt(f"metadata {key!r} is not JSON: {error}") from None
    if not isinstance(value, dict if kind == OBJECT else list):
        raise Corrupt(f"metadata {key!r} is {text!r:.40}, not {kind}")
    return value


def _check_values(metadata: Mapping[str, Any]) -> None:
    if metadata["rows_per_chunk"] < 1:
        raise Corrupt("rows_per_chunk is 0, but a chunk has at least one row")
    required = metadata.get("requires", [])
    if not all(isinstance(feature, str) for feature in required):
        raise Corrupt("metadata 'requires' must be a JSON list of texts")
    unknown = [feature for feature in required if feature not in KNOWN_FEATURES]
    if unknown:
        raise NewerVersion(f"the file requires {unknown[0]!r:.80}, which this vqlabel cannot do; upgrade vqlabel")
    codec = metadata["codec"]
    if not isinstance(codec.get("id"), str):
        raise Corrupt("metadata 'codec' has no id")
    for key, least, most in (("nbits", 1, MAX_BITS), ("G", 0, 2**31)):
        value = codec.get(key, least)
        if type(value) is not int or not least <= value <= most:
            raise Corrupt(f"codec {key} is {value!r:.40}, not {least} to {most}")


def codes_of(codec: Mapping[str, Any]) -> tuple[int, int]:
    """G and nbits of a codec; ValueError if its rows are not codes."""
    if "G" not in codec or "nbits" not in codec:
        raise ValueError(f"codec {codec['id']!r} does not store codes, but packed rows of its own")
    return codec["G"], codec["nbits"]


def format_metadata(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Text of each value, in the order of the table; ValueError for a key or a value that has no place in it."""
    for key in metadata:
        if key not in KINDS and not key.startswith("x."):
            raise ValueError(f"metadata key {key!r} is not known; known are {', '.join(KINDS)}; yours begin with 'x.'")
    order = [key for key in KINDS if key in metadata] + sorted(key for key in metadata if key not in KINDS)
    return {key: _format_value(key, metadata[key]) for key in order}


def _format_value(key: str, value: Any) -> str:
    kind = KINDS.get(key, TEXT)
    if kind == TEXT and isinstance(value, str):
        return value
    if kind == COUNT and isinstance(value, (int, np.integer)) and not isinstance(value, bool) and 0 <= value < 10**18:
        return str(int(value))
    if (kind == OBJECT and isinstance(value, dict)) or (kind == LIST and isinstance(value, list)):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_plain)
    raise ValueError(f"metadata {key!r:.80} must be {kind}, got {value!r:.80}")


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise ValueError(f"metadata holds {value!r:.80}, which JSON has no word for")
