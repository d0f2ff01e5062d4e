"""Executor: the interface of `concurrent.futures` to a pool. Its client does the work."""

from __future__ import annotations

import importlib
import itertools
import multiprocessing
import operator
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from multiprocessing.context import BaseContext
from typing import Any, ParamSpec, TypeVar

from shmq._core import Hold
from shmq._segment import anonymous
from shmq.executor import _tasks
from shmq.executor._autoscale import Autoscale
from shmq.executor._channel import MOST_WORKERS, shape_of
from shmq.executor._client import Client, ExecutorStats
from shmq.executor._crew import Crew
from shmq.executor._future import Future, lock
from shmq.executor._map import MapCall
from shmq.executor._pickles import main_module

__all__ = ["Executor"]

P = ParamSpec("P")
T = TypeVar("T")
MAP_BATCH = 256  # tasks that `map` submits at once
STARTERS = {"fork": "popen_fork", "spawn": "popen_spawn_posix", "forkserver": "popen_forkserver"}
new = object.__new__  # a Future has no state of its own before it is done


def whole(what: str, value: Any, kind: str = "a whole number") -> int | None:
    """The whole number that was given (NumPy's included), or None. **Raises** TypeError that names the parameter."""
    try:
        return None if value is None else operator.index(value)
    except TypeError:
        raise TypeError(f"{what} must be {kind}, not {value!r}") from None


class Executor(futures.Executor):
    """Runs calls in worker processes, and survives their deaths.

    It does what `concurrent.futures.ProcessPoolExecutor` does, with the same methods. But a task is a leased message. When its
    worker is killed, the worker is replaced, the task alone runs again on another worker, and the pool goes on. After
    `max_deliveries` such deaths the future of that task raises WorkerLost, and no other future does.

    :param max_workers: worker processes (default: as many as CPUs that this process may use). A pool with a name may have 0,
    where
        `shmq worker NAME` starts its workers.
    :param mp_context: a multiprocessing context, or the name of a start method (default: the platform's).
    :param initializer: called with `initargs` in each worker before its first task.
    :param max_tasks_per_child: a worker is replaced after so many tasks; not with the start method fork.
    :param max_deliveries: how often a task may be begun (default 3). A task whose last worker dies as well is given up.
    :param name: the pool's name. Programs that give the same name share its workers and its queue.
    :param zero_copy: arrays that a task gets, and arrays that it returns, are read-only views of shared memory, valid as long as
        they are referred to. Each of them holds a slot, so a program that keeps many of them keeps the pool waiting.
    :param slot_size: bytes of a large slot (default 1 MiB), which are reserved once the first message above 2 KiB is sent. :param
    autoscale: (least, most) workers: the pool starts more while tasks wait, and lets some leave when they have nothing to do.

    **Raises** ValueError, TypeError; OutOfMemory where /dev/shm has no room for some megabytes.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | str | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        max_deliveries: int | None = None,
        name: str | None = None,
        zero_copy: bool = False,
        slot_size: int | None = None,
        autoscale: tuple[int, int] | None = None,
    ) -> None:
        if autoscale is not None and max_workers is not None:
            raise ValueError(
                "max_workers and autoscale exclude each other: autoscale=(least, most) says how many workers there may be"
            )
        max_workers = whole("max_workers", max_workers)
        slot_size = whole("slot_size", slot_size)
        if slot_size is not None and slot_size < 1:
            raise ValueError(f"slot_size must be at least 1, not {slot_size}")
        if name is not None and not (isinstance(name, str) and name):
            raise TypeError(f"name must be a text that is not empty, or None, not {name!r}")
        try:
            scale = None if autoscale is None else Autoscale(*map(operator.index, autoscale))
        except TypeError:
            raise TypeError(f"autoscale must be two whole numbers, (least, most), not {autoscale!r}") from None
        if max_workers is None:
            max_workers = len(os.sched_getaffinity(0)) if scale is None else scale.most
        if max_workers < (name is None):
            raise ValueError(
                f"max_workers must be greater than 0, not {max_workers}; it may be 0 where a pool with a name= has other workers"
            )
        if max_workers > MOST_WORKERS:
            raise ValueError(
                f"max_workers must be at most {MOST_WORKERS}, not {max_workers}: each needs a port of the pool's queue"
            )
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be a callable, not {initializer!r}")
        if not isinstance(initargs, Iterable):
            raise TypeError(f"initargs must be a tuple of arguments, not {initargs!r}")
        if isinstance(mp_context, str):
            mp_context = multiprocessing.get_context(mp_context)
        if mp_context is not None and not hasattr(mp_context, "get_start_method"):
            raise TypeError(f"mp_context must be a multiprocessing context or the name of a start method, not {mp_context!r}")
        if mp_context is None:
            mp_context = multiprocessing.get_context("spawn" if max_tasks_per_child is not None else None)
        if max_tasks_per_child is not None:
            max_tasks_per_child = whole("max_tasks_per_child", max_tasks_per_child) or 0
            if max_tasks_per_child < 1:
                raise ValueError(f"max_tasks_per_child must be at least 1, not {max_tasks_per_child}")
            if mp_context.get_start_method(allow_none=False) == "fork":
                raise ValueError(
                    "max_tasks_per_child needs spawn or forkserver: to fork again and again from a program with threads is unsafe"
                )
        # Now, and not with the first worker: Ctrl-C in an import may leave its lock taken, for which the manager thread would
        # wait.
        for module in STARTERS[mp_context.get_start_method(allow_none=False)], "resource_tracker":
            importlib.import_module(f"multiprocessing.{module}")
        if name is None:
            anonymous.reap_anonymous()
        self._max_workers = max_workers
        self._mp_context = mp_context
        channel = shape_of(max_workers, name is None) | {"slot_size": slot_size, "max_deliveries": max_deliveries}
        plan = {"initializer": initializer, "initargs": initargs, "most_tasks": max_tasks_per_child}
        self._client = Client(name or anonymous.anonymous_name(), channel, name is None, mp_context, max_workers, plan, scale)
        self._client.outcomes.as_views = zero_copy
        self._flags = _tasks.AS_VIEWS if zero_copy else 0
        self._prefixes: dict[Callable[..., Any], bytes] = {}
        self._forks = mp_context.get_start_method(allow_none=False) == "fork"
        self._main = main_module(self._forks)
        self._growing = True  # there may be fewer workers than there could be, and at first no manager thread

    # -- asking ------------------------------------------------------------------------------------------------------------

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> futures.Future[T]:
        """Run `fn(*args, **kwargs)` in a worker; return a Future of the value that it returns.

        The arguments are sent as they are now: a later change of them does not reach the task, however long it waits. **Raises**
        RuntimeError after `shutdown`; WorkerLost where no worker can be started. An exception of pickling is the future's.
        """
        client = self._client
        pending = client.pending
        future = new(Future)
        number = pending.next_number()
        try:
            try:
                prefix = self._prefixes[fn]
            except (KeyError, TypeError):  # TypeError: not every callable is hashable
                prefix = self._prefix(fn, 0)
            message = _tasks.make_task(number, prefix, [args, kwargs] if kwargs else args, self._main)
        except Exception as error:
            if pending.refusal is not None:
                self._refuse()
            future.set_exception(error)
            try:
                return future
            finally:
                del future  # the exception refers to this frame
        with Hold(lock):
            if pending.refusal is not None:
                self._refuse()
            client.window.hand_over(number, message, future)
        if pending.later:
            client.manager.wake()
        if self._growing:
            self._grow()
        return future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Call `fn` with each item of the iterables in a worker; return an iterator of the values, in the order of the items.

        `timeout`: seconds from this call, after which the iterator raises TimeoutError. `chunksize`: so many items are one task,
        and are run again together if their worker dies. `buffersize`: at most so many tasks are submitted whose values were not
        taken yet (None: all at once).

        What a call raises, the iterator raises in the place of its value, and ends. To close the iterator cancels the tasks that
        are not handed to a worker yet. Where `chunksize` is 1, an iterable may yield the same memory again, with new content; the
        items of a chunk are sent together.
        """
        if chunksize is None:
            raise TypeError("chunksize must be a whole number, not None")
        chunksize = whole("chunksize", chunksize) or 0
        if chunksize < 1:
            raise ValueError(f"chunksize must be at least 1, not {chunksize}")
        buffersize = whole("buffersize", buffersize, "an integer or None")  # in the words of Python 3.14, here and below
        if buffersize is not None and buffersize < 1:
            raise ValueError(f"buffersize must be None or > 0, not {buffersize}")
        deadline = None if timeout is None else time.monotonic() + timeout
        call = MapCall(self._client.window)
        bodies: Iterator[Any] = zip(*iterables, strict=False)
        if chunksize > 1:
            # Mypy infers no type for a lambda with a default.
            bodies = iter(lambda items=bodies: list(itertools.islice(items, chunksize)), [])  # type: ignore[misc]
        prefix, error = b"", None
        try:
            prefix = self._prefix(fn, _tasks.CHUNK if chunksize > 1 else 0)
        except Exception as failure:
            error = failure
        try:
            left = buffersize
            while (left is None or left > 0) and (asked := self._ask(call, prefix, error, bodies, left or MAP_BATCH)):
                left = None if left is None else left - asked
            more = None if buffersize is None else iter(lambda: self._ask(call, prefix, error, bodies, 1), 0)
        except BaseException:  # Ctrl-C, or an exception of an iterable: the caller will not have the iterator
            call.cancel()
            raise
        return call.results(deadline, chunksize > 1, more)

    def _ask(self, call: MapCall, prefix: bytes, error: Exception | None, bodies: Iterator[Any], most: int) -> int:
        """Submit up to `most` of these bodies for a map call; return how many: 0 where there are no more.

        A body with arrays ends the batch: it is in the queue, or copied, before the iterable is asked for the next one. That may
        be the same memory with new content.
        """
        pending, window = self._client.pending, self._client.window
        tasks: list[tuple[int, _tasks.Message]] = []
        failed: list[tuple[int, Exception]] = []
        numbers: list[int] = []
        make_task, next_number, main = _tasks.make_task, pending.next_number, self._main
        for body in itertools.islice(bodies, most):
            number = next_number()
            numbers.append(number)
            try:
                if error is not None:
                    raise error
                message = make_task(number, prefix, body, main)
            except Exception as failure:
                failed.append((number, failure))
                continue
            tasks.append((number, message))
            if type(message) is not bytes:
                break
        with Hold(lock):
            if pending.refusal is not None:
                self._refuse()
            for number, why in failed:
                call.fail(number, why)
            call.order.extend(numbers)
            window.extend(call, tasks)
            if window.starved or pending.later:
                window.wake()
        if self._growing and numbers:
            self._grow()
        return len(numbers)

    def _prefix(self, fn: Callable[..., Any], flags: int) -> bytes:
        """What all tasks of this function begin with. **Raises** what pickling raises."""
        prefix, named = _tasks.make_prefix(self._client.id, fn, flags | self._flags, self._main)
        if named and not flags:
            if len(self._prefixes) > 1000:
                self._prefixes.clear()
            self._prefixes[fn] = prefix
        return prefix

    def _refuse(self) -> None:
        """Raise why no task is taken any more."""
        if self._client.broken is not None:
            raise type(self._client.broken)(*self._client.broken.args) from self._client.broken.__cause__
        raise RuntimeError(self._client.pending.refusal)

    def _grow(self) -> None:
        """Start workers: all at once where they are forked, since a program should fork before it has threads; else as needed."""
        client = self._client
        if client.scale is not None:
            wanted = most = client.scale.least  # the manager thread sees to more
        else:
            wanted = most = self._max_workers
            if not self._forks:
                wanted = min(most, max(client.crew.wanted, len(client.pending.askers)))
        if wanted > client.crew.wanted:
            client.crew.grow(wanted)
        if client.manager.begun:
            client.manager.wake()
        else:
            client.begin()
        self._growing = wanted < most  # last: a thread that is interrupted before comes back with the next task

    # -- looking, and the end ----------------------------------------------------------------------------------------------

    def stats(self) -> ExecutorStats:
        """How many tasks wait and are done at this moment, and what each worker of the pool runs."""
        return self._client.stats()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks. The workers leave when the tasks that were submitted are done.

        **Waits** for that, unless `wait` is false, or a callback of a future calls this. `cancel_futures`: cancel the tasks that
        are not handed to a worker yet.
        """
        self._client.shutdown("cannot schedule new futures: the executor was shut down", cancel_futures)
        if wait:
            self._client.join()

    def terminate_workers(self) -> None:
        """End the worker processes of this executor by SIGTERM, in the middle of what they run, and shut it down.

        Tasks that wait are cancelled; tasks that were handed to a worker fail with WorkerLost. Python 3.14 has such a method as
        well.
        """
        self._client.end_workers(Crew.terminate, "the workers were ended by terminate_workers()")

    def kill_workers(self) -> None:
        """End the worker processes of this executor by SIGKILL, in the middle of what they run, and shut it down.

        Tasks that wait are cancelled; tasks that were handed to a worker fail with WorkerLost. Python 3.14 has such a method as
        well.
        """
        self._client.end_workers(Crew.kill, "the workers were ended by kill_workers()")

    def __reduce__(self) -> Any:
        raise TypeError(
            "an executor cannot be pickled or copied, so it is no argument of a task: it belongs to the process that made it. "
            "A task may make one of its own, with the same name= to share the workers"
        )

    def __del__(self) -> None:
        client = getattr(self, "_client", None)
        if client is not None and not client.shut:
            client.shutdown("the executor is gone")
