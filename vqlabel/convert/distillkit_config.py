"""What compression_config.yaml of a DistillKit set says: how the labels of each position became bytes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from vqlabel.arguments import check_whole, check_word

NAME = "compression_config.yaml"
MAX_BYTES = 2**16  # of the file; real ones have a few hundred
MAX_CLASSES, MAX_KEPT = 2**24, 2**16
MAX_POWER = 64
MAX_TERMS = 64
FLOATS = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}  # bytes of each
SHORT = {"f16": "float16", "bf16": "bfloat16", "f32": "float32", "f64": "float64"}
NEEDED = ("d", "k", "exact_k", "exact_dtype", "polynomial_terms", "term_dtype")
SWITCHES = ("delta_encoding", "error_diffusion", "normalize_t")
KNOWN = (*NEEDED, "residual_bins", *SWITCHES)
OF_A_BIN = ("scale_dtype", "num_elements", "element_bits")


@dataclass(frozen=True)
class Bin:
    """A run of ranks whose residuals are stored: one scale, and an integer of num_bits (element_bits) for each."""

    num_elements: int
    num_bits: int
    scale_dtype: str


@dataclass(frozen=True)
class Config:
    """How k of d logits are stored: exact_k as they are, the others as a curve over their rank and residuals."""

    d: int
    k: int
    exact_k: int
    exact_dtype: str
    polynomial_terms: tuple[int | str, ...]  # powers of the rank, "sqrt", "exp"
    term_dtype: str
    residual_bins: tuple[Bin, ...] = ()
    delta_encoding: bool = False
    error_diffusion: bool = False  # of the encoder alone: what is decoded does not depend on it
    normalize_t: bool = False

    @property
    def fitted(self) -> int:
        """Logits that are stored as a curve."""
        return self.k - self.exact_k


def need(package: str) -> Any:
    """A package that only these sets need."""
    try:
        return import_module(package)
    except ImportError:
        name = {"yaml": "PyYAML"}.get(package, package.partition(".")[0])
        raise ValueError(f"sets of DistillKit need {name}: pip install 'vqlabel[convert]'") from None


def read_config(path: str) -> Config:
    """The config of a set; ValueError that names the file."""
    if not os.path.isfile(path):
        raise ValueError(f"{path} is not there: it says how the labels became bytes, with {', '.join(NEEDED)}")
    if os.path.getsize(path) > MAX_BYTES:
        raise ValueError(f"{path} has {os.path.getsize(path)} bytes, but such a file has at most {MAX_BYTES}")
    yaml = need("yaml")
    try:
        with open(path, "rb") as file:
            found = yaml.safe_load(file)
    except Exception as error:  # PyYAML lets out YAMLError, RecursionError, ValueError, UnicodeError...
        raise ValueError(f"{path} is no plain YAML: {' '.join(str(error).split()):.160}") from None
    try:
        return _config(found)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _config(found: Any) -> Config:
    _check_names("the config", found, NEEDED, KNOWN)
    d = _whole("d", found["d"], 2, MAX_CLASSES)
    k = _whole("k", found["k"], 1, min(d, MAX_KEPT))
    exact_k = _whole("exact_k", found["exact_k"], 0, k)
    bins = tuple(_bin(entry) for entry in _items("residual_bins", found.get("residual_bins", []), MAX_KEPT))
    covered = sum(entry.num_elements for entry in bins)
    if covered > k - exact_k:
        raise ValueError(
            f"residual_bins hold {covered} residuals, but only k - exact_k = {k - exact_k} logits have one"
        )
    return Config(
        d,
        k,
        exact_k,
        _float("exact_dtype", found["exact_dtype"]),
        tuple(_term(term) for term in _items("polynomial_terms", found["polynomial_terms"] or [], MAX_TERMS)),
        _float("term_dtype", found["term_dtype"]),
        bins,
        **{name: _switch(name, found.get(name, False)) for name in SWITCHES},
    )


def _check_names(what: str, found: Any, needed: tuple[str, ...], known: tuple[str, ...]) -> None:
    if not isinstance(found, dict):
        raise ValueError(f"{what} is a {type(found).__name__}, not names and values")
    unknown = [f"{name!s:.40}" for name in found if name not in known]
    missing = [name for name in needed if name not in found]
    if unknown:
        raise ValueError(f"{what} has {', '.join(unknown[:5])}, but what is known of it is {', '.join(known)}")
    if missing:
        raise ValueError(f"{what} does not say {', '.join(missing)}")


def _check_scalar(name: str, value: Any) -> None:
    # Before it is shown: a list of lists that refer to each other can be small in YAML, and endless when written out.
    if not isinstance(value, (int, float, str, bool)):
        raise ValueError(f"{name} must be a number or a word, got a {type(value).__name__}")


def _whole(name: str, value: Any, least: int, most: int) -> int:
    _check_scalar(name, value)
    check_whole(name, value, least, most)
    return int(value)


def _items(name: str, value: Any, most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise ValueError(f"{name} must be a list of at most {most} entries, got a {type(value).__name__}")
    return value


def _float(name: str, value: Any) -> str:
    _check_scalar(name, value)
    word = SHORT.get(value, value)
    check_word(name, word, FLOATS)
    return str(word)


def _switch(name: str, value: Any) -> bool:
    _check_scalar(name, value)
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r:.80}")
    return value


def _term(value: Any) -> int | str:
    _check_scalar("polynomial_terms", value)
    if isinstance(value, str):
        check_word("polynomial_terms", value, ("sqrt", "exp"))
        return value
    return _whole("polynomial_terms", value, -MAX_POWER, MAX_POWER)


def _bin(found: Any) -> Bin:
    _check_names("an entry of residual_bins", found, OF_A_BIN, OF_A_BIN)
    elements, nbits = (
        _whole("num_elements", found["num_elements"], 1, MAX_KEPT),
        _whole("element_bits", found["element_bits"], 1, 64),
    )
    return Bin(elements, nbits, _float("scale_dtype", found["scale_dtype"]))
