"""Uneven tasks over all cores: each worker takes the next task when it is free, so that all of them end together.

Dealing the tasks out beforehand would give each worker the same number of tasks, and one of them most of the work.
"""

import multiprocessing
import os
import time

import shmq

TASKS = [800_000 if number % 8 == 0 else 40_000 for number in range(160)]  # one in eight is twenty times longer


def work(tasks, results):
    for lease in tasks:
        steps = lease.data
        started = time.process_time()
        total = sum(number * number for number in range(steps))
        results.put((os.getpid(), steps, total, time.process_time() - started))


def main():
    with shmq.Queue() as tasks, shmq.Queue() as results:
        cores = max(2, len(os.sched_getaffinity(0)))
        for _ in range(cores):
            multiprocessing.Process(target=work, args=(tasks, results), daemon=True).start()
        tasks.put_many(TASKS)

        shares = {}
        for _ in TASKS:
            pid, steps, total, seconds = results.get(timeout=30)
            assert total == (steps - 1) * steps * (2 * steps - 1) // 6
            shares.setdefault(pid, []).append((steps, seconds))
        assert sorted(steps for share in shares.values() for steps, _ in share) == sorted(TASKS)

    print(f"{len(TASKS)} tasks, {TASKS.count(max(TASKS))} of them 20 times as long as the others, {cores} workers:")
    for pid, share in shares.items():
        part = sum(steps for steps, _ in share) / sum(TASKS)
        busy = sum(seconds for _, seconds in share)
        bar = "█" * round(40 * part)
        print(f"worker {pid}: {len(share):3} tasks, {part:4.0%} of the work, {busy:.2f} s busy  {bar}")


if __name__ == "__main__":
    main()
