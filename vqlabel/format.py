"""FORMAT.md as code: the header of a label file, read with suspicion and written in one way."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vqlabel.errors import Corrupt, NewerVersion, NotALabelFile, Truncated
from vqlabel.metadata import parse_metadata, read_json

FORMAT_VERSION = 1
PAGE_BYTES = 4096  # codes start at a multiple of this
MAX_HEADER_BYTES = 2**19
MAX_DIMENSIONS = 8
MAX_ROW_BYTES = 2**31
MAX_EMPTY_ROWS = 2**32  # where they have no bytes: all others are bounded by the size of the file
CODES, CHUNK_CRCS, CRCS = "codes", "codes.crc32", "crc32"

DTYPES = {
    name: np.dtype(code)
    for name, code in {
        "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "F16": "<f2", "U32": "<u4",
        "I32": "<i4", "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8",
    }.items()
}  # fmt: skip
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies: `offset` counts from the start of the file."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Size in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Header:
    """A checked header: every tensor lies inside the file, aligned, without holes, codes last."""

    raw: bytes  # the length word and the JSON, padding included
    tensors: dict[str, Tensor]  # in file order
    metadata: dict[str, Any]

    @property
    def rows(self) -> int:
        """N."""
        return self.tensors[CODES].shape[0]

    @property
    def row_bytes(self) -> int:
        """Bytes of one packed row."""
        return self.tensors[CODES].shape[1]

    @property
    def rows_per_chunk(self) -> int:
        """Rows under one checksum; the last chunk may have fewer."""
        return int(self.metadata["rows_per_chunk"])

    @property
    def chunks(self) -> int:
        """Chunks, and so entries of the chunk checksums."""
        return -(-self.rows // self.rows_per_chunk)

    @property
    def file_bytes(self) -> int:
        """Size of the whole file."""
        return self.tensors[CODES].offset + self.tensors[CODES].nbytes

    @property
    def crc(self) -> int:
        """Checksum of the header itself, the first entry of the tensor `crc32`."""
        return checksum(self.raw)

    def chunk(self, index: int) -> range:
        """Rows of a chunk."""
        start = index * self.rows_per_chunk
        return range(start, min(start + self.rows_per_chunk, self.rows))

    def summed(self) -> list[str]:
        """Tensors with an entry of their own in `crc32`, in its order, after the header's."""
        return [name for name in self.tensors if name not in (CODES, CHUNK_CRCS, CRCS)]


def checksum(data: bytes | memoryview | np.ndarray[Any, Any]) -> int:
    """CRC-32 as in zlib and PNG, but 1 where that is 0: 0 stands for what was never written."""
    return zlib.crc32(data) or 1


def read_header(read: Callable[[int, int], bytes], file_bytes: int) -> Header:
    """Header of a file of file_bytes, by read(offset, size); raises a FormatError for anything but a sound one.

    It reads the header only: the caller checks the checksums, of which it may have a newer idea.
    """
    if file_bytes < 8:
        raise Truncated(f"the file has {file_bytes} bytes; even an empty label set has more; fetch it again")
    prefix = read(0, 8)
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER_BYTES:
        raise NotALabelFile(_what_it_looks_like(prefix))
    if 8 + length > file_bytes:
        raise Truncated(f"the header has {length} bytes, but only {file_bytes - 8} follow; fetch the file again")
    return _parse(prefix + read(8, length))


def _what_it_looks_like(prefix: bytes) -> str:
    if prefix[:1] == b"\x80" or prefix[:4] == b"PK\x03\x04":
        return "this looks like a pickle or a torch.save archive, which can run code when loaded; it was not opened"
    return f"not a label file: it does not start with a header length of at most {MAX_HEADER_BYTES} bytes"


def _parse(raw: bytes) -> Header:
    if raw[8:9] != b"{":
        raise NotALabelFile("not a label file: no JSON object follows the header length")
    try:
        entries = read_json(raw[8:].decode("utf-8"))
    except ValueError as error:
        raise Corrupt(f"the header is not JSON: {error}") from None
    texts = entries.pop("__metadata__", None)
    if not isinstance(texts, dict) or texts.get("format") != "vqlabel":
        raise NotALabelFile("a safetensors file, but its metadata does not say format=vqlabel")
    _check_version(texts.get("format_version"))
    metadata = parse_metadata(texts)
    tensors = _parse_tensors(entries, len(raw))
    header = Header(raw, tensors, metadata)
    _check_roles(header)
    return header


def _check_version(text: Any) -> None:
    if not isinstance(text, str) or not text.isascii() or not text.isdigit() or len(text) > 9 or text[0] == "0":
        raise Corrupt(f"format_version is {text!r:.40}, not a number")
    if int(text) > FORMAT_VERSION:
        raise NewerVersion(f"format version {text}, but this vqlabel reads up to {FORMAT_VERSION}; upgrade vqlabel")


def _parse_tensors(entries: dict[str, Any], data_start: int) -> dict[str, Tensor]:
    found = sorted((_offsets(name, entry), name) for name, entry in entries.items())
    tensors: dict[str, Tensor] = {}
    position = 0
    for (begin, end), name in found:
        if begin != position:
            raise Corrupt(f"tensor {name!r:.80} starts at {begin}, but the one before it ends at {position}")
        tensors[name] = tensor = _tensor(name, entries[name], data_start + begin)
        if tensor.nbytes != end - begin:
            raise Corrupt(f"tensor {name!r:.80} of shape {tensor.shape} needs {tensor.nbytes} bytes, not {end - begin}")
        if tensor.offset % tensor.dtype.itemsize:
            raise Corrupt(f"tensor {name!r:.80} is misaligned: {tensor.dtype} at byte {tensor.offset}")
        position = end
    return tensors


def _offsets(name: str, entry: Any) -> tuple[int, int]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise Corrupt(f"tensor {name!r:.80} needs dtype, shape and data_offsets, and nothing else")
    offsets = entry["data_offsets"]
    if not _is_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise Corrupt(f"tensor {name!r:.80} has data_offsets {offsets!r:.80}, not [begin, end]")
    return offsets[0], offsets[1]


def _tensor(name: str, entry: dict[str, Any], offset: int) -> Tensor:
    dtype, shape = entry["dtype"], entry["shape"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise Corrupt(f"tensor {name!r:.80} has dtype {dtype!r:.40}, not one of {', '.join(DTYPES)}")
    if not _is_counts(shape) or len(shape) > MAX_DIMENSIONS:
        raise Corrupt(f"tensor {name!r:.80} has shape {shape!r:.80}, not at most {MAX_DIMENSIONS} whole numbers")
    if math.prod(max(side, 1) for side in shape) * DTYPES[dtype].itemsize >= 2**63:
        raise Corrupt(f"tensor {name!r:.80} has shape {shape!r:.80}, which no array can have")
    return Tensor(DTYPES[dtype], tuple(shape), offset)


def _is_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _check_roles(header: Header) -> None:
    tensors = header.tensors
    missing = [name for name in (CODES, CHUNK_CRCS, CRCS) if name not in tensors]
    if missing:
        raise Corrupt(f"tensor {missing[0]!r} is missing")
    codes = tensors[CODES]
    if codes.dtype != np.uint8 or len(codes.shape) != 2:
        raise Corrupt(f"codes must be U8 [rows, row_bytes], not {codes.dtype} {codes.shape}")
    if codes.shape[1] > MAX_ROW_BYTES:
        raise Corrupt(f"rows have {codes.shape[1]} bytes, more than {MAX_ROW_BYTES}")
    if header.row_bytes == 0 and header.rows > MAX_EMPTY_ROWS:
        raise Corrupt(f"there are {header.rows} rows of no bytes, more than {MAX_EMPTY_ROWS}")
    if any(tensor.offset > codes.offset for tensor in tensors.values()) or codes.offset % PAGE_BYTES:
        raise Corrupt(f"codes must come last and start at a multiple of {PAGE_BYTES}, not at {codes.offset}")
    for name, length in ((CHUNK_CRCS, header.chunks), (CRCS, 1 + len(header.summed()))):
        if tensors[name].dtype != DTYPES["U32"] or tensors[name].shape != (length,):
            raise Corrupt(f"{name} must be U32 [{length}], not {tensors[name].dtype} {list(tensors[name].shape)}")
    _check_agreement(header)


def _check_agreement(header: Header) -> None:
    metadata, codec = header.metadata, header.metadata.get("codec", {})
    if "epochs" in metadata and "images" in metadata and metadata["epochs"] * metadata["images"] != header.rows:
        raise Corrupt(f"{metadata['epochs']} epochs of {metadata['images']} images are not {header.rows} rows")
    if "G" in codec and "nbits" in codec and (codec["G"] * codec["nbits"] + 7) // 8 != header.row_bytes:
        raise Corrupt(f"{codec['G']} codes of {codec['nbits']} bits do not fill rows of {header.row_bytes} bytes")


def build_header(
    rows: int, row_bytes: int, tensors: Mapping[str, np.ndarray[Any, Any]], metadata: Mapping[str, str]
) -> Header:
    """Header of a new file. Metadata is already text; its `rows_per_chunk` sizes the chunk table."""
    chunks = -(-rows // parse_metadata(metadata)["rows_per_chunk"])
    specs = {name: (array.dtype, array.shape) for name, array in tensors.items()}
    specs[CHUNK_CRCS] = (DTYPES["U32"], (chunks,))
    specs[CRCS] = (DTYPES["U32"], (1 + len(tensors),))
    # Smallest items first: a tensor that ends on a multiple of the next larger size starts on a multiple of its own.
    # The last ends where codes begin, on a page.
    order = sorted(specs, key=lambda name: (specs[name][0].itemsize, name))
    specs[CODES] = (DTYPES["U8"], (rows, row_bytes))
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    position = 0
    for name in [*order, CODES]:
        dtype, shape = specs[name]
        end = position + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [position, end]}
        position = end
    before_codes = position - rows * row_bytes
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-(8 + len(text) + before_codes) % PAGE_BYTES)
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"the header would have {len(text)} bytes, more than {MAX_HEADER_BYTES}; shorten the metadata")
    # What is written is what would be read: a header that the reader would refuse never reaches a disk.
    return _parse(len(text).to_bytes(8, "little") + text)
