"""`vqlabel push` and `vqlabel pull`: label files to and from the Hugging Face hub."""

from __future__ import annotations

import argparse
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from vqlabel._version import __version__
from vqlabel.card import card, check_name, section, updated
from vqlabel.errors import Corrupt, FormatError
from vqlabel.file import LabelFile
from vqlabel.outputs import check_free, name_whole
from vqlabel.storage import PARTIAL
from vqlabel.terminal import one_line, say

README = "README.md"


def push(options: argparse.Namespace) -> int:
    """Put a label file and its card into a repository, which is made if there is none."""
    check_name(options.name)
    file = _sound(options.labels)
    with _asking(options.repo_id, options.name, token=True) as api:
        from huggingface_hub import CommitOperationAdd

        kind = {"repo_type": options.repo_type}
        made = api.create_repo(options.repo_id, private=options.private or None, exist_ok=True, **kind)
        repo = made.repo_id  # with the user's name, which may be left out
        info = api.repo_info(repo, **kind)
        if options.private and not info.private:
            raise ValueError(f"{repo} exists and is public: nothing was sent; make it private first, or choose another")
        operations = [CommitOperationAdd(options.name, file.path)]
        if options.card:
            text = _card(api, file, repo, info.sha, options)
            operations.append(CommitOperationAdd(README, text.encode()))
        message = options.message or f"{options.name}, by vqlabel {__version__}"
        # Refused if somebody commits in between: their card could be lost.
        api.create_commit(repo, operations, commit_message=message, parent_commit=info.sha, **kind)
    print(f"{one_line(made)}/blob/main/{options.name}")
    return 0


def pull(options: argparse.Namespace) -> int:
    """Get a label file into the hub's cache, and from there to where it is wanted."""
    if options.out:
        check_free(options.out)
    with _asking(options.repo_id, options.name) as api:
        kind = {"repo_type": options.repo_type}
        path = api.hf_hub_download(options.repo_id, options.name, revision=options.revision, **kind)
    _sound(path)
    if options.out:
        _copy(path, options.out)
    print(one_line(options.out or path))
    return 0


def _copy(path: str, out: str) -> None:
    partial = f"{out}.pull{PARTIAL}"  # not the name that a writer of `out` would use
    try:
        shutil.copyfile(path, partial)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(partial)
        raise
    name_whole(partial, out)


def _sound(path: str) -> LabelFile:
    file = LabelFile(path)
    verdict = file.verify()
    if not verdict:
        raise Corrupt(f"{file.path}: {verdict}; delete it and fetch or make it again")
    return file


def _card(api: Any, file: LabelFile, repo: str, revision: str | None, options: argparse.Namespace) -> str:
    """The card of the repository, as it is to be."""
    from huggingface_hub.errors import RemoteEntryNotFoundError

    try:
        path = api.hf_hub_download(repo, README, repo_type=options.repo_type, revision=revision)
    except RemoteEntryNotFoundError:  # and nothing else: a card that could not be read is not one that is not there
        return card(file, repo, name=options.name, repo_type=options.repo_type)
    try:
        with open(path, encoding="utf-8", newline="") as readme:
            text = readme.read()
    except UnicodeDecodeError:
        raise ValueError(f"{README} of {repo} is not UTF-8: repair it, or leave it as it is with --no-card") from None
    return updated(text, section(file, repo, options.name, options.repo_type), options.name)


@contextmanager
def _asking(repo: str, name: str, *, token: bool | None = None) -> Iterator[Any]:
    """The hub's API, with a token if True. What goes wrong, in any library below, becomes one line; so do warnings."""
    try:
        import huggingface_hub
    except ImportError:
        raise ValueError("push and pull need huggingface_hub: pip install 'vqlabel[hub]'") from None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        try:
            yield huggingface_hub.HfApi(token=token, library_name="vqlabel", library_version=__version__)
        except Exception as error:
            if isinstance(error, (ValueError, FormatError)) and not hasattr(error, "response"):
                raise
            raise OSError(f"{repo}: {_in_words(error, name)}") from error
    for warning in caught:
        say(f"warning: {one_line(warning.message)}")


def _in_words(error: BaseException, name: str) -> str:
    """What the hub or the way to it refused, and what to do."""
    import huggingface_hub.errors as known

    while isinstance(error, (RuntimeError, known.LocalEntryNotFoundError)) and error.__cause__ is not None:
        error = error.__cause__  # what stopped an upload or a look at the hub
    login = "log in with `hf auth login`, or set HF_TOKEN"
    words = (
        (known.LocalTokenNotFoundError, f"there is no token: {login}"),
        (known.OfflineModeIsEnabled, "HF_HUB_OFFLINE is set, and this needs the hub"),
        (known.GatedRepoError, f"it is gated: ask for access on its page, then {login}"),
        (
            known.RepositoryNotFoundError,
            f"not found, or hidden from you: check its name and --repo-type; if it is private, {login}",
        ),
        (known.RevisionNotFoundError, "it has no such revision"),
        (known.RemoteEntryNotFoundError, f"it has no file {name!r}"),
    )
    for kind, text in words:
        if isinstance(error, kind):
            return text
    if isinstance(error, known.HfHubHTTPError):
        return _status_in_words(error)
    return f"{type(error).__name__}: {error}"


def _status_in_words(error: Any) -> str:
    status = error.response.status_code
    words = {
        401: "the hub does not accept your token: log in again with `hf auth login`, or set HF_TOKEN",
        403: "your token may not do this: it needs the right to write here",
        409: "somebody else changed it meanwhile; push again",
        412: "somebody else changed it meanwhile; push again",
        429: "the hub has had too many requests from you; wait a while",
    }
    return words.get(status, f"the hub answered {status}: {error.server_message or 'without a reason'}")
