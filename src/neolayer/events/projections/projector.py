"""The projector: folds what was appended into every asynchronous read model, a page at a time.

What a page makes of a read model and how far that is are one transaction, so each event counts once
whenever the process dies. A projection's state is locked meanwhile; a second projector passes it
by. One that fails stands still with its cause, at the event it failed on, and the others go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

import psycopg

from neolayer.crash_points import crash_point
from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres.connections import Connection, connect
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import NeolayerError
from neolayer.events.errors import ProjectionFailed
from neolayer.events.projections.domain import Domain
from neolayer.events.projections.model import AnyProjection, Mode
from neolayer.events.projections.pages import (
    PAGE_EVENTS,
    Reach,
    Target,
    apply,
    place_of,
    read_page,
    save,
)
from neolayer.telemetry import log_error, log_warning

QUERIES = load_queries(__name__)

_NARROWER = 16
# What the server says of a row that no second try would change.
_REFUSED = (psycopg.errors.IntegrityError, psycopg.errors.DataError)


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
        """Up to a page. Where one fails, ever fewer events at once, until the culprit is alone."""
        limit, done = self.page_events, 0
        while done < self.page_events:
            try:
                looked_at = await self._advance(target, limit)
            except (ProjectionFailed, *_REFUSED) as exc:
                if limit > 1:
                    limit = max(1, limit // _NARROWER)
                    continue
                await self._stop(target.projection, exc)
                return done
            done += looked_at
            if looked_at == 0:
                return done
        return done

    async def _advance(self, target: Target, limit: int) -> int:
        """One page in one transaction; how many events were looked at."""
        connection, name = await self._connected(), target.projection.name
        async with connection.transaction():
            row = await (await connection.execute(QUERIES.checkpoint, {"name": name})).fetchone()
            if row is None or row[0] != "active":
                return 0
            if row[1] != target.shape.mark:
                self._note_other_fields(name)
                return 0
            page = await read_page(
                connection, target, Reach(after=place_of(row[2], row[3])), limit=limit
            )
            if page is None:
                return 0
            crash_point("projector.before_write")
            await apply(connection, target, page.seen)
            crash_point("projector.after_write")
            await save(connection, name, page)
            crash_point("projector.before_commit")
        crash_point("projector.after_commit")
        return page.looked_at

    def _note_other_fields(self, name: str) -> None:
        """A table of another version of the program is that one's to fill."""
        if name not in self._noted:
            self._noted.add(name)
            log_warning("a read model has other fields than this program's", projection=name)

    async def _stop(self, projection: AnyProjection, exc: Exception) -> None:
        """Let it stand still, and say why."""
        cause = exc.message if isinstance(exc, NeolayerError) else str(exc).strip()
        event_id: UUID | None = exc.event_id if isinstance(exc, ProjectionFailed) else None
        log_error("a projection stopped", projection=projection.name, error=cause)
        connection = await self._connected()
        async with connection.transaction():
            await connection.execute(
                QUERIES.set_status,
                {"name": projection.name, "status": "failed", "cause": cause, "event_id": event_id},
            )

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.closed:
            dsn = self.endpoints.cluster(Database.EVENT_STORE).dsn(
                Role.PROJECTOR, Database.EVENT_STORE
            )
            self._connection = await connect(dsn, autocommit=True, application_name="projector")
        return self._connection
