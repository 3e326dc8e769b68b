"""data_0.parquet, data_1.parquet, ... of a DistillKit set: a row is a sequence, an item of its lists a position."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqlabel.convert.distillkit_bytes import Column
from vqlabel.convert.distillkit_config import need
from vqlabel.convert.torch_files import UnreadableFile

DATA = re.compile(r"data_(\d{1,9})\.parquet")
TOKENS = "input_ids"
LEGACY = "packed_indices"
SEQUENCES = 64  # whose tokens are read in one go
VOTES = 16  # sequences that say how many labels they have
LEAVES = 2**22  # numbers that are read in one go, if a sequence has no more: 16 bytes of memory each
MAX_LEAVES = 2**25  # of a sequence, which is read whole
MAX_PER_BYTE = 64  # positions that a byte of a file may hold: labels do not compress


def data_files(path: str) -> tuple[list[str], list[str]]:
    """Paths of the data files in order, and faults: gaps in their numbers."""
    found = {int(match[1]): name for name in os.listdir(path) if (match := DATA.fullmatch(name))}
    faults, due = [], 0
    for number in sorted(found):
        if number > due:
            last = f" to data_{number - 1}.parquet" if number - 1 > due else ""
            faults.append(f"{os.path.join(path, f'data_{due}.parquet')}{last}: not there")
        due = number + 1
    return [os.path.join(path, found[number]) for number in sorted(found)], faults


class DataFile:
    """A data file. UnreadableFile for whatever is wrong with it."""

    def __init__(self, path: str) -> None:
        self.path = path
        with self._opened() as file:
            self.legacy = LEGACY in file.schema_arrow.names
        self.lengths: list[NDArray[np.int64]] = []  # positions of the sequences of each row group

    @property
    def positions(self) -> int:
        """Positions of all its sequences."""
        return int(sum(group.sum() for group in self.lengths))

    def measure(self, columns: list[Column]) -> None:
        """Find out its lengths, and whether its columns can be read."""
        size = os.path.getsize(self.path)
        with self._opened() as file:
            for column in columns:
                _check_type(file.schema_arrow, column.name, column.dtype, 2)
            _check_type(file.schema_arrow, TOKENS, "<u8", 1)
            self.lengths = [_lengths(file, group) for group in range(file.num_row_groups)]
        if self.positions > MAX_PER_BYTE * size:
            raise UnreadableFile(
                f"its {size} bytes cannot hold the labels of the {self.positions} positions it tells of"
            )
        longest = max((int(group.max(initial=0)) for group in self.lengths), default=0)
        most = MAX_LEAVES // sum(column.count for column in columns)
        if longest > most:
            raise UnreadableFile(f"it has a sequence of {longest} positions, but only up to {most} can be read")

    def batches(self, group: int, columns: list[Column]) -> Iterator[tuple[int, Any]]:
        """Record batches of a row group with the number that their first sequence has in the group."""
        names, width = [TOKENS, *(column.name for column in columns)], sum(column.count for column in columns)
        longest = int(self.lengths[group].max(initial=0))
        rows, first = max(1, min(LEAVES // max(longest * width, 1), SEQUENCES)), 0
        with self._opened() as file:
            for batch in file.iter_batches(rows, row_groups=[group], columns=names, use_threads=False):
                if first + batch.num_rows > len(self.lengths[group]):
                    raise UnreadableFile("its columns are not of one length")
                yield first, batch
                first += batch.num_rows
        if first < len(self.lengths[group]):
            raise UnreadableFile(f"a row group ends after {first} of {len(self.lengths[group])} sequences")

    def votes(self, columns: list[Column]) -> NDArray[np.int64]:
        """Of its first sequences of several tokens, how many have a label for each token, and how many one fewer.

        vLLM says of each token but the first how likely it was: so the sets that DistillKit makes with it have a label
        fewer than tokens.
        """
        names, found = [column.name for column in columns], np.zeros(2, np.int64)
        for group in range(len(self.lengths)):
            with suppress(UnreadableFile):  # whoever reads the group will say so
                for _, batch in self.batches(group, columns):
                    tokens, *labels = (unnested(batch.column(name))[0] for name in (TOKENS, *names))
                    apart = (tokens - np.stack(labels))[:, tokens > 1]
                    found += [int((apart == spare).all(0).sum()) for spare in (0, 1)]
                    if found.sum() >= VOTES:
                        return found
        return found

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        arrow, parquet = need("pyarrow"), need("pyarrow.parquet")
        try:
            with parquet.ParquetFile(self.path, buffer_size=2**20, page_checksum_verification=True) as file:
                yield file
        except (arrow.ArrowException, OSError, UnicodeError) as error:
            words = " ".join(str(error).split())
            raise UnreadableFile(f"it is cut off or damaged, or no Parquet file: {words:.160}") from None


def unnested(array: Any) -> tuple[NDArray[np.int64], Any]:
    """Lengths of the lists of an Arrow array, and their items; none for a list that is null."""
    compute = need("pyarrow.compute")
    lengths = compute.fill_null(array.value_lengths(), 0)
    return lengths.to_numpy(zero_copy_only=False).astype(np.int64), array.flatten()


def numbers(array: Any, dtype: str) -> NDArray[Any]:
    """Items as numbers; UnreadableFile if one is null."""
    if array.null_count:
        raise UnreadableFile(f"{array.null_count} of its numbers are null")
    with np.errstate(over="ignore"):  # a double that is no float32 becomes infinite, and is found as that
        found: NDArray[Any] = array.to_numpy(zero_copy_only=False).astype(dtype, copy=False)
    return found


def _lengths(file: Any, group: int) -> NDArray[np.int64]:
    """Positions of each sequence of a row group.

    Only reading tells: pyarrow ends the process when it is asked for the metadata of a column that is damaged.
    """
    batches = file.iter_batches(SEQUENCES, row_groups=[group], columns=[TOKENS], use_threads=False)
    return np.concatenate([np.zeros(0, np.int64), *(unnested(batch.column(0))[0] for batch in batches)])


def _check_type(schema: Any, name: str, dtype: str, depth: int) -> None:
    """UnreadableFile unless a column is a list of lists of these numbers; of any floats, or any whole numbers."""
    types = need("pyarrow").types
    if schema.get_field_index(name) < 0:
        raise UnreadableFile(f"it has no column {name}, but {', '.join(schema.names)!s:.80}")
    kind = schema.field(name).type
    for _ in range(depth):
        if not (types.is_list(kind) or types.is_large_list(kind)):
            raise UnreadableFile(f"its column {name} is {schema.field(name).type!s:.80}")
        kind = kind.value_type
    fits = {"u1": types.is_uint8, "<f4": types.is_floating, "<u8": types.is_integer}[dtype]
    if not fits(kind):
        raise UnreadableFile(f"its column {name} is {schema.field(name).type!s:.80}")
