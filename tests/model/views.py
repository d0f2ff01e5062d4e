"""One in-flight cell whose slot is looked at by those who have lost their lease, explored in every order of its steps.

    python tests/model/views.py 2 --rounds 2 --expiries 2 --crashes 1

exchange.py checks who owns which slot; this model checks when a slot may be used again (view.c; the
reaper's part in recover.c). Consumers lease the message of the cell, look at it or not, and ack it, give it back or
lose it to somebody who ends leases, or detach; a new message is then written into the slot as soon as the cell is free. A step
is one access to shared memory, and any process may be killed before any of its steps, the reaper too.

Checked: (1) nothing is written to the slot while a living consumer looks at it; (2) from every state one can be reached in which
the cell is free, as long as there is somebody to free it.

Not modelled: more than one view of a consumer at a time, more viewers than there are places for, time, the ring.
What was seen (CPython 3.11; states, seconds), all correct: 2 consumers of 2 rounds with 2 expiries and 1 crash: 178,370, 3; where
one may detach: 449,298, 8; with 2 crashes: 1,044,925, 20; 3 consumers of 1 round with 2 expiries and 1 crash: 1,955,177, 49.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from exploration import Exploration, Result

NOBODY = -1
SETTLES_NOT = "a reaper leaves cells handed to those who have gone"
NO_SECOND_LOOK = "who hands a cell over does not look again"
LOOKS_BEFORE_IT_SAYS = "a viewer looks whose lease it is before it says that it looks"
FREES_REGARDLESS = "who is done frees the cell whoever looks"
REAPER_FORGETS_NOT = "a reaper leaves the views of the dead"
DETACH_LOOKS_FIRST = "who detaches looks whose the cell is before it forgets its view"
MUTANTS = (SETTLES_NOT, NO_SECOND_LOOK, LOOKS_BEFORE_IT_SAYS, FREES_REGARDLESS, REAPER_FORGETS_NOT, DETACH_LOOKS_FIRST)


class Word(NamedTuple):
    """The cell's word; the generation is counted, since there are few changes."""

    state: str
    owner: int
    generation: int

    def next(self, state: str, owner: int) -> Word:
        return Word(state, owner, self.generation + 1)


class Process(NamedTuple):
    """A consumer, the one that ends leases and writes, or the reaper: where it is, and what it remembers."""

    step: str
    word: Word | None = None
    viewer: int = NOBODY
    rounds: int = 0
    looking: bool = False  # ghost: the user holds the view
    leaving: bool = False  # it detaches


class State(NamedTuple):
    word: Word
    viewers: tuple[int, ...]
    handed: Word | None
    processes: tuple[Process, ...]
    dead: frozenset[int]
    reaped: frozenset[int]
    crashes: int
    expiries: int
    detaches: int
    written: bool


@dataclass(frozen=True)
class Configuration:
    consumers: int
    rounds: int = 1
    expiries: int = 0
    crashes: int = 0
    detaches: int = 0
    mutant: str = ""


class Protocol:
    """Consumers are processes 0 … n - 1, then comes the one that ends leases and writes, then the reaper."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.ender, self.reaper = configuration.consumers, configuration.consumers + 1

    def first(self) -> State:
        consumers = tuple(Process("idle", rounds=self.configuration.rounds) for _ in range(self.configuration.consumers))
        processes = (*consumers, Process("look"), Process("wait"))
        return State(
            word=Word("ORPHAN", NOBODY, 0), viewers=(), handed=None, processes=processes, dead=frozenset(), reaped=frozenset(),
            crashes=self.configuration.crashes, expiries=self.configuration.expiries,
            detaches=self.configuration.detaches, written=False,
        )  # fmt: skip

    def steps(self, state: State) -> Iterator[tuple[str, State]]:
        for number, process in enumerate(state.processes):
            if number in state.dead or state.written:
                continue
            if state.crashes:
                yield f"{number} is killed", self.killed(state, number)
            for what, after in getattr(self, process.step)(state, number, process):
                yield f"{number} {what}", after

    def killed(self, state: State, number: int) -> State:
        process = state.processes[number]
        if number == self.reaper:  # another one begins again
            return self.at(state, number, Process("wait"))._replace(crashes=state.crashes - 1)
        gone = self.at(state, number, process._replace(looking=False))
        return gone._replace(crashes=state.crashes - 1, dead=state.dead | {number})

    @staticmethod
    def at(state: State, number: int, process: Process) -> State:
        return state._replace(processes=(*state.processes[:number], process, *state.processes[number + 1 :]))

    # -- a consumer ----------------------------------------------------------------------------------------------------

    def idle(self, state: State, number: int, process: Process) -> Iterator[tuple[str, State]]:
        if state.word.state == "ORPHAN" and process.rounds:
            word = state.word.next("TIMED", number)
            yield "adopts", self.at(state._replace(word=word), number, Process("holding", word, rounds=process.rounds - 1))

    def holding(self, state: State, number: int, process: Process) -> Iterator[tuple[str, State]]:
        yield "wants to look", self.at(state, number, process._replace(step=self.first_half()))
        yield from self.ended(state, number, process, "IDLE", "release")

    def first_half(self) -> str:
        return "look_whose" if self.configuration.mutant == LOOKS_BEFORE_IT_SAYS else "say"

    def say(self, state: State, number: int, process: Process) -> Iterator[tuple[str, State]]:
        said = state._replace(viewers=(*state.viewers, number))
        if self.configuration.mutant == LOOKS_BEFORE_IT_SAYS:
            yield "says that it looks", self.at(said, number, process._replace(step="viewing", looking=True))
        else:
            yield "says that it looks", self.at(said, number, process._replace(step="look_whose"))

    def look_whose(self, state: State, number: int, process: Process) -> Iterator[tuple[str, State]]:
        if state.word != process.word:
            yield "has lost the lease before", self.at(state, number, process._replace(step="view_end"))
        elif self.configuration.mutant == LOOKS_BEFORE_IT_SAYS:
            yield "finds the lease its own", self.at(state, number, process._replace(step="say"))
        else:
            yield "looks", self.at(state, number, process._replace(step="viewing", looking=True))

    def viewing(self, state: State, number: int, process: Process) -> Iterator[tuple[str, State]]:
        yield from self.ended(state, number, process, "HELD", "look_away_held")
        if state.detaches:
            gone = process._replace(step=self.first_of_leaving(), looking=False, leaving=True)
            yield "begins to detach", self.at(state._replace(detaches=state.detaches - 1), number, gone)
        if state.word == process.word:
            word = state.word.next("LEASED", number)
            yield "begins to give back", self.at(state._replace(word=word), number, process._replace(step="give_back", word=word))

    def ended(self, state: State, number: int, process: Process, into: str, then: str) -> Iterator[tuple[str, State]]:
        """An ack: into IDLE, or HELD while it looks."""
        if state.word == process.word:
            word = state.word.next(into, number)
            yield "acks", self.at(state._replace(word=word), number, process._replace(step=then, word=word))
        else:
            lost = process._replace(step="look_away" if process.looking else "idle", word=None)
            yield "acks too late", self.at(state, number, lost)

    def give_back(self, state: State, number: int, process: Process) -> Iterator[tuple[str, State]]:
        back = state._replace(word=state.word.next("ORPHAN", NOBODY)) if state.word == process.word else state
        yield "gives back", self.at(back, number, process._replace(step="look_away", word=None))

    def look_away(self, state: State, number: int, process: Process) -> Iterator[tuple[str, State]]:
        yield "looks no longer", self.at(state, number, process._replace(step="view_end", looking=False))

    def look_away_held(self, state: State, number: int, process: Process) -> Iterator[tuple[str, State]]:
        yield "looks no longer", self.at(state, number, process._replace(step="view_end_held", looking=False))

    def view_end(self, state: State, number: int, process: Process) -> Iterator[tuple[str, State]]:
        yield "says that it has gone", self.at(without(state, number), number, process._replace(step="was_it_handed"))

    def view_end_held(self, state: State, number: int, process: Process) -> Iterator[tuple[str, State]]:
        # What follows in shmq_view_release finds the cell HELD, and not handed: nothing to do. Then it is released.
        yield "says that it has gone", self.at(without(state, number), number, process._replace(step="release"))

    def was_it_handed(self, state: State, number: int, process: Process) -> Iterator[tuple[str, State]]:
        mine = state.word.state == "HELD" and state.word.owner == number and number not in state.viewers
        if mine and state.handed == state.word:
            yield "finds the cell handed to it", self.at(state, number, process._replace(step="let_go", word=state.word))
        else:
            yield "finds nothing handed to it", self.at(state, number, Process("idle", rounds=process.rounds))

    # -- detaching: shmq_port_detach ---------------------------------------------------------------------------------------

    def first_of_leaving(self) -> str:
        return "leave_look" if self.configuration.mutant == DETACH_LOOKS_FIRST else "leave_forget"

    def leave_forget(self, state: State, number: int, process: Process) -> Iterator[tuple[str, State]]:
        then = "leave_settle" if self.configuration.mutant == DETACH_LOOKS_FIRST else "leave_look"
        yield "forgets its views", self.at(without(state, number), number, process._replace(step=then))

    def leave_look(self, state: State, number: int, process: Process) -> Iterator[tuple[str, State]]:
        then = "leave_forget" if self.configuration.mutant == DETACH_LOOKS_FIRST else "leave_settle"
        yield "looks whose the cell is", self.at(state, number, process._replace(step=then, word=state.word))

    def leave_settle(self, state: State, number: int, process: Process) -> Iterator[tuple[str, State]]:
        word = process.word
        assert word is not None
        if word.owner != number:
            yield "finds nothing of its own", self.at(state, number, process._replace(step="leave_port"))
        elif word.state not in ("TIMED", "LEASED"):
            yield "lets its cell go", self.at(state, number, process._replace(step="let_go"))
        elif state.word != word:
            yield "has lost its lease", self.at(state, number, process._replace(step="leave_port"))
        elif word.state == "TIMED":
            ours = word.next("LEASED", number)
            yield "takes its lease over", self.at(state._replace(word=ours), number, process._replace(word=ours))
        else:
            back = state._replace(word=word.next("ORPHAN", NOBODY))
            yield "gives its message back", self.at(back, number, process._replace(step="leave_port"))

    def leave_port(self, state: State, number: int, process: Process) -> Iterator[tuple[str, State]]:
        freed = state._replace(dead=state.dead | {number}, reaped=state.reaped | {number})
        yield "frees its port", self.at(freed, number, Process("gone"))

    # -- freeing a cell: shmq_cell_free and shmq_cell_free_or_hand ------------------------------------------------------------

    def release(self, state: State, number: int, process: Process) -> Iterator[tuple[str, State]]:
        if state.viewers and self.configuration.mutant != FREES_REGARDLESS:
            yield "sees that somebody looks", self.at(state, number, process._replace(step="let_go"))
        else:
            yield "sees nobody look", self.at(state, number, process._replace(step="store_spare"))

    def store_spare(self, state: State, number: int, process: Process) -> Iterator[tuple[str, State]]:
        freed = state._replace(word=state.word.next("SPARE", NOBODY))
        yield "frees the cell", self.at(freed, number, self.after_freeing(number, process))

    def let_go(self, state: State, number: int, process: Process) -> Iterator[tuple[str, State]]:
        viewer = next((viewer for viewer in state.viewers if viewer not in state.reaped), NOBODY)
        yield "looks who looks", self.at(state, number, process._replace(step="hand", viewer=viewer))

    def hand(self, state: State, number: int, process: Process) -> Iterator[tuple[str, State]]:
        assert process.word is not None
        if state.word != process.word:
            yield "finds the cell freed", self.at(state, number, self.after_freeing(number, process))
        elif process.viewer == NOBODY:
            freed = state._replace(word=process.word.next("SPARE", NOBODY))
            yield "frees the cell", self.at(freed, number, self.after_freeing(number, process))
        else:
            # Storing `handed` before is no step of its own: nobody reads it while the cell has its old word.
            word = process.word.next("HELD", process.viewer)
            then = self.after_freeing(number, process)
            if self.configuration.mutant != NO_SECOND_LOOK:
                then = process._replace(step="look_again", word=word)
            yield f"hands the cell to {process.viewer}", self.at(state._replace(word=word, handed=word), number, then)

    def look_again(self, state: State, number: int, process: Process) -> Iterator[tuple[str, State]]:
        if process.viewer in state.viewers:
            yield "sees the viewer still look", self.at(state, number, self.after_freeing(number, process))
        else:
            yield "sees that the viewer has gone", self.at(state, number, process._replace(step="let_go"))

    def after_freeing(self, number: int, process: Process) -> Process:
        if number == self.reaper:
            return process._replace(step="done_reaping")
        if process.leaving:
            return process._replace(step="leave_port")
        return Process("idle", rounds=process.rounds)

    # -- the one that ends leases, and writes the next message -------------------------------------------------------------

    def look(self, state: State, number: int, process: Process) -> Iterator[tuple[str, State]]:
        if state.word.state == "TIMED" and state.expiries:
            word = state.word.next("LEASED", number)
            taken = state._replace(word=word, expiries=state.expiries - 1)
            yield "takes the lease over", self.at(taken, number, Process("return_it", word))
        if state.word.state == "SPARE":
            # Claiming and writing are one step: between them the cell is IDLE, and nobody changes anything that matters.
            yield "writes the next message", state._replace(written=True)

    def return_it(self, state: State, number: int, process: Process) -> Iterator[tuple[str, State]]:
        back = state._replace(word=state.word.next("ORPHAN", NOBODY)) if state.word == process.word else state
        yield "gives it back", self.at(back, number, Process("look"))

    # -- the reaper ----------------------------------------------------------------------------------------------------

    def wait(self, state: State, number: int, process: Process) -> Iterator[tuple[str, State]]:
        for victim in state.dead - state.reaped:
            yield f"reaps {victim}", self.at(state, number, Process("forget", viewer=NOBODY, rounds=victim))

    def forget(self, state: State, number: int, process: Process) -> Iterator[tuple[str, State]]:
        forgotten = state if self.configuration.mutant == REAPER_FORGETS_NOT else without(state, process.rounds)
        yield "forgets its views", self.at(forgotten, number, process._replace(step="recover"))

    def recover(self, state: State, number: int, process: Process) -> Iterator[tuple[str, State]]:
        victim, word = process.rounds, state.word
        handed = word.state == "HELD" and state.handed == word and word.owner not in state.viewers
        if handed and self.configuration.mutant != SETTLES_NOT:
            yield "finds the cell handed to one who has gone", self.at(state, number, process._replace(step="let_go", word=word))
        elif word.owner != victim:
            yield "finds nothing of its", self.at(state, number, process._replace(step="done_reaping"))
        elif word.state == "TIMED":
            yield "makes it LEASED", self.at(state._replace(word=word.next("LEASED", victim)), number, process)
        elif word.state == "LEASED":
            back = state._replace(word=word.next("ORPHAN", NOBODY))
            yield "gives its message back", self.at(back, number, process._replace(step="done_reaping"))
        else:
            yield "lets its cell go", self.at(state, number, process._replace(step="let_go", word=word))

    def done_reaping(self, state: State, number: int, process: Process) -> Iterator[tuple[str, State]]:
        yield "frees the port", self.at(state._replace(reaped=state.reaped | {process.rounds}), number, Process("wait"))


def without(state: State, viewer: int) -> State:
    return state._replace(viewers=tuple(entry for entry in state.viewers if entry != viewer))


def check(configuration: Configuration) -> Result:
    """Explore everything. The first violation, with the steps that lead to it."""
    protocol = Protocol(configuration)
    exploration = Exploration(protocol.first())
    for state in exploration:
        if state.written and any(process.looking for process in state.processes):
            return exploration.result("written under a viewer", state)
        for what, after in protocol.steps(state):
            exploration.reach(after, state, what)
            if not what.endswith("is killed"):
                exploration.hopes(state, after)
    for state in exploration.without_hope(state for state in exploration.states if state.written):
        if not nobody_left(protocol, state):
            return exploration.result("never free again", state)
    return exploration.result()


def nobody_left(protocol: Protocol, state: State) -> bool:
    """The one who writes is dead; or the message waits, and no consumer is left to take it, since the model has only so many."""
    consumers = [state.processes[number] for number in range(protocol.ender) if number not in state.dead]
    can_take = any(consumer.rounds and not consumer.leaving for consumer in consumers)
    return protocol.ender in state.dead or (state.word.state in ("ORPHAN", "TIMED", "LEASED") and not can_take)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Explore every order of the steps around a cell that is looked at.")
    parser.add_argument("consumers", type=int)
    for name in ("rounds", "expiries", "crashes", "detaches"):
        parser.add_argument(f"--{name}", type=int, default=1 if name == "rounds" else 0)
    parser.add_argument("--mutant", choices=MUTANTS, default="")
    return check(Configuration(**vars(parser.parse_args(arguments)))).report()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
