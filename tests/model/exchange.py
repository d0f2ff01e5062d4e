"""The whole protocol as a state machine, explored in every order of its steps, with a SIGKILL between any two.

    python tests/model/exchange.py PPCW 2 --crashes 1 --mortal C --mutant "ambiguous cells prove something"

A step is one access to shared memory: a load, a store or a compare-and-swap of one word. Where two are one step here, a comment
says why no other process can tell. Any process may be killed before any of its steps, reapers included, up to a number of times.

Modelled, from shmq/_native: the ring with its two sequences that anybody helps (ring.c), the intent around each exchange,
claiming and releasing in-flight cells (cell.c), leases with and without a deadline, ack, nack, extension, expiry, the count of
failed deliveries, adoption under orphan_changes (resting.c), the reaper step by step with its scan (recover.c) and its lock
(reap.c), and a new process on a freed port.

Checked in every state: (1) the slots named by all cells, open exchanges resolved, are a permutation; (2) a published message is
in exactly one place until it is acked; (3) an ack ends no lease but its own, and none twice; (5) the failed deliveries of a
message are as many as its lost leases, whoever dies while counting; (6) no slot is written while a message in it is published and
not acked; and no sequence passes a ring cell that is not through. Over all states: (4) wherever a consumer lives, every published
message can still be acked, and every living producer can still publish, by steps without further crashes.

Time does not exist: every TIMED lease may be over at any moment. A generation is one bit per remembered word, whether the cell
still has that word; so a late swap fails as it does while the 27 bits do not come round. Messages have no names: a slot
carries what is true of its message.

Not modelled: sleeping and waking; batches (put_many, get_many of more than one); LOANED, WARM and HELD cells, and views that
outlive their lease; rests, causes, dead letters, lifetimes, prefetching, and releases that count nothing; the words `expires` and
`due_ns`; laps and generations that come round; hostile words; memory orders weaker than sequential consistency; a wrong answer
to the question who lives.

What was seen (CPython 3.11, one core of a shared machine; states, seconds). All are correct:

    PPCC 2                                        7,016    0.4      PPCC 2 --crashes 1                           89,820    4
    PCC 2 --crashes 1                             7,059    0.6      PPCC 2 --crashes 2                          252,879    9
    PPCW 2 --crashes 1 --mortal C                 7,398    0.4      PCC 2 --crashes 2 --expiries 2 --nacks 1    240,709    5
    PCC 3 --ring 2 --crashes 1 --mortal C         7,672    0.3      PCC 2 --pool 2 --expiries 2 --aside         345,900   16
    PCC 2 --crashes 1 --restarts 1               15,190    0.2      PPCC 2 --pool 2 --crashes 1                 631,302   26
    PCCC 1 --crashes 3 --mortal C                22,401    1.0      PPCC 2 --pool 2 --crashes 2               1,447,662   43
    PCWW 1 --crashes 2 --expiries 1 --nacks 1    57,744    2.3      PPCC 3 --ring 2 --pool 2 --crashes 1      3,103,622   82
    PCC 1 --crashes 1 --expiries 2 --nacks 1 --extends 1   70,958   2.8
    PCCC 2 --pool 2 --crashes 2 --expiries 1     9,865,555  204     (by hand only: it takes several GiB)

Sources: explicit-state search and the check by going back from the good states are those of any textbook (C. Baier and
J.-P. Katoen, Principles of Model Checking, 2008); renaming what is only compared is symmetry reduction (C. N. Ip and D. L. Dill,
1996). The protocol's own sources are in format/queue.h.
"""

from __future__ import annotations

import argparse
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

# -- what is explored --------------------------------------------------------------------------------------------------

AMBIGUOUS_PROVES = "ambiguous cells prove something"
ACK_IGNORES_GENERATION = "late ack without generation"
EXPIRY_COUNTS_FIRST = "expiry counts before it takes the cell"
NACK_COUNTS_FIRST = "nack counts before it takes the cell"
REAPER_COUNTS_FIRST = "reaper counts before it takes the cell"
COUNTS_AGAIN = "count without a tag"
LATER_LAP_NOT_HELPED = "later lap at write_seq is not helped"
FREES_FIRST = "reaper frees the port before the orphans"
NO_INTENT = "no intent"
MUTANTS = (
    AMBIGUOUS_PROVES,
    ACK_IGNORES_GENERATION,
    EXPIRY_COUNTS_FIRST,
    NACK_COUNTS_FIRST,
    REAPER_COUNTS_FIRST,
    COUNTS_AGAIN,
    LATER_LAP_NOT_HELPED,
    FREES_FIRST,
    NO_INTENT,
)


@dataclass(frozen=True)
class Configuration:
    """Who takes part and how much may happen.

    `roles` has a letter per process: P puts, C receives (and reaps and ends expired leases), W only watches: it reaps and ends
    expired leases. Everything else is a number of times, for all processes together.
    """

    roles: str
    messages: int
    ring: int = 1
    pool: int = 1  # in-flight cells to be claimed, beside the one that each producer keeps
    crashes: int = 0
    expiries: int = 0
    nacks: int = 0
    extends: int = 0
    restarts: int = 0  # of a process whose port was freed, as a new one that gets the same port
    aside: bool = False  # a consumer may put one lease aside, go on, and ack it later
    producers_help: bool = False  # producers reap and end expired leases too
    mortal: str = "PCW"  # the roles that may be killed
    mutant: str = ""


# -- the layout of a state -----------------------------------------------------------------------------------------------
#
# A state is a string of bytes. It is: the words that there are once; a stage per ring cell; a state and an owner per in-flight
# cell; FIELDS bytes per process; every slot that anything names, in one piece, so that slots can be renamed by one translation;
# and a record of RECORD bytes per slot. Ports, cells and slots are stored plus one, where 0 can mean none.

FAULT, WRITE_SEQ, READ_SEQ, LOCK, SENT, CRASHES, EXPIRIES, NACKS, EXTENDS, RESTARTS, ONCE = range(11)

# The stage of a ring cell is twice its lap, and one more where it is READY: each exchange moves it on by one.

SPARE, IDLE, LEASED, TIMED, ORPHAN = range(5)  # of an in-flight cell
STATES = ("SPARE", "IDLE", "LEASED", "TIMED", "ORPHAN")

(
    STEP,  # where the process is
    POSITION,  # how far a scan has come
    SEQUENCE,  # write_seq or read_seq, as it was loaded
    CELL,  # the in-flight cell whose word is remembered, or that is mine during a call
    FRESH,  # 1 while that cell still has that word: the model's form of a generation
    BEFORE,  # what was loaded from `deliveries` of slot HELD
    VICTIM,  # the dead port that is being recovered
    OPERATION,  # the intent, in shared memory
    INTENT_CELL,
    INTENT_INDEX,
    EXPECTED,  # stage of the expected word, in shared memory too; TAKE is its slot
    HAPPENED,  # ghost: the operation whose exchange happened and is not yet recorded in the in-flight cell
    LIFE,
    NEWS,  # orphan_changes differs from what this port has seen
    ASIDE_CELL,
    ASIDE_FRESH,
    FIELDS,
) = range(17)
HELD, GIVE, TAKE, ASIDE_SLOT, NAMES = range(5)  # the slots that a process names
PUBLISHED, FAILED, LOSSES, TAG, RECORD = range(5)  # of a slot; PUBLISHED (and not acked) and LOSSES are ghosts

NOTHING, PUTTING, GETTING = range(3)
DEAD, ALIVE, FREED = range(3)
UNREAD, ZERO, CURRENT, OUTDATED = range(4)  # BEFORE

(
    AT_REST,
    PUT_LOAD,
    PUT_LOOK,
    PUT_INTEND,
    PUT_SWAP,
    PUT_RECORD,
    PUT_CLEAR,
    PUT_CLEAR_FAILED,
    PUT_ADVANCE,
    PUT_HELP,
    ADOPT_SCAN,
    ADOPT_SWAP,
    CLAIM,
    GET_LOAD,
    GET_LOOK,
    GET_INTEND,
    GET_SWAP,
    GET_RECORD,
    GET_CLEAR,
    GET_CLEAR_FAILED,
    GET_ADVANCE,
    GET_HELP,
    WORKING,
    RELEASE,
    COUNT_LOAD,
    COUNT_SWAP,
    GIVE_BACK,
    TELL,
    REAP_RING,
    REAP_SCAN,
    REAP_INTENT,
    REAP_AGAIN,
    REAP_STORE,
    REAP_CLEAR,
    REAP_CELLS,
    REAP_TELL,
    REAP_FREE,
    STEPS,
) = range(38)

PERMUTATION, PLACES, ANOTHERS, MISCOUNTED, OVERWRITTEN, NONSENSE, STRANDED = range(1, 8)
FAULTS = {
    PERMUTATION: "the slots are not a permutation: two cells name the same one",
    PLACES: "a published message is in no place, or a slot without one is delivered",
    ANOTHERS: "an ack ended a lease that was not its own",
    MISCOUNTED: "failed deliveries and lost leases are not the same number",
    OVERWRITTEN: "a slot was written while a published message was in it",
    NONSENSE: "a sequence has passed a ring cell that was not through",
    STRANDED: "a message can never be put, or be acked, from here on, though a consumer lives",
}

Successors = list[tuple[int, str, bytearray]]  # who, what, and the state afterwards
CRASH = "is killed"


class Protocol:
    """The steps of every process in every state, as the C code takes them."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = c = configuration
        self.mutant = c.mutant
        self.roles = c.roles
        self.producers = c.roles.count("P")
        if c.roles[: self.producers].strip("P"):
            raise ValueError("producers come first: each keeps the in-flight cell of its own number")
        self.ring, self.cells = c.ring, self.producers + c.pool
        self.slots = self.ring + self.cells
        self.stages = ONCE
        self.states = self.stages + self.ring
        self.owners = self.states + self.cells
        self.ports = self.owners + self.cells
        self.names = self.ports + FIELDS * len(c.roles)
        self.cell_names = self.names + self.ring
        self.port_names = self.cell_names + self.cells
        self.records = self.port_names + NAMES * len(c.roles)
        self.end = self.records + RECORD * (self.slots + 1)
        self.leased = TIMED if c.expiries else LEASED
        self.helpers = [c.producers_help if role == "P" else True for role in c.roles]
        # A remembered word that is no longer the cell's can only make a swap fail, so it is forgotten; unless a mutant uses it.
        self.remembers = c.mutant in (ACK_IGNORES_GENERATION, EXPIRY_COUNTS_FIRST, NACK_COUNTS_FIRST, REAPER_COUNTS_FIRST)
        self.steps: dict[int, Callable[[bytes, int, Successors], None]] = {
            PUT_LOAD: self.put_load,
            PUT_LOOK: self.put_look,
            PUT_INTEND: self.intend,
            PUT_SWAP: self.swap,
            PUT_RECORD: self.put_record,
            PUT_CLEAR: self.clear,
            PUT_CLEAR_FAILED: self.clear,
            PUT_ADVANCE: self.put_advance,
            PUT_HELP: self.put_advance,
            ADOPT_SCAN: self.adopt_scan,
            ADOPT_SWAP: self.adopt_swap,
            CLAIM: self.claim,
            GET_LOAD: self.get_load,
            GET_LOOK: self.get_look,
            GET_INTEND: self.intend,
            GET_SWAP: self.swap,
            GET_RECORD: self.get_record,
            GET_CLEAR: self.clear,
            GET_CLEAR_FAILED: self.clear,
            GET_ADVANCE: self.get_advance,
            GET_HELP: self.get_advance,
            WORKING: self.work,
            RELEASE: self.release,
            COUNT_LOAD: self.count_load,
            COUNT_SWAP: self.count_swap,
            GIVE_BACK: self.give_back,
            TELL: self.tell,
            REAP_RING: self.reap_ring,
            REAP_SCAN: self.reap_scan,
            REAP_INTENT: self.reap_intent,
            REAP_AGAIN: self.reap_again,
            REAP_STORE: self.reap_store,
            REAP_CLEAR: self.reap_clear,
            REAP_CELLS: self.reap_cells,
            REAP_TELL: self.reap_tell,
            REAP_FREE: self.reap_free,
        }

    # -- states --

    def initial(self) -> bytes:
        c, state = self.configuration, bytearray(self.end)
        state[CRASHES], state[EXPIRIES], state[NACKS], state[EXTENDS] = c.crashes, c.expiries, c.nacks, c.extends
        state[RESTARTS] = c.restarts
        for slot in range(self.slots):
            state[self.names + slot] = slot + 1
        for port in range(len(self.roles)):
            state[self.ports + FIELDS * port + LIFE] = ALIVE
        for port in range(self.producers):
            state[self.states + port], state[self.owners + port] = IDLE, port + 1
        return bytes(state)

    def canonical(self, state: bytearray) -> bytes:
        """The same state with its slots named in the order in which they are found: no step but the comparison of two names
        looks at the number of a slot, so states that differ by a renaming have the same future."""
        names = state[self.names : self.records]
        order = [slot for slot in dict.fromkeys(names) if slot]
        if order != sorted(order) or len(order) != self.slots:
            order += [slot for slot in range(1, self.slots + 1) if slot not in order]
            table = bytearray(256)
            for new, old in enumerate(order, 1):
                table[old] = new
            records = state[self.records :]
            state[self.names : self.records] = names.translate(table)
            state[self.records :] = records[:RECORD] + b"".join(records[RECORD * old : RECORD * (old + 1)] for old in order)
        return bytes(state)

    def fault(self, state: bytearray) -> int:
        """What is wrong here: the fault of the step that led here, or an invariant that is broken.

        Each exchange that happened and is not recorded is resolved by the ghost HAPPENED: so I1 and I2 of the format are checked
        in every state, and not only where nothing is open.
        """
        if state[FAULT]:
            return state[FAULT]
        where = list(state[self.names : self.port_names])
        holds = [stage & 1 for stage in state[self.stages : self.states]]
        holds += [cell >= LEASED for cell in state[self.states : self.owners]]
        for port in range(len(self.roles)):
            base = self.ports + FIELDS * port
            if state[base + HAPPENED]:
                cell = self.ring + state[base + INTENT_CELL]
                where[cell] = state[self.port_names + NAMES * port + TAKE]
                holds[cell] = state[base + HAPPENED] == GETTING
        if len(set(where)) != self.slots:
            return PERMUTATION
        for slot, held in zip(where, holds, strict=True):
            if held != state[self.records + RECORD * slot + PUBLISHED]:
                return PLACES
        return 0

    def drained(self, state: bytes) -> bool:
        """Every published message is acked, and no producer that lives is in the middle of a put."""
        if any(state[self.records + RECORD + PUBLISHED :: RECORD]):
            return False
        return not any(PUT_LOAD <= state[self.ports + FIELDS * port + STEP] <= PUT_HELP for port in range(self.producers))

    def has_consumer(self, state: bytes) -> bool:
        return any(role == "C" and state[self.ports + FIELDS * i + LIFE] == ALIVE for i, role in enumerate(self.roles))

    # -- steps --

    def successors(self, state: bytes) -> Successors:
        found: Successors = []
        for port, role in enumerate(self.roles):
            base = self.ports + FIELDS * port
            if state[base + LIFE] != ALIVE:
                if state[base + LIFE] == FREED and state[RESTARTS]:
                    self.restart(state, port, found)
                continue
            if state[CRASHES] and role in self.configuration.mortal:
                found.append((port, CRASH, self.killed(state, port)))
            step = state[base + STEP]
            if step == AT_REST:
                self.begin(state, port, found)
            else:
                self.steps[step](state, port, found)
        return found

    def killed(self, state: bytes, port: int) -> bytearray:
        """Private memory is gone, the lock is given back by the kernel, the intent and what it expected stay."""
        after, base, names = bytearray(state), self.ports + FIELDS * port, self.port_names + NAMES * port
        after[CRASHES] -= 1
        if after[LOCK] == port + 1:
            after[LOCK] = 0
        after[base : base + OPERATION] = bytes(OPERATION)
        if not state[base + OPERATION] and not state[base + HAPPENED]:
            after[base + INTENT_CELL], after[base + INTENT_INDEX], after[base + EXPECTED] = 0, 0, 0
            after[names + GIVE], after[names + TAKE] = 0, 0
        after[base + LIFE], after[base + NEWS], after[base + ASIDE_CELL], after[base + ASIDE_FRESH] = DEAD, 0, 0, 0
        after[names + HELD], after[names + ASIDE_SLOT] = 0, 0
        return after

    def restart(self, state: bytes, port: int, found: Successors) -> None:
        """shmq_port_attach: the port, and with it the cell to keep, which nobody else claims. It has seen no orphan_changes."""
        after, base = bytearray(state), self.ports + FIELDS * port
        after[RESTARTS] -= 1
        after[base + LIFE], after[base + NEWS] = ALIVE, self.roles[port] == "C"
        if self.roles[port] == "P":
            self.store_cell(after, port, IDLE, port + 1)
        found.append((port, "starts again", after))

    def store_cell(self, state: bytearray, cell: int, word: int, owner: int, slot: int = 0) -> None:
        """Change the word of an in-flight cell: from here on nobody's remembered word, and no tag, is that of the cell."""
        state[self.states + cell], state[self.owners + cell] = word, owner
        if slot:
            state[self.cell_names + cell] = slot
        for port in range(len(self.roles)):
            base = self.ports + FIELDS * port
            if state[base + FRESH] and state[base + CELL] == cell:
                state[base + FRESH] = 0
                if not self.remembers:
                    state[base + CELL] = state[self.port_names + NAMES * port + HELD] = 0
            if state[base + ASIDE_FRESH] and state[base + ASIDE_CELL] == cell + 1:
                state[base + ASIDE_FRESH] = 0
                if not self.remembers:
                    state[base + ASIDE_CELL], state[self.port_names + NAMES * port + ASIDE_SLOT] = 1, 0
        for record in range(self.records, self.end, RECORD):
            if state[record + TAG] == cell + 1:
                state[record + TAG] = 0

    def remember(self, state: bytearray, port: int, cell: int) -> None:
        base = self.ports + FIELDS * port
        state[base + CELL], state[base + FRESH] = cell, 1
        state[self.port_names + NAMES * port + HELD] = state[self.cell_names + cell]

    def rest(self, state: bytearray, port: int) -> None:
        """The call is over: no local is used again."""
        base = self.ports + FIELDS * port
        state[base : base + OPERATION] = bytes(OPERATION)
        state[self.port_names + NAMES * port + HELD] = 0

    def begin(self, state: bytes, port: int, found: Successors) -> None:
        """What a process that is in no call may do next."""
        role = self.roles[port]
        if role == "P" and state[SENT] < self.configuration.messages:
            self.put_fill(state, port, found)
        if role == "C":
            self.receive(state, port, found)
            self.turn(state, port, found)
        if self.helpers[port]:
            self.expire(state, port, found)
            self.reap(state, port, found)

    # -- the exchange, on both sides (ring.c: exchange) --

    def intend(self, state: bytes, port: int, found: Successors) -> None:
        """`expected` and the intent, as one step: nobody reads the former while the latter is 0."""
        after, base, names = bytearray(state), self.ports + FIELDS * port, self.port_names + NAMES * port
        step, cell = state[base + STEP], state[base + CELL]
        if self.mutant != NO_INTENT:
            after[base + OPERATION] = PUTTING if step == PUT_INTEND else GETTING
        after[base + INTENT_CELL], after[base + INTENT_INDEX] = cell, state[base + SEQUENCE] % self.ring
        after[names + GIVE] = state[self.cell_names + cell]
        after[base + STEP] = step + 1
        found.append((port, "writes its intent", after))

    def swap(self, state: bytes, port: int, found: Successors) -> None:
        after, base, names = bytearray(state), self.ports + FIELDS * port, self.port_names + NAMES * port
        step, index, take, give = state[base + STEP], state[base + INTENT_INDEX], state[names + TAKE], state[names + GIVE]
        putting = step == PUT_SWAP
        if state[self.stages + index] != state[base + EXPECTED] or state[self.names + index] != take:
            after[base + STEP] = PUT_CLEAR_FAILED if putting else GET_CLEAR_FAILED
            found.append((port, "finds that the ring cell has changed", after))
            return
        after[self.stages + index] += 1
        after[self.names + index] = give
        after[base + HAPPENED], after[base + STEP] = (PUTTING if putting else GETTING), step + 1
        if putting:
            after[self.records + RECORD * give + PUBLISHED] = 1
        found.append(
            (port, "publishes: exchanges with the ring cell" if putting else "takes: exchanges with the ring cell", after)
        )

    def recorded(self, state: bytearray, port: int) -> None:
        """The in-flight cell names `take`: nobody looks at the rest of the intent again (settle, proven_slot)."""
        base, names = self.ports + FIELDS * port, self.port_names + NAMES * port
        state[base + HAPPENED] = state[base + EXPECTED] = state[base + INTENT_INDEX] = state[names + TAKE] = 0
        state[base + STEP] += 1

    def clear(self, state: bytes, port: int, found: Successors) -> None:
        after, base, names = bytearray(state), self.ports + FIELDS * port, self.port_names + NAMES * port
        step = state[base + STEP]
        after[base + OPERATION : base + LIFE] = bytes(LIFE - OPERATION)
        after[names + GIVE] = after[names + TAKE] = 0
        after[base + STEP] = {
            PUT_CLEAR: PUT_ADVANCE,
            PUT_CLEAR_FAILED: PUT_LOAD,
            GET_CLEAR: GET_ADVANCE,
            GET_CLEAR_FAILED: GET_LOAD,
        }[step]
        if step in (PUT_CLEAR_FAILED, GET_CLEAR_FAILED):
            after[base + SEQUENCE] = 0
        found.append((port, "clears its intent", after))

    # -- put (ring.c: shmq_ring_put) --

    def put_fill(self, state: bytes, port: int, found: Successors) -> None:
        after, base = bytearray(state), self.ports + FIELDS * port
        slot = state[self.cell_names + port]
        record = self.records + RECORD * slot
        if state[record + PUBLISHED]:
            after[FAULT] = OVERWRITTEN
        after[record + FAILED] = after[record + LOSSES] = after[record + TAG] = 0
        self.outdate(after, slot)
        after[SENT] += 1
        after[base + CELL], after[base + STEP] = port, PUT_LOAD
        found.append((port, "writes a message into its slot", after))

    def put_load(self, state: bytes, port: int, found: Successors) -> None:
        after, base = bytearray(state), self.ports + FIELDS * port
        after[base + SEQUENCE], after[base + STEP] = state[WRITE_SEQ], PUT_LOOK
        found.append((port, "loads write_seq", after))

    def put_look(self, state: bytes, port: int, found: Successors) -> None:
        """look_for_space. Full: the second look at write_seq only decides what the caller is told; it tries again either way."""
        after, base = bytearray(state), self.ports + FIELDS * port
        lap, index = divmod(state[base + SEQUENCE], self.ring)
        stage = state[self.stages + index]
        if stage == 2 * lap:
            after[base + EXPECTED], after[self.port_names + NAMES * port + TAKE] = stage, state[self.names + index]
            after[base + STEP] = PUT_INTEND
            found.append((port, "sees room in the ring cell", after))
        elif stage > 2 * lap:
            helped = self.mutant != LATER_LAP_NOT_HELPED or stage == 2 * lap + 1
            after[base + STEP] = PUT_HELP if helped else PUT_LOAD
            found.append((port, "sees that write_seq lags", after))
        else:
            after[FAULT] = 0 if stage == 2 * lap - 1 else NONSENSE
            after[base + SEQUENCE], after[base + STEP] = 0, PUT_LOAD
            found.append((port, "sees that the ring is full", after))

    def put_record(self, state: bytes, port: int, found: Successors) -> None:
        after, base = bytearray(state), self.ports + FIELDS * port
        self.store_cell(after, state[base + INTENT_CELL], IDLE, port + 1, state[self.port_names + NAMES * port + TAKE])
        self.recorded(after, port)
        found.append((port, "stores what it took into its cell", after))

    def put_advance(self, state: bytes, port: int, found: Successors) -> None:
        after, base = bytearray(state), self.ports + FIELDS * port
        if state[WRITE_SEQ] == state[base + SEQUENCE]:
            after[WRITE_SEQ] += 1
        after[base + SEQUENCE] = 0
        if state[base + STEP] == PUT_HELP:
            after[base + STEP] = PUT_LOAD
        else:
            self.rest(after, port)
        found.append((port, "moves write_seq", after))

    # -- receive (resting.c: shmq_orphan_adopt; cell.c: shmq_cell_claim; ring.c: shmq_ring_get_many of one) --

    def receive(self, state: bytes, port: int, found: Successors) -> None:
        """Load orphan_changes. NEWS goes already here, as if the scan had found nothing; whoever tells of an orphan meanwhile
        sets it again, and so does an adoption."""
        after, base = bytearray(state), self.ports + FIELDS * port
        if state[base + NEWS]:
            after[base + NEWS], after[base + POSITION], after[base + STEP] = 0, self.producers, ADOPT_SCAN
        else:
            after[base + STEP] = CLAIM
        found.append((port, "receives: loads orphan_changes", after))

    def adopt_scan(self, state: bytes, port: int, found: Successors) -> None:
        """The cells that producers keep are never ORPHAN: the scan passes them by."""
        after, base = bytearray(state), self.ports + FIELDS * port
        cell = state[base + POSITION]
        if state[self.states + cell] == ORPHAN:
            self.remember(after, port, cell)
            after[base + STEP] = ADOPT_SWAP
            found.append((port, "sees an orphan", after))
        else:
            self.adopt_next(after, port)
            found.append((port, "sees no orphan in the cell", after))

    def adopt_next(self, state: bytearray, port: int) -> None:
        base = self.ports + FIELDS * port
        state[base + CELL] = state[base + FRESH] = state[self.port_names + NAMES * port + HELD] = 0
        state[base + POSITION] += 1
        state[base + STEP] = ADOPT_SCAN
        if state[base + POSITION] == self.cells:
            state[base + POSITION], state[base + STEP] = 0, CLAIM

    def adopt_swap(self, state: bytes, port: int, found: Successors) -> None:
        after, base = bytearray(state), self.ports + FIELDS * port
        if state[base + FRESH]:
            self.store_cell(after, state[base + CELL], self.leased, port + 1)
            self.remember(after, port, state[base + CELL])
            after[base + NEWS], after[base + POSITION], after[base + STEP] = 1, 0, WORKING
            found.append((port, "adopts the orphan", after))
        else:
            self.adopt_next(after, port)
            found.append((port, "finds the orphan gone", after))

    def claim(self, state: bytes, port: int, found: Successors) -> None:
        """Load and swap as one step: a swap that succeeds finds the word that was loaded, with its generation, so that the load
        might as well have happened with it; one that fails changes nothing and goes on with other cells. Which cell is tried
        first depends on a hint: here it is any."""
        spare = [cell for cell in range(self.producers, self.cells) if state[self.states + cell] == SPARE]
        for cell in spare:
            after, base = bytearray(state), self.ports + FIELDS * port
            self.store_cell(after, cell, IDLE, port + 1)
            after[base + CELL], after[base + STEP] = cell, GET_LOAD
            found.append((port, "claims a spare cell", after))
        if not spare:
            after = bytearray(state)
            self.rest(after, port)
            found.append((port, "finds no spare cell", after))

    def get_load(self, state: bytes, port: int, found: Successors) -> None:
        after, base = bytearray(state), self.ports + FIELDS * port
        after[base + SEQUENCE], after[base + STEP] = state[READ_SEQ], GET_LOOK
        found.append((port, "loads read_seq", after))

    def get_look(self, state: bytes, port: int, found: Successors) -> None:
        """look_for_item. Empty: the second look at read_seq decides whether to try again or to give up; both are allowed here."""
        after, base = bytearray(state), self.ports + FIELDS * port
        lap, index = divmod(state[base + SEQUENCE], self.ring)
        stage = state[self.stages + index]
        if stage == 2 * lap + 1:
            after[base + EXPECTED], after[self.port_names + NAMES * port + TAKE] = stage, state[self.names + index]
            after[base + STEP] = GET_INTEND
            found.append((port, "sees a message in the ring cell", after))
        elif stage > 2 * lap + 1:
            after[base + STEP] = GET_HELP
            found.append((port, "sees that read_seq lags", after))
        else:
            after[FAULT] = 0 if stage == 2 * lap else NONSENSE
            after[base + SEQUENCE], after[base + STEP] = 0, RELEASE
            found.append((port, "sees that the ring is empty", after))
            again = bytearray(after)
            again[base + STEP] = GET_LOAD
            found.append((port, "sees that the ring is empty, and tries again", again))

    def get_record(self, state: bytes, port: int, found: Successors) -> None:
        after, base = bytearray(state), self.ports + FIELDS * port
        cell = state[base + INTENT_CELL]
        self.store_cell(after, cell, self.leased, port + 1, state[self.port_names + NAMES * port + TAKE])
        self.remember(after, port, cell)
        self.recorded(after, port)
        found.append((port, "stores what it took into its cell: leased", after))

    def get_advance(self, state: bytes, port: int, found: Successors) -> None:
        after, base = bytearray(state), self.ports + FIELDS * port
        if state[READ_SEQ] == state[base + SEQUENCE]:
            after[READ_SEQ] += 1
        after[base + SEQUENCE] = 0
        after[base + STEP] = GET_LOAD if state[base + STEP] == GET_HELP else WORKING
        found.append((port, "moves read_seq", after))

    def release(self, state: bytes, port: int, found: Successors) -> None:
        after = bytearray(state)
        self.store_cell(after, state[self.ports + FIELDS * port + CELL], SPARE, 0)
        self.rest(after, port)
        found.append((port, "makes its cell spare", after))

    # -- the end of a lease (lease.c) --

    def work(self, state: bytes, port: int, found: Successors) -> None:
        """The message is delivered, and can be looked at until the lease ends; then it is acked, nacked or put aside."""
        base = self.ports + FIELDS * port
        self.ack(state, port, found)
        if state[NACKS]:
            self.nack(state, port, found)
        if state[EXTENDS] and state[base + FRESH]:
            after = bytearray(state)
            after[EXTENDS] -= 1
            self.store_cell(after, state[base + CELL], state[self.states + state[base + CELL]], port + 1)
            self.remember(after, port, state[base + CELL])
            found.append((port, "extends its lease", after))
        if self.configuration.aside:
            self.turn(state, port, found)

    def turn(self, state: bytes, port: int, found: Successors) -> None:
        """Put the lease aside, or take up the one that was put aside, or both: no step in shared memory."""
        after, base, names = bytearray(state), self.ports + FIELDS * port, self.port_names + NAMES * port
        working = state[base + STEP] == WORKING
        if not working and not state[base + ASIDE_CELL]:
            return
        self.rest(after, port)
        after[base + ASIDE_CELL] = state[base + CELL] + 1 if working else 0
        after[base + ASIDE_FRESH], after[names + ASIDE_SLOT] = state[base + FRESH], state[names + HELD]
        if state[base + ASIDE_CELL]:
            after[base + CELL], after[base + FRESH] = state[base + ASIDE_CELL] - 1, state[base + ASIDE_FRESH]
            after[names + HELD], after[base + STEP] = state[names + ASIDE_SLOT], WORKING
        found.append((port, "turns to another lease, or to none", after))

    def acks(self, state: bytes, port: int, cell: int, fresh: int, slot: int) -> bool:
        """Does the swap of an ack succeed?"""
        if self.mutant == ACK_IGNORES_GENERATION and slot:
            word = state[self.states + cell], state[self.owners + cell], state[self.cell_names + cell]
            return word == (self.leased, port + 1, slot)
        return bool(fresh)

    def acked(self, state: bytearray, port: int, cell: int, fresh: int) -> None:
        record = self.records + RECORD * state[self.cell_names + cell]
        if not fresh or not state[record + PUBLISHED]:
            state[FAULT] = ANOTHERS
        elif state[record + FAILED] != state[record + LOSSES]:
            state[FAULT] = MISCOUNTED
        state[record + PUBLISHED] = state[record + LOSSES] = 0
        if not self.remembers:
            state[record + FAILED] = state[record + TAG] = 0  # nobody counts what is not leased, until it is written again
        self.store_cell(state, cell, IDLE, port + 1)
        base = self.ports + FIELDS * port
        state[base + CELL], state[base + FRESH], state[base + STEP] = cell, 0, RELEASE
        state[self.port_names + NAMES * port + HELD] = 0

    def ack(self, state: bytes, port: int, found: Successors) -> None:
        after, base = bytearray(state), self.ports + FIELDS * port
        cell, fresh = state[base + CELL], state[base + FRESH]
        if self.acks(state, port, cell, fresh, state[self.port_names + NAMES * port + HELD]):
            self.acked(after, port, cell, fresh)
            found.append((port, "acks", after))
        else:
            self.rest(after, port)
            found.append((port, "acks too late: LeaseLost", after))

    def nack(self, state: bytes, port: int, found: Successors) -> None:
        """shmq_lease_give_back: a TIMED cell is made LEASED first, by one swap; a LEASED one is nobody else's business."""
        after, base = bytearray(state), self.ports + FIELDS * port
        cell = state[base + CELL]
        after[NACKS] -= 1
        if not state[base + FRESH]:
            self.rest(after, port)
            found.append((port, "nacks too late: LeaseLost", after))
            return
        if state[self.states + cell] == TIMED and self.mutant != NACK_COUNTS_FIRST:
            self.store_cell(after, cell, LEASED, port + 1)
            self.remember(after, port, cell)
        after[base + STEP] = COUNT_LOAD
        found.append((port, "nacks", after))

    def expire(self, state: bytes, port: int, found: Successors) -> None:
        """Load and swap as one step, as in `claim`; any TIMED cell of another may be past its deadline."""
        if not state[EXPIRIES]:
            return
        for cell in range(self.producers, self.cells):
            if state[self.states + cell] != TIMED or state[self.owners + cell] == port + 1:
                continue
            after, base = bytearray(state), self.ports + FIELDS * port
            after[EXPIRIES] -= 1
            if self.mutant != EXPIRY_COUNTS_FIRST:
                self.store_cell(after, cell, LEASED, port + 1)
            self.remember(after, port, cell)
            after[base + STEP] = COUNT_LOAD
            found.append((port, "ends a lease whose time is over", after))

    def outdate(self, state: bytearray, slot: int) -> None:
        """`deliveries` of the slot has another value: a swap by what was loaded before fails, unless both are 0."""
        for port in range(len(self.roles)):
            before = self.ports + FIELDS * port + BEFORE
            if state[before] == CURRENT and state[self.port_names + NAMES * port + HELD] == slot:
                state[before] = OUTDATED

    def count_load(self, state: bytes, port: int, found: Successors) -> None:
        after, base = bytearray(state), self.ports + FIELDS * port
        record = self.records + RECORD * state[self.port_names + NAMES * port + HELD]
        if state[base + FRESH] and state[record + TAG] == state[base + CELL] + 1 and self.mutant != COUNTS_AGAIN:
            after[base + STEP] = GIVE_BACK
            found.append((port, "sees that the failed delivery was counted", after))
        else:
            after[base + BEFORE], after[base + STEP] = (CURRENT if state[record + FAILED] else ZERO), COUNT_SWAP
            found.append((port, "loads the failed deliveries", after))

    def count_swap(self, state: bytes, port: int, found: Successors) -> None:
        after, base = bytearray(state), self.ports + FIELDS * port
        slot, before = state[self.port_names + NAMES * port + HELD], state[base + BEFORE]
        record = self.records + RECORD * slot
        after[base + BEFORE], after[base + STEP] = UNREAD, GIVE_BACK
        if before == CURRENT or (before == ZERO and state[record + FAILED] == 0):
            self.outdate(after, slot)
            after[record + FAILED] += 1
            after[record + TAG] = state[base + CELL] + 1 if state[base + FRESH] else 0
            if not state[record + PUBLISHED] or state[record + FAILED] != state[record + LOSSES]:
                after[FAULT] = MISCOUNTED
        found.append((port, "counts the failed delivery", after))

    def give_back(self, state: bytes, port: int, found: Successors) -> None:
        after, base = bytearray(state), self.ports + FIELDS * port
        record = self.records + RECORD * state[self.port_names + NAMES * port + HELD]
        fresh, reaping = state[base + FRESH], state[base + VICTIM]
        if fresh:
            self.store_cell(after, state[base + CELL], ORPHAN, 0)
            after[record + LOSSES] += 1
            if after[record + FAILED] != after[record + LOSSES]:
                after[FAULT] = MISCOUNTED
        after[base + CELL] = after[base + FRESH] = after[self.port_names + NAMES * port + HELD] = 0
        after[base + STEP] = REAP_CELLS if reaping else TELL
        if not fresh and not reaping:
            self.rest(after, port)
        found.append((port, "makes the cell an orphan" if fresh else "finds that the lease had ended", after))

    def tell_all(self, state: bytearray) -> None:
        for port, role in enumerate(self.roles):
            if role == "C" and state[self.ports + FIELDS * port + LIFE] == ALIVE:
                state[self.ports + FIELDS * port + NEWS] = 1

    def tell(self, state: bytes, port: int, found: Successors) -> None:
        after = bytearray(state)
        self.tell_all(after)
        self.rest(after, port)
        found.append((port, "moves orphan_changes", after))

    # -- reaping (reap.c, recover.c) --

    def reap(self, state: bytes, port: int, found: Successors) -> None:
        """Take the lock and look at the dead port's intent and in-flight cell: one step, since under the lock nobody else
        changes these. (Others may end an expired lease of the dead; that cell no longer names `give`, and settles nothing.)"""
        if state[LOCK]:
            return
        for dead in range(len(self.roles)):
            base = self.ports + FIELDS * dead
            if state[base + LIFE] != DEAD:
                continue
            after, mine, cell = bytearray(state), self.ports + FIELDS * port, state[base + INTENT_CELL]
            after[LOCK], after[mine + VICTIM] = port + 1, dead + 1
            owned = state[self.owners + cell] == dead + 1
            if not state[base + OPERATION]:
                after[mine + STEP] = self.after_settling()
            elif owned and state[self.cell_names + cell] == state[self.port_names + NAMES * dead + GIVE]:
                after[mine + STEP] = REAP_RING
            else:
                after[mine + STEP] = REAP_CLEAR
            found.append((port, f"takes the lock to recover {self.name(dead)}", after))

    def after_settling(self) -> int:
        return REAP_FREE if self.mutant == FREES_FIRST else REAP_CELLS

    def reap_ring(self, state: bytes, port: int, found: Successors) -> None:
        after, base = bytearray(state), self.ports + FIELDS * port
        dead = state[base + VICTIM] - 1
        theirs = self.ports + FIELDS * dead
        index = state[theirs + INTENT_INDEX]
        expected = state[theirs + EXPECTED], state[self.port_names + NAMES * dead + TAKE]
        if (state[self.stages + index], state[self.names + index]) == expected:
            after[base + STEP] = REAP_CLEAR
            found.append((port, "sees the expected word in the ring: it did not happen", after))
        else:
            after[base + STEP] = REAP_SCAN
            found.append((port, "sees another word in the ring", after))

    def reap_scan(self, state: bytes, port: int, found: Successors) -> None:
        """One cell. An in-flight cell that names neither slot proves nothing, whatever the further looks at it would find."""
        after, base = bytearray(state), self.ports + FIELDS * port
        position, dead = state[base + POSITION], state[base + VICTIM] - 1
        cell, names = position - self.ring, self.port_names + NAMES * dead
        slot = state[self.names + position]  # ring cells, and in-flight cells right behind them
        if slot not in (state[names + GIVE], state[names + TAKE]) or cell == state[self.ports + FIELDS * dead + INTENT_CELL]:
            self.reap_next(after, port)
            found.append((port, "sees neither slot in the next cell", after))
        elif cell < 0 or not state[self.owners + cell] or self.mutant == AMBIGUOUS_PROVES:
            found.append((port, self.judge(after, port, slot), after))
        else:
            self.remember(after, port, cell)
            after[base + STEP] = REAP_INTENT
            found.append((port, "sees one of the slots in a cell that has an owner", after))

    def reap_next(self, state: bytearray, port: int) -> None:
        """On to the next cell; behind the last one the port is left for later, which also stands for scanning at once again."""
        base = self.ports + FIELDS * port
        state[base + CELL] = state[base + FRESH] = state[self.port_names + NAMES * port + HELD] = 0
        state[base + POSITION] += 1
        state[base + STEP] = REAP_SCAN
        if state[base + POSITION] == self.slots:
            state[LOCK] = 0
            self.rest(state, port)

    def judge(self, state: bytearray, port: int, slot: int) -> str:
        base = self.ports + FIELDS * port
        happened = slot == state[self.port_names + NAMES * (state[base + VICTIM] - 1) + GIVE]
        state[base + POSITION] = state[base + CELL] = state[base + FRESH] = 0
        state[self.port_names + NAMES * port + HELD] = 0
        state[base + STEP] = REAP_STORE if happened else REAP_CLEAR
        return "judges that the exchange happened" if happened else "judges that the exchange did not happen"

    def reap_intent(self, state: bytes, port: int, found: Successors) -> None:
        """A cell that has changed since, or whose owner is in the open moment, proves nothing: no need for the third look."""
        after, base = bytearray(state), self.ports + FIELDS * port
        cell = state[base + POSITION] - self.ring
        owner = state[self.owners + cell] - 1
        if state[base + FRESH]:
            theirs = self.ports + FIELDS * owner
            its = state[theirs + OPERATION] and state[theirs + INTENT_CELL] == cell
            if not its or state[self.port_names + NAMES * owner + GIVE] != state[self.cell_names + cell]:
                after[base + STEP] = REAP_AGAIN
                found.append((port, "sees that its owner has nothing open there", after))
                return
        self.reap_next(after, port)
        found.append((port, "sees that the cell proves nothing", after))

    def reap_again(self, state: bytes, port: int, found: Successors) -> None:
        after, base = bytearray(state), self.ports + FIELDS * port
        if state[base + FRESH]:
            slot = state[self.names + state[base + POSITION]]
            found.append((port, self.judge(after, port, slot), after))
        else:
            self.reap_next(after, port)
            found.append((port, "sees that the cell has changed", after))

    def reap_store(self, state: bytes, port: int, found: Successors) -> None:
        after, base = bytearray(state), self.ports + FIELDS * port
        dead = state[base + VICTIM] - 1
        theirs, names = self.ports + FIELDS * dead, self.port_names + NAMES * dead
        word = LEASED if state[theirs + OPERATION] == GETTING else IDLE
        self.store_cell(after, state[theirs + INTENT_CELL], word, dead + 1, state[names + TAKE])
        after[theirs + HAPPENED] = after[theirs + EXPECTED] = after[theirs + INTENT_INDEX] = after[names + TAKE] = 0
        after[base + STEP] = REAP_CLEAR
        found.append((port, "stores what the dead one took into its cell", after))

    def reap_clear(self, state: bytes, port: int, found: Successors) -> None:
        after, base = bytearray(state), self.ports + FIELDS * port
        self.forget(after, state[base + VICTIM] - 1)
        after[base + STEP] = self.after_settling()
        found.append((port, "clears the dead one's intent", after))

    def forget(self, state: bytearray, dead: int) -> None:
        theirs, names = self.ports + FIELDS * dead, self.port_names + NAMES * dead
        state[theirs + OPERATION : theirs + LIFE] = bytes(LIFE - OPERATION)
        state[names + GIVE] = state[names + TAKE] = 0

    def reap_cells(self, state: bytes, port: int, found: Successors) -> None:
        """The next cell of the dead: the looks at others are left out, since no cell ever becomes a dead port's. Its IDLE and
        LEASED cells are nobody else's business either, so the look at one is taken together with the step that follows."""
        after, base = bytearray(state), self.ports + FIELDS * port
        dead = state[base + VICTIM]
        cell = next((cell for cell in range(self.cells) if state[self.owners + cell] == dead), self.cells)
        if cell == self.cells:
            after[base + STEP] = REAP_TELL
            if self.mutant == FREES_FIRST:
                after[LOCK] = 0
                self.rest(after, port)
            found.append((port, "sees no more cells of the dead one", after))
            return
        word = state[self.states + cell]
        if word == IDLE:
            self.store_cell(after, cell, SPARE, 0)
            found.append((port, "makes a cell of the dead one spare", after))
        elif word == TIMED and self.mutant != REAPER_COUNTS_FIRST:
            self.store_cell(after, cell, LEASED, dead)
            found.append((port, "makes a timed cell of the dead one leased", after))
        else:
            self.remember(after, port, cell)
            after[base + STEP] = COUNT_LOAD
            if word == LEASED:
                self.count_load(bytes(after), port, found)
            else:
                found.append((port, "sees a timed cell of the dead one", after))

    def reap_tell(self, state: bytes, port: int, found: Successors) -> None:
        after = bytearray(state)
        self.tell_all(after)
        after[self.ports + FIELDS * port + STEP] = REAP_FREE
        found.append((port, "moves orphan_changes for the dead one", after))

    def reap_free(self, state: bytes, port: int, found: Successors) -> None:
        """Free the port, and give the lock back: in between the reaper would do nothing but to make others go on without it."""
        after, base = bytearray(state), self.ports + FIELDS * port
        dead = state[base + VICTIM] - 1
        self.forget(after, dead)
        after[self.ports + FIELDS * dead + LIFE] = FREED
        if self.mutant == FREES_FIRST:
            self.tell_all(after)
            after[base + STEP] = REAP_CELLS
        else:
            after[LOCK] = 0
            self.rest(after, port)
        found.append((port, "frees the dead one's port", after))

    # -- for people --

    def name(self, port: int) -> str:
        return f"{ {'P': 'producer', 'C': 'consumer', 'W': 'watcher'}[self.roles[port]] } {port}"

    def describe(self, state: bytes) -> str:
        """The shared words in one line."""
        ring = (
            f"{stage // 2} {'READY' if stage & 1 else 'EMPTY'} s{slot}"
            for stage, slot in zip(state[self.stages : self.states], state[self.names : self.cell_names], strict=True)
        )
        cells = (
            STATES[state[self.states + cell]]
            + (f" {state[self.owners + cell] - 1}" if state[self.owners + cell] else "")
            + f" s{state[self.cell_names + cell]}"
            for cell in range(self.cells)
        )
        counted = (
            f"s{slot} failed {state[self.records + RECORD * slot + FAILED]}"
            for slot in range(1, self.slots + 1)
            if state[self.records + RECORD * slot + FAILED]
        )
        parts = ["ring " + ", ".join(ring), "cells " + ", ".join(cells), f"seq {state[WRITE_SEQ]} {state[READ_SEQ]}", *counted]
        return " | ".join(parts)


# -- exploring -----------------------------------------------------------------------------------------------------------


@dataclass
class Result:
    """What a search has found. `trace` is empty where nothing is wrong, and is among the shortest otherwise."""

    configuration: Configuration
    states: int = 0
    depth: int = 0
    seconds: float = 0.0
    complete: bool = True
    fault: str = ""
    trace: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        verdict = self.fault or ("correct" if self.complete else "nothing found so far")
        head = f"{self.states:,} states, depth {self.depth}, {self.seconds:.1f} s: {verdict}"
        return "\n".join([head, *self.trace])


class Search:
    """Breadth first, so that a counterexample is as short as can be."""

    def __init__(self, configuration: Configuration, limit: int = 0) -> None:
        self.protocol, self.limit = Protocol(configuration), limit
        self.numbers: dict[bytes, int] = {}
        self.parents = array("l")
        self.sources, self.targets = array("l"), array("l")  # of the steps that are no crash

    def run(self) -> Result:
        begun = time.monotonic()
        result = Result(self.protocol.configuration)
        states = [self.protocol.canonical(bytearray(self.protocol.initial()))]
        self.numbers[states[0]] = 0
        self.parents.append(-1)
        fault, last = self.explore(states, result)
        if not fault and result.complete:
            fault, last = self.stranded(states)
        if fault:
            result.fault = FAULTS[fault]
            result.trace = list(self.trace(states, last))
        result.states, result.seconds = len(states), time.monotonic() - begun
        return result

    def explore(self, states: list[bytes], result: Result) -> tuple[int, int]:
        """Fill `states`. Post: a fault and the number of its state, or zeros."""
        protocol, numbers = self.protocol, self.numbers
        successors, canonical = protocol.successors, protocol.canonical
        level_ends, number = 1, 0
        while number < len(states):
            if number == level_ends:
                level_ends, result.depth = len(states), result.depth + 1
            for _, what, after in successors(states[number]):
                key = canonical(after)
                target = numbers.get(key)
                if target is None:
                    target = numbers[key] = len(states)
                    states.append(key)
                    self.parents.append(number)
                    if fault := protocol.fault(bytearray(key)):
                        result.depth += 1
                        return fault, target
                if what is not CRASH:
                    self.sources.append(number)
                    self.targets.append(target)
            number += 1
            if self.limit and len(states) > self.limit:
                result.complete = False
                break
        return 0, 0

    def stranded(self, states: list[bytes]) -> tuple[int, int]:
        """From every state with a living consumer, one that is drained can be reached by steps without crashes: go back from
        these, and see what is never met."""
        starts = array("l", bytes(8 * (len(states) + 1)))
        for target in self.targets:
            starts[target + 1] += 1
        for number in range(len(states)):
            starts[number + 1] += starts[number]
        sources, free = array("l", bytes(8 * len(self.sources))), array("l", starts)
        for source, target in zip(self.sources, self.targets, strict=True):
            sources[free[target]] = source
            free[target] += 1
        good = bytearray(self.protocol.drained(state) for state in states)
        pending = [number for number in range(len(states)) if good[number]]
        while pending:
            number = pending.pop()
            for source in sources[starts[number] : starts[number + 1]]:
                if not good[source]:
                    good[source] = 1
                    pending.append(source)
        for number, state in enumerate(states):
            if not good[number] and self.protocol.has_consumer(state):
                return STRANDED, number
        return 0, 0

    def trace(self, states: list[bytes], last: int) -> Iterator[str]:
        """The way to a state, taken again with the names that the slots had at the beginning."""
        way = [last]
        while self.parents[way[-1]] >= 0:
            way.append(self.parents[way[-1]])
        state = self.protocol.initial()
        yield f"{0:4} {'':62} {self.protocol.describe(state)}"
        for count, number in enumerate(reversed(way[:-1]), 1):
            for port, what, after in self.protocol.successors(state):
                if self.protocol.canonical(bytearray(after)) == states[number]:
                    state = bytes(after)
                    yield f"{count:4} {self.protocol.name(port) + ' ' + what:62} {self.protocol.describe(state)}"
                    break


def check(configuration: Configuration, limit: int = 0) -> Result:
    """Explore a configuration, or as many of its states as `limit` allows (0: all)."""
    return Search(configuration, limit).run()


# -- by hand -------------------------------------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Explore one configuration of the protocol, or one of its mutants.")
    parser.add_argument("roles", help="a letter per process, producers first: P puts, C receives, W watches; for example PCC")
    parser.add_argument("messages", type=int)
    numbers = {"ring": 1, "pool": 1, "crashes": 0, "expiries": 0, "nacks": 0, "extends": 0, "restarts": 0}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"(default: {default})")
    parser.add_argument("--aside", action="store_true", help="a consumer may put a lease aside and ack it later")
    parser.add_argument("--producers-help", action="store_true", help="producers reap and end expired leases too")
    parser.add_argument("--mortal", default="PCW", help="the roles that may be killed (default: all)")
    parser.add_argument("--mutant", choices=MUTANTS, default="")
    parser.add_argument("--limit", type=int, default=0, help="stop after so many states")
    chosen = vars(parser.parse_args(arguments))
    limit = chosen.pop("limit")
    result = check(Configuration(**chosen), limit)
    print(result)
    return 1 if result.fault else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
