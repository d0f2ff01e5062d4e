"""Configuration: a table of values, how each is checked, what it is by default, and how a segment's header keeps it.

Each kind of segment has a table of its own, a subclass of Config: a queue's is in shmq/_segment/queue.py.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Generic, TypeVar

from shmq._segment.backoff import YEAR, Backoff

T = TypeVar("T")

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, ClassVar, Literal, Protocol

    from typing_extensions import Self

    Header = dict[str, Any]  # a segment's header, as the binding reads and writes it
    Check = Callable[[str, Any], T]  # takes a value's name and what was given; raises ValueError or TypeError that names it

    class Field(Protocol):
        """Where a value stands in a header."""

        def pack(self, header: Header, value: Any) -> None: ...

        def unpack(self, header: Header) -> Any: ...

    Lifetime = Literal["persistent", "creator", "handles"]


# -- checks: what may be given ---------------------------------------------------------------------------------------------


def whole(least: int, most: int | None = None) -> Check[int]:
    """The check of a whole number between `least` and `most`."""

    def check(name: str, value: Any) -> int:
        try:
            number = operator.index(value)
        except TypeError:
            raise TypeError(f"{name} must be a whole number, not {type(value).__name__}") from None
        if number < least:
            raise ValueError(f"{name} must be at least {least}, not {number}")
        if most is not None and number > most:
            raise ValueError(f"{name} must be at most {most:,}, not {number:,}")
        return number

    return check


def one_of(*choices: str) -> Check[str]:
    """The check of a value that is one of these words."""
    words = f"{', '.join(map(quoted, choices[:-1]))} or {quoted(choices[-1])}"

    def check(name: str, value: Any) -> str:
        if value not in choices:
            raise ValueError(f"{name} must be {words}, not {value!r}")
        return str(value)

    return check


def quoted(word: str) -> str:
    return f'"{word}"'


def truth(name: str, value: Any) -> bool:
    """The check of a value that is True or False."""
    if value not in (True, False):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return bool(value)


def seconds(name: str, value: Any) -> float:
    """The check of a number of seconds, which is rounded so that it survives the way through the segment's nanoseconds."""
    if isinstance(value, bool | str | bytes) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if not 1e-6 <= value <= YEAR:
        raise ValueError(f"{name} must lie between a microsecond and a year, but is {value!r}")
    return round(float(value), 6)


def rest(name: str, value: Any) -> Backoff:
    """The check of a Backoff."""
    if not isinstance(value, Backoff):
        raise TypeError(f"{name} must be a shmq.Backoff, not {value!r}")
    return value._checked()


def codec_name(name: str, codec: Any) -> str:
    """The name of a codec: the header keeps no more of it."""
    for attribute in ("name", "encode", "decode"):
        if not hasattr(codec, attribute):
            raise TypeError(f"{name}={codec!r} has no {attribute}: a codec has name, encode(obj) and decode(memoryview)")
    found = codec.name
    if not (isinstance(found, str) and found.isascii() and found and len(found) <= 31):
        raise ValueError(f"a codec's name has 1 to 31 ASCII characters, not {found!r}")
    return found


def check_mode(mode: object) -> None:
    """Check the permissions that are asked for. They are not kept: a segment's file has the only ones that it can have."""
    if mode != 0o600:
        raise ValueError(
            f"mode must be 0o600, not {oct(mode) if isinstance(mode, int) else repr(mode)}: "
            "the processes of another user could not be told alive from dead"
        )


# -- fields: where the header keeps a value ----------------------------------------------------------------------------------


class Word:
    """A field of the header."""

    def __init__(self, field: str) -> None:
        self.field = field

    def pack(self, header: Header, value: Any) -> None:
        header[self.field] = value

    def unpack(self, header: Header) -> Any:
        return header[self.field]


class Nanoseconds(Word):
    """A field that has nanoseconds of a value in seconds; 0 where there is none."""

    def pack(self, header: Header, value: float | None) -> None:
        super().pack(header, round((value or 0) * 1e9))

    def unpack(self, header: Header) -> float:
        return float(round(super().unpack(header) * 1e-9, 6))


class Mark:
    """A mark of the header, True or False, for each value but one, which has none."""

    def __init__(self, marks: Mapping[Any, str | None]) -> None:
        self.marks = {value: mark for value, mark in marks.items() if mark}
        self.without = next(value for value, mark in marks.items() if not mark)

    def pack(self, header: Header, value: Any) -> None:
        header.update({mark: other == value for other, mark in self.marks.items()})

    def unpack(self, header: Header) -> Any:
        return next((value for value, mark in self.marks.items() if header[mark]), self.without)


class Rest:
    """A Backoff, each of whose four numbers has a field."""

    fields = (Nanoseconds("retry_initial_ns"), Word("retry_factor"), Nanoseconds("retry_maximum_ns"), Word("retry_jitter"))

    def pack(self, header: Header, value: Backoff) -> None:
        for field, number in zip(self.fields, value, strict=True):
            field.pack(header, number)

    def unpack(self, header: Header) -> Backoff:
        return Backoff(*(field.unpack(header) for field in self.fields))


class Timeout(Nanoseconds):
    """A field that has nanoseconds of a value in seconds, which may be None."""

    # Where 0 stands for no time-out, the value is None.
    def unpack(self, header: Header) -> float | None:  # type: ignore[override]
        return super().unpack(header) or None


# -- the table ---------------------------------------------------------------------------------------------------------------


class Value(Generic[T]):
    """A row of the table: an attribute of Config, which is what was given for it, or else its default.

    The default may be a function, of the Config.
    """

    name: str

    def __init__(self, check: Check[Any], field: Field, default: T | Callable[[Any], T]) -> None:
        self.check = check
        self.field = field
        self.default = default

    def __set_name__(self, owner: type[Config], name: str) -> None:
        self.name = name
        if "TABLE" not in vars(owner):
            owner.TABLE = dict(owner.TABLE)  # begins with what every segment has
        owner.TABLE[name] = self

    def __get__(self, config: Config, owner: type[Config]) -> T:
        # The values of a configuration have as many types as its table has rows.
        if self.name in config.given:
            return config.given[self.name]  # type: ignore[no-any-return]
        if config.header is not None:
            return self.field.unpack(config.header)  # type: ignore[no-any-return]
        return self.default(config) if callable(self.default) else self.default


class Config:
    """What a segment was, or is to be, made with. These values every kind has; a subclass is the table of one."""

    TABLE: ClassVar[dict[str, Value[Any]]] = {}  # no dataclass: making one takes longer than the rest of `import shmq`
    noun: ClassVar[str] = "segment"  # what messages call what is made with it

    ports = Value(whole(1), Word("ports"), 64)
    lifetime = Value(
        one_of("creator", "handles", "persistent"),
        Mark({"persistent": None, "creator": "with_creator", "handles": "with_handles"}),
        "persistent",
    )

    def __init__(self, given: dict[str, Any], header: Header | None = None) -> None:
        self.given = given
        self.header = header  # where what was not given is found, each value when it is asked for

    @classmethod
    def asked(cls, values: Mapping[str, Any]) -> Self:
        """What a user asks for; a None is left out. **Raises** ValueError or TypeError that names the value."""
        for name in values:
            if name not in cls.TABLE:
                raise TypeError(f"a {cls.noun} has no parameter {name!r}; there are {', '.join(cls.TABLE)}, mode, spin")
        return cls({name: cls.TABLE[name].check(name, value) for name, value in values.items() if value is not None})

    @classmethod
    def found(cls, header: Header) -> Self:
        """What a segment's header tells."""
        return cls({}, header)

    def pack(self, header: Header) -> None:
        """Add every value to the header of a segment that is to be made."""
        for name, value in self.TABLE.items():
            value.field.pack(header, getattr(self, name))

    def differences(self, found: Config) -> list[str]:
        """Each value that was asked for and is another there, in words."""
        return [
            f"{name} is {getattr(found, name)!r}, asked for {value!r}"
            for name, value in self.given.items()
            if value != getattr(found, name)
        ]
