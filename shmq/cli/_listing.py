"""A listing on a terminal or in a pipe: a row of figures for each thing, and words beneath it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import click
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from shmq._screen import console

__all__ = ["Row", "listing"]

GAP = "  "
LEAST_NAME = 12  # characters of the first column on a narrow terminal, where it is folded
FOLDED_NAME = 30  # characters of that column before any other column is left out


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
