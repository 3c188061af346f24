"""All tenants, for operators: read through the operator's role, which no row policy holds."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg.types.json import set_json_loads

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres.connections import Connection, connect
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import visible
from neolayer.tenancy.model import Tenant, TenantNotFound, as_id, is_identifier
from neolayer.tenancy.tenants import tenant_of

QUERIES = load_queries(__name__, "tenants.sql")
PAGE = 1000


@dataclass(frozen=True, slots=True)
class Directory:
    """Reads over all tenants; nothing is changed through it."""

    _connection: Connection

    async def list(
        self,
        *,
        tier: str | None = None,
        deleted: bool = False,
        after: str = "",
        limit: int = PAGE,
    ) -> list[Tenant]:
        """Tenants by identifier, those that come after `after`; deleted ones where asked for."""
        rows = await self._connection.execute(
            QUERIES.tenants, {"tier": tier, "deleted": deleted, "after": after, "limit": limit}
        )
        return [tenant_of(row) for row in await rows.fetchall()]

    async def find(self, tenant: UUID | str) -> Tenant:
        """The tenant of an id or identifier, deleted or not. Raises TenantNotFound."""
        text = str(tenant)
        names = {"id": as_id(text), "identifier": text if is_identifier(text) else None}
        row = await (await self._connection.execute(QUERIES.find_any_tenant, names)).fetchone()
        if row is None:
            raise TenantNotFound(
                f"there is no tenant {visible(text)[:100]!r}",
                hint="neolayer tenants list shows them",
            )
        return tenant_of(row)


@asynccontextmanager
async def open_directory(endpoints: Endpoints) -> AsyncGenerator[Directory]:
    """The directory of a layer, in a session that only reads. Raises EngineUnavailable."""
    dsn = endpoints.cluster(Database.CORE).dsn(Role.OPERATOR, Database.CORE)
    async with await connect(dsn, autocommit=True, application_name="tenants") as connection:
        await connection.set_read_only(True)
        set_json_loads(_readable, connection)
        yield Directory(connection)


def _readable(text: str | bytes) -> Any:
    """What a tenant wrote into its settings, or how much, where Python cannot read it: numbers of
    thousands of digits, lists in lists without end. The other tenants are still shown."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return {"unreadable": f"{len(text)} bytes"}
