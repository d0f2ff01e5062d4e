"""``shmq worker``: worker processes for a pool, or for a queue, started from a terminal or by a service manager."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import click

import shmq
from shmq.cli._processes import available_cpus
from shmq.cli._screen import fail
from shmq.executor._consumer import find_function
from shmq.executor._crew import Death, describe_exit
from shmq.executor._service import Service

__all__ = ["worker"]


class Range(click.ParamType[tuple[int, int]]):
    """MIN,MAX"""

    name = "min,max"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        least, _, most = str(value).partition(",")
        if not (least.isdecimal() and most.isdecimal() and 0 < int(least) <= int(most)):
            self.fail(f"{value!r} is no range of workers: write MIN,MAX, as in 1,8", param, ctx)
        return int(least), int(most)


@click.command()
@click.argument("name")
@click.argument("function", metavar="[MODULE:FUNCTION]", required=False)
@click.option("-c", "--concurrency", type=click.IntRange(1, 1000), help="Workers (default: as many as CPUs).")
@click.option("--autoscale", type=Range(), metavar="MIN,MAX", help="More workers while there is a backlog, fewer while idle.")
@click.option(
    "--prefetch", type=click.IntRange(1, 1000), default=1, help="Messages that a worker takes at once (with a function; 1)."
)
@click.option("--max-tasks", type=click.IntRange(1), help="Replace a worker after so many.")
@click.option(
    "--start-method", type=click.Choice(["fork", "spawn", "forkserver"]), default="fork", help="How workers start (fork)."
)
def worker(
    name: str,
    function: str | None,
    concurrency: int | None,
    autoscale: tuple[int, int] | None,
    prefetch: int,
    max_tasks: int | None,
    start_method: str,
) -> None:
    """Run worker processes until told to stop.

    They run the tasks of shmq.Executor(name=NAME), or, with MODULE:FUNCTION, call that function with each message of the queue
    NAME: the message is acked when the function returns, and nacked when it raises. A function whose first parameter is called
    `lease` gets the lease itself, and may extend or reject it. Modules of the current folder are found.

    A worker that dies is replaced. At SIGTERM or Ctrl-C they finish what they are at, give back what they have taken ahead, and
    leave; at the second one they are killed. Exit status 1 if none comes up, or the queue is unlinked.
    """
    if concurrency and autoscale:
        raise click.UsageError("--concurrency and --autoscale exclude each other")
    least, most = autoscale or (concurrency or available_cpus(),) * 2
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    try:
        if function is not None:
            sys.path.insert(0, os.getcwd())
            find_function(function)
        service = Service(name, function, least, most, prefetch, start_method, max_tasks)
    except (shmq.ShmqError, ValueError) as error:
        raise fail(error) from error
    many = f"{least} to {most} workers" if least < most else f"{least} worker{'s' if least > 1 else ''}"
    click.echo(f"{many} for {'queue' if function else 'pool'} {name!r}, pid {os.getpid()}; Ctrl-C ends", err=True)
    try:
        came_up = service.serve(report)
    except shmq.SegmentNotFound as error:
        raise fail(error) from error
    if not came_up:
        raise fail("no worker came up, three times in a row: see above")


def report(death: Death) -> None:
    if not death.left:
        click.echo(f"worker {death.pid} {describe_exit(death.exit_code)}, and is replaced", err=True)
