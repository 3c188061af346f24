"""A tenant's events by their own types, and what else happens with an append: personal fields are
sealed, inline projections change with it.

    written = await acme.events.append(account_id, [Deposited(amount=5)], expected_version=3)
    async for event, recorded in acme.events.read_stream(account_id): ...
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from neolayer.engines.postgres.queries import load_queries
from neolayer.events.codec import TenantCodec
from neolayer.events.consuming import Handler
from neolayer.events.following import POLL
from neolayer.events.model import (
    ANY,
    BEGINNING,
    EXISTS,
    Appended,
    NewEvent,
    Place,
    Poison,
    RecordedEvent,
    StreamAppend,
)
from neolayer.events.projections.inline import InlineProjections
from neolayer.events.registry import Event
from neolayer.events.resending import resent
from neolayer.events.store import NEWEST, PAGE, Events, StreamState
from neolayer.events.subscribers import Subscriptions
from neolayer.events.subscriptions import LEASE, Subscription
from neolayer.position import Position
from neolayer.tenancy import Scope, Transaction

QUERIES = load_queries(__name__, "typed.sql")

Typed = tuple[Event, RecordedEvent]
TypedHandler = Callable[[Transaction, Event, RecordedEvent], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class TypedEvents:
    """One tenant's events, for whoever acts in the scope of `stored`."""

    stored: Events
    codec: TenantCodec
    inline: InlineProjections = field(default_factory=InlineProjections)

    @property
    def scope(self) -> Scope:
        """The scope of the event store."""
        return self.stored.scope

    # Writing

    async def append(
        self,
        stream_id: UUID,
        events: Sequence[Any],
        *,
        category: str | None = None,
        expected_version: int = ANY,
    ) -> Appended:
        """Store events, typed or NewEvent, at the end of a stream; typed ones say its category.

        Raises as `Events.append`, and UnknownEventType, KeyringError, UnfitEvent where a NewEvent
        does not fit the type that is registered by its name, and ProjectionFailed where an inline
        projection does not take them: then nothing is stored.
        """
        return await self.append_all([StreamAppend(stream_id, events, category, expected_version)])

    async def append_all(self, appends: Sequence[StreamAppend]) -> Appended:
        """Store events of several streams, all or nothing; raises as `append`."""
        encoded = [await self._encoded(one) for one in appends]
        if not self._concerns_inline(encoded):
            return await self.stored.append_all(encoded)
        written = await resent(lambda: self._with_inline(encoded))
        return replace(written, position=await resent(self.position))

    async def _with_inline(self, appends: Sequence[StreamAppend]) -> Appended:
        async with self.scope.transaction() as tx:
            written = await self.stored.append_in(tx, appends)
            if not written.is_repeated:
                await self.inline.apply(tx, written.events)
        return written

    async def _encoded(self, given: StreamAppend) -> StreamAppend:
        category = given.category or self.codec.category_of(given.events)
        if category is None and any(
            isinstance(event, NewEvent) and self.codec.registry.knows_name(event.type)
            for event in given.events
        ):
            stream = await self.state(given.stream_id)
            category = None if stream is None else stream.category
        events = await self.codec.encode(given.events, category=category)
        return replace(given, events=events, category=category)

    def _concerns_inline(self, appends: Sequence[StreamAppend]) -> bool:
        targets = self.inline.targets
        return bool(targets) and any(
            one.category is None or self.inline.concern(one.category, event.type)
            for one in appends
            for event in one.events
        )

    async def position(self) -> Position:
        """One at or above all that was committed before."""
        row = await self.scope.one(QUERIES.committed_at)
        assert row is not None
        return Position.from_version(row[0], "event_store")

    async def close(
        self, stream_id: UUID, data: Mapping[str, Any], *, expected_version: int = EXISTS
    ) -> Appended:
        """End a stream with a closing event: it takes no more, and can be archived."""
        return await self.stored.close(stream_id, data, expected_version=expected_version)

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
        """As `Events.subscribe`; see `typed` for handlers of typed events."""
        return await self.stored.subscribe(
            name,
            partitions=partitions,
            after=after,
            types=types,
            poison=poison,
            lease=lease,
            poll=poll,
        )

    def typed(self, handle: TypedHandler) -> Handler:
        """What a subscription runs where the handler wants each event typed and opened:

        await subscription.run(acme.events.typed(send_letter), until=stop)
        """

        async def opened(tx: Transaction, recorded: RecordedEvent) -> None:
            ((event, _),) = await self.opened([recorded])
            await handle(tx, event, recorded)

        return opened

    @property
    def subscriptions(self) -> Subscriptions:
        """All subscriptions of the tenant, to be listed and deleted."""
        return self.stored.subscriptions

    async def follow(
        self, *, after: Place = BEGINNING, poll: timedelta = POLL
    ) -> AsyncIterator[Typed]:
        """Every event from a place on, typed and opened, for ever; the reader keeps the place."""
        async for recorded in self.stored.follow(after=after, poll=poll):
            for typed in await self.opened([recorded]):
                yield typed

    # Reading

    async def state(self, stream_id: UUID) -> StreamState | None:
        """Category and version of a stream, or None where there is none."""
        return await self.stored.state(stream_id)

    async def read_stream(
        self, stream_id: UUID, *, from_version: int = 1, up_to: int = NEWEST, page: int = PAGE
    ) -> AsyncIterator[Typed]:
        """The stream's events in order, each typed and opened, with what was recorded about it."""
        while from_version <= up_to:
            last = min(up_to, from_version + page - 1)
            found = [
                one
                async for one in self.stored.read_stream(
                    stream_id, from_version=from_version, up_to=last
                )
            ]
            for typed in await self.opened(found):
                yield typed
            if len(found) < page:
                return
            from_version = last + 1

    async def read_all(
        self,
        *,
        after: Place = BEGINNING,
        types: Sequence[str] | None = None,
        categories: Sequence[str] | None = None,
        correlation_id: UUID | None = None,
        limit: int = PAGE,
    ) -> list[Typed]:
        """As `Events.read_all`, each typed and opened."""
        found = await self.stored.read_all(
            after=after,
            types=types,
            categories=categories,
            correlation_id=correlation_id,
            limit=limit,
        )
        return await self.opened(found)

    async def opened(self, recorded: Sequence[RecordedEvent]) -> list[Typed]:
        """Recorded events with what they are. Raises UnknownEventType, KeyringError."""
        return list(zip(await self.codec.decode(recorded), recorded, strict=True))
