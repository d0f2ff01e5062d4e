"""When a loop may end: a shut queue with one message that others still move, explored in every order of the steps.

    python tests/model/ends.py --moves 2 --crashes 1

After a shutdown a loop goes on while anything can come back to it (look.c, shmq_nothing_comes with `stays`). One message goes
its way: put into the backlog, moved into the ring, taken by a process through an exchange, which acks it, gives it back, is too
late with it, or is killed. Threads of the loop's own process end leases that are over, reap the dead, and attach again where a
port is free. The loop looks at one word after the other, announces itself and sleeps as a consumer does (shmq_wait_park), and
takes what it finds. A step of a process is one access to shared memory; a slice ends only where nobody else can do anything.

Checked: (1) when the loop has ended, the message is done; (2) it never sleeps until the end of a slice beside a message that it
could take, and whose mover has done all its steps; (3) from every state it can end or take the message.

Not modelled: what the loop's own process holds for a user, which no loop waits for; bells (bells.py).
What was seen (CPython 3.11; states, seconds), all correct: 2 moves, 1 crash: 20,047, 1; 6 moves,
1 crash: 66,699, 3.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from exploration import Exploration, Result

SHUT_LAST = "whether it was shut is looked at last"
RING_FIRST = "the ring is looked at before the backlog"
CELLS_FIRST = "cells are looked at before open exchanges"
INTENTS_FIRST = "open exchanges are looked at before the ring"
ONE_LOOK = "a cell is not looked at again after its port"
UNCOUNTED = "who ends another one's lease does not say so"
SAID_ONCE = "only before the cells it is looked whether somebody is at one"
LOOKS_FIRST = "a sleeper looks before it announces itself"
NO_CHANGES = "whoever gives back tells before it gives"
MUTANTS = (SHUT_LAST, RING_FIRST, CELLS_FIRST, INTENTS_FIRST, ONE_LOOK, UNCOUNTED, SAID_ONCE, LOOKS_FIRST, NO_CHANGES)

TOO_EARLY = "the loop has ended before the message"
ASLEEP = "the loop sleeps beside a message"
NEVER = "the loop can never end"

FREE, OURS, OTHER, DEAD = "free", "ours", "other", "dead"  # whose the port is


class Cell(NamedTuple):
    """The word: its state, whose it is (the mover's port, a thread of the loop's process, nobody), its generation."""

    state: str = "SPARE"
    owner: str = ""
    generation: int = 0

    def next(self, state: str, owner: str) -> Cell:
        return Cell(state, owner, self.generation + 1)


class State(NamedTuple):
    done: bool = False  # the message was acked
    backlog: bool = False
    ring: bool = False
    shut: bool = False
    intent: bool = False
    cell: Cell = Cell()
    port: str = OTHER
    changes: int = 0
    waiters: int = 0
    posts: int = 0
    begun: int = 0
    ended: int = 0
    loop: str = "take"  # its step, and what it remembers:
    seen_changes: int = -1
    looks: tuple[str, ...] = ()
    word: Cell | None = None
    before: int = 0
    announced: bool = False
    producer: str = "put"
    mover: str = "take"
    thread: str = "idle"
    taken: Cell | None = None
    moves: int = 0
    crashes: int = 0


Step = tuple[str, State]


@dataclass(frozen=True)
class Configuration:
    moves: int = 1
    crashes: int = 0
    mutant: str = ""


class Protocol:
    def __init__(self, configuration: Configuration) -> None:
        self.mutant = configuration.mutant
        self.configuration = configuration
        looks = ["shut", "ended", "backlog", "ring", "intent", "cell", "port", "again", "begun"]

        def move(what: str, before: str) -> None:
            looks.remove(what)
            looks.insert(looks.index(before) if before else len(looks), what)

        if self.mutant == SHUT_LAST:
            move("shut", "")
        elif self.mutant == RING_FIRST:
            move("ring", "backlog")
        elif self.mutant == INTENTS_FIRST:
            move("intent", "ring")
        elif self.mutant == CELLS_FIRST:
            move("intent", "begun")
        elif self.mutant == ONE_LOOK:
            looks.remove("again")
        elif self.mutant == SAID_ONCE:
            looks.remove("begun")
            looks.insert(looks.index("ended") + 1, "begun")
        self.looks = tuple(looks)

    def first(self) -> State:
        return State(moves=self.configuration.moves, crashes=self.configuration.crashes)

    def steps(self, state: State) -> Iterator[Step]:
        if state.loop in ("over", "has it"):
            return
        others = [*self.producer(state), *self.mover(state), *self.thread(state)]
        yield from others
        if state.loop != "asleep":
            yield from self.loop(state)
        elif state.posts:
            yield "loop: is woken", state._replace(posts=state.posts - 1, loop="take")
        elif not others:
            yield "loop: its slice is over", state._replace(loop="take", waiters=0)

    # -- the loop ----------------------------------------------------------------------------------------------------------

    def loop(self, state: State) -> Iterator[Step]:
        if state.loop == "take":  # the try of a get: shmq_orphan_adopt, refill and shmq_ring_get, which only take what is there
            if state.ring or state.cell.state == "ORPHAN":
                yield "loop: takes the message", state._replace(loop="has it")
            elif state.backlog:
                yield "loop: waits for the backlog", state
            else:
                yield (
                    "loop: finds nothing",
                    self.look(state._replace(seen_changes=state.changes, announced=self.mutant == LOOKS_FIRST)),
                )
        elif state.loop == "announce":
            told = state._replace(waiters=1)
            yield (
                "loop: announces itself",
                told._replace(loop="asleep") if self.mutant == LOOKS_FIRST else self.look(told._replace(announced=True)),
            )
        else:
            yield from self.looking(state)

    def look(self, state: State) -> State:
        """Begin to look: without having announced itself, whether it is over; then whether it is promising, too."""
        return state._replace(loop="looking", looks=self.looks, word=None)

    def looking(self, state: State) -> Iterator[Step]:
        what, rest = state.looks[0], state.looks[1:]
        then = state._replace(looks=rest)
        yes = True  # nothing comes from there
        if what == "shut":
            yes = state.shut
        elif what == "ended":
            then = then._replace(before=state.ended)
        elif what == "backlog":
            yes = not state.backlog
        elif what == "ring":
            yes = not state.ring
        elif what == "intent":
            yes = not state.intent
        elif what == "cell":
            yes = state.cell.state != "ORPHAN"
            held = state.cell.state in ("LEASED", "TIMED")
            then = then._replace(word=state.cell if held else None)
        elif what == "port":
            yes = state.word is None or state.word.owner == OURS or state.port == OURS  # in the port's record
        elif what == "again":
            yes = state.word is None or state.cell == state.word
        elif what == "begun":
            yes = state.begun == state.before
        if not yes:
            yield f"loop: something may come ({what})", self.not_over(then)
        elif rest:
            yield f"loop: looks ({what})", then
        else:
            yield f"loop: looks ({what}), and ends", then._replace(loop="over")

    def not_over(self, state: State) -> State:
        state = state._replace(looks=(), word=None, before=0)
        if not state.announced:
            return state._replace(loop="announce")
        # What else is promising is looked at in the same breath: the ring, the backlog, the changes.
        promising = state.ring or state.backlog or state.changes != state.seen_changes
        if self.mutant == LOOKS_FIRST:
            return state._replace(loop="take" if promising else "announce")
        if promising:
            return state._replace(loop="take", waiters=0, announced=False, posts=0)
        return state._replace(loop="asleep", announced=False)

    # -- who puts and shuts down, and who moves the backlog ----------------------------------------------------------------

    def producer(self, state: State) -> Iterator[Step]:
        if state.producer == "put":
            yield "producer: puts into the backlog", state._replace(backlog=True, producer="move")
        elif state.producer == "move":
            yield "refiller: puts into the ring", state._replace(ring=True, producer="count")
            yield "producer: shuts down early", self.wake(state._replace(shut=True, producer="move shut"))
        elif state.producer == "move shut":
            yield "refiller: puts into the ring", state._replace(ring=True, producer="count shut")
        elif state.producer == "count shut":
            yield "refiller: takes it off the backlog", self.wake(state._replace(backlog=False, producer="done"))
        elif state.producer == "count":
            yield "refiller: takes it off the backlog", self.wake(state._replace(backlog=False, producer="shut"))
        elif state.producer == "shut":
            yield "producer: shuts down", state._replace(shut=True, producer="wake")
        elif state.producer == "wake":
            yield "producer: wakes all", self.wake(state._replace(producer="done"))

    def wake(self, state: State) -> State:
        return state._replace(waiters=0, posts=1) if state.waiters else state

    # -- the process that takes the message --------------------------------------------------------------------------------

    def mover(self, state: State) -> Iterator[Step]:
        step = state.mover
        if step == "gone":
            return
        if state.crashes and step not in ("take", "acked"):
            yield "mover: is killed", state._replace(crashes=state.crashes - 1, mover="gone", port=DEAD)
        if step == "take" and state.ring:
            yield "mover: intends", state._replace(intent=True, mover="exchange")
        elif step == "exchange":
            if state.ring:
                yield "mover: exchanges", state._replace(ring=False, mover="record")
            else:
                yield "mover: is too late", state._replace(intent=False, mover="take")
        elif step == "record":
            yield "mover: records it", state._replace(cell=state.cell.next("TIMED", OTHER), mover="withdraw", taken=None)
        elif step == "withdraw":
            yield "mover: withdraws its intent", state._replace(intent=False, mover="holds", taken=state.cell)
        elif step == "holds":
            if state.cell != state.taken:
                yield "mover: has lost its lease", state._replace(mover="take", taken=None)
                return
            yield "mover: acks", state._replace(cell=state.cell.next("SPARE", ""), done=True, mover="acked", taken=None)
            if state.moves:
                fewer = state._replace(moves=state.moves - 1)
                if self.mutant == NO_CHANGES:
                    yield "mover: moves orphan_changes", fewer._replace(changes=state.changes + 1, mover="wake first")
                else:
                    yield "mover: gives back", fewer._replace(cell=state.cell.next("ORPHAN", ""), mover="changes", taken=None)
                yield (
                    "mover: adopts it again",
                    fewer._replace(cell=state.cell.next("TIMED", OTHER), taken=state.cell.next("TIMED", OTHER)),
                )
        elif step == "changes":
            yield "mover: moves orphan_changes", state._replace(changes=state.changes + 1, mover="wake")
        elif step == "wake":
            yield "mover: wakes", self.wake(state._replace(mover="leave"))
        elif step == "wake first":
            yield "mover: wakes", self.wake(state._replace(mover="gives late"))
        elif step == "gives late":
            given = state.cell.next("ORPHAN", "") if state.cell == state.taken else state.cell
            yield "mover: gives back", state._replace(cell=given, mover="leave", taken=None)
        elif step == "leave":
            yield "mover: detaches", state._replace(port=FREE, mover="gone")

    # -- another thread of the loop's process: it ends leases, reaps, attaches ---------------------------------------------

    def thread(self, state: State) -> Iterator[Step]:
        step = state.thread
        if step == "idle":
            held = state.cell.state == "TIMED" and state.port == OTHER and state.mover in ("holds", "take")
            if held and state.moves:
                fewer = state._replace(moves=state.moves - 1)
                yield (
                    "thread: says that it ends a lease",
                    fewer._replace(begun=state.begun + (self.mutant != UNCOUNTED), thread="take over"),
                )
            if state.port == DEAD:
                yield "thread: begins to reap", state._replace(thread="settle")
            if state.port == FREE:
                yield "thread: attaches", state._replace(port=OURS)
        elif step == "take over":
            if state.cell.state == "TIMED":
                yield "thread: takes the lease over", state._replace(cell=state.cell.next("LEASED", OURS), thread="give back")
            else:
                yield "thread: finds the lease settled", state._replace(thread="say")
        elif step == "give back":
            yield "thread: gives back", state._replace(cell=state.cell.next("ORPHAN", ""), thread="changes")
        elif step == "changes":
            yield "thread: moves orphan_changes", state._replace(changes=state.changes + 1, thread="wake")
        elif step == "wake":
            yield "thread: wakes", self.wake(state._replace(thread="say"))
        elif step == "say":
            yield "thread: says that it is through", state._replace(ended=state.ended + (self.mutant != UNCOUNTED), thread="idle")
        elif step == "settle":
            if state.intent and not state.ring and state.cell.state == "SPARE" and not state.done:
                yield "thread: records what the dead took", state._replace(cell=state.cell.next("LEASED", OTHER), thread="clear")
            else:
                yield "thread: finds the exchange settled", state._replace(thread="clear")
        elif step == "clear":
            yield "thread: clears the intent", state._replace(intent=False, thread="recover")
        elif step == "recover":
            if state.cell.state == "TIMED" and state.cell.owner == OTHER:
                yield "thread: makes it LEASED", state._replace(cell=state.cell.next("LEASED", OTHER))
            elif state.cell.state == "LEASED" and state.cell.owner == OTHER:
                yield (
                    "thread: orphans the message of the dead",
                    state._replace(cell=state.cell.next("ORPHAN", ""), thread="changes of the dead"),
                )
            else:
                yield "thread: finds nothing", state._replace(thread="changes of the dead")
        elif step == "changes of the dead":
            yield "thread: moves orphan_changes", state._replace(changes=state.changes + 1, thread="free")
        elif step == "free":
            yield "thread: frees the port", state._replace(port=FREE, thread="wake after")
        elif step == "wake after":
            yield "thread: wakes", self.wake(state._replace(thread="idle"))


def check(configuration: Configuration) -> Result:
    """Explore everything. The first violation, with the steps that lead to it."""
    protocol = Protocol(configuration)
    exploration = Exploration(protocol.first())
    good = []
    for state in exploration:
        if state.loop == "over" and not state.done:
            return exploration.result(TOO_EARLY, state)
        if state.loop in ("over", "has it"):
            good.append(state)
        for what, after in protocol.steps(state):
            if what == "loop: its slice is over" and (state.ring or state.cell.state == "ORPHAN"):
                return exploration.result(ASLEEP, state)
            exploration.reach(after, state, what)
            exploration.hopes(state, after)
    for state in exploration.without_hope(good):
        return exploration.result(NEVER, state)
    return exploration.result()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Explore every order of the steps around the end of a loop.")
    parser.add_argument("--moves", type=int, default=1)
    parser.add_argument("--crashes", type=int, default=0)
    parser.add_argument("--mutant", choices=MUTANTS, default="")
    return check(Configuration(**vars(parser.parse_args(arguments)))).report()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
