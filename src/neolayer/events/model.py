"""What an event is before and after it is stored, and where it stands. No I/O.

A stream is the ordered events of one thing, versions from 1 without gaps. All events of all streams
have one reading order besides: see `Place`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Protocol
from uuid import UUID, uuid4

import msgspec
import orjson

from neolayer.errors import Conflict, InvalidInput
from neolayer.position import Position

# What a stream's version may be expected to be, besides a number.
ANY: Final = -1
NONE: Final = 0
EXISTS: Final = -2

CLOSED_TYPE: Final = "StreamClosed"
LONGEST_NAME = 255
MOST_PARTITIONS = 1024
NO_JSON: Mapping[str, Any] = {}


_PLACE = re.compile(r"([0-9]{1,19}):([0-9]{1,19}|end)")
_LARGEST: Final = 2**63 - 1


class Place(msgspec.Struct, frozen=True, order=True):
    """Where an event stands in the order in which all events are read.

    A transaction gets its id when it first writes; `index` orders the events of one. Readers see
    only what lies below the oldest running transaction, so nothing appears behind them later.
    """

    transaction: int
    index: int

    def __str__(self) -> str:
        return f"{self.transaction}:{self.index}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """What `str` or `shown` wrote. Raises InvalidInput."""
        if found := _PLACE.fullmatch(text):
            place = cls(int(found[1]), _LARGEST if found[2] == "end" else int(found[2]))
            if place.transaction <= _LARGEST and place.index <= _LARGEST:
                return place
        raise InvalidInput(
            f"not a place: {text[:60]!r}", hint="write transaction:index, as in 741:9"
        )

    @classmethod
    def end_of(cls, transaction: int) -> Place:
        """Behind all that a transaction holds; no event stands there."""
        return cls(transaction, _LARGEST)

    @property
    def shown(self) -> str:
        """For people: the end of a transaction by that name, `741:end`."""
        return f"{self.transaction}:end" if self.index == _LARGEST else str(self)


BEGINNING: Final = Place(0, 0)


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event that is to be stored. Its id is what makes a second try harmless: the first one
    stands. What then must be the same is all but metadata, correlation and causation, which tell
    of the try; a second one's are not stored.
    """

    type: str
    data: Mapping[str, Any]
    event_id: UUID = field(default_factory=uuid4)
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    correlation_id: UUID | None = None
    causation_id: UUID | None = None
    schema_version: int = 1
    key_id: str | None = None


_NO_ID = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Envelope:
    """A typed event with what tells of the try to store it, as a NewEvent has it:

    await acme.events.append(account_id, [Envelope(Deposited(5), event_id=payment_id)])

    Without an `event_id` it is given one, and `has_own_id` is false.
    """

    event: msgspec.Struct
    event_id: UUID = field(default=_NO_ID, kw_only=True)
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any], kw_only=True)
    correlation_id: UUID | None = field(default=None, kw_only=True)
    causation_id: UUID | None = field(default=None, kw_only=True)
    has_own_id: bool = field(default=True, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.event_id is _NO_ID:
            object.__setattr__(self, "event_id", uuid4())
            object.__setattr__(self, "has_own_id", False)


class RecordedEvent:
    """An event as it is stored. It never changes, though what was read is decoded when it is asked
    for: who folds a thousand events needs neither their ids nor their times.

    `cells` are the columns of this room's queries, each a value or the bytes that it came as.
    """

    __slots__ = ("_cells",)

    def __init__(self, cells: Iterable[Any]) -> None:
        self._cells = list(cells)

    @property
    def tenant_id(self) -> UUID:
        return self._id(0)

    @property
    def event_id(self) -> UUID:
        return self._id(1)

    @property
    def stream_id(self) -> UUID:
        return self._id(2)

    @property
    def category(self) -> str:
        return self._cells[3]

    @property
    def type(self) -> str:
        return self._cells[4]

    @property
    def version(self) -> int:
        return self._cells[5]

    @property
    def data(self) -> Mapping[str, Any]:
        return self._json(6)

    @property
    def metadata(self) -> Mapping[str, Any]:
        return self._json(7)

    @property
    def user_id(self) -> UUID | None:
        return self._id(8)

    @property
    def correlation_id(self) -> UUID | None:
        return self._id(9)

    @property
    def causation_id(self) -> UUID | None:
        return self._id(10)

    @property
    def recorded_at(self) -> datetime:
        value = self._cells[11]
        if value.__class__ is int:
            value = self._cells[11] = _EPOCH + timedelta(microseconds=value)
        return value

    @property
    def schema_version(self) -> int:
        return self._cells[12]

    @property
    def key_id(self) -> str | None:
        return self._cells[13]

    @property
    def place(self) -> Place:
        return Place(self._cells[14], self._cells[15])

    def in_context(
        self,
        metadata: Mapping[str, Any],
        user_id: UUID | None,
        correlation_id: UUID | None,
        causation_id: UUID | None,
    ) -> RecordedEvent:
        """The same event with what tells of the try that stored it."""
        told = metadata, user_id, correlation_id, causation_id
        return RecordedEvent((*self._cells[:7], *told, *self._cells[11:]))

    def _id(self, number: int) -> Any:
        value = self._cells[number]
        if value.__class__ is bytes:
            value = self._cells[number] = UUID(bytes=value)
        return value

    def _json(self, number: int) -> Any:
        value = self._cells[number]
        if value.__class__ is bytes:
            value = self._cells[number] = orjson.loads(value)
        return value

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in _FIELDS)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RecordedEvent) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash((self.tenant_id, self.event_id))

    def __repr__(self) -> str:
        named = zip(_FIELDS, self._values(), strict=True)
        return f"RecordedEvent({', '.join(f'{name}={value!r}' for name, value in named)})"


_FIELDS = tuple(name for name, value in vars(RecordedEvent).items() if isinstance(value, property))
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)  # PostgreSQL counts microseconds from here


class Poison(StrEnum):
    """What becomes of a stream one of whose events cannot be handled."""

    HOLD = "hold"  # its later events wait until it was replayed
    SKIP = "skip"  # its later events are handled


class Codec(Protocol):
    """Turns typed events into stored ones and back."""

    def encode(self, event: object) -> NewEvent: ...

    def decode(self, recorded: RecordedEvent) -> object: ...


@dataclass(frozen=True, slots=True)
class StreamAppend:
    """Events for one stream, and what its version must be before: a number, ANY, NONE or EXISTS.

    `category` may be left out where the stream is there already.
    """

    stream_id: UUID
    events: Sequence[Any]
    category: str | None = None
    expected_version: int = ANY


@dataclass(frozen=True, slots=True)
class Appended:
    """What an append has stored. `versions` has each stream's version after it.

    `position` is None inside a transaction that has not ended. `is_repeated` says that it was all
    stored before, by an earlier try of the same append; `events` are as that one stored them.
    """

    position: Position | None
    versions: Mapping[UUID, int]
    events: Sequence[RecordedEvent]
    is_repeated: bool = False

    @property
    def version(self) -> int:
        """The version after an append to one stream."""
        (version,) = self.versions.values()
        return version


class WrongVersion(Conflict):
    """The stream is not at the version that was expected."""

    def __init__(self, stream_id: UUID, expected: int, present: int) -> None:
        wanted = {ANY: "any", EXISTS: "at 1 or above", NONE: "empty"}.get(
            expected, f"at {expected}"
        )
        super().__init__(
            f"stream {stream_id} is at version {present}, not {wanted}",
            hint="read the stream again, decide again, append again",
        )
        self.stream_id = stream_id
        self.expected = expected
        self.present = present


class EventIdTaken(Conflict):
    """An event with this id and another content is stored."""

    def __init__(self, event_id: UUID) -> None:
        super().__init__(f"event {event_id} is stored with another content")
        self.event_id = event_id


class StreamIsClosed(Conflict):
    """The stream was closed and takes no more events."""

    def __init__(self, stream_id: UUID) -> None:
        super().__init__(f"stream {stream_id} is closed")
        self.stream_id = stream_id


class WrongCategory(InvalidInput):
    """A stream keeps its category, and a new one needs one."""

    def __init__(self, stream_id: UUID, present: str | None) -> None:
        if present is None:
            super().__init__(f"stream {stream_id} is new: say its category")
        else:
            super().__init__(f"stream {stream_id} is of category {present!r}")
        self.stream_id = stream_id
        self.present = present


class Interfered(Conflict):
    """Another transaction appended to the stream meanwhile; run this one again."""
