"""Executor: worker processes that are replaced when they die, behind the interface of ``concurrent.futures``.

::

    _executor      Executor: what users call
    _client        one program's side of a pool
    _window        which of its tasks are handed over, and which wait
    _pending       its tasks that are not done, and who is told their outcomes
    _manager       the thread that takes outcomes
    _living        the clients of this process, when it exits or forks
    _future        a Future that is cheap while nobody looks at it
    _map           one call of map
    _outcomes      what a client takes from the channel of its outcomes
    _losses        tasks that were given up, found among the dead letters
    _vanished      tasks whose files somebody has removed
    _unserved      says that nobody serves a pool
    _crew          worker processes, kept at their number
    _autoscale     how many workers a backlog calls for
    _service       a crew that one program runs for others: `shmq worker`
    _plan          what a worker is told when it is started
    _worker        a worker process, whatever its work is
    _task_worker   a worker that runs the tasks of a pool
    _queue_worker  a worker that calls a function with each message of a queue
    _function      that function, found by its name
    _reply         a worker's way to one client
    _reserve       what a worker keeps for an outcome when it has nothing else left
    _board         what each worker does, in shared memory
    _channel       a line of messages of any size: two queues
    _tasks         tasks and outcomes to bytes and back
    _pickles       their pickles

A task is a leased message: it is gone when its outcome has been put, and not before.
"""

from shmq.executor._board import WorkerStats
from shmq.executor._client import ExecutorStats
from shmq.executor._executor import Executor

__all__ = ["Executor", "ExecutorStats", "WorkerStats"]
