"""The ``shmq`` command and its subcommands."""

from __future__ import annotations

import click

import shmq
from shmq.cli.bench import bench
from shmq.cli.demo import demo
from shmq.cli.doctor import doctor
from shmq.cli.ls import ls
from shmq.cli.unlink import unlink
from shmq.cli.worker import worker

__all__ = ["group"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(shmq.__version__, prog_name="shmq", message="%(prog)s %(version)s")
def group() -> None:
    """Message queues between processes on one machine, in shared memory."""


for command in (demo, bench, ls, doctor, unlink, worker):
    group.add_command(command)
