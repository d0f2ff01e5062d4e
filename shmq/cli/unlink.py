"""``shmq unlink``: remove segments by name."""

from __future__ import annotations

import sys

import click

import shmq

__all__ = ["unlink"]


@click.command(short_help="Remove queues, with the messages in them.")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def unlink(names: tuple[str, ...], yes: bool) -> None:
    """Remove segments, with the messages in them.

    Processes that have a segment open go on with it; nobody else finds it any more. Exit status 1 if a name was not
    removed.
    """
    failures = 0
    for name in names:
        there = name in shmq.list_segments()  # otherwise there is nothing to ask about: what follows says so
        if there and not yes and not click.confirm(f"Remove {name} and the messages in it?"):
            failures += 1
            continue
        try:
            shmq.unlink(name)
        except (shmq.ShmqError, ValueError) as error:
            click.echo(f"Error: {error}", err=True)
            failures += 1
    sys.exit(1 if failures else 0)
