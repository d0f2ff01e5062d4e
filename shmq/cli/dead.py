"""``shmq dead`` and ``shmq redrive``: the messages that were given up, and the way back for them."""

from __future__ import annotations

import time
from collections.abc import Iterator

import click

import shmq
from shmq._core import Observer
from shmq._observe.look import look
from shmq._screen import age, printable, size
from shmq._segment import lifecycle
from shmq._segment.queue import QUEUE
from shmq._store.dead_letters import DeadLetter, DeadLetters
from shmq.cli._listing import Row, listing

__all__ = ["dead", "redrive"]

LONGEST = 500  # characters of a message's data


@click.command(short_help="List the messages of a queue that were given up, and why.")
@click.argument("name")
@click.option("--errors", is_flag=True, help="The whole traceback of each, where there is one.")
@click.option("--data", is_flag=True, help="What each message is. This decodes them: unpickling runs code of who wrote them.")
def dead(name: str, errors: bool, data: bool) -> None:
    """List the dead letters of a queue: the messages that were given up, and why.

    Looking takes no port and changes nothing. See shmq redrive for putting them back.
    """
    sight = look(name)
    if not isinstance(sight.observer, Observer):
        raise click.ClickException(f"queue {name!r} cannot be looked at: {sight.problem or 'it holds no queue'}")
    show(DeadLetters(sight.observer), errors, data)


def show(letters: DeadLetters, errors: bool, data: bool) -> None:
    readable, unreadable = letters._look()
    rows = [Row(figures_of(letter), list(words_of(letter, errors, data))) for letter in readable]
    rows += [Row((str(int(name, 16)), "", "", ""), [printable(str(error))]) for name, error in unreadable.items()]
    if not rows:
        click.echo("there are no dead letters", err=True)
        return
    listing(("message", "deliveries", "size", "given up"), rows, notes="why", expendable=("size",))


def figures_of(letter: DeadLetter) -> tuple[str, ...]:
    return str(letter.id), f"{letter.delivery_count:,}", size(letter.nbytes), f"{age(time.time() - letter.dead_lettered_at)} ago"


def words_of(letter: DeadLetter, errors: bool, data: bool) -> Iterator[str]:
    yield printable(f"{letter.cause}: {letter.reason}" if letter.reason else letter.cause)
    lines = letter.error.strip().splitlines()
    yield from map(printable, lines if errors else lines[-1:])
    if data:
        try:
            text = repr(letter.data)
        except Exception as error:
            text = f"cannot be decoded here: {type(error).__name__}: {error}"
        yield printable(text if len(text) <= LONGEST else f"{text[:LONGEST]}…")


@click.command(short_help="Put such messages back into their queue.")
@click.argument("name")
@click.argument("messages", metavar="[MESSAGE]...", nargs=-1, type=int)
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="At most so many a second.")
@click.option("--timeout", type=click.FloatRange(min=0), help="Seconds to wait for room in a full queue (for ever).")
def redrive(name: str, messages: tuple[int, ...], rate: float | None, timeout: float | None) -> None:
    """Put dead letters back into their queue, oldest first: all of them, or those of these numbers (see shmq dead)."""
    with shmq.Queue._inspect(lifecycle.attach(name, QUEUE)) as queue:
        there = {letter.id for letter in queue.dead_letters}
        if unknown := sorted(set(messages) - there):
            numbers = ", ".join(map(str, unknown))
            raise click.ClickException(f"queue {name!r} has no dead letter {numbers}; `shmq dead {name}` lists them")
        count = queue.redrive((lambda letter: letter.id in messages) if messages else None, rate, timeout)
    click.echo(f"{count:,} of {len(there):,} dead letters are back in queue {name!r}")
