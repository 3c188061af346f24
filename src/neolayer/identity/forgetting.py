"""What nobody needs any more goes: letters that ran out, devices not seen for a year, failures that
are long past.

An operator's connection says which tenants have something; each is then swept as the application,
under its own policy. The failures of an account are kept until somebody gets in: they are a limit
that no patience gets round.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres.connections import connect
from neolayer.engines.postgres.queries import load_queries
from neolayer.tenancy import CoreDatabase, Principal
from neolayer.tenancy.in_each import in_each

QUERIES = load_queries(__name__, "people.sql")
_SWEEPS = (QUERIES.sweep_tokens, QUERIES.sweep_devices, QUERIES.sweep_failures)


@dataclass(frozen=True, slots=True)
class PeopleSweeper:
    """Sweeps every tenant of a layer, `batch_size` rows a transaction."""

    endpoints: Endpoints
    core: CoreDatabase
    batch_size: int = 1000

    async def sweep(self) -> int:
        """Delete what ran out; how many rows that were. Raises EngineError."""
        return await in_each(await self._tenants(), self._sweep_tenant)

    async def _tenants(self) -> list[UUID]:
        dsn = self.endpoints.cluster(Database.CORE).dsn(Role.OPERATOR, Database.CORE)
        async with await connect(dsn, autocommit=True, application_name="sweep") as operator:
            rows = await operator.execute(QUERIES.tenants_with_leftovers)
            return [row[0] for row in await rows.fetchall()]

    async def _sweep_tenant(self, tenant: UUID) -> int:
        scope = self.core.scope(tenant, by=Principal.system("sweeper"))
        swept = 0
        for query in _SWEEPS:
            while rows := await scope.fetch(query, {"batch_size": self.batch_size}):
                swept += len(rows)
        return swept
