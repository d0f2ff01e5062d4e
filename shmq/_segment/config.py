"""The configuration of a segment: what each value may be, its default, and how the header keeps it."""

from __future__ import annotations

from typing import Any

from shmq import _core
from shmq._segment.backoff import Backoff

# What a queue has unless it is told otherwise. All slots are reserved when it is made, so large ones are fewer: the ring, and
# what is in flight beside it, take DEFAULT_BYTES each, or FEWEST slots. A container's /dev/shm has 64 MiB by default.
SLOTS = 1024
SLOT_SIZE = 1024
DEFAULT_BYTES = 16 << 20
FEWEST = 4
# How long a segment's name lasts: "persistent" ones until somebody unlinks them.
LIFETIMES = {"creator": _core.FLAG_WITH_CREATOR, "handles": _core.FLAG_WITH_HANDLES, "persistent": 0}


# What a queue has unless it is told otherwise. All slots are reserved when it is made, so large ones are fewer: the ring, and
# what is in flight beside it, take DEFAULT_BYTES each, or FEWEST slots. A container's /dev/shm has 64 MiB by default.
SLOTS = 1024


class Config:
    """What a segment was, or is to be, made with. None: whatever is there, or the default where it is made."""

    # Written out, since making a dataclass costs more than the rest of `import shmq`.
    __slots__ = (
        *("slots", "slot_size", "in_flight", "ports", "oversize", "allow_pickle", "codec"),
        *("lease_timeout", "max_deliveries", "backoff", "lifetime", "overflow"),
    )

    def __init__(
        self,
        slots: int | None = None,
        slot_size: int | None = None,
        in_flight: int | None = None,
        ports: int | None = None,
        oversize: str | None = None,
        allow_pickle: bool | None = None,
        codec: str | None = None,
        lease_timeout: float | None = None,
        max_deliveries: int | None = None,
        backoff: Backoff | None = None,
        lifetime: str | None = None,
        overflow: str | None = None,
    ) -> None:
        self.slots = slots
        self.slot_size = slot_size
        self.in_flight = in_flight
        self.ports = ports
        self.oversize = oversize
        self.allow_pickle = allow_pickle
        self.codec = codec
        self.lease_timeout = lease_timeout
        self.max_deliveries = max_deliveries
        self.backoff = backoff
        self.lifetime = lifetime
        self.overflow = overflow

    def completed(self) -> Config:
        """The defaults filled in."""
        slot_size = SLOT_SIZE if self.slot_size is None else self.slot_size
        affordable = max(FEWEST, DEFAULT_BYTES // slot_size)
        slots = min(SLOTS, affordable) if self.slots is None else self.slots
        small = slot_size < _core.PAGE
        in_flight = min(max(slots // 8, 64), 256) if small else min(max(slots, FEWEST), affordable, 64)
        return Config(
            slots=slots,
            slot_size=slot_size,
            in_flight=in_flight if self.in_flight is None else self.in_flight,
            ports=64 if self.ports is None else self.ports,
            oversize="spill" if self.oversize is None else self.oversize,
            allow_pickle=True if self.allow_pickle is None else self.allow_pickle,
            codec="" if self.codec is None else self.codec,
            lease_timeout=self.lease_timeout,
            max_deliveries=20 if self.max_deliveries is None else self.max_deliveries,
            backoff=Backoff() if self.backoff is None else self.backoff,
            lifetime="persistent" if self.lifetime is None else self.lifetime,
            overflow="block" if self.overflow is None else self.overflow,
        )

    def differences(self, found: Config) -> list[str]:
        """Each value that was asked for and is another there, in words."""
        return [
            f"{field} is {getattr(found, field)!r}, asked for {getattr(self, field)!r}"
            for field in self.__slots__
            if getattr(self, field) is not None and getattr(self, field) != getattr(found, field)
        ]


def config_of(header: dict[str, Any]) -> Config:
    """The configuration that a segment's header tells."""
    lease_timeout, initial, maximum, factor, jitter, max_deliveries = header["policy"]
    return Config(
        slots=header["slots"],
        slot_size=header["slot_size"],
        in_flight=header["cells"] - _core.reserved_cells(header["slot_size"], header["ports"]),
        ports=header["ports"],
        oversize="spill" if header["flags"] & _core.FLAG_SPILLS else "error",
        allow_pickle=bool(header["flags"] & _core.FLAG_PICKLES),
        codec=header["codec"],
        lease_timeout=round(lease_timeout, 6) or None,
        max_deliveries=max_deliveries,
        backoff=Backoff(round(initial, 6), factor, round(maximum, 6), jitter),
        lifetime=next((lifetime for lifetime, flag in LIFETIMES.items() if header["flags"] & flag), "persistent"),
        overflow="grow" if header["flags"] & _core.FLAG_GROWS else "block",
    )
