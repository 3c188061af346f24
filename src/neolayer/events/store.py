"""The verbs over a tenant's events.

    events = event_store.events(tenant_id, by=Principal.user(user_id))
    written = await events.append(account_id, [NewEvent("Deposited", {"amount": 5})],
                                  category="account", expected_version=3)
    async for event in events.read_stream(account_id):
        ...

An append is stored as a whole or not at all, at the version it expects, and once: the ids of its
events say whether it was stored before, and then the first outcome is what comes back.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, LiteralString, cast
from uuid import UUID

import orjson

from neolayer.engines.endpoints import Database, Endpoints
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import AccessDenied, InvalidInput
from neolayer.events.archive import Archive, Page, Wanted, merged
from neolayer.events.bodies import is_whole
from neolayer.events.following import POLL, follow
from neolayer.events.grouping import Grouper
from neolayer.events.model import (
    ANY,
    BEGINNING,
    CLOSED_TYPE,
    EXISTS,
    Appended,
    Codec,
    EventIdTaken,
    NewEvent,
    Place,
    Poison,
    RecordedEvent,
    StreamAppend,
)
from neolayer.events.reading import after_place, events_asked, page_of, recorded
from neolayer.events.segments import Segment, SegmentStore
from neolayer.events.subscribers import Subscriptions
from neolayer.events.subscriptions import LEASE, Subscription, subscribe
from neolayer.events.units import (
    Outcome,
    Unit,
    Verdict,
    appended,
    batch_of,
    known_refused,
    make_unit,
    outcomes_of,
    refusal,
)
from neolayer.position import Position
from neolayer.tenancy import Principal, Scope, TenantDatabase, Transaction, open_database

sql = load_queries(__name__)
PAGE = 500
NEWEST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class StreamState:
    """Where a stream is."""

    category: str
    version: int
    is_closed: bool


@dataclass(frozen=True, slots=True)
class Events:
    """One tenant's events, for whoever acts in `scope`, a scope of the event store; `beside` is the
    same scope on a connection that is never held for long."""

    scope: Scope
    grouper: Grouper
    codec: Codec | None = None
    segments: SegmentStore | None = None
    beside: Scope | None = None

    # Writing

    async def append(
        self,
        stream_id: UUID,
        events: Sequence[Any],
        *,
        category: str | None = None,
        expected_version: int = ANY,
    ) -> Appended:
        """Store events at the end of a stream; a new stream needs a category.

        Given again, events with the same ids are stored once, and the first try stands: what comes
        back is as it was stored then (`is_repeated`). Compared are stream, type, data, schema
        version and key id; another content under an id is EventIdTaken. Metadata, user, correlation
        and causation tell of the try: they are not compared, and a later try's are not kept.

        Raises WrongVersion, StreamIsClosed, WrongCategory, EventIdTaken; InvalidInput, and
        EngineUnavailable, after which the same events can be given again.
        """
        return await self.append_all([StreamAppend(stream_id, events, category, expected_version)])

    async def append_all(self, appends: Sequence[StreamAppend]) -> Appended:
        """Store events of several streams, all or nothing; raises as `append`."""
        unit = make_unit(appends, self.codec, self.scope.by.user_id)
        outcome, position = await self.grouper.append(self.scope.tenant, self.scope.by, unit)
        if outcome.is_stored:
            return appended(unit, outcome, self._tenant, position)
        rows = await self._stored_before(self.scope, batch_of([unit])[1].decode())
        return self._as_before(unit, outcome, rows, position)

    async def close(
        self, stream_id: UUID, data: Mapping[str, Any], *, expected_version: int = EXISTS
    ) -> Appended:
        """End a stream with a closing event: it takes no more, and can be archived."""
        event = NewEvent(CLOSED_TYPE, data)
        return await self.append(stream_id, [event], expected_version=expected_version)

    async def append_in(self, tx: Transaction, appends: Sequence[StreamAppend]) -> Appended:
        """The same inside a transaction of this scope's database, with other rows to be written.

        Append before anything else is written in it: what the transaction can see by then stands
        before its events in reading order. That holds of the first append: what a later one of the
        same transaction follows from may stand behind it, so give all in one.
        Raises as `append`, and InvalidInput where it is late.
        """
        unit = make_unit(appends, self.codec, self.scope.by.user_id)
        streams, events = batch_of([unit])
        batch = events.decode()
        with known_refused():
            row = await tx.one(sql.append_within, {"streams": streams, "batch": batch})
        assert row is not None
        (outcome,) = outcomes_of(row[0], [unit])
        if outcome.is_stored:
            return appended(unit, outcome, self._tenant, None)
        if outcome.is_about("late"):
            raise InvalidInput(
                "the transaction has written already", hint="append first, then write the rest"
            )
        if outcome.is_about("refused"):
            raise AccessDenied("the tenant is closed, or there is none")
        rows = await self._stored_before(tx, batch)
        return self._as_before(unit, outcome, rows, None)

    async def _stored_before(
        self, asked: Scope | Transaction, batch: str
    ) -> Sequence[tuple[Any, ...]]:
        """The batch's events as they are stored; what is archived, as its segment has it."""
        rows = await asked.fetch(sql.stored_before, {"batch": batch, "lines": []})
        at = [(Segment(*row[8:11]), row[7]) for row in rows if row[7] is not None]
        if not at:
            return rows
        lines = await Archive(self.scope, self.segments).lines(at)
        return await asked.fetch(sql.stored_before, {"batch": batch, "lines": lines})

    def _as_before(
        self,
        unit: Unit,
        outcome: Outcome,
        rows: Sequence[tuple[Any, ...]],
        position: Position | None,
    ) -> Appended:
        """The first outcome of an append that comes again; whatever the stream is like now.

        Raises EventIdTaken, and where none of it was stored before, why it is not stored now.
        """
        if all(row[1] is None for row in rows):
            raise refusal(unit, outcome)
        ids = [event.event_id for part in unit.parts for event in part.events]
        for event_id, (_, is_same, *_) in zip(ids, rows, strict=True):
            if is_same is not True:
                # Some ids are stored and this one is not, or is another event: no second try.
                raise EventIdTaken(_first_stored(ids, rows) if is_same is None else event_id)
        first = dict[int, tuple[Any, ...]]()
        for row in rows:
            first.setdefault(row[0], row)
        verdicts = [Verdict("stored", row[2], row[3]) for row in first.values()]
        at, transaction = rows[0][4], rows[0][5]
        stored = Outcome(verdicts, transaction, at, [row[6] for row in rows])
        before = appended(unit, stored, self._tenant, position)
        events = [
            event.in_context(orjson.loads(row[11]), *row[12:])
            for event, row in zip(before.events, rows, strict=True)
        ]
        return Appended(before.position, before.versions, events, is_repeated=True)

    # Reading

    async def state(self, stream_id: UUID) -> StreamState | None:
        """Category and version of a stream, or None where there is none."""
        row = await self.scope.one(sql.stream_state, {"stream": stream_id})
        return None if row is None else StreamState(*row)

    async def read_stream(
        self, stream_id: UUID, *, from_version: int = 1, up_to: int = NEWEST, page: int = PAGE
    ) -> AsyncIterator[RecordedEvent]:
        """The stream's events in order, from a version on; none where there is no such stream."""
        _require_versions(from_version, up_to)
        while from_version <= up_to:
            params = events_asked(
                stream=stream_id, from_version=from_version, up_to=up_to, limit=page
            )
            rows = await self.scope.fetch(sql.stream_forwards, params)
            for row in rows:
                yield recorded(row)
            if not rows:
                for event in await self._archived(stream_id):
                    if from_version <= event.version <= up_to:
                        yield event
            if len(rows) < page:
                return
            from_version = rows[-1][5] + 1

    async def read_backwards(
        self, stream_id: UUID, *, from_version: int = NEWEST, page: int = PAGE
    ) -> AsyncIterator[RecordedEvent]:
        """The stream's events from a version (default: the last) down to the first."""
        _require_versions(from_version)
        while from_version > 0:
            params = events_asked(stream=stream_id, from_version=from_version, limit=page)
            rows = await self.scope.fetch(sql.stream_backwards, params)
            for row in rows:
                yield recorded(row)
            if not rows:
                for event in reversed(await self._archived(stream_id)):
                    if event.version <= from_version:
                        yield event
            if len(rows) < page:
                return
            from_version = rows[-1][5] - 1

    async def _archived(self, stream_id: UUID) -> Sequence[RecordedEvent]:
        return await Archive(self.scope, self.segments).read(stream_id)

    async def read_all(
        self,
        *,
        after: Place = BEGINNING,
        types: Sequence[str] | None = None,
        categories: Sequence[str] | None = None,
        correlation_id: UUID | None = None,
        limit: int = PAGE,
    ) -> list[RecordedEvent]:
        """Up to `limit` events in reading order, those after `after`; of these kinds, if named.

        What was appended a moment ago is seen once no older transaction runs any more: what this
        returns is complete up to its last event. Archived events stand where they stood; those of
        a page are fetched from the object store, a stream at a time. Raises InvalidInput where two
        of types, categories and a correlation are named, SegmentDamaged, EngineUnavailable.
        """
        _require_limit(limit)
        query, params = _kind(types, categories, correlation_id)
        params |= after_place(after) | {"limit": limit}

        async def page(markers: int) -> Page:
            return page_of(await self.scope.fetch(query, events_asked(**params, markers=markers)))

        def is_wanted(event: RecordedEvent) -> bool:
            return (types is None or event.type in types) and (
                correlation_id is None or event.correlation_id == correlation_id
            )

        wanted = Wanted(after, limit, is_wanted, categories)
        return await merged(Archive(self.scope, self.segments), wanted, page)

    # Following

    async def subscribe(
        self,
        name: str,
        *,
        partitions: int = 4,
        after: Place | None = None,
        types: Sequence[str] | None = None,
        poison: Poison = Poison.HOLD,
        lease: timedelta = LEASE,
        poll: timedelta = POLL,
    ) -> Subscription:
        """The subscription of that name; made if it is not there, to begin after `after` (None: at
        the beginning).

        Raises Conflict where it has another number of partitions, is of other types or began
        elsewhere, InvalidInput.
        """
        made = await subscribe(self.scope, name, partitions=partitions, types=types, after=after)
        return replace(
            made,
            poison=poison,
            lease=lease,
            poll=poll,
            committed=lambda: self.grouper.committed,
            segments=self.segments,
            beside=self.beside,
        )

    @property
    def subscriptions(self) -> Subscriptions:
        """All subscriptions of the tenant, to be listed and deleted."""
        return Subscriptions(self.scope, self.segments)

    def follow(
        self, *, after: Place = BEGINNING, poll: timedelta = POLL
    ) -> AsyncIterator[RecordedEvent]:
        """Every event from a place on, for ever; whoever reads keeps the place by themselves."""

        def read(place: Place) -> Awaitable[list[RecordedEvent]]:
            return self.read_all(after=place)

        return follow(read, after=after, poll=poll, committed=lambda: self.grouper.committed)

    @property
    def _tenant(self) -> UUID:
        return cast("UUID", self.scope.tenant)


def _require_limit(limit: object) -> None:
    """Raise InvalidInput where it is no number of events."""
    if not is_whole(limit) or not 0 < limit <= NEWEST:
        raise InvalidInput(f"a limit is a number of events from 1 on, not {repr(limit)[:60]}")


def _require_versions(*versions: object) -> None:
    for version in versions:
        if not is_whole(version) or not -NEWEST <= version <= NEWEST:
            raise InvalidInput(f"no version: {repr(version)[:60]}")


def _first_stored(ids: Sequence[UUID], rows: Sequence[tuple[Any, ...]]) -> UUID:
    return next(i for i, row in zip(ids, rows, strict=True) if row[1] is not None)


def _kind(
    types: Sequence[str] | None, categories: Sequence[str] | None, correlation_id: UUID | None
) -> tuple[LiteralString, dict[str, Any]]:
    if sum(each is not None for each in (types, categories, correlation_id)) > 1:
        raise InvalidInput("name types, categories or a correlation, one of the three")
    if types is not None:
        return sql.by_type, {"types": list(types)}
    if categories is not None:
        return sql.by_category, {"categories": list(categories)}
    if correlation_id is not None:
        return sql.by_correlation, {"correlation": correlation_id}
    return sql.all, {}


@dataclass(frozen=True, slots=True)
class EventStore:
    """The event store of a layer, opened once a process; see `open_event_store`."""

    database: TenantDatabase
    grouper: Grouper
    codec: Codec | None = None
    segments: SegmentStore | None = None
    beside: TenantDatabase | None = None

    def events(self, tenant: UUID, *, by: Principal, codec: Codec | None = None) -> Events:
        """One tenant's events, for `by`."""
        scope = self.database.scope(tenant, by=by)
        beside = None if self.beside is None else self.beside.scope(tenant, by=by)
        return Events(scope, self.grouper, codec or self.codec, self.segments, beside)


@asynccontextmanager
async def open_event_store(
    endpoints: Endpoints,
    *,
    size: int = 8,
    application_name: str = "api",
    codec: Codec | None = None,
) -> AsyncGenerator[EventStore]:
    """The event store of a layer. Raises EngineUnavailable, MigrationError before migrating."""
    name, which = application_name, Database.EVENT_STORE
    async with (
        open_database(endpoints, which, size=size, application_name=name) as database,
        open_database(endpoints, which, size=1, application_name=name) as lane,
        open_database(endpoints, which, size=1, application_name=name, lazily=True) as beside,
    ):
        grouper = Grouper(database, lane)
        try:
            yield EventStore(database, grouper, codec, SegmentStore(endpoints.objects), beside)
        finally:
            await grouper.close()
