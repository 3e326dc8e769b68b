"""What torch.compile is to leave alone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

Function = TypeVar("Function", bound=Callable[..., Any])


def eager(function: Function) -> Function:
    """The function, which torch.compile calls as it is instead of reading it.

    torch.compiler.disable as a decorator imports the compiler, which takes longer than all else here: workers and
    commands that compile nothing go without.
    """

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        if torch.compiler.is_compiling():
            return torch.compiler.disable(function)(*arguments, **options)  # type: ignore[no-untyped-call]
        return function(*arguments, **options)

    return cast(Function, call)
