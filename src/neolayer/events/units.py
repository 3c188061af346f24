"""One append as it is sent: what is stored as a whole or not at all, and what became of it.

A unit checks its own input before it is sent, because it travels with others: what the database
could not read would be everybody's error.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast
from uuid import UUID

import orjson
import psycopg

from neolayer.errors import InvalidInput
from neolayer.events.model import (
    CLOSED_TYPE,
    EXISTS,
    LONGEST_NAME,
    Appended,
    Codec,
    EventIdTaken,
    Interfered,
    NewEvent,
    RecordedEvent,
    StreamAppend,
    StreamIsClosed,
    WrongCategory,
    WrongVersion,
)
from neolayer.position import Position

MOST_STREAMS = 500  # each is a lock in the server's memory; append_events() refuses more
_MAX_INT = 2**31 - 1
_LONGEST_KEY_ID = 100
# As the database writes JSON, up to twice as much (schema/event_store/0070_sizes.sql).
MOST_DATA_BYTES = 512 * 1024
MOST_METADATA_BYTES = 128 * 1024


@dataclass(frozen=True, slots=True)
class Part:
    """A unit's events for one stream."""

    stream_id: UUID
    category: str | None
    expected_version: int
    events: tuple[NewEvent, ...]


@dataclass(frozen=True, slots=True)
class Unit:
    """Parts that are stored together. `rows` are its events as the database reads them."""

    parts: tuple[Part, ...]
    rows: list[dict[str, Any]]
    user_id: UUID | None
    size: int

    @property
    def streams(self) -> list[UUID]:
        return [part.stream_id for part in self.parts]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one part: its status, and the version and category it is about."""

    status: str
    version: int
    category: str | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a unit."""

    verdicts: Sequence[Verdict]
    transaction: int = 0
    recorded_at: datetime = field(default=datetime.min)
    positions: Sequence[int] = ()

    def is_about(self, status: str) -> bool:
        return any(verdict.status == status for verdict in self.verdicts)

    @property
    def is_stored(self) -> bool:
        return all(verdict.status == "stored" for verdict in self.verdicts)


def make_unit(appends: Sequence[StreamAppend], codec: Codec | None, user_id: UUID | None) -> Unit:
    """The unit of these appends. Raises InvalidInput."""
    if not appends or len(appends) > MOST_STREAMS:
        raise InvalidInput(f"an append is to 1 to {MOST_STREAMS} streams")
    parts = tuple(_part(append, codec) for append in appends)
    if len({part.stream_id for part in parts}) < len(parts):
        raise InvalidInput("a stream is named twice", hint="put its events into one list")
    rows, size = list[dict[str, Any]](), 0
    for number, part in enumerate(parts):
        shared: dict[str, Any] = {"a": number, "s": part.stream_id, "x": part.expected_version}
        if part.category is not None:
            shared["c"] = part.category
        for event in part.events:
            row, length = _row(event, shared)
            rows.append(row)
            size += length
    return Unit(parts, rows, user_id, size)


def batch_of(units: Sequence[Unit]) -> tuple[list[UUID], str]:
    """The streams and the events of these units, as the function takes them."""
    streams, number, rows = list[UUID](), 0, list[dict[str, Any]]()
    for place, unit in enumerate(units):
        streams += [part.stream_id for part in unit.parts]
        for row in unit.rows:
            rows.append(row | {"u": place, "a": number + row["a"]} if number else row)
        number += len(unit.parts)
    return streams, orjson.dumps(rows).decode()


def outcomes_of(answer: str, units: Sequence[Unit]) -> list[Outcome]:
    """What became of each unit."""
    said = orjson.loads(answer)
    if "appends" not in said:
        (why,) = said
        return [Outcome([Verdict(why, 0, None)] * len(unit.parts)) for unit in units]
    at, transaction = datetime.fromisoformat(said["at"]), int(said["transaction"] or 0)
    positions: list[int] = said["positions"] or []
    taken = number = 0
    found: list[Outcome] = []
    for unit in units:
        lines = said["appends"][number : number + len(unit.parts)]
        number += len(unit.parts)
        verdicts = [Verdict(status, version, category) for _, status, version, category in lines]
        stored = len(unit.rows) if all(v.status == "stored" for v in verdicts) else 0
        found.append(Outcome(verdicts, transaction, at, positions[taken : taken + stored]))
        taken += stored
    return found


def appended(unit: Unit, outcome: Outcome, tenant: UUID, position: Position | None) -> Appended:
    """The answer to an append that was stored."""
    versions: dict[UUID, int] = {}
    events: list[RecordedEvent] = []
    places = iter(outcome.positions)
    for part, verdict in zip(unit.parts, outcome.verdicts, strict=True):
        version = verdict.version
        for event in part.events:
            events.append(
                RecordedEvent(
                    (
                        tenant,
                        event.event_id,
                        part.stream_id,
                        cast("str", verdict.category),
                        event.type,
                        version,
                        event.data,
                        event.metadata,
                        unit.user_id,
                        event.correlation_id,
                        event.causation_id,
                        outcome.recorded_at,
                        event.schema_version,
                        event.key_id,
                        outcome.transaction,
                        next(places),
                    )
                )
            )
            version += 1
        versions[part.stream_id] = version - 1
    return Appended(position, versions, events)


def refusal(unit: Unit, outcome: Outcome) -> Exception:
    """Why a unit was not stored, as its first part that says so."""
    for part, verdict in zip(unit.parts, outcome.verdicts, strict=True):
        match verdict.status:
            case "conflict":
                return WrongVersion(part.stream_id, part.expected_version, verdict.version)
            case "closed":
                return StreamIsClosed(part.stream_id)
            case "category":
                return WrongCategory(part.stream_id, verdict.category)
            case _:
                continue
    return Interfered()


@contextmanager
def known_refused() -> Generator[None]:
    """Of events some of which are stored already: EventIdTaken, which the database tells by an
    error, because the others were not."""
    try:
        yield
    except psycopg.errors.UniqueViolation as exc:
        if exc.diag.constraint_name != "events_pkey" or exc.diag.message_detail is None:
            raise
        raise EventIdTaken(UUID(exc.diag.message_detail)) from exc


def _part(append: StreamAppend, codec: Codec | None) -> Part:
    if not append.events:
        raise InvalidInput("an append needs at least one event")
    if not EXISTS <= append.expected_version <= _MAX_INT:
        raise InvalidInput(f"no version: {append.expected_version}")
    if append.category is not None:
        _require_name(append.category, "category")
    events = tuple(_encoded(event, codec) for event in append.events)
    if any(event.type == CLOSED_TYPE for event in events[:-1]):
        raise InvalidInput("a stream takes no event after the one that closes it")
    return Part(append.stream_id, append.category, append.expected_version, events)


def _encoded(event: object, codec: Codec | None) -> NewEvent:
    if isinstance(event, NewEvent):
        return event
    if codec is None:
        raise InvalidInput(
            f"{type(event).__name__} is no NewEvent", hint="give the store a registry of types"
        )
    return codec.encode(event)


def _row(event: NewEvent, shared: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    _require_name(event.type, "type")
    data = _json(event.data, "data", most=MOST_DATA_BYTES)
    row = {"u": 0, **shared, "i": event.event_id, "t": event.type, "d": orjson.Fragment(data)}
    size = len(data)
    if event.metadata:
        metadata = _json(event.metadata, "metadata", most=MOST_METADATA_BYTES)
        row["m"] = orjson.Fragment(metadata)
        size += len(metadata)
    if event.correlation_id is not None:
        row["r"] = event.correlation_id
    if event.causation_id is not None:
        row["y"] = event.causation_id
    if event.schema_version != 1:
        if not 0 < event.schema_version <= _MAX_INT:
            raise InvalidInput(f"no schema version: {event.schema_version}")
        row["z"] = event.schema_version
    if event.key_id is not None:
        if len(event.key_id) > _LONGEST_KEY_ID or not event.key_id.isprintable():
            raise InvalidInput(f"a key id has at most {_LONGEST_KEY_ID} printable characters")
        row["k"] = event.key_id
    return row, size


def _require_name(name: str, what: str) -> None:
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise InvalidInput(f"a {what} is 1 to {LONGEST_NAME} printable characters: {name[:300]!r}")


def _json(value: Mapping[str, Any], field: str, *, most: int) -> bytes:
    """As JSON that PostgreSQL can hold. Raises InvalidInput."""
    try:
        text = orjson.dumps(value)
    except orjson.JSONEncodeError as exc:
        raise InvalidInput(f"an event's {field} is not JSON: {exc}") from None
    if text[:1] != b"{":
        raise InvalidInput(f"an event's {field} is an object, with names")
    if b"\\u0000" in text:
        raise InvalidInput("an event holds a NUL character, which no database can store")
    if len(text) > most:
        raise InvalidInput(
            f"an event's {field} has {len(text)} bytes as JSON; at most {most}",
            hint="keep what is long as a file, and its name in the event",
        )
    return text
