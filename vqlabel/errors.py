"""What can be wrong with a label file."""

from collections.abc import Iterator
from contextlib import contextmanager


class FormatError(Exception):
    """A file cannot be used as a label set. The kinds below say why; each message says what to do."""


class NotALabelFile(FormatError):  # noqa: N818 - the name is the sentence
    """The file is something else: a pickle, a directory, a safetensors file of another kind."""


class NewerVersion(FormatError):  # noqa: N818
    """The file was written by a later version of the format than this reader knows."""


class Truncated(FormatError):  # noqa: N818
    """The file ends too early: a download or a copy was cut off."""


class Unfinished(FormatError):  # noqa: N818
    """The file is still being written, or its writer was stopped; it can be resumed."""


class Corrupt(FormatError):  # noqa: N818
    """The file contradicts itself or its checksums."""


@contextmanager
def about(path: str) -> Iterator[None]:
    """Put the name of the file before every FormatError of the block."""
    try:
        yield
    except FormatError as error:
        raise type(error)(f"{path}: {error}") from None
