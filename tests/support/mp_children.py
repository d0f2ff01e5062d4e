"""What spawned children need of the tests of shmq.mp, in a module of its own: they import it without pytest and NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import shmq
import shmq.mp

LONG = 60.0


class Labelled(shmq.mp.Queue):
    """Has something beside the queue."""

    def __init__(self, label: str, maxsize: int = 0) -> None:
        super().__init__(maxsize)
        self.label = label
        self._counts = {"hidden": 1}


class Joinable(shmq.mp.JoinableQueue):
    __slots__ = ("label",)

    def __init__(self, label: str) -> None:
        super().__init__()
        self.label = label


class Simple(shmq.mp.SimpleQueue):
    def __init__(self, label: str) -> None:
        super().__init__()
        self.label = label


class Counting(shmq.mp.Queue):
    """As people do it with multiprocessing.Queue, whose own state it is that they carry on."""

    def __init__(self, label: str) -> None:
        super().__init__()
        self.label = label
        self.opened = 0

    def __getstate__(self) -> Any:
        return {"parent_state": super().__getstate__(), "label": self.label}

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state["parent_state"])
        self.label = state["label"]
        self.opened = 1


class Plain(shmq.Queue):
    label = "of the class"


def put_what_it_has(queue: Any) -> None:
    queue.put((type(queue).__name__, queue.label, getattr(queue, "_counts", None), getattr(queue, "opened", None)))


def answer(q: Any) -> Callable[..., Any]:
    return q.get(timeout=LONG).put("here I am")  # type: ignore[no-any-return]  # a queue carries any object


def put_number(q: Any, number: int) -> int:
    q.put(number)
    return number
