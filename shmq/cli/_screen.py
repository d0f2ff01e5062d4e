"""What every command shows alike: sizes, durations, ratios, tables.

A terminal gets colours and its own width. Anything else (a pipe, a file, a CI log) gets the same words as plain text
and as wide as they are, since a cut-off name is worth nothing to ``grep``. Nowhere is a figure cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import click
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

__all__ = ["Row", "age", "console", "duration", "fail", "listing", "printable", "quantity", "ratio", "show", "size", "table"]

PLAIN_WIDTH = 500
LEAST_WIDTH = 20
GAP = "  "
LEAST_NAME = 12  # characters of the first column on a narrow terminal, where it is folded …
FOLDED_NAME = 30  # … before any column is left out


def console() -> Console:
    """Return a console on the standard output of this moment (tests and pipes replace it)."""
    screen = Console(highlight=False)
    if not screen.is_terminal:
        return Console(highlight=False, width=PLAIN_WIDTH, no_color=True)
    screen.width = max(screen.width, LEAST_WIDTH)  # a narrower one may break the lines by itself
    return screen


def fail(message: object) -> click.ClickException:
    """Return the error that click shows as one line, with exit status 1."""
    return click.ClickException(str(message))


def size(nbytes: float) -> str:
    """Return a size in decimal units, as disks and networks count them."""
    for unit in ("B", "KB", "MB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}" if unit == "B" or nbytes >= 100 else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} GB"


def age(seconds: float) -> str:
    """Return how long ago something was, in its largest unit."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length):,} {unit}"
    return f"{max(int(seconds), 0)} s"


def duration(seconds: float) -> str:
    """Return a duration with three significant digits and the unit that fits."""
    for factor, unit in ((1e9, "ns"), (1e6, "µs"), (1e3, "ms")):
        value = seconds * factor
        if value < 1000:
            return f"{quantity(value)} {unit}"
    return f"{quantity(seconds)} s"


def quantity(value: float) -> str:
    """Return a number with about three significant digits and thousands separated."""
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{decimals}f}"


def ratio(better: float, worse: float) -> str:
    """Return how many times ``better`` goes into ``worse``, or a dash where that says nothing."""
    return f"{quantity(worse / better)}×" if better > 0 else "–"


def printable(text: str) -> str:
    """Return somebody else's text (a file name, a command line) without what would move the cursor or break the line."""
    return "".join(character if character.isprintable() else " " for character in text)


def table(*columns: str) -> Table:
    """Return an empty table: the first column to the left, figures to the right, no frame to get in the way."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for number, heading in enumerate(columns):
        made.add_column(heading, justify="right" if number else "left", no_wrap=True, overflow="fold")
    return made


def show(screen: Console, content: Table) -> None:
    """Print a table with air around it."""
    screen.print()
    screen.print(content)
    screen.print()


class Row(NamedTuple):
    """A line of a listing, and what is said beneath it."""

    cells: Sequence[str]
    notes: Sequence[str] = ()
    style: str = ""  # of the first cell


def listing(headings: Sequence[str], rows: Sequence[Row], *, notes: str, expendable: Iterable[str] = ()) -> None:
    """Print rows: the first column to the left, the others to the right, the notes beneath.

    Where a terminal is too narrow, `expendable` columns go, in this order, then the first one is folded; and where even that is
    too wide, each figure gets a line. Anything but a terminal gets one line a row, with the notes behind it.
    """
    screen = console()
    if not screen.is_terminal:
        lines = [[*headings, notes], *([*row.cells, ", ".join(row.notes)] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            middle = [figure.rjust(width) for figure, width in zip(line[1:-1], widths[1:-1], strict=True)]
            click.echo(GAP.join([line[0].ljust(widths[0]), *middle, line[-1]]).rstrip())
        return
    widths = [max(map(len, column)) for column in zip(headings, *(row.cells for row in rows), strict=True)]
    shown = list(range(len(headings)))

    def room_beside(shown: list[int]) -> int:
        return screen.width - sum(widths[column] + len(GAP) for column in shown[1:])

    for heading in expendable:
        if room_beside(shown) < min(widths[0], FOLDED_NAME):
            shown.remove(headings.index(heading))
    room = room_beside(shown)
    screen.print()
    if room < min(widths[0], LEAST_NAME):
        for row in rows:
            put(screen, Text(row.cells[0], style=row.style or "bold"), 0)
            for heading, figure in zip(headings[1:], row.cells[1:], strict=True):
                put(screen, Text(f"{figure} {heading}"), 2)
            for note in row.notes:
                put(screen, Text(note, style="dim"), 2)
    else:
        first = min(room, widths[0])
        heads = GAP.join([headings[0].ljust(first), *(headings[column].rjust(widths[column]) for column in shown[1:])])
        put(screen, Text(heads.rstrip(), style="bold"), 0)
        for row in rows:
            name = row.cells[0]
            figures = GAP.join(["", *(row.cells[column].rjust(widths[column]) for column in shown[1:])])
            put(screen, Text.assemble((name[:first].ljust(first), row.style), figures.rstrip()), 0)
            for start in range(first, len(name), first):
                put(screen, Text(name[start : start + first], style=row.style), 0)
            for note in row.notes:
                put(screen, Text(note, style="dim"), 4)
    screen.print()


def put(screen: Console, text: Text, indent: int) -> None:
    """Print a line, folded where it is too long, under its beginning."""
    text.rstrip()
    screen.print(Padding(text, (0, 0, 0, indent), expand=False))
