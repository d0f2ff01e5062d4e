"""``shmq worker``: worker processes for a pool, or for a queue, started from a terminal or by a service manager."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import click

import shmq
from shmq.executor._function import find_function
from shmq.executor._service import Service, Wish, log_to_stderr

__all__ = ["worker"]


class Range(click.ParamType[tuple[int, int]]):
    """MIN,MAX"""

    name = "min,max"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        least, _, most = str(value).partition(",")
        if not (least.isdecimal() and most.isdecimal() and 0 < int(least) <= int(most)):
            self.fail(f"{value!r} is no range of workers: write MIN,MAX, as in 1,8", param, ctx)
        return int(least), int(most)


@click.command(short_help="Run worker processes for a pool or a queue.")
@click.argument("name")
@click.argument("function", metavar="[MODULE:FUNCTION]", required=False)
@click.option("-c", "--concurrency", type=click.IntRange(1, 1000), help="Workers (default: as many as CPUs).")
@click.option("--autoscale", type=Range(), metavar="MIN,MAX", help="More workers while there is a backlog, fewer while idle.")
@click.option(
    "--prefetch", type=click.IntRange(1, 1000), default=1, help="Messages that a worker takes at once (with a function; 1)."
)
@click.option("--codec", metavar="MODULE:CODEC", help="The codec with which the queue was made (with a function).")
@click.option("--max-tasks", type=click.IntRange(1), help="Replace a worker after so many.")
@click.option(
    "--start-method", type=click.Choice(["fork", "spawn", "forkserver"]), default="fork", help="How workers start (fork)."
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    default="info",
    help="What is shown on the standard error, of your own logs too (info).",
)
def worker(
    name: str,
    function: str | None,
    concurrency: int | None,
    autoscale: tuple[int, int] | None,
    prefetch: int,
    codec: str | None,
    max_tasks: int | None,
    start_method: str,
    log_level: str,
) -> None:
    """Run worker processes until told to stop.

    They run the tasks of shmq.Executor(name=NAME), or, with MODULE:FUNCTION, call that function with each message of the queue
    NAME. Modules of the current folder are found. A queue or pool that is not there yet is waited for: the program that makes it
    knows what it is to be like.

    The message is acked when the function returns; a coroutine is run to its end (each worker has one event loop, and runs one
    message at a time). It is nacked when the function raises, and rests before the next try: as the queue's backoff= says,
    otherwise 1 s, 2 s, 4 s … 60 s. After the queue's max_deliveries it is a dead letter: see shmq dead and shmq redrive.
    Where the queue has a lease_timeout, it is extended while the function runs. A function whose first parameter is called
    `lease` gets the lease itself, and may reject it.

    A worker that dies is replaced. At SIGTERM or Ctrl-C they finish what they are at, give back what they have taken ahead, and
    leave; at the second one they are killed. Exit status 1 if none comes up, or the queue is unlinked.
    """
    if concurrency and autoscale:
        raise click.UsageError("--concurrency and --autoscale exclude each other")
    least, most = autoscale or (concurrency or len(os.sched_getaffinity(0)),) * 2
    level = logging.getLevelName(log_level.upper())
    log_to_stderr(level)
    if sys.path[0] != os.getcwd():
        sys.path.insert(0, os.getcwd())  # as `python -m` has it; spawned workers get the path of this process
    try:
        if function is not None:
            find_function(function)
        came_up = Service(Wish(name, function, least, most, prefetch, codec, start_method, max_tasks, level)).serve()
    except (shmq.ShmqError, ValueError, TypeError) as error:
        hint = "; here: --codec MODULE:CODEC" if "codec=" in str(error) else ""
        raise click.ClickException(f"{error}{hint}") from error
    if not came_up:
        raise click.ClickException("no worker came up, three times in a row: see above")
