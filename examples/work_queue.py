"""A work queue whose worker is killed in the middle of a task: the task comes back and another worker does it.

Each message is taken with a lease. It is gone when the worker has acknowledged it, and not before; a worker that dies,
by whatever cause, gives back what it held.
"""

import multiprocessing
import os
import signal

import shmq

TASKS = 20
UNLUCKY = 7


def work(tasks, results):
    for lease in tasks:  # acknowledged when the body ends, given back when it raises
        number = lease.data
        if number == UNLUCKY and lease.delivery_count == 1:
            os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory runs out
        results.put((number, number**2, lease.delivery_count, os.getpid()))


def main():
    with shmq.Queue() as tasks, shmq.Queue() as results:
        workers = [multiprocessing.Process(target=work, args=(tasks, results), daemon=True) for _ in range(3)]
        for worker in workers:
            worker.start()
        tasks.put_many(range(TASKS))

        squares = {}
        while len(squares) < TASKS:
            number, square, delivery_count, pid = results.get(timeout=30)
            squares[number] = square
            again = f"  (delivery {delivery_count})" if delivery_count > 1 else ""
            print(f"worker {pid}: {number}² = {square}{again}")
            assert delivery_count == (2 if number == UNLUCKY else 1)

        killed = [worker for worker in workers if worker.exitcode == -signal.SIGKILL]
        assert len(killed) == 1
        assert squares == {number: number**2 for number in range(TASKS)}
        print(f"{TASKS} tasks done, none lost, although worker {killed[0].pid} was killed in the middle of one")


if __name__ == "__main__":
    main()
