"""What has ended long ago goes: sessions with their refresh tokens, and API keys.

An operator's connection says which tenants have something; each is then swept as the application,
under its own policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import LiteralString
from uuid import UUID

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres.connections import connect
from neolayer.engines.postgres.queries import load_queries
from neolayer.tenancy import CoreDatabase, Principal
from neolayer.tenancy.in_each import in_each

QUERIES = load_queries(__name__, "access.sql")
KEEP = timedelta(days=30)  # so that "which session was that?" can still be answered
_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Swept:
    """How many rows went."""

    sessions: int
    keys: int


@dataclass(frozen=True, slots=True)
class AccessSweeper:
    """Sweeps every tenant of a layer."""

    endpoints: Endpoints
    core: CoreDatabase
    keep: timedelta = KEEP

    async def sweep(self) -> Swept:
        """Delete what ended more than `keep` ago, in batches.

        What goes wrong in one tenant is raised when the others are swept. Raises EngineError.
        """
        before = datetime.now(UTC) - self.keep
        sessions = keys = 0

        async def sweep_one(tenant: UUID) -> int:
            nonlocal sessions, keys
            sessions += await self._drain(tenant, QUERIES.sweep_sessions, before)
            keys += await self._drain(tenant, QUERIES.sweep_keys, before)
            return 1

        await in_each(await self._tenants(before), sweep_one)
        return Swept(sessions, keys)

    async def _tenants(self, before: datetime) -> list[UUID]:
        dsn = self.endpoints.cluster(Database.CORE).dsn(Role.OPERATOR, Database.CORE)
        async with await connect(dsn, autocommit=True, application_name="sweep") as operator:
            rows = await operator.execute(QUERIES.tenants_to_sweep, {"before": before})
            return [row[0] for row in await rows.fetchall()]

    async def _drain(self, tenant: UUID, query: LiteralString, before: datetime) -> int:
        scope = self.core.scope(tenant, by=Principal.system("sweeper"))
        swept = 0
        while rows := await scope.fetch(query, {"before": before, "limit": _BATCH}):
            swept += len(rows)
        return swept
