"""Exploration: every state that the steps of a small model reach, breadth first, and the way to each."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

S = TypeVar("S", bound=Hashable)


@dataclass(frozen=True)
class Result:
    states: int
    fault: str = ""
    trace: tuple[str, ...] = ()

    def report(self) -> int:
        """Print it; return what a program that was asked for it ends with."""
        print(*self.trace, sep="\n")
        print(f"{self.states:,} states: {self.fault or 'correct'}")
        return 1 if self.fault else 0


class Exploration(Generic[S]):
    """Goes through the states while whoever goes through them says what is reached from each."""

    def __init__(self, first: S) -> None:
        self.states = [first]
        self.came_from: dict[S, tuple[S, str] | None] = {first: None}
        self.earlier: dict[S, list[S]] = {}  # from which states each is reached; only where `hopes` says so

    def __iter__(self) -> Iterator[S]:
        yield from self.states  # which grows

    def reach(self, after: S, state: S, what: str) -> None:
        if after not in self.came_from:
            self.came_from[after] = (state, what)
            self.states.append(after)

    def hopes(self, state: S, after: S) -> None:
        """Remember the step as one that may be hoped for, as a death may not."""
        self.earlier.setdefault(after, []).append(state)

    def without_hope(self, good: Iterable[S]) -> Iterator[S]:
        """The states from which none of the good ones can be reached by steps that may be hoped for, the nearest first."""
        found = list(good)
        reach_it = set(found)
        for state in found:  # which grows
            for earlier in self.earlier.get(state, ()):
                if earlier not in reach_it:
                    reach_it.add(earlier)
                    found.append(earlier)
        return (state for state in self.states if state not in reach_it)

    def result(self, fault: str = "", state: S | None = None) -> Result:
        """What was found, and the steps that lead to the state in which it was."""
        told: list[str] = []
        while state is not None and (step := self.came_from[state]) is not None:
            state, what = step
            told.append(what)
        return Result(len(self.states), fault, tuple(reversed(told)))
