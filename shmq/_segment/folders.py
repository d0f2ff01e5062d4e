"""Folders: a private folder in /dev/shm, and what is in it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from shmq import _core
from shmq._errors import SegmentForeign
from shmq._segment.files import SAFELY, check, open_file, write_file
from shmq._segment.shared_memory import SHM, failure, without_memory

__all__ = ["Folder", "make_folder", "remove_folder"]


class Folder:
    """A private folder in /dev/shm, open: what is in it is reached from its descriptor, whatever has its name meanwhile.

    Nobody but its user can have put anything into it, since it belongs to that user and is closed to all others.
    **Raises** FileNotFoundError, SegmentForeign, NoSharedMemory.
    """

    def __init__(self, file: str, make: bool = False) -> None:
        path = f"{SHM}/{file}"
        if make:
            make_folder(file)
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | SAFELY)
        except FileNotFoundError:
            raise without_memory() or FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from None
        except PermissionError:
            raise SegmentForeign(f"{file} in {SHM} may not be opened by this user: its owner or root must remove it") from None
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise SegmentForeign(f"{file} in {SHM} is no folder: refused. shmq did not make it: remove it by hand") from None
            raise failure(file, 0, error) from None
        try:
            check(os.fstat(self.fd), file, stat.S_ISDIR)
        except BaseException:
            os.close(self.fd)
            raise

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self.fd)

    def names(self) -> list[str]:
        """The names of all that is in it."""
        return os.listdir(self.fd)

    def read(self, name: str) -> bytes:
        """All of a file. **Raises** as `open_file`."""
        with open(open_file(name, os.O_RDONLY, self.fd)[0], "rb") as file:
            return file.read()

    def write(self, name: str, content: bytes) -> None:
        """A new file, in place of one of this name. **Raises** OutOfMemory, NoSharedMemory."""
        with contextlib.suppress(FileNotFoundError):
            self.remove(name)
        write_file(name, [memoryview(content)], self.fd)

    def rename(self, name: str, other: str) -> None:
        """Give a file another name in the folder. **Raises** FileNotFoundError, NoSharedMemory."""
        try:
            os.rename(name, other, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise failure(name, 0, error) from None

    def remove(self, name: str) -> None:
        """Remove a file from the folder. **Raises** FileNotFoundError, NoSharedMemory."""
        try:
            os.unlink(name, dir_fd=self.fd)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise failure(name, 0, error) from None


def make_folder(file: str) -> None:
    """A private folder; what is there already is left as it is. **Raises** OutOfMemory, NoSharedMemory."""
    try:
        os.mkdir(f"{SHM}/{file}", 0o700)
        os.chmod(f"{SHM}/{file}", 0o700)  # whatever the umask left of it
    except FileExistsError:
        pass
    except OSError as error:
        raise failure(file, _core.PAGE, error) from None


def remove_folder(file: str) -> bool:
    """Remove a folder, and what is in it and this user's."""
    with contextlib.suppress(OSError):
        os.rmdir(f"{SHM}/{file}")  # most are empty, and there may be no descriptor left
        return True
    try:
        fd = os.open(f"{SHM}/{file}", os.O_RDONLY | os.O_DIRECTORY | SAFELY)
    except OSError:
        return False
    try:
        if os.fstat(fd).st_uid != os.geteuid():
            return False
        for name in os.listdir(fd):
            with contextlib.suppress(FileNotFoundError):
                if os.lstat(name, dir_fd=fd).st_uid == os.geteuid():
                    os.unlink(name, dir_fd=fd)
        os.rmdir(f"{SHM}/{file}")
    except OSError:  # another process was quicker, or is writing another letter now
        return False
    finally:
        os.close(fd)
    return True
