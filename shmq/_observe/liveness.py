"""Processes in words, for error messages and reports. Whether one lives is the kernel's answer: shmq/_native/owner.h."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shmq._core import Mapped

LONGEST = 60  # characters of a command line


def describe(pid: int, alive: bool | None = None, here: bool | None = None) -> str:
    """A process by pid and command line: "pid 4711 (python worker.py)"; one that cannot be seen by what is known of it.

    `alive`: what the kernel says. `here`: whether the pid is its pid for us too (False: it is counted in another namespace).
    None: not known.
    """
    if here is False or (alive is False and not here):  # another process that has that pid now is not meant
        return f"pid {pid} ({'in another namespace or container' if alive else 'gone'})"
    try:
        command = command_of(pid)
    except (ImportError, OSError):  # there is no descriptor left for a look: what the words are for is more than they
        return f"pid {pid}"
    if not command:
        return f"pid {pid} ({'not to be seen from here' if alive else 'gone'})"
    command = "".join(letter if letter.isprintable() else "?" for letter in command)  # it ends up in logs and terminals
    return f"pid {pid} ({command if len(command) <= LONGEST else command[: LONGEST - 3] + '...'})"


def command_of(pid: int) -> str:
    """A process's command line, or its name; "" of one that is gone. **Raises** OSError, ImportError without a descriptor."""
    import psutil  # on first use: `import shmq` stays light

    try:
        return " ".join(psutil.Process(pid).cmdline()) or psutil.Process(pid).name()
    except (psutil.Error, ValueError, OverflowError):  # the latter two: a pid that can be none
        return ""


def holders_of(observer: Mapped) -> dict[int, str]:
    """Each attached port's process in words, by the port's number."""
    processes = observer._processes()
    words = {process: describe(*process) for process in set(processes.values())}
    return {port: words[process] for port, process in processes.items()}
