"""Backoff: how long a message rests after a failed delivery before it is delivered again."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Backoff"]

YEAR = 366 * 86400.0


class Backoff(NamedTuple):
    """How long a message rests after a failed delivery. The default: not at all.

    After the nth failure it rests `initial * factor ** (n - 1)` seconds, at most `maximum`; chance adds or takes away up to the
    share `jitter` of that, so that messages which failed together do not all come back together.
    """

    initial: float = 0.0
    factor: float = 2.0
    maximum: float = 60.0
    jitter: float = 0.1

    def _checked(self) -> Backoff:
        """This back-off in floats. **Raises** ValueError or TypeError that names the number that is not possible."""
        values = {}
        for field, least, most in (("initial", 0.0, YEAR), ("factor", 1.0, 1000.0), ("maximum", 0.0, YEAR), ("jitter", 0.0, 1.0)):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"backoff: {field} must be a number, not {value!r}")
            if not least <= value <= most:
                raise ValueError(f"backoff: {field} must lie between {least:g} and {most:g}, but is {value!r}")
            # Rounded, times survive the way through the segment's nanoseconds: a program that gives the same values finds them.
            values[field] = round(float(value), 6) if most == YEAR else float(value)
        return Backoff(**values)
