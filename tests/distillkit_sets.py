"""Sets of DistillKit, made and read one number at a time from the description of the format."""

from __future__ import annotations

import itertools
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from vqlabel.convert import Imported, Options, open_foreign

Config = dict[str, Any]
Position = tuple[Any, Any]  # what two columns hold of it
CODES = {"float16": "<e", "float32": "<f", "float64": "<d"}


def recommended(d: int, **more: Any) -> Config:
    terms = [0, 1, 2, 3, 4, "sqrt"]
    sizes = {"d": d, "k": 128, "exact_k": 16, "exact_dtype": "bfloat16"}
    return {**sizes, "polynomial_terms": terms, "term_dtype": "float32", **more}


def budget(d: int, **more: Any) -> Config:
    sizes = {"d": d, "k": 50, "exact_k": 1, "exact_dtype": "bfloat16"}
    return {**sizes, "polynomial_terms": [0, 1, "sqrt"], "term_dtype": "float32", **more}


def small(**more: Any) -> Config:
    sizes = {"d": 50, "k": 8, "exact_k": 2, "exact_dtype": "float32"}
    return {**sizes, "polynomial_terms": [0, 1], "term_dtype": "float32", **more}


def exact(**more: Any) -> Config:
    return small(exact_k=8, exact_dtype="float16", polynomial_terms=[], **more)


def teacher(config: Config, seed: int) -> tuple[list[int], list[float]]:
    """The k likeliest of d tokens and their log-probabilities."""
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.standard_normal(config["d"]) * 3)
    values, ids = logits.log_softmax(0).sort(descending=True)
    return ids[: config["k"]].tolist(), values[: config["k"]].tolist()


def number(value: float, dtype: str) -> bytes:
    if dtype == "bfloat16":
        return int(torch.tensor(value).bfloat16().view(torch.int16)).to_bytes(2, "little", signed=True)
    return struct.pack(CODES[dtype], value)


def read_number(data: bytes, dtype: str) -> float:
    if dtype == "bfloat16":
        return float(struct.unpack("<f", b"\0\0" + data)[0])
    return float(struct.unpack(CODES[dtype], data)[0])


def size_of(dtype: str) -> int:
    return len(number(0.0, dtype))


def pack(values: list[int], nbits: int) -> bytes:
    bits = "".join(f"{value:0{nbits}b}" for value in values)
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))


def unpack(data: bytes, nbits: int, count: int) -> list[int]:
    bits = "".join(f"{byte:08b}" for byte in data)
    return [int(bits[nbits * i : nbits * (i + 1)], 2) for i in range(count)]


def term(name: int | str, t: float) -> float:
    return {"sqrt": math.sqrt, "exp": math.exp}[name](t) if isinstance(name, str) else t**name


def ranks(config: Config) -> list[float]:
    count = config["k"] - config["exact_k"]
    if config.get("normalize_t"):
        return [i / (count - 1) if count > 1 else 0.0 for i in range(count)]
    return [float(i) for i in range(count)]


def id_bits(config: Config) -> int:
    return math.ceil(math.log2(config["d"]))


def encode(config: Config, ids: list[int], values: list[float]) -> Position:
    """Bytes of a position in the current format."""
    if config.get("delta_encoding"):
        values = values[:1] + [after - before for before, after in itertools.pairwise(values)]
    exact, rest = values[: config["exact_k"]], values[config["exact_k"] :]
    data = b"".join(number(value, config["exact_dtype"]) for value in exact)
    basis = np.array([[term(name, t) for name in config["polynomial_terms"]] for t in ranks(config)])
    basis = basis.reshape(len(rest), len(config["polynomial_terms"]))
    stored = [number(c, config["term_dtype"]) for c in np.linalg.lstsq(basis, np.array(rest), rcond=1e-5)[0]]
    data += b"".join(stored)
    left = np.array(rest) - basis @ np.array([read_number(c, config["term_dtype"]) for c in stored])
    at = 0
    for entry in config.get("residual_bins", []):
        part, nbits = left[at : at + entry["num_elements"]], entry["element_bits"]
        half = 1 << (nbits - 1)
        scale = number(float(np.abs(part).max()) / half, entry["scale_dtype"])
        grid = read_number(scale, entry["scale_dtype"]) or 1.0
        if nbits == 1:
            steps = [int(r >= 0) for r in part]
        else:
            steps = [min(max(round(float(r) / grid), -half), half - 1) + half for r in part]
        data += scale + pack(steps, nbits)
        at += entry["num_elements"]
    return list(data), list(pack(ids, id_bits(config)))


def decode(config: Config, position: Position) -> tuple[list[int], list[float]]:
    """What `encode` made, slowly."""
    data, at, values = bytes(position[0]), 0, []

    def taken(dtype: str) -> float:
        nonlocal at
        at += size_of(dtype)
        return read_number(data[at - size_of(dtype) : at], dtype)

    values = [taken(config["exact_dtype"]) for _ in range(config["exact_k"])]
    coefficients = [taken(config["term_dtype"]) for _ in config["polynomial_terms"]]
    rest = [
        sum(c * term(name, t) for c, name in zip(coefficients, config["polynomial_terms"], strict=True))
        for t in ranks(config)
    ]
    rank = 0
    for entry in config.get("residual_bins", []):
        scale, nbits, count = taken(entry["scale_dtype"]), entry["element_bits"], entry["num_elements"]
        length = math.ceil(nbits * count / 8)
        for step in unpack(data[at : at + length], nbits, count):
            rest[rank] += scale * (step * 2 - 1 if nbits == 1 else step - (1 << (nbits - 1)))
            rank += 1
        at += length
    assert at == len(data)
    values += rest
    if config.get("delta_encoding"):
        values = [math.fsum(values[: i + 1]) for i in range(len(values))]
    return unpack(bytes(position[1]), id_bits(config), config["k"]), values


def save(
    folder: Path, config: Config, files: list[list[list[Position]]], *, spare: int = 0, **options: Any
) -> list[int]:
    """A folder of files of sequences of positions, the last so many without a label; the tokens of all in order."""
    folder.mkdir(exist_ok=True)
    (folder / "compression_config.yaml").write_text(yaml.safe_dump(config))
    tokens: list[int] = []
    for index, sequences in enumerate(files):
        first = len(tokens)
        tokens += range(first, first + sum(map(len, sequences)))
        read = iter(tokens[first:])
        kept = [sequence[: max(len(sequence) - spare, 0)] for sequence in sequences]
        columns = {
            "input_ids": [[next(read) for _ in sequence] for sequence in sequences],
            "compressed_logprobs": [[position[0] for position in sequence] for sequence in kept],
            "bytepacked_indices": [[position[1] for position in sequence] for sequence in kept],
        }
        write(folder / f"data_{index}.parquet", columns, **options)
    return tokens


def write(path: Path, columns: dict[str, Any], **options: Any) -> None:
    nested = pa.list_(pa.list_(pa.uint8()))
    types = {"input_ids": pa.list_(pa.uint64()), "compressed_logprobs": nested, "bytepacked_indices": nested}
    types |= {"packed_indices": pa.list_(pa.list_(pa.uint64()))}
    types |= {name: pa.list_(pa.list_(pa.float32())) for name in ("exact_values", "coeffs")}
    arrays = {name: pa.array(column, types[name]) for name, column in columns.items()}
    pq.write_table(pa.table(arrays), path, **options)


def sequences(config: Config, lengths: list[int], seed: int = 0) -> list[list[Position]]:
    """Sequences of these lengths, every position another."""
    seeds = iter(range(1000 * seed, 1000 * seed + sum(lengths)))
    return [[encode(config, *teacher(config, next(seeds))) for _ in range(length)] for length in lengths]


def legacy_position(config: Config, seed: int) -> tuple[list[float], list[float], list[int]]:
    """Exact values, coefficients and words of ids."""
    ids, values = teacher(config, seed)
    exact = np.array(values[: config["exact_k"]], np.float16).tolist()
    rest = np.array(values[config["exact_k"] :])
    basis = [[term(name, t + 1.0) for name in config["polynomial_terms"]] for t in range(len(rest))]
    coefficients = np.linalg.lstsq(np.array(basis), rest, rcond=1e-5)[0].astype(np.float32).tolist()
    each, nbits = 64 // id_bits(config), id_bits(config)
    words = [ids[at : at + each] for at in range(0, len(ids), each)]
    return exact, coefficients, [sum(v << nbits * i for i, v in enumerate(word)) for word in words]


def save_legacy(folder: Path, config: Config, positions: list[Any], lengths: list[int], index: int = 0) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "compression_config.yaml").write_text(yaml.safe_dump(config))
    stops = list(itertools.accumulate(lengths))
    parts = [positions[stop - length : stop] for length, stop in zip(lengths, stops, strict=True)]
    names = ("exact_values", "coeffs", "packed_indices")
    columns = {name: [[p[i] for p in part] for part in parts] for i, name in enumerate(names)}
    write(folder / f"data_{index}.parquet", {"input_ids": [[0] * n for n in lengths], **columns})


def with_ids(position: Position, *ids: int) -> Position:
    """A position of a set of `exact()` that tells of these tokens first."""
    return position[0], list(pack([*ids, *range(20, 28 - len(ids))], 6))


def open_set(folder: Path, **options: Any) -> Imported:
    """The set, opened as `vqlabel convert` does."""
    spool = folder.parent / f"spool{len(list(folder.parent.iterdir()))}"
    spool.mkdir()
    return open_foreign(str(folder), Options(str(spool), **options), kind="distillkit")


def check_kept(found: Imported, expected: list[Position | None]) -> None:
    """All positions that are not None are there, and are these of a set of `exact()`; the others are missing."""
    lost = [position is None for position in expected]
    missing = [False] * found.source.rows if found.missing is None else found.missing.tolist()
    assert missing == lost
    ids, values = found.source.kept(range(len(expected)))  # type: ignore[attr-defined]
    for row, position in enumerate(expected):
        told = (list(range(8)), [0.0] * 8) if position is None else decode(exact(), position)
        assert (ids[row].tolist(), values[row].tolist()) == told
    packed = found.codec.encode_kept(ids, values)  # type: ignore[attr-defined]
    assert len(packed) == len(expected)
