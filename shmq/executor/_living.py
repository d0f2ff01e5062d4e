"""Living: the clients of this process. They are shut down when it exits, and belong to the parent in a forked child."""

from __future__ import annotations

import os
import threading
import weakref
from multiprocessing.util import Finalize
from typing import Protocol

__all__ = ["add"]


class LivingClient(Protocol):
    """A client of a pool, as the end of the process sees it."""

    def shutdown(self, why: str) -> None: ...

    def join(self) -> None: ...

    def after_fork(self) -> None: ...


clients: weakref.WeakSet[LivingClient] = weakref.WeakSet()
finalizer_of = 0  # pid of the process that has a finalizer of multiprocessing


def add(client: LivingClient) -> None:
    """Let the process wait for this client when it exits.

    A process of multiprocessing waits for its children first, and for its threads only then. It would wait for our workers, which
    wait to be asked to leave: so there the clients are shut down by a finalizer, which comes before.
    """
    global finalizer_of
    clients.add(client)
    if finalizer_of != os.getpid():
        finalizer_of = os.getpid()
        Finalize(None, shutdown_all, exitpriority=100)


def shutdown_all() -> None:
    """The interpreter is about to exit: finish what was submitted, as every executor of the standard library does."""
    leaving = list(clients)
    for client in leaving:
        client.shutdown("cannot schedule new futures: the interpreter is shutting down")
    for client in leaving:
        client.join()


def after_fork() -> None:
    """In a forked child: the clients are the parent's."""
    for client in list(clients):
        client.after_fork()
    clients.clear()


os.register_at_fork(after_in_child=after_fork)
# Before the threads that are no daemons are joined, unlike atexit: the manager thread is one.
threading._register_atexit(shutdown_all)  # type: ignore[attr-defined]  # CPython has it, the stubs do not
