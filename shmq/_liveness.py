"""Processes in words, for error messages and reports. Whether one lives is the kernel's answer: shmq/_native/owner.h."""

from __future__ import annotations


def describe(pid: int) -> str:
    """A process by pid and command line: "pid 4711 (python worker.py)"; of a dead one the pid alone."""
    import psutil  # on first use: `import shmq` stays light

    try:
        command = " ".join(psutil.Process(pid).cmdline()) or psutil.Process(pid).name()
    except psutil.Error:
        return f"pid {pid} (gone)"
    command = "".join(letter if letter.isprintable() else "?" for letter in command)  # it ends up in logs and terminals
    return f"pid {pid} ({command if len(command) <= 60 else command[:57] + '...'})"
