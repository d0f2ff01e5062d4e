"""``shmq demo``: the main job on real input, checked, beside ``multiprocessing.Queue``."""

from __future__ import annotations

import sysconfig

import click

import shmq
from shmq._screen import console
from shmq.demo.comparison import run
from shmq.demo.processes import available_cpus, leaving_cleanly

__all__ = ["demo"]


@click.command(short_help="Hash and compress a folder in worker processes.")
@click.argument("folder", type=click.Path(exists=True, file_okay=False), required=False)
@click.option("--workers", type=click.IntRange(1, 64), help="Worker processes (default: one per available CPU).")
@click.option("--compare/--no-compare", default=True, help="Also do the job over multiprocessing.Queue (default).")
@click.option("--kill", is_flag=True, help="Send SIGKILL to a worker halfway through: no file may be lost.")
def demo(folder: str | None, workers: int | None, compare: bool, kill: bool) -> None:
    """Hash and compress every file below FOLDER in worker processes, and check the result.

    One process reads the files and puts them into a queue. The workers take them with leases, compute SHA-256 and the
    size that zlib makes of them, and report through a second queue. A worker that is killed on the way loses nothing:
    its lease comes back, and another worker takes the file. In the end the count and every digest are compared with a
    sequential pass; the exit status is 1 if anything differs.

    FOLDER is by default the standard library of this Python.
    """
    with leaving_cleanly():
        try:
            agreed = run(console(), folder or sysconfig.get_path("stdlib"), workers or available_cpus(), compare, kill)
        except shmq.ShmqError as failed:
            raise click.ClickException(str(failed)) from failed
    raise SystemExit(0 if agreed else 1)
