"""Who looks for the dead, and how often: sleepers that share the watch, explored in every order of their steps.

    python tests/model/watch.py 3 --faults 1 --arrivals 1

bells.py says that nobody sleeps on beside a message; this model says that somebody looks in time for what nobody rings for, and
that not all do (watch.c: who looks for the dead). Time is counted in steps of 20 ms: a look is due after LOOK, a deputy is LATE
by one, other sleepers sleep MOST. A step of a process is one access to shared memory and takes no time; time goes on when all
sleep.

Sleepers may be killed, or stopped, at any moment, and may be woken for a message and go; others arrive. Checked: (1) while
somebody sleeps, the last look is never longer ago than LOOK; after a fault, than LOOK and what a deputy is late by; after
several, than MOST; and some time after the last fault no longer than LOOK again; (2) two looks are never closer than LOOK,
however many wake at once.

Not modelled: sleepers that wake late because the machine is busy; producers' short slices; leases.
What was seen (CPython 3.11; states, seconds), all correct: 2 sleepers, 1 fault, 1 arrival: 26,340, 0.4; 3 sleepers, 2 faults:
31,485, 0.6; 4 sleepers, 1 fault: 146,689, 7.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from exploration import Exploration, Result

LOOK, LATE, MOST, GRACE = 4, 1, 12, 1
QUIET = MOST + 2 * LOOK  # after so long without a fault the watch is kept again

NO_DEPUTY = "nobody looks after the watch"
OF_ITS_OWN = "a deputy sleeps by its own clock, not by when the look is due"
NEVER_ENDS = "a duty does not end by itself"
NO_SWAP = "whoever finds the look due looks, and moves the time afterwards"
EVERYBODY = "every sleeper looks at the end of its slice"
MUTANTS = (NO_DEPUTY, OF_ITS_OWN, NEVER_ENDS, NO_SWAP, EVERYBODY)

LONG_AGO = "nobody has looked for too long"
TOO_OFTEN = "two looks are too close"

NONE, WATCH, DEPUTY = range(3)
DUTIES = (WATCH, DEPUTY)


class Process(NamedTuple):
    """Where it is, and what it remembers; times are from now."""

    step: str
    wakes: int = 0
    duty: int = NONE
    until: int = 0


class State(NamedTuple):
    due: int  # the next look; 0: now, or long ago
    until: tuple[int, int]  # of the duties; 0: nobody's
    ago: int  # the last look; ghost
    processes: tuple[Process, ...]
    faults: int
    happened: int  # how many faults there were, …
    quiet: int  # … and how long ago the last one; both ghosts


Step = tuple[str, State]


@dataclass(frozen=True)
class Configuration:
    sleepers: int
    faults: int = 0
    arrivals: int = 0
    mutant: str = ""


class Protocol:
    def __init__(self, configuration: Configuration) -> None:
        self.configuration, self.mutant = configuration, configuration.mutant

    def first(self) -> State:
        here = (Process("is_it_due"),) * self.configuration.sleepers
        away = (Process("away"),) * self.configuration.arrivals
        return State(0, (0, 0), LOOK, here + away, self.configuration.faults, 0, QUIET)

    @staticmethod
    def at(state: State, number: int, process: Process) -> State:
        return state._replace(processes=(*state.processes[:number], process, *state.processes[number + 1 :]))

    def steps(self, state: State) -> Iterator[Step]:
        awake = [n for n, process in enumerate(state.processes) if process.step not in ("asleep", "away", "gone")]
        for number in awake:
            for what, after in getattr(self, state.processes[number].step)(state, number, state.processes[number]):
                yield f"{number} {what}", after
        for number, process in enumerate(state.processes):
            if process.step == "gone":
                continue
            if process.step == "away":
                yield f"{number} arrives", self.at(state, number, Process("is_it_due"))
            elif state.faults:
                fewer = state._replace(faults=state.faults - 1, happened=state.happened + 1, quiet=0)
                yield f"{number} is killed", self.at(fewer, number, Process("gone"))
                if process.step == "asleep":
                    yield f"{number} is woken for a message", self.at(fewer, number, process._replace(step="leave"))
        if not awake and any(process.step == "asleep" for process in state.processes):
            yield "time goes on", self.later(state)

    def later(self, state: State) -> State:
        def sooner(process: Process) -> Process:
            process = process._replace(until=max(process.until - (self.mutant != NEVER_ENDS), 0))
            if process.step != "asleep":
                return process
            left = process.wakes - 1
            return process._replace(wakes=left, step="rise" if left == 0 else "asleep")

        ends = self.mutant != NEVER_ENDS
        return state._replace(
            due=max(state.due - 1, 0),
            until=(max(state.until[0] - ends, 0), max(state.until[1] - ends, 0)),
            ago=state.ago + 1,
            quiet=min(state.quiet + 1, QUIET),
            processes=tuple(sooner(process) for process in state.processes),
        )

    # -- a sleeper -----------------------------------------------------------------------------------------------------------

    def is_it_due(self, state: State, number: int, process: Process) -> Iterator[Step]:
        if state.due and self.mutant != EVERYBODY:
            yield "sees that the look is not due", self.at(state, number, process._replace(step="take_watch"))
        else:
            yield "sees that the look is due", self.at(state, number, process._replace(step="move"))

    def move(self, state: State, number: int, process: Process) -> Iterator[Step]:
        then = process._replace(step="take_watch")
        if state.due and self.mutant not in (NO_SWAP, EVERYBODY):
            yield "finds that another one was quicker", self.at(state, number, then)
        else:
            yield "looks", self.at(state._replace(due=LOOK, ago=0), number, then)

    def take_watch(self, state: State, number: int, process: Process) -> Iterator[Step]:
        yield from self.take(state, number, process, WATCH, "lie_down" if self.mutant == NO_DEPUTY else "take_deputy")

    def take_deputy(self, state: State, number: int, process: Process) -> Iterator[Step]:
        yield from self.take(state, number, process, DEPUTY, "lie_down")

    def take(self, state: State, number: int, process: Process, duty: int, otherwise: str) -> Iterator[Step]:
        if state.until[duty - 1]:
            yield "finds the duty another's", self.at(state, number, process._replace(step=otherwise))
            return
        until = LOOK + GRACE + LATE * (duty == DEPUTY)
        yield f"takes duty {duty}", self.at(self.with_duty(state, duty, until), number, Process("lie_down", 0, duty, until))

    @staticmethod
    def with_duty(state: State, duty: int, until: int) -> State:
        return state._replace(until=(until, state.until[1]) if duty == WATCH else (state.until[0], until))

    def lie_down(self, state: State, number: int, process: Process) -> Iterator[Step]:
        wakes = MOST
        if process.duty != NONE:
            wakes = (LOOK if self.mutant == OF_ITS_OWN else state.due or LOOK) + LATE * (process.duty == DEPUTY)
        yield "lies down", self.at(state, number, process._replace(step="asleep", wakes=wakes))

    def rise(self, state: State, number: int, process: Process) -> Iterator[Step]:
        yield "wakes", self.at(self.without_duty(state, process), number, Process("is_it_due"))

    def leave(self, state: State, number: int, process: Process) -> Iterator[Step]:
        yield "goes with a message", self.at(self.without_duty(state, process), number, Process("gone"))

    def without_duty(self, state: State, process: Process) -> State:
        mine = process.duty != NONE and process.until and state.until[process.duty - 1] == process.until
        return self.with_duty(state, process.duty, 0) if mine else state


def check(configuration: Configuration) -> Result:
    """Explore everything. The first violation, with the steps that lead to it."""
    protocol = Protocol(configuration)
    exploration = Exploration(protocol.first())
    for state in exploration:
        most = LOOK if state.quiet == QUIET else LOOK + LATE if state.happened < 2 else MOST + LATE
        if state.ago > most and any(process.step in ("asleep", "rise") for process in state.processes):
            return exploration.result(LONG_AGO, state)
        for what, after in protocol.steps(state):
            exploration.reach(after, state, what)
            if what.endswith(" looks") and state.ago < LOOK:
                return exploration.result(TOO_OFTEN, after)
    return exploration.result()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Explore every order of the steps of sleepers that share the watch.")
    parser.add_argument("sleepers", type=int)
    for name in ("faults", "arrivals"):
        parser.add_argument(f"--{name}", type=int, default=0)
    parser.add_argument("--mutant", choices=MUTANTS, default="")
    return check(Configuration(**vars(parser.parse_args(arguments)))).report()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
