"""What every command and the demo show alike: sizes, durations, ratios, tables.

A terminal gets colours and its own width. Anything else (a pipe, a file, a CI log) gets the same words as plain text, as wide
as they are. A name that is cut off is of no use to ``grep``. Nowhere is a figure cut.
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

__all__ = ["age", "console", "duration", "printable", "quantity", "ratio", "show", "size", "table"]

PLAIN_WIDTH = 500
LEAST_WIDTH = 20


def console() -> Console:
    """Return a console on the standard output of this moment (tests and pipes replace it)."""
    screen = Console(highlight=False)
    if not screen.is_terminal:
        return Console(highlight=False, width=PLAIN_WIDTH, no_color=True)
    screen.width = max(screen.width, LEAST_WIDTH)  # a narrower one may break the lines by itself
    return screen


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
