"""``shmq doctor``: find what is not as it should be, and repair it."""

from __future__ import annotations

import sys

import click
from rich.text import Text

from shmq._doctor import examine
from shmq.cli._screen import console, printable, show, table

__all__ = ["doctor"]

COLOURS = {"repaired": "green", "warning": "yellow", "error": "red"}


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
def doctor(names: tuple[str, ...]) -> None:
    """Find what is not as it should be with this user's queues, or with those named, and repair it.

    Takes back what dead processes held, gives back leases whose time is over, makes dead letters of messages that failed too
    often, removes the remains of queues that are gone, checks every invariant, and tells of a /dev/shm that is too small and of
    a systemd that removes queues at logout. No message is lost by it. Exit status 1 if something is left that it cannot repair.
    """
    findings = examine(names)
    if not findings:
        click.echo("nothing to repair")
        return
    screen = console()
    shown = table("")
    shown.add_column("subject", overflow="fold")
    shown.add_column("found", overflow="fold")
    for finding in findings:
        shown.add_row(
            Text(finding.level, style=COLOURS[finding.level]), printable(finding.subject), Text(printable(finding.text))
        )
    show(screen, shown)
    sys.exit(1 if any(finding.level == "error" for finding in findings) else 0)
