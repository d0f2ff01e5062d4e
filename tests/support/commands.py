"""A process that has imported the command line, and forks once for each command that it is asked for.

What a command does is shown without the start of an interpreter for each. Its process ends as any interpreter does, by its last
statement, and its standard streams are those that it is given.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import shmq
from support.processes import WATCHDOG

PROGRAM = """
import json, os, runpy, socket, sys
import shmq.cli._group
asked = socket.socket(fileno=int(sys.argv[1]))
while True:
    request, streams, _, _ = socket.recv_fds(asked, 1 << 16, 3)
    if not request:
        sys.exit()
    pid = os.fork()
    if pid == 0:
        break
    for stream in streams:
        os.close(stream)
    asked.send(b"%d\\n" % pid)
    asked.send(b"%d\\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
asked.close()
for number, stream in enumerate(streams):
    os.dup2(stream, number)
    os.close(stream)
sys.argv = ["shmq", *json.loads(request)]
runpy.run_module("shmq", run_name="__main__", alter_sys=True)
"""


class Commands:
    """`before`: what starts the process, such as unshare."""

    def __init__(self, *before: str, **environment: str) -> None:
        self.asked, theirs = socket.socketpair()
        self.asked.settimeout(WATCHDOG)
        path = os.pathsep.join([str(Path(shmq.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            [*before, sys.executable, "-c", PROGRAM, str(theirs.fileno())],
            stdin=subprocess.PIPE,  # pipes: Python has looked whether one can seek there, before a command has its own
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": path, **environment},
        )
        theirs.close()
        self.answers = self.asked.makefile()

    def start(self, *arguments: str, stdin: int, stdout: int, stderr: int) -> int:
        """Start a command with these descriptors as its standard streams, which are closed here; its pid."""
        socket.send_fds(self.asked, [json.dumps(arguments).encode()], [stdin, stdout, stderr])
        for stream in {stdin, stdout, stderr}:
            os.close(stream)
        return self._answer()

    def wait(self) -> int:
        """The exit status of the command that was started last; negative if a signal has ended it."""
        return self._answer()

    def _answer(self) -> int:
        line = self.answers.readline()
        assert line, self.process.communicate(timeout=WATCHDOG)[1]
        return int(line)

    def close(self) -> None:
        self.answers.close()
        self.asked.close()
        assert self.process.communicate(timeout=WATCHDOG) == (b"", b"") and self.process.returncode == 0
