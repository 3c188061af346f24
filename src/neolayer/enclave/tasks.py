"""The room's periodic work: attestations judged anew, dead computations and old nonces put away.

Which tenants have work is asked over all of them, as the operator; the work itself is done in each
tenant's own scope.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import LiteralString
from uuid import UUID

from neolayer.enclave.attestations import Attestations
from neolayer.enclave.attestations import sql as attestations
from neolayer.enclave.computations import Computations
from neolayer.enclave.computations import sql as computations
from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres.connections import connect
from neolayer.periodic import BoundTask, Task
from neolayer.tenancy import CoreDatabase, Principal, Scope, open_core
from neolayer.tenancy.in_each import in_each

_BY = Principal.system("enclave")


@dataclass(frozen=True, slots=True)
class EnclaveKeeper:
    """What is due in the rooms of all tenants. Each verb gives the number of things it changed."""

    endpoints: Endpoints
    core: CoreDatabase

    async def reverify(self, at: datetime | None = None) -> int:
        """Judge live attestations by the newest collateral and policy, and expire what is over."""
        at = at or datetime.now(UTC)

        async def judge(tenant: UUID) -> int:
            room, judged = Attestations(self._scope(tenant)), 0
            while batch := await room.reverify(at=at):
                judged += batch
            return judged

        return await in_each(await self._tenants(attestations.tenants_due, at), judge)

    async def give_up(self, at: datetime | None = None) -> int:
        """Fail the computations that have outlived their workers."""
        return await in_each(
            await self._tenants(computations.tenants_given_up, at),
            lambda tenant: Computations(self._scope(tenant)).give_up(at=at),
        )

    async def forget_nonces(self, at: datetime | None = None) -> int:
        """Remove nonces that nobody can answer any more."""
        at = at or datetime.now(UTC)
        return await in_each(
            await self._tenants(attestations.tenants_with_stale_nonces, at),
            lambda tenant: Attestations(self._scope(tenant)).forget_nonces(at=at),
        )

    def _scope(self, tenant: UUID) -> Scope:
        return self.core.scope(tenant, by=_BY)

    async def _tenants(self, query: LiteralString, at: datetime | None) -> list[UUID]:
        dsn = self.endpoints.cluster(Database.CORE).dsn(Role.OPERATOR, Database.CORE)
        async with await connect(dsn, autocommit=True, application_name="enclave") as operator:
            rows = await operator.execute(query, {"at": at})
            return [tenant for (tenant,) in await rows.fetchall()]


TASKS = (
    Task("enclave: verify anew", timedelta(minutes=1), EnclaveKeeper.reverify),
    Task("enclave: end dead computations", timedelta(minutes=1), EnclaveKeeper.give_up),
    Task("enclave: forget old nonces", timedelta(hours=1), EnclaveKeeper.forget_nonces),
)


@asynccontextmanager
async def tasks(at: Endpoints) -> AsyncGenerator[tuple[BoundTask, ...]]:
    """The tasks with what they need. Raises EngineUnavailable, MigrationError."""
    async with open_core(at, size=1, application_name="enclave tasks") as core:
        yield tuple(task.given(EnclaveKeeper(at, core)) for task in TASKS)
