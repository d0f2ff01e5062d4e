"""Dead letters: the messages of a queue that nobody could process, kept until somebody looks at them.

One file per letter, in a folder beside the segment, named by the message's id: a line of JSON, then the message as it lay in
its slot. So a letter takes only the memory that it needs, there can be as many as /dev/shm holds, and none takes a cell
that messages need::

    shmq-UID.NAME+NONCE.dead/ID             a letter
    shmq-UID.NAME+NONCE.dead/ID.new.OWNER   being written by the process of that identity; its message is still in its cell
    shmq-UID.NAME+NONCE.dead/ID.out.OWNER   being put back into the queue by that process

A letter is written under another name and renamed, then the message's cell is freed. A process that is killed between the two
leaves a message that the next one makes a dead letter again, under the same name: so there is one letter. And a letter whose
message is still in a cell is not put back yet.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shmq import _core
from shmq._errors import SegmentCorrupt, SegmentForeign, SegmentMismatch
from shmq._segment.folders import Folder
from shmq._segment.queue import DEAD_LETTERS
from shmq._segment.shared_memory import SHM

if TYPE_CHECKING:
    from shmq._core import Observer

__all__ = ["DeadLetter", "DeadLetters"]

LETTER = re.compile("[0-9a-f]{16}")
LEFTOVER = re.compile(r"[0-9a-f]{16}\.(?:new|out)\.([0-9a-f]{1,16})")
LONGEST_ERROR = 8192  # characters of an exception's text: its end says what happened


@dataclass(frozen=True)
class DeadLetter:
    """A message that was given up, and why. Times are seconds since 1970, as those of time.time()."""

    id: int
    reason: str  # "max_deliveries=20", or what reject() was told
    cause: str  # how the last delivery ended: "nacked", "expired", "died" or "rejected"
    error: str  # the text of the exception that ended it, where there was one
    delivery_count: int
    published_at: float
    first_failed_at: float
    dead_lettered_at: float
    dead_lettered_by: int  # pid
    nbytes: int
    image: bytes = field(repr=False, compare=False)
    port: Observer = field(repr=False, compare=False)

    @property
    def data(self) -> Any:
        """The object that was put: a copy, made again each time. **Raises** what decoding raises."""
        return self.port._decode_image(self.image)


class DeadLetters:
    """The dead letters of a queue, oldest first: iterate, count, put back or throw away.

    A file among them that cannot be read as one is passed over, and logged: it keeps nobody from the others.
    """

    def __init__(self, port: Observer) -> None:
        self._port: Any = port  # an observer's letters are looked at; to put them back takes a port
        self._folder: str = port.segment.file(DEAD_LETTERS)

    # -- looking -------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._names())

    def __iter__(self) -> Iterator[DeadLetter]:
        letters, unreadable = self._look()
        for error in unreadable.values():
            logging.getLogger("shmq").warning("passed over: %s", error)
        return iter(letters)

    def __getitem__(self, position: int) -> DeadLetter:
        return list(self)[position]

    def __repr__(self) -> str:
        return f"<{len(self):,} dead letters of {self._port.name!r}>"

    # -- operating -----------------------------------------------------------------------------------------------------

    def redrive(
        self, filter: Callable[[DeadLetter], Any] | None = None, rate: float | None = None, timeout: float | None = None
    ) -> int:
        """Put dead letters back into the queue as new messages, oldest first; return how many.

        `filter`: only those for which it returns something true. `rate`: at most so many a second. **Waits** for room, up to
        `timeout` seconds for each (None: for ever), then raises Full: those before are back, the others still dead letters.
        **If the process dies here** a letter is in the queue, among the dead, or (killed between the two) both.
        """
        if rate is not None and not rate > 0:
            raise ValueError(f"rate must be above 0 messages a second, not {rate!r}")
        count = 0
        began = time.monotonic()
        for letter in self:
            if filter is not None and not filter(letter):
                continue
            if letter.id in self._unsettled():
                continue  # its writer has not come to the end, or died before it: it will be written again
            if rate is not None:
                time.sleep(max(began + count / rate - time.monotonic(), 0))
            count += self._put_back(letter, timeout)
        return count

    def purge(self, filter: Callable[[DeadLetter], Any] | None = None) -> int:
        """Throw dead letters away, all or those for which `filter` returns something true; return how many."""
        count = 0
        for letter in self:
            if filter is None or filter(letter):
                count += self._remove(letter)
        return count

    # -- writing -------------------------------------------------------------------------------------------------------

    def _write(
        self, image: bytes, *, id: int, cause: str, reason: str, error: BaseException | None, delivery_count: int,
        published: float, first_failed: float,
    ) -> None:  # fmt: skip
        """Write a letter; `published` and `first_failed` are ages in seconds.

        **Raises** OutOfMemory, NoSharedMemory, SegmentForeign where what has the folder's name is not ours; leaves nothing then.
        """
        now = time.time()
        name = f"{id:016x}"
        if not reason and name in self._names():
            return  # a process that rejected it wrote this letter, with its reason, and died before it freed the cell
        text = "" if error is None else "".join(traceback.format_exception(type(error), error, error.__traceback__))
        head = {
            "reason": reason, "cause": cause, "error": text[-LONGEST_ERROR:], "delivery_count": delivery_count,
            "published_at": now - published, "first_failed_at": now - first_failed,
            "dead_lettered_at": now, "dead_lettered_by": os.getpid(),
        }  # fmt: skip
        content = json.dumps(head).encode() + b"\n" + image
        scratch = f"{name}.new.{_core.identity():x}"
        with Folder(self._folder, make=True) as folder:
            folder.write(scratch, content)
            try:
                folder.rename(scratch, name)
            except BaseException:
                with contextlib.suppress(OSError):
                    folder.remove(scratch)
                raise

    # -- repairing -----------------------------------------------------------------------------------------------------

    def _leftovers(self) -> list[str]:
        """Names of files that a dead process was writing, or was putting back."""
        found = []
        for name in self._listing():
            if (match := LEFTOVER.fullmatch(name)) and not _core.alive(int(match[1], 16)):
                found.append(name)
        return found

    def _repair(self, name: str) -> None:
        """Remove a half-written letter, whose message is in its cell; make one that was being put back a dead letter again."""
        letter, _, suffix = name.partition(".")
        with contextlib.suppress(FileNotFoundError), Folder(self._folder) as folder:
            if suffix.startswith("out."):
                folder.rename(name, letter)
            else:
                folder.remove(name)

    def _files(self) -> set[str]:
        """Names of the files of letters, those that are being put back included, and of those that are being written."""
        return {name for name in self._listing() if LETTER.fullmatch(name[:16])}

    def _side_keys(self, files: set[str]) -> set[bytes]:
        """Keys of the side segments to which the letters in these files lead. **Raises** FileNotFoundError where one has gone."""
        keys: set[bytes] = set()
        written = [name for name in files if ".new." not in name]  # of those that are being written the message is in its cell
        if not written:
            return keys
        with Folder(self._folder) as folder:
            for name in written:
                with contextlib.suppress(SegmentForeign, SegmentMismatch):  # no letter that we have written
                    key = self._port._image_side_key(folder.read(name).partition(b"\n")[2])
                    if key is not None:
                        keys.add(key)
        return keys

    # -- files ---------------------------------------------------------------------------------------------------------

    def _listing(self) -> list[str]:
        try:
            with Folder(self._folder) as folder:
                return folder.names()
        except (FileNotFoundError, SegmentForeign, SegmentMismatch):
            return []  # what is not ours has no letters of ours

    def _look(self) -> tuple[list[DeadLetter], dict[str, SegmentCorrupt]]:
        """The letters, oldest first; and what is wrong with files that cannot be read as one, by their names."""
        letters, unreadable = [], {}
        for name in self._names():
            try:
                letter = self._read(name)
            except SegmentCorrupt as error:
                unreadable[name] = error
                continue
            if letter is not None:
                letters.append(letter)
        letters.sort(key=lambda letter: (letter.dead_lettered_at, letter.id))
        return letters, unreadable

    def _names(self) -> list[str]:
        return [name for name in self._listing() if LETTER.fullmatch(name)]

    def _read(self, name: str) -> DeadLetter | None:
        try:
            with Folder(self._folder) as folder:
                head, _, image = folder.read(name).partition(b"\n")
        except (FileNotFoundError, SegmentForeign, SegmentMismatch):
            return None  # put back or purged while we looked, or no letter that we have written
        try:
            return DeadLetter(
                id=int(name[:16], 16), nbytes=self._port._image_bytes(image), image=image, port=self._port, **json.loads(head)
            )
        except (ValueError, TypeError, SegmentCorrupt) as error:
            raise SegmentCorrupt(
                f"the dead letter {SHM}/{self._folder}/{name} cannot be read: {error}. Remove that file by hand"
            ) from None

    def _unsettled(self) -> set[int]:
        """Ids of the messages that are in an in-flight cell; the slot of a loan still bears the id of an earlier one."""
        return {cell.message_id for cell in self._port._occupied() if cell.state != "loaned"}

    def _remove(self, letter: DeadLetter) -> bool:
        try:
            with Folder(self._folder) as folder:
                folder.remove(f"{letter.id:016x}")
        except FileNotFoundError:
            return False  # put back meanwhile: its side segment is a message's again
        if (key := self._port._image_side_key(letter.image)) is not None:
            self._port.segment.remove_side(key)
        return True

    def _put_back(self, letter: DeadLetter, timeout: float | None) -> bool:
        name = f"{letter.id:016x}"
        claimed = f"{name}.out.{_core.identity():x}"
        try:
            self._rename(name, claimed)
        except FileNotFoundError:
            return False  # another process was quicker
        try:
            self._port._revive(letter.image, timeout)
        except BaseException:  # whatever it is: nothing was put then
            self._rename(claimed, name)
            raise
        with Folder(self._folder) as folder:
            folder.remove(claimed)
        return True

    def _rename(self, name: str, other: str) -> None:
        with Folder(self._folder) as folder:
            folder.rename(name, other)
