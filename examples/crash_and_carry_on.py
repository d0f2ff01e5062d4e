"""Tasks that kill their workers, as the kernel does when memory runs out: each costs itself alone, and the pool carries on.

    python crash_and_carry_on.py

ProcessPoolExecutor would fail all two hundred with BrokenProcessPool. Here one task that crashes once is run again, one that
always crashes fails with WorkerLost, which says how its workers ended, and the others do not notice.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from concurrent.futures import as_completed
from pathlib import Path

import shmq

UNLUCKY, HOPELESS = 30, 70


def work(number: int, folder: str) -> int:
    begun = Path(folder, str(number))
    if number == HOPELESS or (number == UNLUCKY and not begun.exists()):
        begun.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def main() -> int:
    with tempfile.TemporaryDirectory() as folder, shmq.Executor(3) as pool:
        asked = {pool.submit(work, number, folder): number for number in range(200)}
        squares, lost = {}, {}
        for future in as_completed(asked):
            try:
                squares[asked[future]] = future.result()
            except shmq.WorkerLost as error:
                lost[asked[future]] = error
        print(f"{len(squares)} of {len(asked)} tasks done, {pool.stats().deaths} workers killed and replaced")
        for number, error in lost.items():
            print(f"{number}: {error}")
    right = squares == {number: number * number for number in range(200) if number != HOPELESS}
    return 0 if right and [error.exit_codes for error in lost.values()] == [(-signal.SIGKILL,) * 3] else 1


if __name__ == "__main__":
    sys.exit(main())
