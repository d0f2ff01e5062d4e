"""A message that kills each process that takes it becomes a dead letter; the others are done, and it is put back after a repair.

    python dead_letters.py

Three workers square numbers. One of the numbers makes a worker crash as a segmentation fault would; another raises. The queue
tries each three times, on whichever worker is left, and then gives it up. The parent replaces the dead workers.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys

import shmq

POISON, INVALID = 13, -1
NUMBERS = [*range(10), POISON, INVALID, *range(20, 30)]


def work(numbers: shmq.Queue, squares: shmq.Queue, repaired: bool) -> None:
    for number in numbers.consume(timeout=1.0):  # ends when nothing has come for a second
        try:
            if number.data == POISON and not repaired:
                os.kill(os.getpid(), signal.SIGSEGV)
            if number.data < 0:
                raise ValueError(f"{number.data} is no side of a square")
        except ValueError as error:
            number.reject(str(error))  # no use in trying again
            continue
        squares.put((number.data, number.data**2, number.delivery_count))


def run_workers(numbers: shmq.Queue, squares: shmq.Queue, repaired: bool) -> int:
    """Keep three workers at it until all have ended by themselves; return how many had to be replaced."""
    replaced = 0
    workers = [multiprocessing.Process(target=work, args=(numbers, squares, repaired)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        if worker.exitcode:
            replaced += 1
            workers.append(multiprocessing.Process(target=work, args=(numbers, squares, repaired)))
            workers[-1].start()
    return replaced


def main() -> int:
    with shmq.Queue(max_deliveries=3) as numbers, shmq.Queue() as squares:
        numbers.put_many(NUMBERS)
        replaced = run_workers(numbers, squares, repaired=False)
        done = squares.drain()
        print(f"{len(done)} of {len(NUMBERS)} numbers squared, {replaced} workers replaced")
        for letter in numbers.dead_letters:
            print(f"  given up: {letter.data}, {letter.reason}, delivered {letter.delivery_count} times, last {letter.cause}")

        print("repaired:", numbers.redrive(lambda letter: letter.data == POISON), "put back")
        run_workers(numbers, squares, repaired=True)
        done += squares.drain()
        print(f"{len(done)} squared, {len(numbers.dead_letters)} dead letter left")
        right = {number: square for number, square, _ in done} == {number: number**2 for number in NUMBERS if number != INVALID}
        return 0 if right and replaced == 3 and len(numbers.dead_letters) == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
