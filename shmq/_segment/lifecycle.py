"""The life of a segment: create, attach, remove and unlink named shared memory, and nothing about what is in it.

Files, and who may have put something else under a name: shmq/_segment/shared_memory.py.

Creation is atomic for processes that open at the same moment. Each that opens or creates holds a named lock, which the kernel
gives back at death. So under that lock a segment without its magic word is known to be abandoned half-made.
Nothing here uses ``multiprocessing``'s resource tracker, which unlinks segments behind other processes' backs.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import zlib
from typing import TYPE_CHECKING, Any

from shmq import _core
from shmq._errors import OutOfMemory, SegmentCorrupt, SegmentExists, SegmentForeign, SegmentMismatch, SegmentNotFound, ShmqError
from shmq._segment import entries, files, semaphores
from shmq._segment.kinds import KINDS, Kind
from shmq._segment.listing import list_beside, used_although_removed
from shmq._segment.segment import SIDE_KEY, SIDES, Segment, boot_id, check_name, file_of
from shmq._segment.shared_memory import SEMAPHORE, SEPARATOR, SHM, lock_file, what_there_is

if TYPE_CHECKING:
    from shmq._segment.config import Config, Header

SIDE_SEGMENT = re.compile(rf"{re.escape(SEPARATOR)}([0-9a-f]{{16}})\.{SIDE_KEY.pattern}$")  # and the nonce of its segment
LOCK_PATIENCE = 30.0


class NameLock(_core.NameLock):
    """One opener of a name at a time, over all processes of the user: see shmq._core.NameLock."""

    def __init__(self, name: str, patience: float | None = None) -> None:
        letters = name.encode()
        # Two sums, since names with one sum would wait for each other, and one is made to collide in a moment.
        key = zlib.crc32(letters) | zlib.crc32(letters[::-1]) << 32
        super().__init__(name, key, LOCK_PATIENCE if patience is None else patience)


def find(name: str) -> Segment | None:
    """The segment of this name, or None where it is not ready. Raises as `map_file`, and SegmentCorrupt."""
    try:
        memory, identity = files.map_file(file_of(name))
    except BlockingIOError:
        return None
    try:
        header = _core.read_header(memory)
        if header is None or header["boot_id"] != boot_id():
            return None  # of another boot: as abandoned as one that was never finished
        segment = Segment(name, memory, header, identity)
    except (SegmentMismatch, SegmentCorrupt) as error:
        raise type(error)(f"segment {name!r} cannot be used: {error}") from None
    if header["lock_inode"] != _core.lock_inode():
        raise SegmentMismatch(
            f"segment {name!r} was made beside another lock file than {lock_file()} is now: "
            "its users cannot be told from the dead. Stop them, then `shmq unlink` it"
        )
    return None if outlived(header, memory) else segment


def outlived(header: Header, memory: _core.Mapping) -> bool:
    """Was this segment to go with its creator or its last handle, which ended without the time to remove it?"""
    if header["with_creator"]:
        return not _core.alive(header["creator"])
    if header["with_handles"]:
        living, _, ever = _core.attachments(memory)
        return not living and (ever > 0 or not _core.alive(header["creator"]))  # 0: the creator has yet to attach
    return False


def attach(name: str, kind: Kind[Any]) -> Segment:
    """The segment of this name, which must be of that kind. Raises SegmentNotFound, SegmentMismatch and what `find` raises."""
    check_name(name, kind.noun)
    segment = find(name)
    if segment is None:
        with NameLock(name):  # the process that was making it has finished, or is dead
            segment = find(name)
            if segment is None:
                remove(name)
                raise SegmentNotFound(
                    f"there is no segment {name!r}: only the remains of one that was never finished, that has outlived its "
                    "creator or its last handle, or that is of another boot. Make it again"
                )
    return of_kind(segment, kind)


def of_kind(segment: Segment, kind: Kind[Any]) -> Segment:
    """The segment, if it is of that kind. **Raises** SegmentMismatch."""
    if segment.kind is not kind:
        raise SegmentMismatch(f"segment {segment.name!r} is a {segment.kind.noun}, and no {kind.noun}: choose another name")
    return segment


def as_asked(segment: Segment, config: Config) -> Segment:
    """The segment, if it was made with these values. **Raises** SegmentMismatch that names each differing value."""
    if differences := config.differences(segment.config):
        noun = segment.kind.noun
        raise SegmentMismatch(
            f"{segment} exists with other values: {'; '.join(differences)}. Leave a parameter out to take what the "
            f"{noun} has, or open it with {noun.capitalize()}.attach({segment.name!r}); {how_to_replace(segment.name)}"
        )
    return segment


def how_to_replace(name: str) -> str:
    """What to do about a segment that cannot be used as it is, in words."""
    return f"to make it again, without the messages that are in it, remove it first (`shmq unlink {name}`)"


def create(name: str, kind: Kind[Any], config: Config, anonymous: bool = False) -> Segment:
    """A new segment. Raises SegmentExists, OutOfMemory, ValueError."""
    check_name(name, kind.noun)
    with NameLock(name):
        if existing(name):
            raise SegmentExists(f"there is a segment {name!r} already: attach to it, or unlink it first")
        return make(name, kind, config, anonymous)


def open_or_create(name: str, kind: Kind[Any], config: Config) -> Segment:
    """The segment of this name, made with `config` where there is none. Raises SegmentMismatch naming each differing value."""
    check_name(name, kind.noun)
    with NameLock(name):
        found = existing(name)
        return make(name, kind, config, anonymous=False) if found is None else as_asked(of_kind(found, kind), config)


def existing(name: str) -> Segment | None:
    """The usable segment, if any; remains are removed. It looks once, under the name's lock: its last user may be closing it."""
    try:
        segment = find(name)
    except SegmentNotFound:
        return None
    if segment is None:
        remove(name)
    return segment


def make(name: str, kind: Kind[Any], config: Config, anonymous: bool) -> Segment:
    """Lay out a new segment. To be called under the name's lock. Killed here, it is found without its magic word."""
    header: Header = {"creator_pid": os.getpid(), "boot_id": boot_id(), "anonymous": anonymous}
    config.pack(header)
    file, nbytes = file_of(name), kind.nbytes(config)
    nonce = header["nonce"] = int.from_bytes(os.urandom(8), "little") >> 2 | 1
    try:
        memory = files.make_file(file, nbytes)
    except OutOfMemory as error:
        raise OutOfMemory(f"{kind.shape(config)}: {error}") from None
    beside = f"{file}{SEPARATOR}{nonce:016x}"
    try:
        kind.lay_out(memory, header)
        kind.make_beside(beside, config)  # first: nobody knows the nonce before, and can have put something there
        for side in SIDES:
            semaphores.make_semaphore(f"/{beside}.{side}")
        _core.mark_ready(memory)
    except BaseException:
        # By their names: to list the folder takes a descriptor, and there may be none.
        for left in (*made_beside(beside), file):
            entries.remove(left)
        raise
    made = _core.read_header(memory)
    assert made is not None
    segment = Segment(name, memory, made, files.identity_of(os.lstat(f"{SHM}/{file}")))
    segment.made = True
    return segment


def made_beside(beside: str) -> list[str]:
    """The names of what can be made with a segment, whatever its kind."""
    of_kinds = dict.fromkeys(what for kind in KINDS.values() for what in kind.beside)
    return [*(f"{SEMAPHORE}{beside}.{side}" for side in SIDES), *(f"{beside}.{what}" for what in of_kinds)]


def remove(name: str, apart_from: int = 0) -> bool:
    """Unlink a segment's file, and what stands beside it; mapped ones go on until they are unmapped.

    Processes that have it open go on among themselves, and find the large messages that wait. So side segments stay until
    `remove_beside`, unless only the process of the identity `apart_from` is left. **Raises** NoSharedMemory, and OSError where
    there is no descriptor left to list the folder: then nothing was removed.
    """
    beside = list_beside(name)
    nonce, in_use = "", False
    try:  # a listing may pass over a file while others make and remove theirs
        memory = files.map_file(file_of(name))[0]
        header = _core.read_header(memory)
    except (ShmqError, OSError):
        header = None
    if header is not None:
        nonce = f"{header['nonce']:016x}"
        beside += made_beside(f"{file_of(name)}{SEPARATOR}{nonce}")
        in_use = header["lock_inode"] == _core.lock_inode() and _core.attachments(memory, apart_from)[0] > 0
    nonces = {file: found[1] for file in beside if (found := SIDE_SEGMENT.search(file))}  # of side segments
    earlier_in_use = any(other != nonce for other in nonces.values()) and name in used_although_removed()
    removed = entries.remove(file_of(name))
    for file in dict.fromkeys(beside):
        is_waited_for = file in nonces and (in_use if nonces[file] == nonce else earlier_in_use)
        removed |= not is_waited_for and entries.remove(file)
    return removed


def remove_beside(segment: Segment, ending: bool = False) -> None:
    """Remove what stayed beside an unlinked segment, or was made there since; nothing while a handle of it is attached."""
    if not _core.attachments(segment.memory, _core.identity() if ending else 0)[0]:
        beside = f"{segment.beside}."
        for file in dict.fromkeys(entries.list_files(beside, f"{SEMAPHORE}{beside}") + made_beside(segment.beside)):
            entries.remove(file)


def remove_if_over(segment: Segment, ending: bool = False) -> None:
    """Remove a segment that goes with its creator or its last handle, which has just closed it.

    Of one that was unlinked before, remove what is beside it. It takes the name's lock, so that no process opens the segment
    meanwhile. A finalizer may call this in the middle of what its thread does under a name's lock: then it is done after that.
    `ending`: this process ends, too, and the ports that it still has count no longer.
    """
    if not segment.is_current():
        remove_beside(segment, ending)  # nor will it ever be again
        return
    if segment.lifetime == "persistent":
        return
    if _core.after_name_lock(lambda: remove_if_over(segment, ending)):
        return
    apart_from = _core.identity() if ending else 0
    with NameLock(segment.name):
        if segment.is_current() and (segment.lifetime == "creator" or not _core.attachments(segment.memory, apart_from)[0]):
            remove(segment.name, apart_from)


def unlink(name: str) -> None:
    """Remove a queue by name. Handles that are attached go on among themselves; new ones do not find it.

    The last of them takes the large messages along that are left.

    Raises SegmentNotFound, NoSharedMemory, SegmentForeign where it is another user's, SegmentMismatch where it is a folder.
    """
    check_name(name)
    with contextlib.suppress(FileNotFoundError):  # its remains may still be there
        there = os.lstat(f"{SHM}/{file_of(name)}")
        if there.st_uid != os.geteuid():
            raise SegmentForeign(
                f"segment {name!r} belongs to user {there.st_uid}, this process runs as {os.geteuid()}: refused. "
                "Its owner or root must remove it"
            )
        if stat.S_ISDIR(there.st_mode):
            raise SegmentMismatch(f"{file_of(name)} in {SHM} is a folder, which shmq did not make: remove it by hand")
    with NameLock(name):  # not between two steps of somebody who opens it
        if not remove(name):
            raise SegmentNotFound(f"there is no segment {name!r}, and nothing was unlinked; {what_there_is()}")


def has_stayed(segment: Segment) -> bool:
    """Now that a port of it is attached: does the name still lead to the segment, and so for as long as the port is?

    A process that removes a segment with its last handle looks for ports, and then removes it, under the name's lock. So this
    look takes the lock, too: it cannot fall between those two steps.
    """
    if segment.lifetime == "persistent":
        return True
    with NameLock(segment.name):
        return segment.is_current()
