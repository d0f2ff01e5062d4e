"""The bars of the demo, one for each way of doing the job."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from shmq._screen import size
from shmq.demo.files import File, Report

__all__ = ["advancing", "bars"]

REDRAW = 0.05
Step = TypeVar("Step", File, Report)


class SecondsColumn(ProgressColumn):
    """How long a pass has taken, in tenths of a second: on a fast machine some take less than one."""

    def render(self, task: Task) -> Text:
        seconds = task.finished_time if task.finished else task.elapsed
        return Text(f"{seconds or 0:5.1f} s", style="progress.elapsed")


def bars(screen: Console) -> Progress:
    """Return the progress display, which shows nothing where nobody looks."""
    return Progress(
        TextColumn("{task.description:<21}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[files]:>9} files", style="progress.download"),
        TextColumn("{task.fields[speed]:>10}", style="progress.data.speed"),
        SecondsColumn(),
        console=screen,
        disable=not screen.is_terminal,
        expand=False,
    )


def advancing(progress: Progress, name: str, files: list[File], steps: Iterable[Step]) -> Iterator[Step]:
    """Pass ``steps`` on while a bar follows them by bytes; it is redrawn now and then, not at each of them."""
    bar = progress.add_task(name, total=sum(file.size for file in files), files="0", speed="")
    started = time.monotonic()
    count, nbytes, redrawn = 0, 0, started

    def redraw() -> None:
        speed = size(nbytes / max(redrawn - started, 1e-6))
        progress.update(bar, completed=nbytes, files=f"{count:,}", speed=f"{speed}/s")

    for step in steps:
        yield step
        count, nbytes = count + 1, nbytes + step.size
        if (now := time.monotonic()) > redrawn + REDRAW:
            redrawn = now
            redraw()
    redrawn = time.monotonic()
    redraw()
