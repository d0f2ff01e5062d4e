"""How the standard library's own test suites are run against our types: taken from the running interpreter, never copied.

A deliberate difference is a test that is expected to fail, with the reason; one that passes is an error, so that the list
stays true.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import unittest
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any


def borrowed(module: str) -> ModuleType:
    """A module of the interpreter's `test` package; where that is not installed, the tests that need it are skipped."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        import pytest  # not before: a spawned child of a test imports the module that borrowed, and would import it for nothing

        pytest.skip(f"this interpreter comes without {module}: {error}", allow_module_level=True)


def with_differences(case: type, differences: Mapping[str, str]) -> type:
    """The test case, in which the tests that fail on purpose fail where the borrowed ones pass."""
    for name, reason in differences.items():
        if hasattr(case, name):  # not in the suite of every version
            setattr(case, name, must_fail(getattr(case, name), reason))
    return case


def must_fail(test: Callable[[Any], Any], reason: str) -> Callable[[Any], Any]:
    """The test, which is to fail for that reason."""
    passed = f"passes, although it is listed as a difference: {reason}"

    # Not by a context manager: the exception would live on in its frames, and the queues of the test with it.
    @functools.wraps(test)
    def wrapper(self: unittest.TestCase) -> None:
        try:
            test(self)
        except unittest.SkipTest:
            raise
        except Exception:
            return
        self.fail(passed)

    @functools.wraps(test)
    async def awaited(self: unittest.TestCase) -> None:
        try:
            await test(self)
        except unittest.SkipTest:
            raise
        except Exception:
            return
        self.fail(passed)

    return awaited if inspect.iscoroutinefunction(test) else wrapper
