"""A program of the standard library's kind, in which one line has changed: the import of its queues.

It runs twice, with the queues of multiprocessing and with those of shmq.mp, and compares what came out and how long it took.
"""

import multiprocessing
import time

BEFORE = "from multiprocessing import JoinableQueue, Queue"
AFTER = "from shmq.mp import JoinableQueue, Queue"
TASKS = 20_000
WORKERS = 2


def work(tasks, results):
    while True:
        task = tasks.get()
        if task is None:
            tasks.task_done()
            return
        results.put({"id": task["id"], "square": task["id"] ** 2})
        tasks.task_done()


def program(JoinableQueue, Queue):
    tasks, results = JoinableQueue(), Queue()
    workers = [multiprocessing.Process(target=work, args=(tasks, results)) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()

    for number in range(TASKS):
        tasks.put({"id": number, "path": f"{number}.png"})
    squares = [results.get(timeout=60) for _ in range(TASKS)]
    tasks.join()

    for _ in workers:
        tasks.put(None)
    for worker in workers:
        worker.join()
    for queue in (tasks, results):
        queue.close()
        queue.join_thread()
    return sorted((square["id"], square["square"]) for square in squares)


def main():
    expected = [(number, number**2) for number in range(TASKS)]
    for line in (BEFORE, AFTER):
        names = {}
        exec(line, names)
        began = time.perf_counter()
        assert program(names["JoinableQueue"], names["Queue"]) == expected
        print(f"{line:<50} {time.perf_counter() - began:5.2f} s for {TASKS:,} tasks there and back")


if __name__ == "__main__":
    main()
