"""One number that a receiver counts up and a sender reads: credits for a channel that has no backpressure."""

from __future__ import annotations

from multiprocessing.sharedctypes import RawArray


class Counter:
    """Travels to a child process by fork or by spawn. `word()[0]` is the number; only one side may write it."""

    def __init__(self) -> None:
        self._memory = RawArray("Q", 8)

    def word(self) -> memoryview:
        """Return the number as a memoryview, which reads and writes it faster than any attribute."""
        return memoryview(self._memory).cast("B").cast("Q")
