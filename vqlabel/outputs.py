"""Where a command puts what it makes: looked at before the work, and left clean where the work fails."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from vqlabel.storage import PARTIAL


def check_free(out: str) -> None:
    """OSError if nothing new can be made at this path."""
    if os.path.exists(out):
        raise FileExistsError(f"{out} exists; delete it or choose another name")
    check_folder(out)


def check_folder(out: str) -> None:
    """OSError if the folder of this path is not there, or may not be written to."""
    folder, name = os.path.split(os.path.abspath(out))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{folder} is not there: make the folder that {name} is to lie in")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} may not be written to, so {name} cannot lie there: choose another folder")


@contextmanager
def made_whole(out: str) -> Iterator[str]:
    """Where to write the file or folder that becomes `out` when it is whole; after an error nothing is left of it."""
    partial = out + PARTIAL
    if os.path.lexists(partial):
        raise FileExistsError(
            f"{partial} is there: another process is writing it, or was stopped; delete it if none is"
        )
    try:
        yield partial
        os.replace(partial, out)
    except BaseException:
        if os.path.isdir(partial):
            shutil.rmtree(partial, ignore_errors=True)
        else:
            with suppress(FileNotFoundError):
                os.unlink(partial)
        raise
