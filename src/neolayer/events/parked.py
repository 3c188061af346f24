"""What a subscription has parked: listed, handled after all, or given up.

An event that its handler refused again and again stands in `public.parked_events` with the cause;
under `Poison.HOLD` the later ones of its stream wait there behind it. `replay` handles them in
order. `discard` gives one up and notes that in the audit trail; what waited behind it is replayed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import psycopg

from neolayer.audit import Entry, append
from neolayer.crash_points import crash_point
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import Conflict, EngineUnavailable, NotFound
from neolayer.events.archive import Archive
from neolayer.events.consuming import PAGE, Handler, cause_of
from neolayer.events.model import RecordedEvent
from neolayer.events.reading import events_asked, recorded
from neolayer.tenancy import Scope, Transaction

sql = load_queries(__name__, "subscriptions.sql")
events_sql = load_queries(__name__)
_FIRST = UUID(int=0)


@dataclass(frozen=True, slots=True)
class ParkedEvent:
    """An event that could not be handled, or (without a cause) that waits behind such a one."""

    stream_id: UUID
    version: int
    cause: str | None
    attempts: int
    parked_at: datetime


@dataclass(frozen=True, slots=True)
class Parked:
    """What one subscription of a tenant has parked. `archive` has events of archived streams."""

    scope: Scope
    name: str
    archive: Archive

    async def list(self, *, stream_id: UUID | None = None, limit: int = 1000) -> list[ParkedEvent]:
        """Stream by stream, in order."""
        params = {"name": self.name, "stream": stream_id, "limit": limit}
        return [ParkedEvent(*row) for row in await self.scope.fetch(sql.parked, params)]

    async def replay(self, handle: Handler, *, stream_id: UUID | None = None) -> int:
        """Handle what is parked, in order; how many were handled here, and not by somebody else who
        replays meanwhile. A stream stops at what fails again."""
        handled = 0
        async for stream in self._streams(stream_id):
            going = True
            while going and (waiting := await self.list(stream_id=stream)):
                for one in waiting:
                    is_handled = await self._replay(handle, one)
                    if going := is_handled is not False:
                        handled += is_handled is True
                    else:
                        break
        return handled

    async def discard(self, stream_id: UUID, *, core: Scope) -> ParkedEvent:
        """Give up the event that a stream stands still at; it is no more handled here, and stays
        where it is. `core` is the same tenant's scope of the core database.

        The entry in the audit trail is stored first: where it cannot be, nothing is given up.
        Raises NotFound, also where what waited behind such an event was not replayed yet, and
        Conflict where somebody else gives up or handles the event meanwhile.
        """
        version = await self._standing_at(stream_id)
        at = {"name": self.name, "stream": stream_id, "version": version}
        async with self.scope.transaction() as tx:
            row = await tx.one(sql.discard_parked, at)
            if row is None:
                raise Conflict(
                    f"version {version} of stream {stream_id} is no longer parked in"
                    f" {self.name!r}: somebody else has just given it up or handled it",
                    hint=f"see what is left: neolayer events parked {self.name}",
                )
            given_up = ParkedEvent(*row)
            async with core.transaction() as trail:
                append(trail, self._entry(given_up))
            crash_point("events.in_discard")
        return given_up

    async def _standing_at(self, stream_id: UUID) -> int:
        """The version that a stream stands still at. Raises NotFound where there is none."""
        found = await self.list(stream_id=stream_id, limit=1)
        if not found:
            raise NotFound(
                f"the subscription {self.name!r} has parked nothing of stream {stream_id}"
            )
        if found[0].cause is None:
            raise NotFound(
                f"stream {stream_id} stands at nothing in {self.name!r}: its events only wait",
                hint=f"neolayer events replay {self.name}",
            )
        return found[0].version

    def _entry(self, given_up: ParkedEvent) -> Entry:
        changes = {
            "stream_id": given_up.stream_id,
            "version": given_up.version,
            "attempts": given_up.attempts,
            "parked_at": given_up.parked_at,
        }
        return Entry("DELETE", "parked_event", resource_id=self.name, changes=changes)

    async def _streams(self, stream_id: UUID | None) -> AsyncIterator[UUID]:
        """Every stream that has parked events, each once."""
        if stream_id is not None:
            yield stream_id
            return
        after = _FIRST
        while rows := await self.scope.fetch(
            sql.parked_streams, {"name": self.name, "after": after, "limit": PAGE}
        ):
            for (after,) in rows:
                yield after

    async def _replay(self, handle: Handler, parked: ParkedEvent) -> bool | None:
        """Whether it was handled; None where somebody else has taken it."""
        at = {"name": self.name, "stream": parked.stream_id, "version": parked.version}
        event: RecordedEvent | None = None
        try:
            async with self.scope.transaction() as tx:
                if await tx.one(sql.take_parked, at) is None:
                    return None
                event = await self._event(tx, parked)
                await handle(tx, event)
        except (EngineUnavailable, psycopg.OperationalError, psycopg.InterfaceError):
            raise
        except Exception as exc:
            async with self.scope.transaction() as tx:
                cause = type(exc).__name__ if event is None else cause_of(exc, event)
                row = await tx.one(sql.failed_again, at | {"cause": cause})
            return None if row is None else False
        return True

    async def _event(self, tx: Transaction, parked: ParkedEvent) -> RecordedEvent:
        version = parked.version
        params = events_asked(stream=parked.stream_id, from_version=version, up_to=version, limit=1)
        if (row := await tx.one(events_sql.stream_forwards, params)) is not None:
            return recorded(row)
        for event in await self.archive.read(parked.stream_id):
            if event.version == version:
                return event
        raise NotFound(f"stream {parked.stream_id} has no event {version}")
