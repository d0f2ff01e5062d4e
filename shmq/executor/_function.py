"""The function of a user's that a worker calls with each message: found by its name, looked at before anything runs, and called.

What can be seen to run nothing is refused at the start: to call a generator function makes a generator, and to call a class an
object, and the message would be acked for that. A coroutine is run, in one event loop per worker: what belongs to a loop (a
session, a pool of connections) outlasts a message, as it does in any asyncio program.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from shmq._core import Lease

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

__all__ = ["Function", "find", "find_function"]


def find_function(name: str) -> Callable[..., Any]:
    """The function that MODULE:FUNCTION names. Raises ValueError that says what is wrong."""
    found = find(name, "FUNCTION")
    if problem := problem_of(found):
        raise ValueError(f"{name} {problem}")
    return found  # type: ignore[no-any-return]


def find(name: str, what: str) -> Any:
    """The thing that MODULE:WHAT names. Raises ValueError that says what is wrong."""
    module_name, colon, path = name.partition(":")
    if not (module_name and colon and path):
        example = f"package.module:{what.lower()}"
        raise ValueError(f"{name!r} names no {what.lower()}: write MODULE:{what}, as in {example}")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise ValueError(f"module {module_name!r} cannot be imported: {error}") from error
        raise ValueError(f"there is no module {error.name!r} in {os.getcwd()} nor elsewhere on the path") from None
    except (Exception, SystemExit) as error:
        raise ValueError(f"module {module_name!r} cannot be imported: {type(error).__name__}: {error}") from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise ValueError(f"module {module_name!r} has no {path!r}")
        found = getattr(found, part)
    return found


def problem_of(found: Any) -> str:
    """Why this cannot be called with a message; "" where it can."""
    if not callable(found):
        return f"is no function, but {found!r}"
    if inspect.isclass(found):
        return "is a class: to call it only makes an object. Name a function, a method of an object, or an object with __call__"
    within = found
    while isinstance(within, functools.partial):
        within = within.func
    for body in (within, type(within).__call__):
        if inspect.isgeneratorfunction(body) or inspect.isasyncgenfunction(body):
            return "is a generator function: to call it runs nothing of it. Let it do its work and return, without yield"
    try:
        signature = inspect.signature(found, follow_wrapped=False)  # a decorator may take another number than what it decorates
    except (TypeError, ValueError):
        return ""  # of some that are built in, nobody can tell
    try:
        signature.bind(None)
    except TypeError as error:
        return f"cannot be called with one argument, the message: {error}"
    return ""


class Function:
    """Such a function, and the event loop in which its coroutines run."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.function = find_function(name)
        self.wants_lease = wants_lease(self.function)
        self.loop: AbstractEventLoop | None = None

    def __call__(self, lease: Lease) -> None:
        """Call it with the message, and wait until all that it does is done. Raises what it raises."""
        result = self.function(lease if self.wants_lease else lease.data)
        if inspect.isawaitable(result):
            result = self.wait_for(result)
        if inspect.isgenerator(result) or inspect.isasyncgen(result):
            raise TypeError(f"{self.name} returned a generator, of which nothing was run: let it do its work and return")

    def wait_for(self, awaitable: Awaitable[Any]) -> Any:
        import asyncio

        if self.loop is None:
            self.loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self.loop)

        async def outcome() -> Any:
            return await awaitable

        return self.loop.run_until_complete(outcome())

    def close(self) -> None:
        """Cancel what it has left behind in the loop, and wait for that."""
        if self.loop is None:
            return
        import asyncio

        loop = self.loop
        left = asyncio.all_tasks(loop)

        async def end() -> None:
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            await loop.shutdown_asyncgens()
            await loop.shutdown_default_executor()

        loop.run_until_complete(end())
        loop.close()
        asyncio.set_event_loop(None)


def wants_lease(function: Callable[..., Any]) -> bool:
    """Is its first parameter called `lease`? Then it is given the lease itself, and may extend or reject it."""
    try:
        return next(iter(inspect.signature(function).parameters), "") == "lease"
    except (TypeError, ValueError):
        return False
