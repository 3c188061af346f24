"""Subscriptions: named readers of a tenant's events, shared by several consumers.

    subscription = await events.subscribe("letters", partitions=4)
    await subscription.run(send_letter, until=stop)

    async def send_letter(tx: Transaction, event: RecordedEvent) -> None: ...

What the handler writes through `tx` and the place that it has reached are one transaction, so each
event has its effect once, whoever dies when. An event belongs to a partition by its stream, and a
partition to one consumer at a time, under a lease: a stream's events are handled in order, and a
dead consumer's partitions are taken over when its lease ends.

An event that the handler refuses again and again is parked with the cause while its neighbours go
on. Under `Poison.HOLD` the later events of its stream wait behind it, under `Poison.SKIP` they do
not. `replay` handles what is parked, in order.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import psycopg

from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import Conflict, EngineUnavailable, InvalidInput, NotFound
from neolayer.events.consuming import PAGE, Consumer, Handler, cause_of
from neolayer.events.model import (
    BEGINNING,
    LONGEST_NAME,
    MOST_PARTITIONS,
    Place,
    Poison,
    RecordedEvent,
)
from neolayer.events.reading import events_asked, recorded
from neolayer.telemetry import log_warning
from neolayer.tenancy import Scope, Transaction

sql = load_queries(__name__, "subscriptions.sql")
events_sql = load_queries(__name__)
LEASE = timedelta(seconds=10)
POLL = timedelta(milliseconds=50)


@dataclass(frozen=True, slots=True)
class ParkedEvent:
    """An event that could not be handled, or (without a cause) that waits behind such a one."""

    stream_id: UUID
    version: int
    cause: str | None
    attempts: int
    parked_at: datetime


@dataclass(frozen=True, slots=True)
class PartitionProgress:
    """How far a partition is, and who works on it."""

    partition: int
    place: Place
    owner: str | None


@dataclass(frozen=True, slots=True)
class Subscription:
    """One tenant's subscription. `types` narrows it to events of these types."""

    scope: Scope
    name: str
    partitions: int
    types: Sequence[str] | None = None
    poison: Poison = Poison.HOLD
    lease: timedelta = LEASE
    poll: timedelta = POLL
    committed: Callable[[], asyncio.Event] | None = None

    async def run(
        self, handle: Handler, *, until: asyncio.Event, consumer: str | None = None
    ) -> None:
        """Handle events as they come, with whoever else does, until `until` is set.

        Events appended by this process are handled at once, those of others within `poll`. What
        the handler raises is the event's; a database that does not answer is waited for.
        """
        working = Consumer(self, consumer or _own_name(), handle)
        try:
            while not until.is_set():
                news = None if self.committed is None else self.committed()
                try:
                    found = await working.work()
                except (EngineUnavailable, psycopg.OperationalError) as exc:
                    log_warning("a subscription waits for its database", reason=str(exc))
                    found = False
                if not found:
                    await self._wait(until, news)
        finally:
            await working.leave()

    async def catch_up(self, handle: Handler, *, consumer: str | None = None) -> int:
        """Handle what is there and return how many events that were; for tests and commands."""
        working = Consumer(self, consumer or _own_name(), handle)
        try:
            while await working.work():
                pass
            await working.note_places()
        finally:
            await working.leave()
        return working.handled

    async def parked(
        self, *, stream_id: UUID | None = None, limit: int = 1000
    ) -> list[ParkedEvent]:
        """What is parked, stream by stream in order."""
        params = {"name": self.name, "stream": stream_id, "limit": limit}
        return [ParkedEvent(*row) for row in await self.scope.fetch(sql.parked, params)]

    async def replay(self, handle: Handler, *, stream_id: UUID | None = None) -> int:
        """Handle what is parked, in order; how many were. A stream stops at what fails again."""
        done = 0
        async for stream in self._parked_streams(stream_id):
            going = True
            while going and (waiting := await self.parked(stream_id=stream)):
                for one in waiting:
                    going = await self._replay(handle, one)
                    if not going:
                        break
                    done += 1
        return done

    async def _parked_streams(self, stream_id: UUID | None) -> AsyncIterator[UUID]:
        """Every stream that has parked events, each once."""
        if stream_id is not None:
            yield stream_id
            return
        after = UUID(int=0)
        while rows := await self.scope.fetch(
            sql.parked_streams, {"name": self.name, "after": after, "limit": PAGE}
        ):
            for (after,) in rows:
                yield after

    async def progress(self) -> list[PartitionProgress]:
        """How far each partition is."""
        rows = await self.scope.fetch(sql.progress, {"name": self.name})
        return [PartitionProgress(row[0], Place(row[1], row[2]), row[3]) for row in rows]

    async def delete(self) -> None:
        """Forget the subscription and what it parked; the events stay."""
        async with self.scope.transaction() as tx:
            await tx.execute(sql.delete_subscription, {"name": self.name})

    async def _replay(self, handle: Handler, parked: ParkedEvent) -> bool:
        at = {"name": self.name, "stream": parked.stream_id, "version": parked.version}
        event: RecordedEvent | None = None
        try:
            async with self.scope.transaction() as tx:
                if await tx.one(sql.take_parked, at) is None:
                    return True  # somebody else has
                event = await _event(tx, parked)
                await handle(tx, event)
        except (EngineUnavailable, psycopg.OperationalError):
            raise
        except Exception as exc:
            async with self.scope.transaction() as tx:
                cause = type(exc).__name__ if event is None else cause_of(exc, event)
                await tx.execute(sql.park, at | {"cause": cause, "attempts": 1})
            return False
        return True

    async def _wait(self, until: asyncio.Event, news: asyncio.Event | None) -> None:
        """Until something was appended here, `poll` is over, or it is time to stop."""
        signals = [asyncio.create_task(each.wait()) for each in (until, news) if each is not None]
        try:
            await asyncio.wait(
                signals, timeout=self.poll.total_seconds(), return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for signal in signals:
                signal.cancel()


async def subscribe(
    scope: Scope,
    name: str,
    *,
    partitions: int,
    after: Place,
) -> Subscription:
    """The subscription of that name, made if it is not there. Raises InvalidInput, Conflict."""
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise InvalidInput(f"a subscription's name is 1 to {LONGEST_NAME} printable characters")
    if not 1 <= partitions <= MOST_PARTITIONS:
        raise InvalidInput(
            f"a subscription has 1 to {MOST_PARTITIONS} partitions, not {partitions}"
        )
    place = {"transaction": str(after.transaction), "index": after.index}
    async with scope.transaction() as tx:
        await tx.execute(sql.make_subscription, {"name": name, "partitions": partitions} | place)
        row = await tx.one(sql.subscription, {"name": name})
    if row is None:
        raise NotFound(f"there is no subscription {name!r}")
    if row[0] != partitions:
        raise Conflict(
            f"subscription {name!r} has {row[0]} partitions, not {partitions}",
            hint="a stream would change its partition: make another subscription",
        )
    return Subscription(scope, name, partitions)


async def follow(
    read_after: Callable[[Place], Awaitable[list[RecordedEvent]]],
    *,
    after: Place = BEGINNING,
    poll: timedelta = POLL,
    committed: Callable[[], asyncio.Event] | None = None,
) -> AsyncIterator[RecordedEvent]:
    """Every event from a place on, for ever, for whoever keeps the place by themselves."""
    while True:
        news = None if committed is None else committed()
        events = await read_after(after)
        for event in events:
            after = event.place
            yield event
        if not events:
            await _pause(poll, news)


async def _pause(poll: timedelta, news: asyncio.Event | None) -> None:
    if news is None:
        await asyncio.sleep(poll.total_seconds())
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(poll.total_seconds()):
            await news.wait()


async def _event(tx: Transaction, parked: ParkedEvent) -> RecordedEvent:
    version = parked.version
    params = events_asked(stream=parked.stream_id, from_version=version, up_to=version, limit=1)
    row = await tx.one(events_sql.stream_forwards, params)
    if row is None:
        raise NotFound("the event was archived meanwhile")
    return recorded(row)


def _own_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"[:LONGEST_NAME]
