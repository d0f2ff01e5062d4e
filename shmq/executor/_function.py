"""Function: the user's function that a worker calls with each message. It is found by its name, and checked before anything runs.

A callable that would run nothing is refused at the start. To call a generator function only makes a generator, to call a class
only makes an object, and the message would be acked for that. Coroutines run in one event loop per worker. So what
belongs to a loop (a session, a pool of connections) outlasts a message, as it does in any asyncio program.
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
    """Import the function that MODULE:FUNCTION names. **Raises** ValueError that says what is wrong with it."""
    found = find(name, "FUNCTION")
    if problem := problem_of(found):
        raise ValueError(f"{name} {problem}")
    return found  # type: ignore[no-any-return]  # problem_of has found it to be callable


def find(name: str, what: str) -> Any:
    """Import the thing that MODULE:WHAT names. **Raises** ValueError that says what is wrong with the name."""
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
    """Why this thing cannot be called with a message; "" where it can be."""
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
        signature = inspect.signature(
            found, follow_wrapped=False
        )  # a decorator may take other arguments than the function that it decorates
    except (TypeError, ValueError):
        return ""  # some functions that are built in have no signature
    try:
        signature.bind(None)
    except TypeError as error:
        return f"cannot be called with one argument, the message: {error}"
    return ""


class Function:
    """The function that a name stands for, and the event loop in which its coroutines run."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.function = find_function(name)
        self.wants_lease = wants_lease(self.function)
        self.loop: AbstractEventLoop | None = None

    def __call__(self, lease: Lease) -> None:
        """Call the function with the message, and wait for its coroutine, if it returns one. **Raises** what it raises."""
        result = self.function(lease if self.wants_lease else lease.data)
        if inspect.isawaitable(result):
            result = self.wait_for(result)
        if inspect.isgenerator(result) or inspect.isasyncgen(result):
            raise TypeError(f"{self.name} returned a generator, so nothing of it was run: let it do its work and return")

    def wait_for(self, awaitable: Awaitable[Any]) -> Any:
        """Run a coroutine in the event loop of this function."""
        import asyncio

        if self.loop is None:
            self.loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self.loop)

        async def outcome() -> Any:
            return await awaitable

        return self.loop.run_until_complete(outcome())

    def close(self) -> None:
        """Cancel the asyncio tasks that the function has left in the loop, wait for their end, and close the loop."""
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
    """Is the first parameter called `lease`? Then the function is given the lease itself, which it may extend or reject."""
    try:
        return next(iter(inspect.signature(function).parameters), "") == "lease"
    except (TypeError, ValueError):
        return False
