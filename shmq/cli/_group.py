"""The ``shmq`` command and its subcommands."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import click

import shmq

__all__ = ["COMMANDS", "group", "load"]

COMMANDS = {  # and the modules that have them
    "bench": "shmq.cli.bench",
    "dead": "shmq.cli.dead",
    "demo": "shmq.cli.demo",
    "doctor": "shmq.cli.doctor",
    "ls": "shmq.cli.ls",
    "redrive": "shmq.cli.dead",
    "unlink": "shmq.cli.unlink",
    "worker": "shmq.cli.worker",
}


class Commands(click.Group):
    """Commands, of which none pays for what another imports, and none shows a traceback for what a user can bring about."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        try:
            return load(cmd_name) if cmd_name in COMMANDS else None
        except KeyboardInterrupt:
            sys.exit(130)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # click's business: the program that read has had enough
        except (shmq.ShmqError, OSError, ValueError) as error:
            raise click.ClickException(in_words(error)) from error


def load(name: str) -> click.Command:
    """Import the command of this name."""
    command: click.Command = getattr(import_module(COMMANDS[name]), name)
    return command


def in_words(error: Exception) -> str:
    """What the error says, and of which file where the system tells only what went wrong."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(shmq.__version__, prog_name="shmq", message="%(prog)s %(version)s")
def group() -> None:
    """Message queues between processes on one machine, in shared memory."""
