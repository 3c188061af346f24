"""The projector: folds what was appended into every asynchronous read model, a page at a time.

What a page makes of a read model and how far that is are one transaction, so each event counts once
whenever the process dies. A projection's state is locked meanwhile; a second projector passes it
by. An event that cannot be folded is put aside with its cause, and its stream stands still (see
`folding.py`). What is no event's fault, such as a table that is gone, stops the one projection.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import psycopg

from neolayer.crash_points import crash_point
from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres.connections import Connection, connect
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import EngineUnavailable, NeolayerError
from neolayer.events.errors import storable
from neolayer.events.projections.domain import Domain
from neolayer.events.projections.model import AnyProjection, Mode
from neolayer.events.projections.pages import (
    PAGE_EVENTS,
    Page,
    Reach,
    Target,
    apply,
    apply_in_parts,
    is_about_rows,
    place_of,
    read_page,
    save,
)
from neolayer.telemetry import log_error, log_warning

QUERIES = load_queries(__name__)

Write = Callable[[Connection, Target, Page], Awaitable[None]]


@dataclass(slots=True)
class Projector:
    """Every asynchronous projection of a domain, on one connection that is opened again at need."""

    endpoints: Endpoints
    domain: Domain
    page_events: int = PAGE_EVENTS
    _connection: Connection | None = field(default=None, repr=False)
    _noted: set[str] = field(default_factory=set[str], repr=False)
    _targets: Mapping[str, Target] = field(default_factory=dict[str, Target], repr=False)

    def __post_init__(self) -> None:
        self._targets = {
            one.name: Target.of(one, self.domain.registry)
            for one in self.domain.of_mode(Mode.ASYNC)
        }

    async def catch_up(self) -> int:
        """Fold all there is; how many events were looked at. Raises EngineUnavailable."""
        total = 0
        while names := await self._behind():
            done = [await self._one_page(self._targets[name]) for name in names]
            total += sum(done)
            if not any(done):  # another projector has them
                return total
        return total

    async def close(self) -> None:
        """Give the connection back."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def _behind(self) -> list[str]:
        connection = await self._connected()
        cursor = await connection.execute(QUERIES.behind, {"names": list(self._targets)})
        return [row[0] for row in await cursor.fetchall()]

    async def _one_page(self, target: Target) -> int:
        """Up to a page; how many events were looked at. Raises EngineUnavailable."""
        try:
            return await self._advance(target, apply)
        except Exception as exc:
            if not is_about_rows(exc):
                return await self._stopped(target.projection, exc)
        try:
            return await self._advance(target, apply_in_parts)
        except Exception as exc:
            return await self._stopped(target.projection, exc)

    async def _advance(self, target: Target, write: Write) -> int:
        """One page in one transaction; how many events were looked at."""
        connection, name = await self._connected(), target.projection.name
        async with connection.transaction():
            row = await (await connection.execute(QUERIES.checkpoint, {"name": name})).fetchone()
            if row is None or row[0] != "active":
                return 0
            if row[1] != target.shape.mark:
                self._note_other_fields(name)
                return 0
            reach = Reach(after=place_of(row[2], row[3]))
            page = await read_page(connection, target, reach, limit=self.page_events)
            if page is None:
                return 0
            crash_point("projector.before_write")
            await write(connection, target, page)
            crash_point("projector.after_write")
            await save(connection, target, page)
            crash_point("projector.before_commit")
        crash_point("projector.after_commit")
        for refusal in page.refusals.by_stream.values():
            log_error(
                "a projection put an event aside",
                projection=name,
                tenant=str(refusal.tenant),
                error=refusal.failed.message,
            )
        return page.looked_at

    def _note_other_fields(self, name: str) -> None:
        """A table of another version of the program is that one's to fill."""
        if name not in self._noted:
            self._noted.add(name)
            log_warning("a read model has other fields than this program's", projection=name)

    async def _stopped(self, projection: AnyProjection, exc: Exception) -> int:
        """Let it stand still, and say why; 0. What will pass by itself is raised."""
        if isinstance(exc, psycopg.OperationalError | psycopg.InterfaceError | EngineUnavailable):
            raise exc
        cause = exc.message if isinstance(exc, NeolayerError) else f"{type(exc).__name__}: {exc}"
        log_error("a projection stopped", projection=projection.name, error=cause)
        connection = await self._connected()
        params = {"name": projection.name, "status": "failed", "cause": storable(cause.strip())}
        async with connection.transaction():
            await connection.execute(QUERIES.set_status, params)
        return 0

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.closed:
            dsn = self.endpoints.cluster(Database.EVENT_STORE).dsn(
                Role.PROJECTOR, Database.EVENT_STORE
            )
            self._connection = await connect(dsn, autocommit=True, application_name="projector")
        return self._connection
