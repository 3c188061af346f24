"""Which tenants are deleted, told to the event store, which sees no table of the core database."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres.connections import connect
from neolayer.engines.postgres.queries import load_queries
from neolayer.periodic import BoundTask, Task
from neolayer.tenancy.context import Principal
from neolayer.tenancy.database import TenantDatabase, open_database

QUERIES = load_queries(__name__, "standing.sql")
_EVERY = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class StandingTeller:
    """Compares the two databases' books and puts the event store's right."""

    endpoints: Endpoints
    event_store: TenantDatabase

    async def tell(self) -> int:
        """How many tenants' standing has changed there. Raises EngineUnavailable."""
        dsn = self.endpoints.postgres.dsn(Role.OPERATOR)
        async with await connect(dsn, autocommit=True, application_name="standing") as core:
            closed = await (await core.execute(QUERIES.closed_tenants)).fetchall()
        scope = self.event_store.platform(by=Principal.system("standing"))
        params = {"closed": [row[0] for row in closed]}
        row = await scope.one(QUERIES.note_standing, params)
        return 0 if row is None else row[0]


@asynccontextmanager
async def tasks(at: Endpoints) -> AsyncGenerator[tuple[BoundTask, ...]]:
    """Tell the event store which tenants are deleted."""
    async with open_database(
        at, Database.EVENT_STORE, size=1, application_name="standing"
    ) as store:
        yield (
            Task("tenants: standing in the event store", _EVERY, StandingTeller.tell).given(
                StandingTeller(at, store)
            ),
        )
