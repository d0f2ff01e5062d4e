"""Who publishes and who waits for it, asleep or for a bell, explored in every order of their steps.

    python tests/model/bells.py PPLLC --puts 2
    python tests/model/bells.py PLS --crashes 1 --mutant "looks before it arms"

exchange.py says that no message is lost; this model says that none lies there while somebody waits for it (wait, wake, bell;
the ends of a wait in _waiting/bell.py, _waiting/loop_waiters.py and _binding/attach.pxi). Messages are a number, the waiters of
one side take one each. A role has a letter:

    P  publishes: exchange, look at the count of waiters, post a sleeper, else ring a bell
    L  listens: arms its bell, says so in the count, looks, waits for its descriptor to be readable; takes, disarms, goes
    G  as L, and may give up at any moment before it has taken something
    S  sleeps on the semaphore: counts itself, looks, sleeps, takes
    T  as S, and may give up, because its time is over
    C  comes by: takes a message if there is one, and never waits
    D  was killed while it listened, before all this

A step is one access to shared memory, to the semaphore, or to a FIFO. Any process may be killed before any of its steps.

Checked without deaths, where nobody can go on but by the clock: (1) no message lies there while a waiter waits that nobody has
woken; (2) the count is that of the sleepers; (3) whoever publishes then wakes somebody who waits, or takes the flag SHMQ_BELLS
away where nobody does. And at any time: (4) one message wakes one waiter. What that admits beside it: a bell that is armed again
before its owner has gone may be rung for nothing; a waiter that was told and goes without a message tells another, which may find
the message taken; and whoever had taken the flag away and then finds armed bells rings them all, since others may have published
meanwhile, and saw no flag. With deaths: (1) to (3) hold after one slice of time, when everybody has looked by the clock and the
dead were reaped; but (2) only so far that nobody is counted who does not sleep, since that would cost a listener a ring. Whoever
dies between taking a sleeper off and posting leaves one too few, until a sleeper finds that it is the last.

Not modelled: the wake-ups for room that are not worth it (they are left to the clock on purpose); FIFOs that are full or were
removed; several tasks behind one bell, which take turns in one thread; memory orders weaker than sequential consistency.
What was seen (CPython 3.11, one core of a shared machine; states, seconds), all correct:

    PPLL                 145,868    3      PLLL  --puts 2               2,111,531   45
    PGL  --puts 2         68,135    1      PPLST --puts 2               1,844,663   53
    PTLS --puts 2         38,657    1      PPLS  --puts 2 --crashes 1     271,674    7
    PPLLC                359,712    9      PGLS  --puts 2 --crashes 1   1,224,973   35
    PPGL                 324,062    7      PPGS  --puts 2                 265,109    5
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from exploration import Exploration, Result

FLAG_FIRST = "says that a bell is armed before it arms it"
LOOKS_FIRST = "looks before it arms"
CLEARS_LAST = "clears after it has armed"
NO_SECOND_LOOK = "takes the flag away and does not look again"
SECOND_RINGS_ONE = "rings one bell in the second look"
KEEPS_A_RING = "goes with a ring that it has not heard"
KEEPS_WHAT_IT_HEARD = "gives up with a ring that it has heard"
PASSES_ON_ONE = "gives up with two rings, and passes one on"
HEARS_ONLY = "takes for rung what it hears, and not what it finds when it arms again"
NEVER_DISARMS = "goes with its bell armed"
RINGS_THE_DEAD = "takes a bell without a listener for rung"
RINGS_ALL = "rings every bell that is armed"
POSTS_AND_RINGS = "rings a bell beside posting"
WAITS_FOR_THE_POST = "waits for its post alone, which another one may have had"
LEAVES_THE_POST = "gives up before the post that is meant for it"
LOOKS_NOT_AFTER = "gives up without a look, though it was posted"
REAPS_NO_SLEEPERS = "a reaper leaves dead sleepers in the count"
MUTANTS = (
    FLAG_FIRST,
    LOOKS_FIRST,
    CLEARS_LAST,
    NO_SECOND_LOOK,
    SECOND_RINGS_ONE,
    KEEPS_A_RING,
    KEEPS_WHAT_IT_HEARD,
    PASSES_ON_ONE,
    HEARS_ONLY,
    NEVER_DISARMS,
    RINGS_THE_DEAD,
    RINGS_ALL,
    POSTS_AND_RINGS,
    WAITS_FOR_THE_POST,
    LEAVES_THE_POST,
    LOOKS_NOT_AFTER,
    REAPS_NO_SLEEPERS,
)

LOST = "a message lies there, and nobody who waits is told"
MISCOUNTED = "the count is not that of the sleepers"
DEAF = "the next message wakes nobody who waits"
STUCK = "the flag stays where no bell is armed"
CROWD = "one message wakes several"


class Process(NamedTuple):
    """Where it is, and what it remembers."""

    step: str
    left: int = 0  # messages to put
    at: int = 0  # which bell it looks at, …
    looked: int = 0  # … how many it has looked at, …
    again: bool = False  # … and whether it does so again
    woken: int = 0  # how many it has woken for this message
    armed: bool = False  # it has armed its bell, and does not yet know whether that was claimed
    heard: int = 0  # how often it was told of something that it has not taken
    ends: bool = False  # it gives up


class State(NamedTuple):
    messages: int
    count: int  # of sleepers, in shared memory
    flag: bool  # SHMQ_BELLS
    semaphore: int
    armed: tuple[bool, ...]  # by process
    rung: tuple[bool, ...]  # there is something to read in its FIFO
    asleep: tuple[bool, ...]  # its port's record says that it sleeps
    processes: tuple[Process, ...]
    dead: frozenset[int]
    crashes: int


Step = tuple[str, State]


@dataclass(frozen=True)
class Configuration:
    roles: str
    puts: int = 1  # messages of each publisher
    crashes: int = 0
    mutant: str = ""


class Protocol:
    def __init__(self, configuration: Configuration) -> None:
        self.configuration, self.roles, self.mutant = configuration, configuration.roles, configuration.mutant
        self.listeners = [number for number, role in enumerate(self.roles) if role in "LGD"]
        begin = dict.fromkeys("LG", self.first_of_listening()) | dict.fromkeys("ST", "note")
        begin |= {"P": "put", "C": "come_by", "D": "gone"}
        self.begin = [Process(begin[role], left=configuration.puts if role == "P" else 0) for role in self.roles]

    def first_of_listening(self) -> str:
        return {LOOKS_FIRST: "look", FLAG_FIRST: "say"}.get(self.mutant, "arm")

    def first(self) -> State:
        nobody = (False,) * len(self.roles)
        dead = tuple(role == "D" for role in self.roles)
        gone = frozenset(number for number, role in enumerate(self.roles) if role == "D")
        return State(0, 0, any(dead), 0, dead, nobody, nobody, tuple(self.begin), gone, self.configuration.crashes)

    def steps(self, state: State) -> Iterator[Step]:
        for number, process in enumerate(state.processes):
            if number in state.dead or process.step == "gone":
                continue
            if state.crashes:
                gone = self.at(state, number, Process("gone"))
                yield f"{number} is killed", gone._replace(crashes=state.crashes - 1, dead=state.dead | {number})
            for what, after in self.steps_of(state, number):
                yield f"{number} {what}", after

    def steps_of(self, state: State, number: int) -> Iterator[Step]:
        process = state.processes[number]
        if process.step != "gone":
            yield from getattr(self, process.step)(state, number, process)

    @staticmethod
    def at(state: State, number: int, process: Process) -> State:
        return state._replace(processes=(*state.processes[:number], process, *state.processes[number + 1 :]))

    # -- publishing: shmq_wake_after, shmq_wake, shmq_bell_ring ------------------------------------------------------------

    def put(self, state: State, number: int, process: Process) -> Iterator[Step]:
        more = state._replace(messages=state.messages + 1)
        yield "publishes", self.at(more, number, Process("wake", left=process.left - 1))

    def wake(self, state: State, number: int, process: Process) -> Iterator[Step]:
        if state.count or state.flag:
            yield "sees that somebody waits", self.at(state, number, process._replace(step="take_off"))
        else:
            yield "sees nobody wait", self.at(state, number, self.after_waking(process))

    def take_off(self, state: State, number: int, process: Process) -> Iterator[Step]:
        if state.count:
            fewer = state._replace(count=state.count - 1)
            yield "takes a sleeper off the count", self.at(fewer, number, process._replace(step="post"))
        else:
            yield "sees no sleeper", self.at(state, number, process._replace(step="is_flagged"))

    def post(self, state: State, number: int, process: Process) -> Iterator[Step]:
        more = state._replace(semaphore=state.semaphore + 1)
        then = process._replace(woken=process.woken + 1)
        then = then._replace(step="is_flagged") if self.mutant == POSTS_AND_RINGS else self.after_waking(then)
        yield "posts", self.at(more, number, then)

    def is_flagged(self, state: State, number: int, process: Process) -> Iterator[Step]:
        if not state.flag or not self.listeners:
            yield "sees no flag", self.at(state, number, self.after_waking(process))
            return
        for at in self.listeners:  # wherever its hint is
            yield f"sees the flag, and begins with {at}", self.at(state, number, process._replace(step="scan", at=at, looked=0))

    def scan(self, state: State, number: int, process: Process) -> Iterator[Step]:
        if state.armed[process.at]:
            yield f"sees the bell of {process.at} armed", self.at(state, number, process._replace(step="claim"))
        else:
            yield f"sees the bell of {process.at} not armed", self.at(state, number, self.next_bell(process))

    def next_bell(self, process: Process) -> Process:
        here = self.listeners.index(process.at)
        process = process._replace(step="scan", at=self.listeners[(here + 1) % len(self.listeners)], looked=process.looked + 1)
        if process.looked < len(self.listeners):
            return process
        if process.again or process.woken or self.mutant in (POSTS_AND_RINGS, RINGS_ALL):
            return self.after_waking(process)
        return process._replace(step="unflag")

    def unflag(self, state: State, number: int, process: Process) -> Iterator[Step]:
        then = process._replace(step="scan", looked=0, again=True)
        if self.mutant == NO_SECOND_LOOK:
            then = self.after_waking(process)
        yield "takes the flag away", self.at(state._replace(flag=False), number, then)

    def claim(self, state: State, number: int, process: Process) -> Iterator[Step]:
        if state.armed[process.at]:
            claimed = state._replace(armed=changed(state.armed, process.at, False))
            yield f"claims the bell of {process.at}", self.at(claimed, number, process._replace(step="sound"))
        else:
            yield f"finds the bell of {process.at} claimed", self.at(state, number, self.next_bell(process))

    def sound(self, state: State, number: int, process: Process) -> Iterator[Step]:
        heard = process.at not in state.dead
        if not heard and self.mutant != RINGS_THE_DEAD:
            yield f"finds nobody at the bell of {process.at}", self.at(state, number, self.next_bell(process))
            return
        rung = state._replace(rung=changed(state.rung, process.at, heard))
        then = process._replace(woken=process.woken + (not process.again))
        on = self.mutant == RINGS_ALL or (process.again and self.mutant != SECOND_RINGS_ONE)
        yield f"rings the bell of {process.at}", self.at(rung, number, self.next_bell(then) if on else self.after_waking(then))

    @staticmethod
    def after_waking(process: Process) -> Process:
        if process.heard:
            return Process("is_it_for_another", heard=process.heard, woken=process.woken)
        return Process("put", left=process.left, woken=process.woken) if process.left else Process("gone", woken=process.woken)

    # -- listening: Listener, and its users ------------------------------------------------------------------------------------

    def may_give_up(self, state: State, number: int, process: Process) -> Iterator[Step]:
        if self.roles[number] == "G":
            yield "gives up", self.at(state, number, process._replace(step="disarm"))

    def arm(self, state: State, number: int, process: Process) -> Iterator[Step]:
        then = {FLAG_FIRST: "look", LOOKS_FIRST: "say", CLEARS_LAST: "clear_late"}.get(self.mutant, "say")
        armed = state._replace(armed=changed(state.armed, number, True))
        told = process.armed and not state.armed[number] and self.mutant != HEARS_ONLY
        yield "arms its bell", self.at(armed, number, process._replace(step=then, armed=True, heard=process.heard + told))
        yield from self.may_give_up(state, number, process)

    def clear_late(self, state: State, number: int, process: Process) -> Iterator[Step]:
        cleared = state._replace(rung=changed(state.rung, number, False))
        yield "clears", self.at(cleared, number, process._replace(step="say"))

    def say(self, state: State, number: int, process: Process) -> Iterator[Step]:
        then = {FLAG_FIRST: "arm", LOOKS_FIRST: "waiting"}.get(self.mutant, "look")
        yield "sets the flag", self.at(state._replace(flag=True), number, process._replace(step=then))
        yield from self.may_give_up(state, number, process)

    def look(self, state: State, number: int, process: Process) -> Iterator[Step]:
        if state.messages:
            yield "sees a message", self.at(state, number, process._replace(step="take"))
        else:
            then = "arm" if self.mutant == LOOKS_FIRST else "waiting"
            yield "sees nothing, and waits", self.at(state, number, process._replace(step=then))

    def waiting(self, state: State, number: int, process: Process) -> Iterator[Step]:
        if state.rung[number]:
            then = self.first_of_listening() if self.mutant == CLEARS_LAST else "clear"
            yield (
                "hears its bell",
                self.at(state, number, process._replace(step=then, heard=process.heard + (self.mutant == HEARS_ONLY))),
            )
        yield from self.may_give_up(state, number, process)

    def clear(self, state: State, number: int, process: Process) -> Iterator[Step]:
        cleared = state._replace(rung=changed(state.rung, number, False))
        yield "clears", self.at(cleared, number, process._replace(step=self.first_of_listening()))

    def take(self, state: State, number: int, process: Process) -> Iterator[Step]:
        if state.messages:
            fewer = state._replace(messages=state.messages - 1)
            yield "takes it", self.at(fewer, number, process._replace(step="disarm", heard=max(process.heard - 1, 0)))
        else:
            yield "comes too late", self.at(state, number, process._replace(step=self.first_of_listening()))
        yield from self.may_give_up(state, number, process)

    def disarm(self, state: State, number: int, process: Process) -> Iterator[Step]:
        told = process.armed and not state.armed[number] and self.mutant != KEEPS_A_RING
        if self.mutant != KEEPS_WHAT_IT_HEARD:
            told += process.heard
        if self.mutant == PASSES_ON_ONE:
            told = min(told, 1)
        disarmed = state if self.mutant == NEVER_DISARMS else state._replace(armed=changed(state.armed, number, False))
        then = Process("is_it_for_another", heard=told) if told else Process("gone")
        yield "disarms its bell", self.at(disarmed, number, then)

    def is_it_for_another(self, state: State, number: int, process: Process) -> Iterator[Step]:
        if state.messages:
            yield "passes it on", self.at(state, number, Process("wake", heard=process.heard - 1))
        else:
            yield "sees nothing to pass on", self.at(state, number, Process("gone"))

    # -- sleeping: shmq_wait_park ---------------------------------------------------------------------------------------------

    def note(self, state: State, number: int, process: Process) -> Iterator[Step]:
        noted = state._replace(asleep=changed(state.asleep, number, True))
        yield "notes that it sleeps", self.at(noted, number, process._replace(step="announce"))

    def announce(self, state: State, number: int, process: Process) -> Iterator[Step]:
        yield "counts itself", self.at(state._replace(count=state.count + 1), number, process._replace(step="glance"))

    def glance(self, state: State, number: int, process: Process) -> Iterator[Step]:
        then = "take_itself_off" if state.messages else "sleeping"
        yield f"sees {state.messages} messages", self.at(state, number, process._replace(step=then))

    def sleeping(self, state: State, number: int, process: Process) -> Iterator[Step]:
        if state.semaphore:
            fewer = state._replace(semaphore=state.semaphore - 1)
            yield "is woken", self.at(fewer, number, process._replace(step="unnote"))
        if self.roles[number] == "T":
            yield "gives up", self.at(state, number, process._replace(step="take_itself_off", ends=True))

    def take_itself_off(self, state: State, number: int, process: Process) -> Iterator[Step]:
        if state.count:
            fewer = state._replace(count=state.count - 1)
            yield "takes itself off the count", self.at(fewer, number, process._replace(step="unnote"))
        else:
            yield "was taken off the count", self.at(state, number, process._replace(step="eat"))

    def eat(self, state: State, number: int, process: Process) -> Iterator[Step]:
        if state.semaphore:
            fewer = state._replace(semaphore=state.semaphore - 1)
            yield "eats the post", self.at(fewer, number, process._replace(step="unnote"))
        elif state.count and self.mutant != WAITS_FOR_THE_POST:  # another one has had its post
            yield "looks at the count again", self.at(state, number, process._replace(step="take_itself_off"))
        elif self.mutant == LEAVES_THE_POST:
            yield "does not wait for the post", self.at(state, number, process._replace(step="unnote"))

    def unnote(self, state: State, number: int, process: Process) -> Iterator[Step]:
        blind = process.ends and self.mutant == LOOKS_NOT_AFTER
        then = Process("gone") if blind else process._replace(step="grab")
        yield "notes that it does not sleep", self.at(state._replace(asleep=changed(state.asleep, number, False)), number, then)

    def grab(self, state: State, number: int, process: Process) -> Iterator[Step]:
        if state.messages:
            yield "takes a message", self.at(state._replace(messages=state.messages - 1), number, Process("gone"))
        elif process.ends:
            yield "goes without one", self.at(state, number, Process("gone"))
        else:
            yield "comes too late", self.at(state, number, Process("note"))

    def come_by(self, state: State, number: int, process: Process) -> Iterator[Step]:
        if state.messages:
            yield "takes a message", self.at(state._replace(messages=state.messages - 1), number, Process("gone"))

    # -- the clock ---------------------------------------------------------------------------------------------------------------

    def after_a_slice(self, state: State) -> State:
        """Nobody can go on: everybody who waits looks, once the dead were reaped (shmq_reap)."""
        for number in state.dead:
            state = state._replace(armed=changed(state.armed, number, False), rung=changed(state.rung, number, False))
            if state.asleep[number] and self.mutant != REAPS_NO_SLEEPERS:
                if state.count:
                    state = state._replace(count=state.count - 1)
                else:
                    state = state._replace(semaphore=max(state.semaphore - 1, 0))
                state = state._replace(asleep=changed(state.asleep, number, False))
        looks = {"waiting": self.first_of_listening(), "sleeping": "take_itself_off"}
        for number, process in enumerate(state.processes):
            if number not in state.dead and process.step in looks:
                state = self.at(state, number, process._replace(step=looks[process.step]))
        state = self.go_on(state)
        for number, process in enumerate(state.processes):
            if number not in state.dead and process.step == "eat":  # whoever was to post is dead, and waiting for it has an end
                state = self.at(state, number, process._replace(step="unnote"))
        return self.go_on(state)

    def go_on(self, state: State) -> State:
        """Everybody in turn, as far as they come. Nobody gives up."""
        going = True
        while going:
            going = False
            for number, process in enumerate(state.processes):
                if number in state.dead or process.step == "come_by":
                    continue
                while steps := [after for what, after in self.steps_of(state, number) if what != "gives up"]:
                    state, going = steps[0], True
        return state

    def fault(self, state: State) -> str:
        """What is wrong where nobody can go on."""
        living = [number for number in range(len(self.roles)) if number not in state.dead]
        listening = [number for number in living if state.processes[number].step == "waiting"]
        sleeping = [number for number in living if state.processes[number].step == "sleeping"]
        if state.messages and (listening or sleeping):
            return LOST
        counted = state.count + state.semaphore
        if counted > len(sleeping) or (counted < len(sleeping) and not state.dead):
            return MISCOUNTED
        probe = self.at(state._replace(messages=0), 0, Process("put", left=1))._replace(dead=state.dead - {0})
        while steps := list(self.steps_of(probe, 0)):
            probe = steps[0][1]
        if (listening or sleeping) and not (probe.semaphore or any(probe.rung[number] for number in listening)):
            return DEAF
        if not listening and not sleeping and probe.flag:
            return STUCK
        return ""


def changed(values: tuple[bool, ...], number: int, value: bool) -> tuple[bool, ...]:
    return (*values[:number], value, *values[number + 1 :])


def check(configuration: Configuration) -> Result:
    """Explore everything. The first violation, with the steps that lead to it."""
    protocol = Protocol(configuration)
    exploration = Exploration(protocol.first())
    for state in exploration:
        if any(process.woken > 1 for process in state.processes):
            return exploration.result(CROWD, state)
        goes_on = False
        for what, after in protocol.steps(state):
            goes_on = goes_on or not what.endswith(("is killed", "gives up"))
            exploration.reach(after, state, what)
        if not goes_on:
            fault = protocol.fault(protocol.after_a_slice(state) if state.crashes < configuration.crashes else state)
            if fault:
                return exploration.result(fault, state)
    return exploration.result()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Explore every order of the steps of those who publish and those who wait.")
    parser.add_argument("roles")
    parser.add_argument("--puts", type=int, default=1)
    parser.add_argument("--crashes", type=int, default=0)
    parser.add_argument("--mutant", choices=MUTANTS, default="")
    return check(Configuration(**vars(parser.parse_args(arguments)))).report()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
