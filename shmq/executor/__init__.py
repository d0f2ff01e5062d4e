"""Executor: worker processes that are replaced when they die, behind the interface of ``concurrent.futures``.

::

    _executor   Executor: what users call
    _client     what this program has asked of a pool, and the thread that brings the answers
    _crew       worker processes, kept at their number
    _plan         what a worker is told when it is started
    _worker       a worker process, whatever its work is
    _task_worker  … that runs the tasks of a pool
    _queue_worker … that calls a function with each message of a queue
    _board      what each worker is at, in shared memory
    _channel    a line of messages of any size: two queues
    _outcomes   what a client takes from it
    _reply      a worker's way to one client
    _reserve    what a worker keeps for an outcome when it has nothing else left
    _losses     tasks that were given up, found among the dead letters
    _unserved   says that nobody serves a pool
    _tasks      tasks and outcomes to bytes and back
    _future     a Future that is cheap while nobody looks at it
    _map        one call of map

A task is a leased message: it is gone when its outcome has been put, and not before.
"""

from shmq.executor._board import WorkerStats
from shmq.executor._client import ExecutorStats
from shmq.executor._executor import Executor

__all__ = ["Executor", "ExecutorStats", "WorkerStats"]
