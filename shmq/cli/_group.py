"""The ``shmq`` command and its subcommands."""

from __future__ import annotations

from typing import Any

import click

import shmq
from shmq.cli.bench import bench
from shmq.cli.dead import dead, redrive
from shmq.cli.demo import demo
from shmq.cli.doctor import doctor
from shmq.cli.ls import ls
from shmq.cli.unlink import unlink
from shmq.cli.worker import worker

__all__ = ["group"]


class Commands(click.Group):
    """Commands, of which none shows a traceback for what a user can bring about."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # click's business: the program that read has had enough
        except (shmq.ShmqError, OSError, ValueError) as error:
            raise click.ClickException(in_words(error)) from error


def in_words(error: Exception) -> str:
    """What the error says, and of which file where the system tells only what went wrong."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(shmq.__version__, prog_name="shmq", message="%(prog)s %(version)s")
def group() -> None:
    """Message queues between processes on one machine, in shared memory."""


for command in (demo, bench, ls, doctor, dead, redrive, unlink, worker):
    group.add_command(command)
