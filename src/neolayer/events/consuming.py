"""One consumer of a subscription: takes partitions, handles pages of events, parks what it cannot.

A page is one transaction, which ends after a while whatever is left of the page: the readers of all
tenants wait for it. Where the handler raises, its events are stored up to the one that failed, and
that one is tried again alone, with pauses: a few times, or for some seconds where the handler says
that an engine does not answer. Then it is parked; so is one whose handler takes longer than the
server lets a transaction last, or one at which the consumer loses its partition again and again. A
database of events that does not answer is nobody's fault and waited for.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol
from uuid import UUID

import psycopg

from neolayer.crash_points import crash_point
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import EngineUnavailable
from neolayer.events.archive import Archive, Page, Wanted, merged
from neolayer.events.errors import storable
from neolayer.events.leases import Held, Leases, PartitionLost
from neolayer.events.model import Place, Poison, RecordedEvent
from neolayer.events.reading import after_place, events_asked, page_of
from neolayer.telemetry import log_warning
from neolayer.tenancy import Scope, Transaction
from neolayer.waiting import answered

sql = load_queries(__name__, "subscriptions.sql")
Handler = Callable[[Transaction, RecordedEvent], Awaitable[None]]
PAGE = 200
# How long is paused before each further try: after any error, and after one that may pass.
PAUSES_S = (0.1, 0.15)
LONG_PAUSES_S = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
MOST_S = 2.0  # after which a page's transaction ends with the event that is being handled
MOST_LOST = 3
_LOST = (
    "PartitionLost: the consumer lost its lease at this event again and again; await what takes"
    " long, or give the subscription a longer lease"
)
_MAY_PASS = (EngineUnavailable, psycopg.OperationalError, psycopg.InterfaceError)


@dataclass(slots=True)
class _Poisoned:
    """The event that failed, how often, and why the last time."""

    event: RecordedEvent
    attempts: int
    cause: str
    may_pass: bool


class _HandlerFailed(Exception):
    """What the handler raised is the `__cause__`."""


class Subscribed(Protocol):
    """What is consumed: see `subscriptions.Subscription`."""

    @property
    def scope(self) -> Scope: ...
    @property
    def beside(self) -> Scope | None: ...
    @property
    def name(self) -> str: ...
    @property
    def partitions(self) -> int: ...
    @property
    def types(self) -> Sequence[str] | None: ...
    @property
    def poison(self) -> Poison: ...
    @property
    def lease(self) -> timedelta: ...
    @property
    def archive(self) -> Archive: ...


@dataclass(slots=True)
class Consumer:
    """One consumer of a subscription, while it works."""

    of: Subscribed
    name: str
    handle: Handler
    handled: int = 0
    _leases: Leases = field(init=False)
    # How often the lease was lost at an event, by the event's id.
    _lost: Counter[UUID] = field(default_factory=Counter[UUID])

    def __post_init__(self) -> None:
        of = self.of
        self._leases = Leases(of.scope, of.beside or of.scope, of.name, self.name, of.lease)

    async def work(self) -> bool:
        """One page of every partition that is held; whether there was anything."""
        await self._claim()
        found = False
        for held in self._leases:
            try:
                found = await self._page(held) or found
            except PartitionLost:
                self.forget()
        return found

    def forget(self) -> None:
        """Look anew what is held and how far it is."""
        self._leases.forget()

    async def leave(self) -> None:
        """Free what is held, for the others to take at once."""
        await self._leases.leave()

    async def _claim(self) -> None:
        if await self._leases.claim():
            await self.note_places()

    async def note_places(self) -> None:
        """Store how far was looked where there was nothing to handle, now and then."""
        for held in [held for held in self._leases if held.place > held.noted]:
            try:
                async with self.of.scope.transaction() as tx:
                    await self._advance(tx, held, held.place)
            except PartitionLost:
                self.forget()
                return
            held.noted = held.place

    async def _page(self, held: Held) -> bool:
        horizon = await self.horizon()
        events = await self._read(held)
        if not events:
            # Nothing of this partition below the horizon: no need to look there again.
            held.place = max(held.place, Place.end_of(horizon - 1))
            return False
        while events and held in self._leases:
            part = self._part(events)
            failed = self._lost_too_often(part[0])
            if failed is not None:
                await self._store(held, part, failed)
            elif (failed := await self._store(held, part, None)) is not None:
                await self._up_to(held, part, failed)
            events = _behind(held, events)
            await self._claim()
        return True

    def _part(self, events: Sequence[RecordedEvent]) -> Sequence[RecordedEvent]:
        """What is handled together: an event at which the lease was lost has a turn of its own."""
        for number, event in enumerate(events if self._lost else ()):
            if event.event_id in self._lost:
                return events[: number or 1]
        return events

    def _lost_too_often(self, event: RecordedEvent) -> _Poisoned | None:
        lost = self._lost[event.event_id] if self._lost else 0
        return _Poisoned(event, lost, _LOST, may_pass=False) if lost >= MOST_LOST else None

    async def _up_to(self, held: Held, events: Sequence[RecordedEvent], failed: _Poisoned) -> None:
        """Handle what stands before the event that failed; then it, alone."""
        before = [event for event in events if event.place < failed.event.place]
        one_by_one = False
        while before := _behind(held, before):
            if one_by_one:
                await self._alone(held, before[0], await self._store(held, before[:1], None))
            else:
                one_by_one = await self._store(held, before, None) is not None
        await self._alone(held, failed.event, failed)

    async def horizon(self) -> int:
        """Below this transaction everything that will ever be there is there."""
        ((horizon,),) = await self.of.scope.fetch(sql.horizon)
        return horizon

    async def behind(self, horizon: int) -> list[str | None]:
        """Whose partitions have events below this transaction: others' than this consumer's."""
        mine = {held.partition for held in self._leases}
        found: list[str | None] = []
        for partition, transaction, index, owner, _ in await self.of.scope.fetch(
            sql.progress, {"name": self.of.name}
        ):
            place = Place(transaction, index)
            if partition not in mine and place.transaction < horizon:
                events = await self._read(Held(partition, 0, place, place), limit=1)
                if events and events[0].place.transaction < horizon:
                    found.append(owner)
        return found

    async def _read(self, held: Held, *, limit: int = PAGE) -> list[RecordedEvent]:
        asked, types = after_place(held.place), self.of.types
        asked |= {"partitions": self.of.partitions, "partition": held.partition, "types": types}

        async def page(markers: int) -> Page:
            params = events_asked(**asked, limit=limit, markers=markers)
            return page_of(await self.of.scope.fetch(sql.next_events, params))

        def is_wanted(event: RecordedEvent) -> bool:
            return types is None or event.type in types

        return await merged(self.of.archive, Wanted(held.place, limit, is_wanted), page)

    async def _alone(self, held: Held, event: RecordedEvent, failed: _Poisoned | None) -> None:
        """Handle one event that failed, or park it."""
        poisoned = failed and await self._once_more(held, failed)
        if poisoned:
            await self._store(held, [event], poisoned)

    async def _once_more(self, held: Held, failed: _Poisoned) -> _Poisoned | None:
        """Try the event alone, a few times; None where it was handled after all."""
        attempt = 1
        while attempt <= len(pauses := LONG_PAUSES_S if failed.may_pass else PAUSES_S):
            log_warning(
                "a subscription's handler failed",
                subscription=self.of.name,
                event_id=str(failed.event.event_id),
                reason=failed.cause,
            )
            await asyncio.sleep(pauses[attempt - 1])
            await self._claim()
            if held not in self._leases:
                raise PartitionLost
            again = await self._store(held, [failed.event], None)
            if again is None:
                return None
            attempt += 1
            failed = _Poisoned(again.event, attempt, again.cause, again.may_pass)
        return failed

    async def _store(
        self, held: Held, events: Sequence[RecordedEvent], poisoned: _Poisoned | None
    ) -> _Poisoned | None:
        """Handle events (or park the one that cannot be) and note the place, in one transaction;
        after a while only the first of them.

        The event that failed, where one did; then nothing is stored. Raises PartitionLost.
        """
        event, began = events[0], time.monotonic()
        most_s = min(MOST_S, self.of.lease.total_seconds() / 2)
        try:
            async with self._leases.kept(), self.of.scope.transaction() as tx:
                behind = await self._held_streams(tx, events)
                for number, event in enumerate(events, 1):
                    if event.stream_id in behind:
                        await self._park(tx, event, None, 0)
                    elif poisoned is not None:
                        await self._park(tx, event, poisoned.cause, poisoned.attempts)
                    else:
                        await self._handle(tx, event)
                    if time.monotonic() - began > most_s:
                        events = events[:number]
                        break
                crash_point("events.before_checkpoint")
                await self._advance(tx, held, events[-1].place)
                crash_point("events.before_commit")
        except _HandlerFailed as failed:
            cause = failed.__cause__
            assert isinstance(cause, Exception)
            if may_pass := isinstance(cause, _MAY_PASS):
                await self.of.scope.one(sql.horizon)  # raises where it is the event store itself
            return _Poisoned(event, 1, cause_of(cause, event), may_pass)
        except PartitionLost:
            self._lost[event.event_id] += 1
            raise
        except _MAY_PASS:
            raise
        except Exception as exc:  # what a handler did to the transaction shows at its end
            if poisoned is not None:
                raise
            return _Poisoned(event, 1, cause_of(exc, event), may_pass=False)
        crash_point("events.after_commit")
        held.place = held.noted = events[-1].place
        self._lost.pop(events[-1].event_id, None)
        self.handled += len(events) if poisoned is None else 0
        return None

    async def _handle(self, tx: Transaction, event: RecordedEvent) -> None:
        try:
            with answered("the handler"):
                await self.handle(tx, event)
        except PartitionLost:
            raise
        except Exception as exc:
            raise _HandlerFailed from exc

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

    async def _advance(self, tx: Transaction, held: Held, place: Place) -> None:
        params = {
            "name": self.of.name,
            "partition": held.partition,
            "consumer": self.name,
            "fence": held.fence,
            "noted_transaction": str(held.noted.transaction),
            "noted_index": held.noted.index,
            "transaction": str(place.transaction),
            "index": place.index,
        }
        if await tx.one(sql.advance, params) is None:
            raise PartitionLost


def _behind(held: Held, events: Sequence[RecordedEvent]) -> list[RecordedEvent]:
    """Those that were not handled yet."""
    return [event for event in events if event.place > held.place]


def cause_of(exc: Exception, event: RecordedEvent) -> str:
    """What is written down about an event that could not be handled.

    Of one with personal data only the kind of the error: its words may quote what was opened for
    the handler, and would outlive the person's key.
    """
    kind = type(exc).__name__
    return kind if event.key_id is not None else storable(f"{kind}: {exc}")
