"""What a program pays before its first message: the import in a fresh interpreter, and create + open + close."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from statistics import median
from time import perf_counter_ns

from cases import Case
from harness import Line, Work, label, run_roles
from peers.base import Peer, Shape

_SMALL = Shape(slots=16, slot_size=1_024)
_IMPORTS = 5
_IMPORT = "from time import perf_counter_ns as now; began = now(); import {module}; print(now() - began)"


def _import_ns(module: str, work: Work) -> float:
    command = [sys.executable, "-c", _IMPORT.format(module=module)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    runs = [
        subprocess.run(command, env=environment, check=True, timeout=work.timeout, capture_output=True, text=True)
        for _ in range(_IMPORTS)
    ]
    return float(median(int(run.stdout) for run in runs))


def _peer_import(peer: Peer, work: Work) -> float:
    return _import_ns(peer.module, work)


def _opening(peer: Peer, count: int, line: Line) -> list[int]:
    times = []
    for _ in range(count):
        began = perf_counter_ns()
        with peer.channel(label(), _SMALL) as channel:
            channel.sender().close()
        times.append(perf_counter_ns() - began)
    return times


def _create_open_close(peer: Peer, work: Work) -> float:
    (times,) = run_roles([partial(_opening, peer, work.count)], work.timeout)
    return float(median(times))


CASES = [
    Case("startup", "import", _peer_import, baselines={"numpy": partial(_import_ns, "numpy")}, pilot=0),
    Case("startup", "create + open + close", _create_open_close, needs=frozenset({"solo"}), pilot=3, most=500),
]
