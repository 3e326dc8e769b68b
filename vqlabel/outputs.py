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
    """OSError if this path names nothing, or its folder is not there, or may not be written to."""
    if os.path.basename(out) in ("", ".", ".."):
        raise IsADirectoryError(f"{out!r} names no file: say a name for what is to be made, without '/' at its end")
    folder, name = os.path.split(os.path.abspath(out))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{folder} is not there: make the folder that {name} is to lie in")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} may not be written to, so {name} cannot lie there: choose another folder")


def check_picture(out: str) -> None:
    """OSError if no picture can be drawn at this path; one that is there is drawn anew."""
    check_folder(out)
    if os.path.isdir(out):
        raise IsADirectoryError(f"{out} is a folder: say the name of a picture in it")


def check_not_begun(out: str) -> None:
    """OSError if something lies where this file, or folder, is kept until it is whole."""
    if os.path.lexists(out + PARTIAL):
        raise FileExistsError(
            f"{out}{PARTIAL} is there: another process is writing it, or was stopped; delete it if none is"
        )


@contextmanager
def made_whole(out: str) -> Iterator[str]:
    """Where to write the file or folder that becomes `out` when it is whole; after an error nothing is left of it."""
    check_not_begun(out)
    partial = out + PARTIAL
    try:
        yield partial
    except BaseException:
        if os.path.isdir(partial):
            shutil.rmtree(partial, ignore_errors=True)
        else:
            with suppress(FileNotFoundError):
                os.unlink(partial)
        raise
    name_whole(partial, out)


def name_whole(partial: str, out: str) -> None:
    """Give what is whole its name; OSError if that was taken meanwhile, and then all stays where it is."""
    if os.path.exists(out):
        raise FileExistsError(f"{out} appeared while {partial} was written, which is whole: move one of them")
    os.replace(partial, out)
