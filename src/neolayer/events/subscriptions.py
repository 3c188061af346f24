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
not. `replay` handles what is parked, in order; `discard` gives one up.

A subscription that begins at the beginning is given archived events too, where they stood.

Its types and where it began are the subscription's own: who asks for it with others is refused.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import psycopg

from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import Conflict, EngineUnavailable, InvalidInput, NotFound
from neolayer.events.archive import Archive
from neolayer.events.consuming import Consumer, Handler
from neolayer.events.following import POLL, back_off, wait
from neolayer.events.model import BEGINNING, LONGEST_NAME, MOST_PARTITIONS, Place, Poison
from neolayer.events.parked import Parked, ParkedEvent
from neolayer.events.segments import SegmentStore
from neolayer.telemetry import log_warning
from neolayer.tenancy import Scope

sql = load_queries(__name__, "subscriptions.sql")
LEASE = timedelta(seconds=10)
MOST_TYPES = 1000


@dataclass(frozen=True, slots=True)
class PartitionProgress:
    """How far a partition is, and who works on it."""

    partition: int
    place: Place
    owner: str | None


@dataclass(frozen=True, slots=True)
class Subscription:
    """One tenant's subscription. `types` narrows it to events of these types; `beside` has a
    connection that no handler holds, for leases to be renewed."""

    scope: Scope
    name: str
    partitions: int
    types: Sequence[str] | None = None
    poison: Poison = Poison.HOLD
    lease: timedelta = LEASE
    poll: timedelta = POLL
    committed: Callable[[], asyncio.Event] | None = None
    segments: SegmentStore | None = None
    beside: Scope | None = None

    @property
    def archive(self) -> Archive:
        """Where the events of archived streams are read."""
        return Archive(self.scope, self.segments)

    @property
    def _parked(self) -> Parked:
        return Parked(self.scope, self.name, self.archive)

    async def run(
        self, handle: Handler, *, until: asyncio.Event, consumer: str | None = None
    ) -> None:
        """Handle events as they come, with whoever else does, until `until` is set.

        Events appended by this process are handled at once, those of others within `poll`. What
        the handler raises is the event's; a database that does not answer is waited for.
        """
        working, failures = Consumer(self, consumer or _own_name(), handle), 0
        try:
            while not until.is_set():
                news = None if self.committed is None else self.committed()
                try:
                    found, failures = await working.work(), 0
                except (EngineUnavailable, psycopg.OperationalError, psycopg.InterfaceError) as exc:
                    log_warning("a subscription waits for its database", reason=str(exc))
                    working.forget()
                    await wait(back_off(failures), until)
                    failures += 1
                    continue
                if not found:
                    await wait(self.poll, until, news)
            with suppress(EngineUnavailable, psycopg.Error):
                await working.note_places()
        finally:
            await working.leave()

    async def catch_up(self, handle: Handler, *, consumer: str | None = None) -> int:
        """Handle what is there and return how many events that were; for tests and commands.

        What another consumer holds is waited for: until it is handled, or that one's lease ends.
        """
        working, told = Consumer(self, consumer or _own_name(), handle), False
        try:
            horizon = await working.horizon()
            while True:
                while await working.work():
                    pass
                owners = await working.behind(horizon)
                if not owners:
                    break
                if not told:
                    names = (
                        ", ".join(sorted({owner for owner in owners if owner})) or "one that left"
                    )
                    log_warning("a subscription waits for other consumers", consumers=names)
                told = True
                await wait(self.poll)
            await working.note_places()
        finally:
            await working.leave()
        return working.handled

    async def parked(
        self, *, stream_id: UUID | None = None, limit: int = 1000
    ) -> list[ParkedEvent]:
        """What is parked, stream by stream in order."""
        return await self._parked.list(stream_id=stream_id, limit=limit)

    async def replay(self, handle: Handler, *, stream_id: UUID | None = None) -> int:
        """Handle what is parked, in order; how many were handled here. A stream stops at what fails
        again."""
        return await self._parked.replay(handle, stream_id=stream_id)

    async def discard(self, stream_id: UUID, *, core: Scope) -> ParkedEvent:
        """Give up the event that a stream stands still at; see `Parked.discard`."""
        return await self._parked.discard(stream_id, core=core)

    async def progress(self) -> list[PartitionProgress]:
        """How far each partition is."""
        rows = await self.scope.fetch(sql.progress, {"name": self.name})
        return [PartitionProgress(row[0], Place(row[1], row[2]), row[3]) for row in rows]

    async def delete(self) -> None:
        """Forget the subscription and what it parked; the events stay."""
        async with self.scope.transaction() as tx:
            await tx.execute(sql.delete_subscription, {"name": self.name})


async def subscribe(
    scope: Scope,
    name: str,
    *,
    partitions: int,
    types: Sequence[str] | None = None,
    after: Place | None = None,
) -> Subscription:
    """The subscription of that name, made if it is not there, to begin after `after` (None: at the
    beginning). Raises InvalidInput, Conflict."""
    _require_name(name, "subscription's name")
    if not 1 <= partitions <= MOST_PARTITIONS:
        raise InvalidInput(
            f"a subscription has 1 to {MOST_PARTITIONS} partitions, not {partitions}"
        )
    wanted, begins = _types(types), after or BEGINNING
    params = {"name": name, "partitions": partitions, "types": wanted}
    place = {"transaction": str(begins.transaction), "index": begins.index}
    place |= {"is_told": after is not None}
    async with scope.transaction() as tx:
        await tx.execute(sql.make_subscription, params | place)
        row = await tx.one(sql.subscription, {"name": name})
    if row is None:
        raise NotFound(f"there is no subscription {name!r}")
    if row[0] != partitions:
        raise Conflict(
            f"subscription {name!r} has {row[0]} partitions, not {partitions}",
            hint="a stream would change its partition: make another subscription",
        )
    if row[1] != wanted:
        raise Conflict(
            f"subscription {name!r} is of {_told(row[1])}, not of {_told(wanted)}",
            hint="it would pass over events: make another subscription"
            if wanted
            else f"name its types: {_told(row[1])}",
        )
    if after is not None and (began := Place(row[2], row[3])) != after:
        raise Conflict(
            f"subscription {name!r} began after {began}, not after {after}",
            hint="it goes on from where it is: leave the place out, or make another subscription",
        )
    return Subscription(scope, name, partitions, wanted)


def _types(types: Sequence[str] | None) -> list[str] | None:
    """As they are stored. Raises InvalidInput."""
    if types is None:
        return None
    for each in types:
        _require_name(each, "type")
    wanted = sorted(set(types))
    if not 0 < len(wanted) <= MOST_TYPES:
        raise InvalidInput(f"a subscription is of 1 to {MOST_TYPES} types, or of all")
    return wanted


def _told(types: Sequence[str] | None) -> str:
    return "all types" if types is None else ", ".join(types)


def _require_name(name: str, what: str) -> None:
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise InvalidInput(f"a {what} is 1 to {LONGEST_NAME} printable characters")


def _own_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"[:LONGEST_NAME]
