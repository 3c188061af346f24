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
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

import psycopg

from neolayer.crash_points import crash_point
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import Conflict, EngineUnavailable, InvalidInput, NotFound
from neolayer.events.model import BEGINNING, LONGEST_NAME, Place, RecordedEvent
from neolayer.events.reading import recorded
from neolayer.telemetry import log_warning
from neolayer.tenancy import Scope, Transaction

sql = load_queries(__name__, "subscriptions.sql")
events_sql = load_queries(__name__)
Handler = Callable[[Transaction, RecordedEvent], Awaitable[None]]
PAGE = 200
LEASE = timedelta(seconds=10)
POLL = timedelta(milliseconds=50)
TRIES = 3
_PAUSE_S = 0.05
_LONGEST_CAUSE = 2_000
_END_OF_TRANSACTION = 2**63 - 1


class Poison(StrEnum):
    """What becomes of a stream one of whose events cannot be handled."""

    HOLD = "hold"  # its later events wait until it was replayed
    SKIP = "skip"  # its later events are handled


class PartitionLost(Conflict):
    """Another consumer has taken the partition over; nothing of this batch is stored."""


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


@dataclass(slots=True)
class _Held:
    """A partition that this consumer holds; `place` is as far as it has looked."""

    partition: int
    fence: int
    place: Place
    noted: Place


@dataclass(slots=True)
class _Poisoned:
    """The event that failed, how often, and why the last time."""

    event: RecordedEvent
    attempts: int
    cause: str


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
        working = _Consumer(self, consumer or _own_name(), handle)
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
        working = _Consumer(self, consumer or _own_name(), handle)
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
        done, stopped = 0, set[UUID]()
        while True:
            left = [
                one
                for one in await self.parked(stream_id=stream_id)
                if one.stream_id not in stopped
            ]
            if not left:
                return done
            for one in left:
                if one.stream_id not in stopped:
                    if await self._replay(handle, one):
                        done += 1
                    else:
                        stopped.add(one.stream_id)

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
                await tx.execute(sql.park, at | {"cause": _cause(exc), "attempts": 1})
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


@dataclass(slots=True)
class _Consumer:
    """One consumer of a subscription, while it works."""

    of: Subscription
    name: str
    handle: Handler
    handled: int = 0
    _held: dict[int, _Held] = field(default_factory=dict[int, _Held])
    _claimed_at: float = float("-inf")

    async def work(self) -> bool:
        """One page of every partition that is held; whether there was anything."""
        await self._claim()
        found = False
        for held in list(self._held.values()):
            try:
                found = await self._page(held) or found
            except PartitionLost:
                del self._held[held.partition]
        return found

    async def leave(self) -> None:
        """Free what is held, for the others to take at once; what cannot be freed runs out."""
        try:
            async with self.of.scope.transaction() as tx:
                await tx.execute(sql.leave, {"name": self.of.name, "consumer": self.name})
        except (EngineUnavailable, psycopg.Error) as exc:
            log_warning("a subscription's partitions were not freed", reason=str(exc))

    async def _claim(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._claimed_at + self.of.lease.total_seconds() / 3:
            return
        params = {"name": self.of.name, "consumer": self.name, "lease": self.of.lease}
        rows = await self.of.scope.fetch(sql.claim, params)
        known, self._held = self._held, {}
        for partition, fence, transaction, index in rows:
            held = known.get(partition)
            if held is None or held.fence != fence:
                place = Place(transaction, index)
                held = _Held(partition, fence, place, place)
            self._held[partition] = held
        self._claimed_at = now
        await self.note_places()

    async def note_places(self) -> None:
        """Store how far was looked where there was nothing to handle, now and then."""
        for held in [held for held in self._held.values() if held.place > held.noted]:
            try:
                async with self.of.scope.transaction() as tx:
                    await self._advance(tx, held, held.place)
            except PartitionLost:
                del self._held[held.partition]
            else:
                held.noted = held.place

    async def _page(self, held: _Held) -> bool:
        (horizon,) = (await self.of.scope.one(sql.horizon)) or (0,)
        events = await self._read(held)
        if not events:
            # Nothing of this partition below the horizon: no need to look there again.
            held.place = max(held.place, Place(horizon - 1, _END_OF_TRANSACTION))
            return False
        while events:
            failed = await self._store(held, events, None)
            if failed is None:
                break
            before = [event for event in events if event.place < failed.event.place]
            if before:
                await self._store(held, before, None)
            poisoned = await self._once_more(held, failed)
            if poisoned is not None:
                await self._store(held, [failed.event], poisoned)
            events = [event for event in events if event.place > failed.event.place]
        return True

    async def _read(self, held: _Held) -> list[RecordedEvent]:
        params = {
            "transaction": str(held.place.transaction),
            "index": held.place.index,
            "partitions": self.of.partitions,
            "partition": held.partition,
            "types": None if self.of.types is None else list(self.of.types),
            "limit": PAGE,
        }
        return [recorded(row) for row in await self.of.scope.fetch(sql.next_events, params)]

    async def _once_more(self, held: _Held, failed: _Poisoned) -> _Poisoned | None:
        """Try the event alone, a few times; None where it was handled after all."""
        for attempt in range(2, TRIES + 1):
            await asyncio.sleep(_PAUSE_S * attempt)
            again = await self._store(held, [failed.event], None)
            if again is None:
                return None
            failed = _Poisoned(again.event, attempt, again.cause)
        return failed

    async def _store(
        self, held: _Held, events: Sequence[RecordedEvent], poisoned: _Poisoned | None
    ) -> _Poisoned | None:
        """Handle events (or park the one that cannot be) and note the place, in one transaction.

        The event that failed, where one did; then nothing is stored. Raises PartitionLost.
        """
        event = events[0]
        try:
            async with self.of.scope.transaction() as tx:
                behind = await self._held_streams(tx, events)
                for event in events:
                    if event.stream_id in behind:
                        await self._park(tx, event, None, 0)
                    elif poisoned is not None:
                        await self._park(tx, event, poisoned.cause, poisoned.attempts)
                    else:
                        await self.handle(tx, event)
                crash_point("events.before_checkpoint")
                await self._advance(tx, held, events[-1].place)
                crash_point("events.before_commit")
        except (PartitionLost, EngineUnavailable, psycopg.OperationalError):
            raise
        except Exception as exc:
            return _Poisoned(event, 1, _cause(exc))
        crash_point("events.after_commit")
        held.place = held.noted = events[-1].place
        self.handled += len(events) if poisoned is None else 0
        return None

    async def _held_streams(self, tx: Transaction, events: Sequence[RecordedEvent]) -> set[UUID]:
        if self.of.poison is Poison.SKIP:
            return set()
        streams = list({event.stream_id for event in events})
        rows = await tx.fetch(sql.held_streams, {"name": self.of.name, "streams": streams})
        return {row[0] for row in rows}

    async def _park(
        self, tx: Transaction, event: RecordedEvent, cause: str | None, attempts: int
    ) -> None:
        where = {"name": self.of.name, "stream": event.stream_id, "version": event.version}
        await tx.execute(sql.park, where | {"cause": cause, "attempts": attempts})

    async def _advance(self, tx: Transaction, held: _Held, place: Place) -> None:
        params = {
            "name": self.of.name,
            "partition": held.partition,
            "consumer": self.name,
            "fence": held.fence,
            "transaction": str(place.transaction),
            "index": place.index,
        }
        if await tx.one(sql.advance, params) is None:
            raise PartitionLost


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
    params = {
        "stream": parked.stream_id,
        "from_version": parked.version,
        "up_to": parked.version,
        "limit": 1,
    }
    row = await tx.one(events_sql.stream_forwards, params)
    if row is None:
        raise NotFound("the event was archived meanwhile")
    return recorded(row)


def _cause(exc: Exception) -> str:
    text = f"{type(exc).__name__}: {exc}".replace("\0", "")
    return text[:_LONGEST_CAUSE]


def _own_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"[:LONGEST_NAME]
