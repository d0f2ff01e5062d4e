"""NumPy is imported by the first array, and by nothing else: what goes without it, and what may happen during its import."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

import numpy as np
import pytest

import shmq
from support.programs import WithoutNumpy, run_program

Make = Callable[..., shmq.Queue]

# What a program does in the middle of NumPy's import: when `numpy.linalg` is about to run, and only then.
INSIDE = """
import sys, threading
from importlib.machinery import PathFinder

class Inside:
    def __init__(self, action):
        self.action = action

    def find_spec(self, name, path=None, target=None):
        if name != "numpy.linalg":
            return None
        spec = PathFinder.find_spec(name, path, target)
        run = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (self.action(), run(module))
        return spec

def inside(action):
    sys.meta_path.insert(0, Inside(action))
"""


def run_inside(script: str, *arguments: object) -> str:
    """The same as run_program, with what INSIDE defines."""
    return run_program(INSIDE + textwrap.dedent(script), *arguments)


# ---- what needs no NumPy ------------------------------------------------------------------------------------------------------

# Each way of a queue, with everything but arrays.
NO_ARRAYS = """
    import asyncio, sys
    import shmq
    from shmq import aio, mp

    def all_ways(queue, *messages):
        for message in messages:
            queue.put(message)
            assert queue.get() == message
        assert queue.put_many(messages) == len(messages)
        assert queue.peek(3) == list(messages[:3])
        assert queue.get_many(1) == [messages[0]]
        for message, lease in zip(messages[1:], queue.consume(prefetch=2, timeout=0)):
            assert lease.data == message
        assert queue.empty()

    async def wait(queue):
        await queue.aput("text")
        assert await queue.aget() == "text"

    things = b"bytes", "text", "\\ud800", bytearray(b"more"), {"a": [1, 2.5, None]}, 7, shmq.Full("of its own")
    with shmq.Queue(slots=64) as queue:
        all_ways(queue, *things[:6])
        queue.put(things[6])
        assert str(queue.get()) == "of its own"
        queue.put(memoryview(b"view"))
        assert queue.get() == b"view"
        with queue.loan(5) as view:
            view[:] = b"loan!"
        with queue.receive() as lease:
            assert bytes(lease.view) == b"loan!"
        queue.put("hopeless")
        queue.receive().reject("as it is")
        assert [letter.data for letter in queue.dead_letters] == ["hopeless"]
        asyncio.run(wait(queue))
        queue.stats(), queue.leases()
        shmq.verify(queue)
    with shmq.Queue(codec=shmq.json_codec) as queue:
        all_ways(queue, b"bytes", "text", {"a": [1, 2.5, None]})
    with shmq.Queue(slots=2, slot_size=64, overflow="grow") as queue:
        all_ways(queue, *[bytes(100)] * 10)
    with shmq.Queue(allow_pickle=False) as queue:
        all_ways(queue, b"bytes", "text", "more")
        try:
            queue.put({})
        except shmq.PickleRefused:
            pass
    queue = mp.Queue()
    queue.put((1, b"bytes"))
    assert queue.get() == (1, b"bytes")
    queue.close()
    with shmq.Executor(1) as pool:
        assert pool.submit(sorted, [2, 1]).result() == [1, 2]
        assert list(pool.map(abs, [-1, -2])) == [1, 2]
"""


def test_what_is_no_array_needs_no_numpy(without_numpy: WithoutNumpy) -> None:
    run_program(NO_ARRAYS, env=without_numpy.environment)
    assert not without_numpy.was_tried()


def test_commands_need_no_numpy(without_numpy: WithoutNumpy, make: Make) -> None:
    """But for the bench; what the demo does without is seen in tests/unit/test_cli.py."""
    queue = make(max_deliveries=1)
    queue.put("hopeless")
    queue.receive().reject()
    run_program(
        """
        import sys
        from click.testing import CliRunner
        from shmq.cli._group import group

        for command in "ls", "doctor --look {}", "doctor {}", "dead {}", "redrive {}", "unlink -y {}", "--help":
            done = CliRunner().invoke(group, command.format(sys.argv[1]).split())
            assert done.exit_code == 0, (command, done.output)
        """,
        queue.name,
        env=without_numpy.environment,
    )
    assert not without_numpy.was_tried()


# ---- the first array ----------------------------------------------------------------------------------------------------------

FIRST = {  # by what becomes the first one; where it says np, the program has imported NumPy by itself
    "a put array": "queue.put(np.arange(3.0)); assert queue.get().tolist() == [0, 1, 2]",
    "a put buffer": "queue.put(array.array('d', [1, 2])); assert queue.get().tolist() == [1, 2]",
    "a taken array": "assert theirs.get().tolist() == [[0, 1, 2], [3, 4, 5]]",
    "taken arrays": "assert [a.size for a in theirs.get_many(2)] == [6, 6]",
    "a looked at array": "assert theirs.peek()[0].shape == (2, 3)",
    "the data of a lease": "with theirs.receive() as lease: assert lease.data.shape == (2, 3)",
    "the array of a lease": "with theirs.receive() as lease: assert not lease.array.flags.writeable",
    "a writable array of a lease": "with theirs.receive() as lease: lease.writable_array[:] = 1",
    "the array of bytes": "queue.put(b'12'); assert queue.receive().array.tolist() == [49, 50]",
    "a loan": "with queue.loan((2, 2), 'u2') as a: a[:] = 7\nassert queue.get().tolist() == [[7, 7], [7, 7]]",
    "the array of a loan by size": "loan = queue.loan(2); loan.array[:] = 98; loan.publish(); assert queue.get() == b'bb'",
    "an array in an object": "queue.put({'a': np.arange(3)}); assert queue.get()['a'].flags.writeable",
    "a scalar": "queue.put(np.float64(2.5)); a = queue.get(); assert type(a) is np.float64 and a == 2.5",
    "a void": "queue.put(np.zeros(1, 'u1,f8')[0]); assert type(queue.get()) is np.void",
    "records": "queue.put(np.ones(2, 'u1,f8')); assert queue.get().dtype == 'u1,f8'",
    "a masked array": "queue.put(np.ma.array([1, 2], mask=[0, 1])); assert queue.get().mask.tolist() == [False, True]",
    "a subclass": "queue.put(np.rec.array([(1, 2.0)], dtype='u1,f8')); assert type(queue.get()) is np.recarray",
    "an array of objects": "queue.put(np.array([None, 'a'], 'O')); assert queue.get().tolist() == [None, 'a']",
    "an array of one byte each": "queue.put(np.arange(3, dtype='u1')); assert type(queue.get()) is np.ndarray",
    "an array after its module is gone": (
        "a = np.arange(3); del sys.modules['numpy']; queue.put(a)\nassert queue.get().tolist() == [0, 1, 2]"
    ),
    "an array that JSON cannot carry": "coded.put(np.arange(3)); assert type(coded.get()) is np.ndarray",
    "a dead letter": "theirs.receive().reject(); assert next(iter(theirs.dead_letters)).data.shape == (2, 3)",
}


def test_anything_may_be_the_first_array(make: Make) -> None:
    """Each in a child of its own, which has no NumPy yet, or has imported it by itself."""
    theirs = make(slot_size=256)
    for _ in range(2 * len(FIRST)):
        theirs.put(np.arange(6).reshape(2, 3))
    run_program(
        """
        import array, os, sys, traceback
        import shmq

        for what, code in sorted(eval(sys.argv[2]).items(), key=lambda item: "np." in item[1]):
            if "np." in code:
                import numpy as np
            assert ("numpy" in sys.modules) is ("np." in code)
            if (pid := os.fork()) == 0:
                status = 1
                try:
                    coded = shmq.Queue(codec=shmq.json_codec)
                    with shmq.Queue.attach(sys.argv[1]) as theirs, shmq.Queue() as queue, coded:
                        exec(code)
                except BaseException:
                    traceback.print_exc()
                else:
                    status = 0
                os._exit(status)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, what
        """,
        theirs.name,
        FIRST,
    )


def test_threads_may_need_numpy_at_once(make: Make) -> None:
    """One of them imports it, in the middle of their calls; the others wait, and lose nothing."""
    theirs = make(slot_size=64)
    for number in range(8):
        theirs.put(np.full(4, number))
    said = run_program(
        """
        import array, sys, threading
        import shmq

        theirs, ours = shmq.Queue.attach(sys.argv[1]), shmq.Queue()
        barrier, found, failed = threading.Barrier(16), [], []

        def take():
            barrier.wait()
            found.append(int(theirs.get(timeout=30).sum()))

        def put():
            barrier.wait()
            ours.put(array.array("d", [1, 2]))

        threading.excepthook = failed.append
        threads = [threading.Thread(target=target) for target in (take, put) * 8]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed, failed
        assert sorted(found) == [4 * number for number in range(8)]
        assert [ours.get(timeout=0).tolist() for _ in range(8)] == [[1, 2]] * 8
        shmq.verify(theirs), theirs.close(), ours.close()
        print("numpy" in sys.modules)
        """,
        theirs.name,
    )
    assert said == "True\n"
    assert theirs.empty() and theirs.leases() == []


def test_a_get_that_imports_numpy_beyond_its_time_out_returns_the_array(make: Make) -> None:
    theirs = make(slot_size=64)
    theirs.put(np.arange(3))
    run_inside(
        """
        import time
        import shmq

        inside(lambda: time.sleep(0.2))
        with shmq.Queue.attach(sys.argv[1]) as theirs:
            assert theirs.get(timeout=0.05).tolist() == [0, 1, 2]
            assert theirs.empty()
        """,
        theirs.name,
    )


def test_bytes_travel_while_another_thread_imports_numpy() -> None:
    run_inside(
        """
        import shmq

        begun, go_on = threading.Event(), threading.Event()
        inside(lambda: (begun.set(), go_on.wait(30)))
        importer = threading.Thread(target=__import__, args=["numpy"])
        importer.start()
        assert begun.wait(30)
        with shmq.Queue() as queue:
            for thing in (b"bytes", "text", {"a": 1}, memoryview(b"view")):
                queue.put(thing)
                assert queue.get() == thing
        go_on.set()
        importer.join()
        """
    )


# ---- a fork -------------------------------------------------------------------------------------------------------------------

# Another thread is in the middle of the import when the main one forks; the child then needs NumPy.
FORKED = """
    import array, os, time, types
    import shmq
    from shmq._codec import importing

    importing.PATIENCE = float(sys.argv[2])
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def pause():
        begun.set()
        go_on.wait(float(sys.argv[3]))
        ended.set()

    def import_module(name):
        module = __import__(name, fromlist=["*"])
        if name == "numpy":
            pause()
        return module

    if sys.argv[4] == "inside":
        inside(pause)
    else:
        importing.importlib = types.SimpleNamespace(import_module=import_module)
    theirs = shmq.Queue.attach(sys.argv[1])
    importer = threading.Thread(target=theirs.get)
    importer.start()
    assert begun.wait(30)
    if (child := os.fork()) == 0:
        waited = ended.is_set()
        with shmq.Queue() as ours:
            try:
                ours.put(array.array("d", [1, 2]))
                print(ours.get().tolist(), waited)
            except ImportError as error:
                ours.put(b"bytes")
                assert ours.get() == b"bytes"
                print(error)
        sys.stdout.flush()
        os._exit(0)
    go_on.set()
    _, status = os.waitpid(child, 0)
    importer.join()
    theirs.close()
    assert status == 0
"""


@pytest.mark.parametrize("where", ["inside", "behind"])
def test_a_fork_waits_until_another_thread_has_imported_numpy(where: str, make: Make) -> None:
    """Also where NumPy is there, and what shmq needs of it is not yet."""
    theirs = make(slot_size=64)
    theirs.put(np.arange(3))
    assert run_inside(FORKED, theirs.name, 30, 0.2, where) == "[1.0, 2.0] True\n"


def test_a_child_that_was_forked_in_the_middle_of_the_import_is_told(make: Make) -> None:
    """Where the fork had no patience: otherwise the child would wait for a thread that it does not have."""
    theirs = make(slot_size=64)
    theirs.put(np.arange(3))
    assert "forked while another thread of its parent imported NumPy" in run_inside(FORKED, theirs.name, 0, 30, "inside")
    assert theirs.empty()


def test_the_thread_that_imports_numpy_may_fork() -> None:
    """As a signal handler in the middle of it does: it does not wait for itself, and the child ends the import."""
    run_inside(
        """
        import array, os, time
        import shmq

        forked = []
        inside(lambda: forked.append(os.fork()))
        began = time.monotonic()
        with shmq.Queue() as queue:
            queue.put(array.array("d", [1, 2]))
            assert queue.get().tolist() == [1, 2]
        if forked[0]:
            assert os.waitpid(forked[0], 0)[1] == 0
        assert time.monotonic() - began < 9
        """
    )


# ---- an import that fails -----------------------------------------------------------------------------------------------------


def test_what_needs_numpy_during_its_import_is_refused_and_loses_nothing(make: Make) -> None:
    """A finalizer, in the thread that imports it."""
    theirs = make(slot_size=64)
    theirs.put(np.arange(3))
    run_inside(
        """
        import array
        import shmq

        theirs, ours = shmq.Queue.attach(sys.argv[1]), shmq.Queue()
        said = []

        def refused(call, *arguments):
            try:
                call(*arguments)
            except ImportError as error:
                assert "in the middle of its own import" in str(error), error
                said.append(call.__name__)

        class Dropped:
            def __del__(self):
                refused(ours.put, array.array("d", [1]))
                refused(theirs.peek)
                refused(theirs.get)
                ours.put(b"bytes")

        kept = [Dropped()]
        inside(kept.clear)
        ours.put(array.array("d", [2]))
        assert said == ["put", "peek", "get"], said
        assert ours.get() == b"bytes"
        assert ours.get().tolist() == [2]
        with theirs.receive(timeout=0) as lease:
            assert lease.delivery_count == 1
            assert lease.array.tolist() == [0, 1, 2]
        """,
        theirs.name,
    )


def test_arrays_that_cannot_be_made_stay_where_they_are(make: Make, without_numpy: WithoutNumpy) -> None:
    theirs = make(slot_size=64, max_deliveries=1)
    theirs.put(b"first")
    for number in range(3):
        theirs.put(np.full(2, number))
    said = run_program(
        """
        import array, sys
        import shmq

        def refused(call, *arguments):
            try:
                call(*arguments)
            except ImportError as error:
                assert "this NumPy is broken" in str(error), error
            else:
                raise AssertionError(f"{call.__name__} says nothing")

        theirs = shmq.Queue.attach(sys.argv[1])
        refused(theirs.get_many, 2)
        refused(theirs.peek, 2)  # it is tried again each time
        assert theirs.get() == b"first"
        refused(theirs.get)
        refused(theirs.get_many, 3)
        with theirs.receive() as lease:
            refused(lambda: lease.data)
            refused(lambda: lease.array)
            lease.release()
        with shmq.Queue() as ours:
            refused(ours.put, array.array("d", [1]))
            refused(ours.put_many, [b"bytes", array.array("d", [1])])
            refused(ours.loan, (2,), "u1")
            with ours.loan(2) as view:
                view[:] = b"ab"
            loan = ours.loan(2)
            refused(lambda: loan.array)
            loan.abandon()
            assert ours.get() == b"ab" and ours.empty() and ours.leases() == []
        assert theirs.leases() == []
        theirs.close()
        print("done")
        """,
        theirs.name,
        env=without_numpy.environment,
    )
    assert said == "done\n"
    for number in range(3):
        with theirs.receive(timeout=0) as lease:
            assert lease.delivery_count == 1
            assert lease.array.tolist() == [number] * 2
    assert len(theirs.dead_letters) == 0
    shmq.verify(theirs)


def test_an_import_that_failed_is_tried_again(make: Make) -> None:
    theirs = make(slot_size=64)
    theirs.put(np.arange(3))
    run_program(
        """
        import sys
        import shmq

        with shmq.Queue.attach(sys.argv[1]) as theirs:
            sys.modules["numpy"] = None
            try:
                theirs.get()
            except ImportError:
                pass
            del sys.modules["numpy"]
            with theirs.receive(timeout=0) as lease:
                assert lease.delivery_count == 1
                assert lease.data.tolist() == [0, 1, 2]
        """,
        theirs.name,
    )


def test_an_exception_of_a_handler_during_the_import_loses_nothing(make: Make) -> None:
    theirs = make(slot_size=64, max_deliveries=1)
    theirs.put(np.arange(3))
    run_inside(
        """
        import os, signal
        import shmq

        inside(lambda: os.kill(os.getpid(), signal.SIGINT))
        with shmq.Queue.attach(sys.argv[1]) as theirs:
            try:
                theirs.get()
            except KeyboardInterrupt:
                pass
            else:
                raise AssertionError("it was not interrupted")
            assert theirs.leases() == []
        """,
        theirs.name,
    )
    with theirs.receive(timeout=0) as lease:
        assert lease.delivery_count == 1


def test_the_first_array_at_the_end_of_a_program_arrives_or_is_refused() -> None:
    """`atexit` still imports; a finalizer behind it may find that no import works any more."""
    said = run_program(
        """
        import array, atexit, sys
        import shmq

        class Last:
            def __init__(self, queue):
                self.queue, self.array, self.out = queue, array.array("d", [1]), sys.stdout

            def __del__(self):
                try:
                    self.queue.put(self.array)
                except (ImportError, shmq.ShmqError, ValueError):
                    pass
                print("the end", file=self.out)

        queue = shmq.Queue()

        @atexit.register
        def first():
            if len(sys.argv) > 1:
                queue.put(array.array("d", [1]))
                print(queue.get().tolist())

        last = Last(queue)
        sys.modules["kept"] = last
        """
    )
    assert said == "the end\n"
