"""LabelFile: rows of a label set, by index, from one checked file."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vqlabel.arguments import check_word, whole_numbers
from vqlabel.errors import Corrupt, Unfinished, about
from vqlabel.format import CODES
from vqlabel.gaps import FEATURE, MISSING, check_gaps, complain, is_missing
from vqlabel.metadata import codes_of
from vqlabel.remote import local_path
from vqlabel.rows import load_rows
from vqlabel.storage import (
    PARTIAL,
    fingerprint,
    joined,
    opened,
    read_chunk_table,
    read_sound_header,
    read_tensor,
    spelled,
    unsound_tensors,
)
from vqlabel.verify import Verdict, check, differing_views

if TYPE_CHECKING:
    from vqlabel.writer import LabelWriter

COPY_BYTES = 256 * 2**20  # rows up to here are copied by load="auto": every process pays for its copy
COLUMN_BYTES = 64 * 2**20  # the same for columns beside the rows
LOADS = ("auto", "copy", "map")

PathLike: TypeAlias = "str | os.PathLike[str]"


class LabelFile:
    """A finished label file.

    Opening reads and checks the header, no rows. The rows come on first use: copied into memory when they are few,
    mapped when they are many; `load` says "copy" or "map" to decide otherwise. Copied rows are checked on the way;
    mapped ones are not, so `verify` a large file once after fetching it, and do not shorten it while it is read: the
    system ends a process that touches what is gone. Pickling takes the path along, not the rows.

    >>> import numpy as np, tempfile
    >>> path = tempfile.mkdtemp() + "/labels.safetensors"
    >>> codec = {"id": "vq", "G": 3, "nbits": 4}
    >>> with LabelFile.create(path, rows=2, row_bytes=2, metadata={"codec": codec}) as writer:
    ...     writer.write_codes(0, np.array([[1, 2, 3], [4, 5, 6]], np.uint8))
    >>> file = LabelFile(path)
    >>> file
    LabelFile('labels.safetensors', codec='vq', rows=2, row_bytes=2)
    >>> file.codes([1, 0])
    array([[4, 5, 6],
           [1, 2, 3]], dtype=uint8)
    """

    def __init__(self, path: PathLike, *, load: str = "auto") -> None:
        check_word("load", load, LOADS)
        self.path = os.path.abspath(local_path(os.fsdecode(path)))  # of a URL the copy, and so in pickles
        self._load = load
        self._loaded: Any = None
        self._loaded_by = 0
        self._mapped: os.stat_result | None = None
        self._columns: dict[str, NDArray[Any]] = {}
        with about(self.path), opened(self.path) as fd:
            self.header = read_sound_header(fd)
            check_gaps(self.header)
            self._fingerprint = fingerprint(fd, self.header)
            self._crcs = read_chunk_table(fd, self.header)
            self._check_finished()
        small = self.header.tensors[CODES].nbytes <= COPY_BYTES
        self._copies = load == "copy" or (load == "auto" and small)

    @staticmethod
    def create(
        path: PathLike,
        *,
        rows: int,
        row_bytes: int,
        tensors: Mapping[str, NDArray[Any]] | None = None,
        metadata: Mapping[str, Any],
    ) -> LabelWriter:
        """Start a new file of `rows` packed rows; see LabelWriter.

        metadata needs a `codec`: a dict with an `id`. The keys are those of FORMAT.md, your own begin with "x.".
        """
        from vqlabel.creation import create

        return create(path, rows, row_bytes, tensors or {}, metadata)

    @staticmethod
    def resume(path: PathLike) -> LabelWriter:
        """Go on writing a file that `create` started, here or in another process; `.missing()` says what is to do."""
        from vqlabel.creation import resume

        return resume(path)

    def _check_finished(self) -> None:
        unwritten = joined(self.header.chunk(int(i)) for i in np.flatnonzero(self._crcs == 0))
        if unwritten:
            raise Unfinished(f"{spelled(unwritten)} were never written; go on with LabelFile.resume")
        if self.path.endswith(PARTIAL):
            raise Unfinished("its writer was not closed; finish it with LabelFile.resume(...).close()")

    @property
    def metadata(self) -> dict[str, Any]:
        """Metadata by key, typed: numbers are int, JSON is parsed."""
        return self.header.metadata

    @property
    def tensor_names(self) -> list[str]:
        """Names that `tensor` takes: the codec's tensors, not the rows."""
        return self.header.summed()

    @property
    def fingerprint(self) -> str:
        """The checksum of the header and of all checksums: other labels have another."""
        return f"{self._fingerprint:08x}"

    @property
    def row_bytes(self) -> int:
        """Bytes of a packed row."""
        return self.header.row_bytes

    def __len__(self) -> int:
        return self.header.rows

    def __repr__(self) -> str:
        name, codec = os.path.basename(self.path), self.metadata["codec"]["id"]
        return f"LabelFile({name!r}, codec={codec!r}, rows={len(self)}, row_bytes={self.row_bytes})"

    def gather(self, indices: ArrayLike, *, out: NDArray[Any] | None = None, threads: int = 1) -> NDArray[np.uint8]:
        """Packed rows [B, row_bytes] of these indices [B], in their order; repeats are fine, negative ones are not."""
        return self._gather(indices, nbits=8, count=self.row_bytes, out=out, threads=threads)

    def codes(self, indices: ArrayLike, *, out: NDArray[Any] | None = None, threads: int = 1) -> NDArray[Any]:
        """Codes [B, G] of these rows: uint8 up to 8 bits, uint16 up to 16, uint32 above."""
        G, nbits = codes_of(self.metadata["codec"])
        return self._gather(indices, nbits=nbits, count=G, out=out, threads=threads)

    def tensor(self, name: str) -> NDArray[Any]:
        """A tensor of the codec, checked, as an array of its own."""
        if name not in self.tensor_names:
            raise KeyError(f"no tensor {name!r}; there are {', '.join(self.tensor_names) or 'none'}")
        with self._reopened() as fd:
            if unsound_tensors(fd, self.header, [name]):
                raise Corrupt(f"tensor {name!r} does not match its checksum; fetch the file again")
            return read_tensor(fd, self.header.tensors[name])

    def column(self, name: str) -> NDArray[Any]:
        """A tensor that is read row by row, not to be written to: copied and checked if it is small, else mapped."""
        if name not in self._columns:
            tensor = self.header.tensors.get(name)
            if tensor is None or tensor.nbytes <= COLUMN_BYTES:
                self._columns[name] = self.tensor(name)
            else:
                with self._reopened():
                    self._columns[name] = np.memmap(self.path, tensor.dtype, "r", tensor.offset, tensor.shape)
        return self._columns[name]

    @property
    def has_gaps(self) -> bool:
        """Whether some rows have no label."""
        return FEATURE in self.metadata.get("requires", [])

    def missing(self, rows: ArrayLike) -> NDArray[np.bool_]:
        """Which of these rows [B] have no label: what was lost, or never made, before this file was."""
        try:
            numbers = whole_numbers("rows", rows, len(self))
        except ValueError as error:
            raise IndexError(str(error)) from None
        return is_missing(self.column(MISSING), numbers) if self.has_gaps else np.zeros(numbers.shape, np.bool_)

    def verify(self, progress: Callable[[int], object] | None = None, *, images: Any = None) -> Verdict:
        """Compare everything with its checksum, and images, if given, with the views that the labels were made for.

        images is what `vqlabel.data.DistilledDataset` takes. progress(bytes) is called after each part.
        """
        with self._reopened() as fd:
            verdict = check(fd, self.header, self._crcs, progress)
        if images is None:
            return verdict
        return dataclasses.replace(verdict, bad_views=differing_views(self.metadata, images))

    def close(self) -> None:
        """Let go of the rows; they are loaded again when next asked for."""
        self._loaded = None

    def __enter__(self) -> LabelFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self._load, self._fingerprint)

    def _gather(self, indices: ArrayLike, **options: Any) -> NDArray[Any]:
        positions = np.asarray(indices)
        if positions.ndim != 1 or (positions.dtype.kind not in "iu" and positions.size > 0):
            raise TypeError(f"indices must be whole numbers [B], got {positions.dtype} {list(positions.shape)}")
        positions = np.ascontiguousarray(positions, np.int64)
        found: NDArray[Any] = self._rows_here().gather_unpack(positions, **options)  # and a complaint of wrong ones
        if self.has_gaps and self.missing(positions).any():
            raise complain(self.path, int(positions[self.missing(positions)][0]))
        return found

    def _rows_here(self) -> Any:
        # A forked child maps the file anew, but keeps a copy: its pages are the parent's and stay shared.
        if self._loaded is None or (not self._copies and self._loaded_by != os.getpid()):
            with self._reopened() as fd:
                self._mapped = None if self._copies else os.fstat(fd)
                self._loaded = load_rows(fd, self.header, self._crcs, copy=self._copies)
            self._loaded_by = os.getpid()
        self._check_map()
        return self._loaded

    def _check_map(self) -> None:
        """Corrupt if somebody has written into the mapped file: its rows would be others, or halves of both."""
        then = self._mapped
        if then is None:
            return
        try:
            now = os.stat(self.path)
        except OSError:
            return  # it has gone from its folder; the map holds it all the same
        if os.path.samestat(now, then) and (now.st_size, now.st_mtime_ns) != (then.st_size, then.st_mtime_ns):
            raise Corrupt(f"{self.path}: the file was written to after it was opened; open it anew")

    @contextmanager
    def _reopened(self) -> Iterator[int]:
        with about(self.path), opened(self.path) as fd:
            if fingerprint(fd, read_sound_header(fd)) != self._fingerprint:
                raise Corrupt("the file was replaced after it was opened; open it anew")
            yield fd


def _reopen(path: str, load: str, expected: int) -> LabelFile:
    file = LabelFile(path, load=load)
    if file._fingerprint != expected:
        raise Corrupt(f"{path}: not the file that was pickled; open it anew")
    return file
