"""The webhooks sink: each event into the queue of every endpoint that wants it.

The queues are a table of the core database, written in one transaction with the checkpoint, so that
no event is queued twice or not at all. That transaction is itself in the log that is read here, so
where nothing was queued the checkpoint moves every few seconds only: it would chase itself.

A tenant may hold locks on rows of its own queue for as long as it likes. They are waited for but a
moment; then what is for that tenant is refused, and left as letters, while all others are told.

Calling the endpoints is the deliverer's work, which runs beside this sink and never holds it up: an
endpoint that is slow or dead costs the flow nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol, cast
from uuid import UUID

import psycopg

from neolayer.catalogue import DataClass
from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres.connections import Connection, connect, explain
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import NotSupported, RelayError
from neolayer.relay.changes import Batch
from neolayer.relay.comparable import Shape
from neolayer.relay.envelope import Made, Outgoing
from neolayer.relay.enveloping import Envelopes
from neolayer.relay.sinks.sink import Park, Rejected, Snapshot, note_of
from neolayer.webhooks.catalogue import KEEP
from neolayer.webhooks.model import matches

_sql = load_queries(__name__, "webhooks.sql")
_IDLE_MOVE_S = 5.0
_LOCK_MS, _LAST_LOCK_MS = 500, 2_000
_EVER = datetime.min.replace(tzinfo=UTC)
_Subscription = tuple[UUID, UUID, list[str], datetime]


class Delivering(Protocol):
    """Whoever calls the endpoints."""

    def wake(self) -> None: ...
    async def run(self) -> None: ...


class WebhookSink:
    """Queues envelopes of one database's changes for the tenants' endpoints."""

    wait_s = 0.0

    def __init__(
        self,
        at: Endpoints,
        classes: Iterable[DataClass],
        deliverer: Delivering | None = None,
        *,
        database: str = Database.CORE,
    ) -> None:
        self.database = str(database)
        self.name = "webhooks" if database == Database.CORE else f"webhooks:{database}"
        self._dsn = at.cluster(Database.CORE).dsn(Role.RELAY, Database.CORE)
        self._envelopes = Envelopes(classes, self.database)
        self._deliverer = deliverer  # None: somebody else delivers what is queued
        self._delivering: asyncio.Task[None] | None = None
        self._connection: Connection | None = None
        self._moved_at = 0.0
        self._unstored: int | None = None

    @property
    def tables(self) -> frozenset[str]:
        return self._envelopes.tables

    async def open(self, confirmed: int) -> int | None:
        """A first start copies nothing: no endpoint was told of anything before it."""
        self._envelopes.restart()
        self._unstored = None
        checkpoint = await self._stored(self.name)
        if self._delivering is None and self._deliverer is not None:
            self._delivering = asyncio.create_task(self._deliverer.run())
        if checkpoint is None:
            await self._move(self.name, confirmed)
            return confirmed
        return checkpoint if checkpoint >= confirmed else None

    async def close(self) -> None:
        task, self._delivering = self._delivering, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._store_last(connection)
            await connection.close()

    async def _store_last(self, connection: Connection) -> None:
        """What was passed over without storing it; where this fails, it is read again."""
        position, self._unstored = self._unstored, None
        if position is not None:
            with contextlib.suppress(psycopg.Error):
                await connection.execute(_sql.move, {"sink": self.name, "version": position})

    def shape(self, table: str) -> Shape:
        return self._envelopes.shape(table)

    async def begin_copy(self, version: int) -> None:
        await self._move(note_of(self.name), version)

    async def copy_began(self) -> int:
        return await self._stored(note_of(self.name)) or 0

    async def reflect(self, version: int) -> None:
        await self._move(self.name, version)

    async def begin_again(self, version: int, table: str) -> None:
        """Raises NotSupported for a table of states: that something changed is lost with the
        log."""
        if not self._envelopes.holds_events(table):
            raise NotSupported(
                self.name, f"tells changes as they happen: of {table} there is none to tell again"
            )

    async def copy_part(self, part: Snapshot, table: str, park: Park, *, asked: bool) -> None:
        """Queue the events that no endpoint's queue knows any more, under their own ids.

        Where nobody asked for it, nothing is told twice: of what is older than deliveries are kept
        nobody knows any more whom it was told, and it stays untold."""
        since = _EVER if asked else datetime.now(UTC) - KEEP
        async for page in self._envelopes.copied(part, table):
            refused = [one for one in page if isinstance(one, Rejected)]
            refused += await self._queue(await self._connected(), page, None, since=since)
            await park(refused)
        self._wake()

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        made = self._envelopes.of(batches)
        if not made and time.monotonic() - self._moved_at < _IDLE_MOVE_S:
            self._unstored = batches[-1].position
            self._envelopes.accept()
            return []
        connection = await self._connected()
        held_up = await self._queue(connection, made, batches[-1].position)
        self._moved_at, self._unstored = time.monotonic(), None
        self._envelopes.accept()
        if made:
            self._wake()
        return [*(one for one in made if isinstance(one, Rejected)), *held_up]

    async def _queue(
        self,
        connection: Connection,
        made: Iterable[Made],
        position: int | None,
        *,
        since: datetime = _EVER,
    ) -> list[Rejected]:
        """Queue and move the checkpoint (None: leave it), both or neither; what could not be
        queued because its tenant locks the queue."""
        held_up: list[Rejected] = []
        outgoing = [
            one
            for one in made
            if isinstance(one, Outgoing)
            and one.tenant is not None
            and not _is_before(one.time, since)
        ]
        try:
            async with connection.transaction():
                if outgoing:
                    held_up = await self._fan_out_in_time(connection, outgoing)
                if position is not None:
                    await connection.execute(_sql.move, {"sink": self.name, "version": position})
        except psycopg.Error as exc:
            raise await self._trouble(exc) from exc
        return held_up

    async def _fan_out_in_time(
        self, connection: Connection, outgoing: Sequence[Outgoing]
    ) -> list[Rejected]:
        """All at once, or, where somebody holds a lock, each tenant by itself."""
        theirs: dict[str | None, list[Outgoing]] = {}
        for one in outgoing:
            theirs.setdefault(one.tenant, []).append(one)
        wait_ms = _LOCK_MS if len(theirs) > 1 else _LAST_LOCK_MS
        try:
            async with connection.transaction():
                await connection.execute(_sql.wait_a_moment, {"lock_ms": str(wait_ms)})
                await self._fan_out(connection, outgoing)
        except psycopg.errors.LockNotAvailable:
            if len(theirs) == 1:
                return [
                    one.refuse("its tenant locks the queue of its endpoints") for one in outgoing
                ]
            return [
                refused
                for some in theirs.values()
                for refused in await self._fan_out_in_time(connection, some)
            ]
        return []

    async def _fan_out(self, connection: Connection, outgoing: Sequence[Outgoing]) -> None:
        tenants = sorted({cast(str, one.tenant) for one in outgoing})
        found = await connection.execute(_sql.subscriptions, {"tenants": tenants})
        wanted: dict[str, list[_Subscription]] = {}
        for subscription in await found.fetchall():
            wanted.setdefault(str(subscription[0]), []).append(cast(_Subscription, subscription))
        rows: list[tuple[Any, ...]] = [
            (tenant, webhook, one.id, one.type, one.version, one.body.decode())
            for one in outgoing
            for tenant, webhook, types, since in wanted.get(cast(str, one.tenant), ())
            if matches(types, one.type) and not _is_before(one.time, since)
        ]
        if rows:
            columns = [list(column) for column in zip(*rows, strict=True)]
            names = ("tenants", "webhooks", "events", "types", "versions", "envelopes")
            await connection.execute(_sql.enqueue, dict(zip(names, columns, strict=True)))

    def _wake(self) -> None:
        if self._deliverer is not None:
            self._deliverer.wake()

    async def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = await connect(
                self._dsn, autocommit=True, application_name="webhooks sink"
            )
        return self._connection

    async def _stored(self, name: str) -> int | None:
        row = await self._one(_sql.checkpoint, {"sink": name})
        return None if row is None else int(row[0])

    async def _move(self, name: str, version: int) -> None:
        await self._one(_sql.move, {"sink": name, "version": version})

    async def _one(self, query: Any, values: dict[str, Any]) -> Any:
        connection = await self._connected()
        try:
            return await (await connection.execute(query, values)).fetchone()
        except psycopg.Error as exc:
            raise await self._trouble(exc) from exc

    async def _trouble(self, exc: psycopg.Error) -> RelayError | Exception:
        """What to raise; a connection that met an error is not used again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
        if isinstance(exc, psycopg.OperationalError):
            return explain(exc, self._dsn)
        return RelayError(f"webhooks: {str(exc).splitlines()[0]}")


def _is_before(time: str | None, since: datetime) -> bool:
    """Whether an event is older than that: nobody is told of what was before them. What lies
    outside Python's years, which any SQL can write, is told from its text."""
    if time is None:
        return False
    try:
        return datetime.fromisoformat(time) < since
    except ValueError:
        return time == "-infinity" or time.endswith(" BC")
