"""``shmq doctor``: find what is not as it should be, and repair it."""

from __future__ import annotations

import sys

import click

from shmq._observe.doctor import examine
from shmq._repair import repair
from shmq._screen import printable
from shmq.cli._listing import Row, listing

__all__ = ["doctor"]

COLOURS = {"repairable": "cyan", "repaired": "green", "warning": "yellow", "error": "red"}


@click.command(short_help="Find what is wrong with queues, and repair it.")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--look", is_flag=True, help="Only look: repair nothing, take no port, change nothing.")
def doctor(names: tuple[str, ...], look: bool) -> None:
    """Find what is not as it should be with this user's queues, or with those named, and repair it.

    Takes back what dead processes held, and gives back leases whose time is over. Makes dead letters of messages that failed too
    often. Removes the remains of queues that are gone. Checks every invariant. Tells of a /dev/shm that is too small, and of a
    systemd that removes queues at logout. No message is lost by it. A queue whose ports are all taken is only looked at. Exit
    status 1 if something is left that it cannot repair (with --look: that needs repair), or a queue that was named is not there.
    """
    findings = examine(names) if look else repair(names)
    if not findings:
        click.echo("nothing to repair")
        return
    rows = [
        Row((printable(finding.subject), finding.level), [printable(finding.text)], COLOURS[finding.level])
        for finding in findings
    ]
    listing(("subject", ""), rows, notes="found")
    sys.exit(1 if any(finding.level in ("error", "repairable") for finding in findings) else 0)
