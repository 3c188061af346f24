"""One append as it is sent: what is stored as a whole or not at all, and what became of it.

A unit checks its own input before it is sent, because it travels with others: what the database
could not read would be everybody's error.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, cast
from uuid import UUID

import msgspec
import orjson
import psycopg

from neolayer.engines.postgres.parameters import RawTexts
from neolayer.errors import InvalidInput
from neolayer.events.bodies import MAX_INT, Body, body_of, hex_of, is_whole, require_name
from neolayer.events.model import (
    CLOSED_TYPE,
    EXISTS,
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
from neolayer.nuls import Unstorable
from neolayer.position import Position

MOST_STREAMS = 500  # each is a lock in the server's memory; append_events() refuses more
# Everybody who reads events waits for an append's transaction, so it has an end within seconds.
MOST_EVENTS = 50_000
MOST_UNIT_BYTES = 16 << 20
_IN_PARTS = "append it in several parts, each with the version it expects"


class Part(msgspec.Struct, frozen=True):
    """A unit's events for one stream."""

    stream_id: UUID
    stream: str  # the same in hex, as it is sent
    category: str | None
    expected_version: int
    events: Sequence[NewEvent]
    bodies: Sequence[Body]


class Unit(msgspec.Struct, frozen=True):
    """Parts that are stored together."""

    parts: Sequence[Part]
    user_id: UUID | None
    size: int

    @property
    def streams(self) -> list[UUID]:
        return [part.stream_id for part in self.parts]

    @property
    def is_single(self) -> bool:
        """Whether it is one event."""
        return len(self.parts) == 1 and len(self.parts[0].events) == 1


class Verdict(msgspec.Struct, frozen=True):
    """What became of one part: its status, and the version and category it is about."""

    status: str
    version: int
    category: str | None


class Outcome(msgspec.Struct, frozen=True):
    """What became of a unit."""

    verdicts: Sequence[Verdict]
    transaction: int = 0
    recorded_at: datetime = datetime.min
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
    if sum(len(append.events) for append in appends) > MOST_EVENTS:
        raise InvalidInput(f"an append has at most {MOST_EVENTS:,} events", hint=_IN_PARTS)
    parts = tuple(_parts(appends, codec))
    if len({part.stream_id for part in parts}) < len(parts):
        raise InvalidInput("a stream is named twice", hint="put its events into one list")
    size = 0
    for part in parts:
        for body in part.bodies:
            size += len(body.data) + len(body.metadata or b"")
    if size > MOST_UNIT_BYTES:
        raise InvalidInput(
            f"an append has at most {MOST_UNIT_BYTES >> 20} MiB of data and metadata",
            hint=_IN_PARTS,
        )
    return Unit(parts, user_id, size)


def batch_of(units: Sequence[Unit]) -> tuple[list[str], bytes]:
    """The streams and the events of these units, as append_events() takes them."""
    streams, rows = list[str](), list[dict[str, Any]]()
    for place, unit in enumerate(units):
        for part in unit.parts:
            rows += _rows(part, {"u": place, "a": len(streams)})
            streams.append(part.stream)
    return streams, orjson.dumps(rows)


def _rows(part: Part, shared: dict[str, Any]) -> Iterator[dict[str, Any]]:
    shared |= {"s": part.stream, "x": part.expected_version}
    if part.category is not None:
        shared["c"] = part.category
    for event, body in zip(part.events, part.bodies, strict=True):
        row = {**shared, "i": body.id, "t": event.type, "d": orjson.Fragment(body.data)}
        if body.metadata is not None:
            row["m"] = orjson.Fragment(body.metadata)
        if body.correlation is not None:
            row["r"] = body.correlation
        if body.causation is not None:
            row["y"] = body.causation
        if event.schema_version != 1:
            row["z"] = event.schema_version
        if event.key_id is not None:
            row["k"] = event.key_id
        yield row


def event_of(unit: Unit, context: str) -> RawTexts:
    """A unit of one event, as append_event() takes it."""
    (part,) = unit.parts
    (event,), (body,) = part.events, part.bodies
    return RawTexts(
        context=context,
        stream=part.stream,
        category=part.category,
        expected=str(part.expected_version),
        id=body.id,
        type=event.type,
        data=body.data,
        metadata=body.metadata or b"{}",
        correlation=body.correlation,
        causation=body.causation,
        schema=str(event.schema_version),
        key=event.key_id,
    )


def outcome_of(answer: bytes) -> Outcome:
    """What append_event() says."""
    said = orjson.loads(answer)
    if len(said) == 1:
        return Outcome((Verdict(said[0], 0, None),))
    status, version, category, transaction, at, place = said
    verdicts = (Verdict(status, version, category),)
    if place is None:
        return Outcome(verdicts)
    return Outcome(verdicts, int(transaction), datetime.fromisoformat(at), (place,))


def outcomes_of(answer: bytes | str, units: Sequence[Unit]) -> list[Outcome]:
    """What became of each unit, as append_events() says."""
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
        outcome = Outcome(verdicts, transaction, at)
        if outcome.is_stored:
            ends = taken + sum(len(part.events) for part in unit.parts)
            outcome = Outcome(verdicts, transaction, at, positions[taken:ends])
            taken = ends
        found.append(outcome)
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


def _parts(appends: Sequence[StreamAppend], codec: Codec | None) -> Iterator[Part]:
    for place, append in enumerate(appends):
        try:
            yield _part(append, codec)
        except Unstorable as exc:
            if len(appends) == 1:
                raise
            raise exc.within(f"appends[{place}]") from None


def _part(append: StreamAppend, codec: Codec | None) -> Part:
    if not append.events:
        raise InvalidInput("an append needs at least one event")
    expected = append.expected_version
    if not is_whole(expected) or not EXISTS <= expected <= MAX_INT:
        raise InvalidInput(f"no version: {repr(expected)[:60]}")
    if append.category is not None:
        require_name(append.category, "category")
    events = [_encoded(event, codec) for event in append.events]
    if any(event.type == CLOSED_TYPE for event in events[:-1]):
        raise InvalidInput("a stream takes no event after the one that closes it")
    return Part(
        append.stream_id,
        hex_of(append.stream_id, "stream_id"),
        append.category,
        append.expected_version,
        events,
        [body_of(event, place) for place, event in enumerate(events)],
    )


def _encoded(event: object, codec: Codec | None) -> NewEvent:
    if isinstance(event, NewEvent):
        return event
    if codec is None:
        raise InvalidInput(
            f"{type(event).__name__} is no NewEvent", hint="give the store a registry of types"
        )
    return codec.encode(event)
