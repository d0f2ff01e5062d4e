"""A C program that knows nothing but shmq.h, and a Python program, at the two ends of one queue."""

from __future__ import annotations

import os
import re
import select
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import shmq
from support.native import run_native
from support.processes import WATCHDOG, wait_until
from support.shared_memory import PREFIX, side_files

INCLUDE = Path(shmq.get_include())
SOURCE = Path(__file__).with_name("client_test.c")
NO_CELLS, TIMED_OUT, LOST, CORRUPT, NO_PORTS, TOO_LARGE, NOT_FOUND, MISMATCH, FOREIGN = 2, 3, 5, 6, 7, 8, 9, 10, 11
UNKNOWN_KIND = 15
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-pedantic"]
HEADER, PORT, CELL = 1024, 128, 64  # bytes of the segment's parts, for those who scribble over them


@pytest.fixture(scope="session")
def program(build):
    sources = [str(SOURCE), str(INCLUDE / "shmq.c")]
    return build.made(["cc", f"-I{INCLUDE}", *sources, "-lrt", "-lpthread"], "client_test")  # as the header says


class Client:
    """A running C program: a line in, a line out."""

    def __init__(self, program):
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.pid = self.process.pid

    def tell(self, *words):
        self.process.stdin.write((" ".join(map(str, words)) + "\n").encode())

    def answer(self):
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self.process.stdout], [], [], WATCHDOG / 4)
            assert ready, "the C program does not answer"
            part = self.process.stdout.read(65536)
            assert part, f"the C program ended with status {self.process.wait()}"
            line += part
        status, _, rest = line.decode().rstrip("\n").partition(" ")
        return int(status), rest

    def ask(self, *words):
        self.tell(*words)
        return self.answer()

    def do(self, *words):
        """Ask for what must succeed."""
        status, rest = self.ask(*words)
        assert status == 0, f"{words}: {status} {rest}"
        return rest

    def error(self, *words):
        return self.ask(*words)[0]

    def receive(self, number=0, milliseconds=20_000):
        """Receive into the place `number`: kind, delivery count, dtype and shape, bytes."""
        kind, deliveries, shape, *payload = self.do("receive", number, milliseconds).split(" ")
        return int(kind), int(deliveries), shape, bytes.fromhex(payload[0])

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self):
        self.process.stdin.close()
        assert self.process.wait(WATCHDOG / 4) == 0


@pytest.fixture
def start(program):
    started = []

    def start(name=None):
        client = Client(program)
        started.append(client)
        if name is not None:
            client.do("attach", name)
        return client

    yield start
    for client in started:
        client.kill()
        client.process.stdin.close()
        client.process.stdout.close()


@pytest.fixture
def client(start, queue):
    """A C program that is attached to `queue`."""
    return start(queue.name)


def leased_by_nobody(q):
    return q.stats().leased == 0


# -- the header -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("standard", ["c99", "c11", "c17"])
def test_the_header_is_plain_c_and_draws_no_warning(standard, tmp_path):
    source = tmp_path / "only.c"
    source.write_text('#include "shmq.h"\nint main(void) { return shmq_strerror(0) == 0; }\n')
    command = ["cc", f"-std={standard}", *WARNINGS, "-fsyntax-only", f"-I{INCLUDE}", source]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr


# -- C produces, Python consumes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"\0", b"samples", bytes(range(256))], ids=len)
def test_bytes_that_c_puts_are_bytes_in_python(client, queue, data):
    client.do("put", data.hex() or "-", 0)
    assert queue.get(timeout=20) == data


def test_an_array_that_c_puts_has_its_dtype_and_shape_in_python(client, queue):
    client.do("put_doubles", 3, 4)
    array = queue.get(timeout=20)
    assert array.dtype == np.float64 and array.shape == (3, 4)
    assert (array == np.arange(12).reshape(3, 4) * 0.5).all()


@pytest.mark.parametrize("dtype", ["u1", "i2", "u4", "i8", "f4", "f8", "c16", "b1"])
def test_every_kind_of_number_arrives_as_what_it_was(client, queue, dtype):
    array = np.arange(6).astype(dtype).reshape(2, 3)
    client.do("put", array.tobytes().hex(), 0, f"{dtype}:2,3")
    there = queue.get(timeout=20)
    assert there.dtype == array.dtype and there.shape == array.shape and (there == array).all()


@pytest.mark.parametrize("dtype", ["O8", "Z8", "f7", "f1", "c4", "b2", "u0", "i16", "U5", "S0"])
def test_what_numpy_has_no_items_for_is_refused_before_it_is_put(client, queue, dtype):
    size = int(dtype[1:])
    assert client.error("put", bytes(size).hex() or "-", 0, f"{dtype}:1") == MISMATCH
    assert client.error("loan", 0, size, f"{dtype}:1") == MISMATCH
    assert queue.empty() and queue.stats().loaned == 0


@pytest.mark.parametrize("shape", [(1,), (2, 3), (2, 3, 4), (1, 2, 3, 4), (0, 5)])
def test_arrays_of_c_have_one_to_four_dimensions(client, queue, shape):
    array = np.arange(np.prod(shape), dtype="i4").reshape(shape)
    client.do("put", array.tobytes().hex() or "-", 0, "i4:" + ",".join(map(str, shape)))
    there = queue.get(timeout=20)
    assert there.shape == shape and (there == array).all()


def test_a_message_of_c_can_be_leased_and_nacked_in_python(client, queue):
    client.do("put", b"again".hex(), 0)
    with pytest.raises(ZeroDivisionError), queue.receive(timeout=20):
        1 / 0  # noqa: B018
    with queue.receive(timeout=20) as lease:
        assert (lease.data, lease.delivery_count) == (b"again", 2)


def test_ten_thousand_messages_of_c_arrive_in_order(client, queue):
    client.tell("produce", 10_000)
    got = [struct.unpack("i", queue.get(timeout=20))[0] for _ in range(10_000)]
    assert client.answer()[0] == 0
    assert got == list(range(10_000))


def test_two_producers_in_c_lose_nothing(start, queue):
    clients = [start(queue.name), start(queue.name)]
    for client in clients:
        client.tell("produce", 3000)
    got = [struct.unpack("i", queue.get(timeout=20))[0] for _ in range(6000)]
    assert [client.answer()[0] for client in clients] == [0, 0]
    assert sorted(got) == sorted([*range(3000)] * 2)
    shmq.verify(queue)


# -- Python produces, C consumes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"\0", b"work", bytes(range(256))], ids=len)
def test_bytes_that_python_puts_are_bytes_in_c(client, queue, data):
    queue.put(data)
    assert client.receive() == (0, 1, "-", data)
    client.do("ack", 0)


def test_text_that_python_puts_is_utf8_in_c(client, queue):
    queue.put("größer ≠ 小")
    assert client.receive() == (2, 1, "-", "größer ≠ 小".encode())


@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "f8", "c16", "b1"])
def test_an_array_that_python_puts_has_its_dtype_and_shape_in_c(client, queue, dtype):
    array = np.arange(6).astype(dtype).reshape(3, 2)
    queue.put(array)
    assert client.receive() == (1, 1, f"{dtype}:3,2", array.tobytes())


def test_a_frame_that_python_published_from_a_loan_is_whole_in_c(start, make):
    q = make(slots=4, slot_size=8192)
    client = start(q.name)
    with q.loan((64, 128), "u1") as frame:
        frame[:] = np.arange(64 * 128).reshape(64, 128) % 251
        sent = frame.tobytes()
    assert client.receive() == (1, 1, "u1:64,128", sent)
    client.do("ack", 0)


def test_ten_thousand_messages_of_python_arrive_in_order(client, queue):
    client.tell("consume", 10_000)
    for number in range(10_000):
        queue.put(struct.pack("i", number), timeout=20)
    assert client.answer() == (0, "success")
    assert queue.empty()


UNFIT = {
    "in Fortran order": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "big-endian": np.arange(6, dtype=">i4"),
    "of six dimensions": np.arange(32, dtype="u1").reshape(1, 2, 2, 2, 2, 2),
    "of records": np.zeros(3, dtype=[("x", "f4"), ("y", "i8")]),
    "in a side segment": np.arange(4000, dtype="u1").reshape(40, 100),
}


@pytest.mark.parametrize("form", UNFIT)
def test_an_array_beyond_the_fields_of_a_message_is_not_taken_for_another(start, make, form):
    queue, array = make(slots=4, slot_size=256, oversize="spill"), UNFIT[form]
    queue.put(array)
    client = start(queue.name)
    error, rest = client.ask("receive", 0, 5000)
    if error:  # then it is still there for those who can
        client.end()
        assert np.array_equal(queue.get(timeout=20), array)
    else:
        kind, _, shape, payload = rest.split(" ")
        dtype, _, lengths = shape.partition(":")
        described = dtype == f"{array.dtype.kind}{array.itemsize}" and lengths == ",".join(map(str, array.shape))
        assert int(kind) > 2 or (
            described and payload == np.ascontiguousarray(array, array.dtype.newbyteorder("=")).tobytes().hex()
        )
        client.do("ack", 0)


def test_bytes_in_a_side_segment_are_not_taken_for_the_few_bytes_of_its_key(start, make):
    queue = make(slots=4, slot_size=64, oversize="spill")
    queue.put(bytes(1000))
    client = start(queue.name)
    error, rest = client.ask("receive", 0, 5000)
    if error:
        client.end()
        assert queue.get(timeout=20) == bytes(1000)
    else:
        kind, _, _, payload = rest.split(" ")
        assert int(kind) > 2 or payload == bytes(1000).hex()
        client.do("ack", 0)


def test_a_message_has_an_id_and_an_age_in_c(client, queue):
    ids = set()
    for _ in range(3):
        queue.put(b"x")
        client.receive()
        identity, age = map(int, client.do("about", 0).split())
        ids.add(identity)
        assert 0 <= age < 20e9
        client.do("ack", 0)
    assert len(ids) == 3


# -- responsibility ---------------------------------------------------------------------------------------------------------


def test_what_c_acks_is_gone(client, queue):
    queue.put(b"done")
    client.receive()
    assert queue.stats().leased == 1
    client.do("ack", 0)
    assert queue.empty() and leased_by_nobody(queue)
    shmq.verify(queue)


def test_what_c_nacks_comes_again_in_python_with_its_count(client, queue):
    queue.put(b"failed")
    client.receive()
    client.do("nack", 0)
    with queue.receive(timeout=20) as lease:
        assert (lease.data, lease.delivery_count) == (b"failed", 2)


def test_what_python_nacks_comes_again_in_c_with_its_count(client, queue):
    queue.put(b"failed")
    queue.receive(timeout=20).nack()
    assert client.receive() == (0, 2, "-", b"failed")


def test_what_c_holds_when_it_detaches_comes_back_uncounted(client, queue):
    queue.put(b"held")
    client.receive()
    client.do("detach")
    with queue.receive(timeout=20) as lease:
        assert (lease.data, lease.delivery_count) == (b"held", 1)


def test_what_c_holds_when_it_is_killed_is_received_again_with_delivery_count_2(client, queue):
    queue.put(b"precious")
    assert client.receive()[3] == b"precious"
    client.kill()
    with queue.receive(timeout=20) as lease:
        assert (lease.data, lease.delivery_count) == (b"precious", 2)
    shmq.verify(queue)


def test_what_python_held_when_it_was_killed_is_received_again_in_c(start, queue, children):
    queue.put(b"precious")
    holder = children.start(hold_for_ever, queue.name)
    wait_until(lambda: queue.stats().leased == 1)
    client = start(queue.name)
    client.tell("receive", 0, -1)
    holder.kill()
    assert client.answer() == (0, "0 2 - " + b"precious".hex())


def hold_for_ever(name):
    lease = shmq.Queue.attach(name).receive(timeout=20)
    time.sleep(600)
    del lease


@pytest.mark.parametrize("who", ["C", "Python"])
def test_a_consumer_that_never_waits_long_notices_the_dead_too(start, client, queue, who):
    queue.put(b"work")
    holder = start(queue.name)
    holder.receive()
    holder.kill()

    def received():
        if who == "C":
            return client.error("receive", 0, 10) == 0
        try:
            queue.get(timeout=0.01)
        except shmq.Empty:
            return False
        return True

    wait_until(received, 10)


def test_a_killed_c_program_leaves_its_loans_and_its_port_to_others(start, make):
    q = make(slots=4, slot_size=64, in_flight=2, ports=2)
    for _ in range(5):
        client = start(q.name)
        client.do("loan", 0, 10)
        client.do("loan", 1, 10)
        client.kill()
    q._reap()
    shmq.verify(q)
    assert q.stats().loaned == 0
    with q.loan(10), q.loan(10):
        pass


def test_a_lease_is_settled_once(client, queue):
    queue.put(b"once")
    client.receive(0)
    client.do("again", 0, 1)
    client.do("ack", 0)
    assert client.error("ack", 1) == LOST
    assert client.error("nack", 1) == LOST
    assert queue.empty() and queue.stats().returned == 0


def test_an_ack_after_a_nack_takes_nothing_from_the_next_holder(client, queue):
    queue.put(b"mine now")
    client.receive(0)
    client.do("again", 0, 1)
    client.do("nack", 0)
    lease = queue.receive(timeout=20)
    assert client.error("ack", 1) == LOST
    lease.ack()
    assert queue.empty()


# -- loans --------------------------------------------------------------------------------------------------------------------


def test_what_c_writes_in_place_and_publishes_arrives(client, queue):
    client.do("loan", 0, 4)
    client.do("fill", 0, b"loan".hex())
    assert queue.empty() and queue.stats().loaned == 1
    client.do("publish", 0, 0)
    assert queue.get(timeout=20) == b"loan"


def test_a_loan_of_c_carries_dtype_and_shape(client, queue):
    client.do("loan", 0, 16, "f4:2,2")
    client.do("fill", 0, np.array([[1, 2], [3, 4]], "f4").tobytes().hex())
    client.do("publish", 0, 0)
    array = queue.get(timeout=20)
    assert array.dtype == np.float32 and array.tolist() == [[1, 2], [3, 4]]


def test_what_c_abandons_is_never_there(client, queue):
    client.do("loan", 0, 4)
    client.do("abandon", 0)
    assert queue.empty() and queue.stats().loaned == 0
    shmq.verify(queue)


@pytest.mark.parametrize("first", ["publish", "abandon"])
@pytest.mark.parametrize("second", ["publish", "abandon"])
def test_a_loan_is_settled_once(client, queue, first, second):
    client.do("loan", 0, 1)
    client.do("fill", 0, "00")
    client.do(first, 0, 0)
    assert client.error(second, 0, 0) == LOST
    assert queue.qsize() == (first == "publish")


@pytest.mark.parametrize("first", ["publish", "abandon"])
@pytest.mark.parametrize("second", ["publish", "abandon"])
def test_a_copy_of_a_settled_loan_settles_nothing(client, queue, first, second):
    """Its cell has another's message by then."""
    client.do("loan", 0, 1)
    client.do("fill", 0, "00")
    client.do("copy", 0, 1)
    client.do(first, 0, 0)
    before = queue.qsize()
    for _ in range(2):
        with queue.loan(1):
            assert client.error(second, 1, 0) == LOST
    assert queue.qsize() == before + 2
    shmq.verify(queue)


@pytest.mark.parametrize("call", ["publish", "abandon"])
def test_a_message_that_c_received_is_no_loan(client, queue, call):
    queue.put(b"kept")
    client.receive(0)
    assert client.error(call, 0, 0) == LOST
    assert queue.stats().leased == 1 and queue.empty()
    client.do("ack", 0)
    shmq.verify(queue)


def test_a_loan_that_finds_no_room_is_still_lent(client, queue):
    for _ in range(queue.maxsize):
        queue.put(b"x")
    client.do("loan", 0, 4)
    client.do("fill", 0, b"late".hex())
    assert client.error("publish", 0, 30) == TIMED_OUT
    queue.get(timeout=20)
    client.do("publish", 0, 0)
    assert queue.drain()[-1] == b"late"


# -- time-outs ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("milliseconds", [0, 60])
def test_receiving_from_an_empty_queue_times_out(client, milliseconds):
    begun = time.monotonic()
    assert client.error("receive", 0, milliseconds) == TIMED_OUT
    assert milliseconds / 1000 <= time.monotonic() - begun + 0.001 < 20


@pytest.mark.parametrize("milliseconds", [0, 60])
def test_putting_into_a_full_queue_times_out_and_puts_nothing(client, queue, milliseconds):
    for number in range(queue.maxsize):
        queue.put(number)
    begun = time.monotonic()
    assert client.error("put", "00", milliseconds) == TIMED_OUT
    assert milliseconds / 1000 <= time.monotonic() - begun + 0.001 < 20
    assert queue.drain() == list(range(queue.maxsize))


def test_a_receive_that_waits_is_woken_by_a_put(client, queue):
    client.tell("receive", 0, -1)
    wait_until(lambda: queue.stats().waiting_consumers == 1)
    queue.put(b"wake up")
    assert client.answer() == (0, "0 1 - " + b"wake up".hex())


def test_a_put_that_waits_is_woken_by_a_get(client, queue):
    for _ in range(queue.maxsize):
        queue.put(b"x")
    client.tell("put", b"last".hex(), -1)
    wait_until(lambda: queue.stats().waiting_producers == 1)
    queue.get(timeout=20)
    assert client.answer()[0] == 0
    assert queue.drain()[-1] == b"last"


def test_a_signal_ends_no_call(client, queue):
    client.tell("receive", 0, -1)
    wait_until(lambda: queue.stats().waiting_consumers == 1)
    os.kill(client.pid, signal.SIGSTOP)
    os.kill(client.pid, signal.SIGCONT)
    queue.put(b"still there")
    assert client.answer() == (0, "0 1 - " + b"still there".hex())


# -- errors ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["no.such.queue", "with/slash", "../../etc/passwd", "x" * 300])
def test_attaching_to_what_is_not_there_says_so(start, wrong):
    status, words = start().ask("attach", wrong)
    assert (status, words) == (NOT_FOUND, "there is no queue of this name")


def test_a_queue_without_a_bound_is_refused_whose_backlog_nobody_would_fetch(start, make):
    assert start().error("attach", make(overflow="grow").name) == MISMATCH


def test_attaching_when_all_ports_are_taken_says_so(start, make):
    q = make(ports=2)
    start(q.name)
    status, words = start().ask("attach", q.name)
    assert status == NO_PORTS and "port" in words


def test_a_payload_larger_than_a_slot_is_refused_at_once(client, queue):
    assert int(client.do("slot_size")) == queue.slot_size
    assert client.error("put", "00" * (queue.slot_size + 1), -1) == TOO_LARGE
    assert client.error("loan", 0, queue.slot_size + 1) == TOO_LARGE
    assert queue.empty() and queue.stats().loaned == 0
    client.do("put", "00" * queue.slot_size, 0)
    assert len(queue.get(timeout=20)) == queue.slot_size


@pytest.mark.parametrize("shape", ["f8:3", "f8:1,1,2", "u1:4294967295,4294967295,4294967295"])
def test_a_shape_that_contradicts_the_length_is_refused(client, queue, shape):
    assert client.error("put", "00" * 8, -1, shape) in (MISMATCH, TOO_LARGE)
    assert client.error("loan", 0, 8, shape) in (MISMATCH, TOO_LARGE)
    assert queue.empty() and queue.stats().loaned == 0
    shmq.verify(queue)


def test_more_than_four_dimensions_are_refused(client, queue):
    assert client.error("put", "00", -1, "u1:1,1,1,1,1") == TOO_LARGE
    assert queue.empty()


def test_leases_beyond_the_in_flight_limit_are_refused_and_take_nothing(start, make):
    q = make(in_flight=2)
    for number in range(3):
        q.put(number)
    client = start(q.name)
    client.receive(0)
    client.receive(1)
    assert client.error("receive", 2, 0) == NO_CELLS
    assert client.error("loan", 3, 1) == NO_CELLS
    assert q.get(timeout=20) == 2
    client.do("ack", 0)
    client.do("put", "00", 0)
    client.receive(0)


@pytest.mark.parametrize(("offset", "error"), [(8, MISMATCH), (184, UNKNOWN_KIND)], ids=["version", "kind"])
def test_a_segment_of_another_version_or_kind_is_refused(start, queue, offset, error):
    with open(f"/dev/shm/{PREFIX}{queue.name}", "r+b") as file:
        file.seek(offset)
        before = file.read(4)
        file.seek(offset)
        file.write(b"\xff\0\0\0")
        file.flush()
        assert start().error("attach", queue.name) == error
        file.seek(offset)
        file.write(before)


@pytest.mark.parametrize(("offset", "value"), [(32, 1 << 60), (40, 0xFFFFFFFF), (16, 1)], ids=["slot_size", "slots", "bytes"])
def test_a_header_that_contradicts_itself_is_refused(start, queue, offset, value):
    path = f"/dev/shm/{PREFIX}{queue.name}"
    size = 4 if offset == 40 else 8
    with open(path, "r+b") as file:
        file.seek(offset)
        before = file.read(size)
        file.seek(offset)
        file.write(value.to_bytes(size, "little"))
        file.flush()
        assert start().error("attach", queue.name) == CORRUPT
        file.seek(offset)
        file.write(before)


def test_a_file_that_is_no_segment_is_refused(start, name):
    path = f"/dev/shm/{PREFIX}{name}"
    with open(path, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write(b"nonsense" * 1024)
    try:
        assert start().error("attach", name) == MISMATCH
    finally:
        os.unlink(path)


def test_a_segment_that_others_may_write_to_is_refused_as_python_refuses_it(start, queue):
    path = f"/dev/shm/{PREFIX}{queue.name}"
    os.chmod(path, 0o666)
    with pytest.raises(shmq.SegmentForeign):
        shmq.Queue.attach(queue.name)
    assert start().error("attach", queue.name) == FOREIGN


def lay(trap, path, aside):
    """Something that is not what it was made as, in the place of a file of a queue."""
    os.rename(path, aside)
    if trap == "link":
        os.symlink(aside, path)
    elif trap == "fifo":
        os.mkfifo(path, 0o600)
    elif trap == "folder":
        os.mkdir(path, 0o700)
    else:
        os.link(aside, path)


@pytest.mark.parametrize("trap", ["link", "fifo", "folder", "second name"])
@pytest.mark.parametrize("kind", ["segment", "semaphore"])
def test_what_lies_in_the_place_of_a_file_is_neither_followed_nor_waited_for(start, queue, kind, trap):
    beside = queue.segment.beside
    path = f"/dev/shm/{PREFIX}{queue.name}" if kind == "segment" else f"/dev/shm/sem.{beside}.items"
    aside = f"/dev/shm/aside.{queue.name}"
    lay(trap, path, aside)
    try:
        assert start().error("attach", queue.name) in (MISMATCH, FOREIGN)
        assert queue.stats().ports == 1
    finally:
        (os.rmdir if trap == "folder" else os.unlink)(path)
        os.rename(aside, path)
    client = start(queue.name)
    queue.put(b"x")
    assert queue.get(timeout=0) == b"x" and client


def scribble(queue, offset, word):
    with open(f"/dev/shm/{PREFIX}{queue.name}", "r+b") as file:
        file.seek(offset)
        file.write(word.to_bytes(8, "little"))


def cell_offset(queue, cell):
    return HEADER + 64 * PORT + cell * CELL  # 64 ports are the default


@pytest.mark.parametrize("call", ["put 00 0", "receive 0 0", "loan 0 1"])
def test_in_flight_cells_that_name_no_slot_end_in_an_error_and_not_in_a_crash(client, queue, call):
    if call.startswith("receive"):
        queue.put(b"x")
    with open(f"/dev/shm/{PREFIX}{queue.name}", "r+b") as file:
        for cell in range(64 + 64):  # the reserved ones, and those in flight
            file.seek(cell_offset(queue, cell))
            word = int.from_bytes(file.read(8), "little")
            file.seek(cell_offset(queue, cell))
            file.write((word | 0xFFFFFF).to_bytes(8, "little"))
    assert client.error(*call.split()) in (CORRUPT, NO_CELLS)


@pytest.mark.parametrize("word", [0xFFFFFF | 1 << 24, (1 << 64) - 1], ids=["no such slot", "nonsense"])
def test_ring_cells_that_name_no_slot_end_in_an_error_and_not_in_a_crash(client, queue, word):
    ring = cell_offset(queue, 64 + 64)
    for index in range(queue.maxsize):
        scribble(queue, ring + 8 * index, word)
    assert client.error("receive", 0, 0) in (CORRUPT, TIMED_OUT)
    assert client.error("put", "00", 0) in (CORRUPT, TIMED_OUT)


WORDS = {  # what each error of shmq.h says
    "NONE": "success",
    "NO_CELLS": "every in-flight cell of the queue is loaned or leased",
    "TIMED_OUT": "timed out",
    "LOST": "the message is no longer yours",
    "CORRUPT": "the segment is corrupt",
    "NO_PORTS": "every port of the queue is in use: close a handle, or create it with more ports",
    "TOO_LARGE": "the message is larger than a slot of the queue",
    "NOT_FOUND": "there is no queue of this name",
    "MISMATCH": "the segment is of another format, version or machine, or the shape does not fit the bytes",
    "FOREIGN": "the segment belongs to another user",
    "SHUT": "the queue was shut down: no message goes in any more",
    "UNKNOWN_KIND": "the segment holds no queue, but something that this version of shmq does not know",
}
ERRORS = dict(re.findall(r"^    SHMQ_ERROR_(\w+) = (\d+)", (INCLUDE / "shmq.h").read_text(), re.MULTILINE))


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_has_its_words(start, error):
    words = start().ask("strerror", ERRORS[error])[1]
    assert words == WORDS[error] if error != "SYSTEM" else words not in WORDS.values() and "unknown" not in words


def test_every_other_number_is_an_unknown_error(start):
    client = start()
    assert {client.ask("strerror", number)[1] for number in (-1, 16, 99, 2**31 - 1)} == {"unknown error"}


def test_a_shut_queue_takes_nothing_from_c_and_says_so(start, make):
    q = make(slots=4)
    client = start(q.name)
    q.put(b"before")
    q.shutdown()
    assert client.ask("put", "00", 1000) == (int(ERRORS["SHUT"]), WORDS["SHUT"])
    assert client.receive(0)[3] == b"before"
    client.do("ack", 0)
    assert client.ask("receive", 0, 1000) == (int(ERRORS["SHUT"]), WORDS["SHUT"])


def test_the_command_that_the_header_shows_builds_a_program(tmp_path):
    lines = re.findall(r"^ \*     (.+)$", (INCLUDE / "shmq.h").read_text().partition("*/")[0], re.MULTILINE)
    assert [line.partition(" ")[0].partition("=")[0] for line in lines] == ["DIR", "cc"]
    (tmp_path / "program.c").write_text(
        '#include <shmq.h>\nint main(void) { shmq_queue *q; return shmq_attach("none", &q) != SHMQ_ERROR_NOT_FOUND; }\n'
    )
    python = tmp_path / "python"  # whatever is called so elsewhere
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(Path(shmq.__file__).parent.parent)}
    done = subprocess.run(
        ["sh", "-ec", "\n".join([*lines, "./a.out"])], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


# -- life -----------------------------------------------------------------------------------------------------------------------


def test_detaching_frees_the_port(start, make):
    q = make(ports=2)
    client = start(q.name)
    for _ in range(5):
        client.do("detach")
        client.do("attach", q.name)
    client.do("put", "2a", 0)
    assert q.get(timeout=20) == b"*"


def test_a_program_that_ends_leaves_nothing_behind(client, queue):
    client.do("put", "00", 0)
    client.end()
    assert queue.stats().ports == 1
    shmq.verify(queue)


def test_a_forked_child_lets_go_of_its_parents_handle_and_opens_its_own(client, queue):
    queue.put(b"the parent's")
    client.receive(0)
    client.do("in_child", queue.name)
    assert queue.get(timeout=20) == struct.pack("i", 7)
    client.do("ack", 0)
    assert queue.empty() and leased_by_nobody(queue)


def test_counters_of_c_and_python_add_up(client, queue):
    client.do("put", "00", 0)
    queue.put(b"1")
    client.receive(0)
    client.do("ack", 0)
    queue.get(timeout=20)
    stats = queue.stats()
    assert (stats.puts, stats.receives, stats.gets, stats.acks) == (2, 1, 1, 1)


def test_what_was_put_before_a_shutdown_is_found_by_one_who_had_just_looked(build, make):
    run_native(build.program(SOURCE.with_name("shut_test.c")), make(slots=4).name)


@pytest.mark.parametrize(("rest", "ends"), [(3600, False), (0.3, True)])
def test_a_receive_in_c_waits_for_the_first_of_messages_that_rest_in_every_cell(start, make, rest, ends):
    queue = make(slots=8, in_flight=2)
    queue.put_many([b"first", b"second", b"third"])
    for lease in queue.receive_many(2, timeout=0):
        lease.nack(delay=rest)
    client = start()
    assert client.ask("attach", queue.name)[0] == 0
    if ends:
        assert client.ask("receive", 1, WATCHDOG / 4 * 1000) == (0, f"0 2 - {b'first'.hex()}")
        assert client.ask("ack", 1)[0] == 0
    else:
        assert client.ask("receive", 1, 100)[0] == TIMED_OUT
    queue.purge()


def test_an_ack_takes_the_side_segment_along(start, make):
    q = make(slots=4, slot_size=64)
    client = start(q.name)
    q.put(b"x" * 1000)
    q.put(b"y" * 1000)
    for number in range(2):
        kind, deliveries, _, payload = client.receive(number)
        assert (kind, deliveries, len(payload)) == (6, 1, 16)  # what only Python reads
    client.do("ack", 0)
    assert len(side_files(q)) == 1
    client.do("nack", 1)
    assert q.get(timeout=5) == b"y" * 1000
    assert side_files(q) == []
