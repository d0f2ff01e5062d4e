"""The peers, by name. A peer whose library is not installed is skipped with one printed line."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from peers.base import Peer

# name, library that must be there, adapter
_ADAPTERS = (
    ("shmq", "shmq", "peers.shmq:Shmq"),
    ("multiprocessing.Queue", "multiprocessing", "peers.stdlib:MultiprocessingQueue"),
    ("multiprocessing.SimpleQueue", "multiprocessing", "peers.stdlib:MultiprocessingSimpleQueue"),
    ("multiprocessing.Pipe", "multiprocessing", "peers.stdlib:MultiprocessingPipe"),
    ("faster-fifo", "faster_fifo", "peers.faster_fifo:FasterFifo"),
    ("pyzmq", "zmq", "peers.pyzmq:PyZmq"),
    ("posix_ipc", "posix_ipc", "peers.posix_mq:PosixMessageQueue"),
    ("iceoryx2", "iceoryx2", "peers.iceoryx2:Iceoryx2"),
    ("iceoryx2-polling", "iceoryx2", "peers.iceoryx2:Iceoryx2Polling"),
    ("cloudtoid-interprocess", "cloudtoid_interprocess", "peers.cloudtoid:Cloudtoid"),
    ("kickmsg", "kickmsg", "peers.kickmsg:Kickmsg"),
    ("tachyon-ipc", "tachyon", "peers.tachyon:Tachyon"),
    ("membridge", "membridge", "peers.membridge:Membridge"),
)

NAMES = tuple(name for name, _, _ in _ADAPTERS)


def installed(wanted: tuple[str, ...] = NAMES) -> list[Peer]:
    """Return the wanted peers whose library this interpreter can import, in the order of the list above."""
    peers: list[Peer] = []
    for name, library, adapter in _ADAPTERS:
        if name not in wanted:
            continue
        if find_spec(library) is None:
            print(f"{name}: not installed, skipped")
            continue
        module, _, class_name = adapter.partition(":")
        peer: Peer = getattr(import_module(module), class_name)()
        peer.name, peer.module = name, library
        peers.append(peer)
    return peers
