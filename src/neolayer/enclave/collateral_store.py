"""Collateral in the database: added by operators, read when a quote is judged."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from neolayer import audit
from neolayer.enclave.collateral import Collateral, read_collateral
from neolayer.enclave.model import checked_limit
from neolayer.enclave.quotes import Tee
from neolayer.enclave.verifying import Platform
from neolayer.engines.postgres.queries import load_queries
from neolayer.tenancy import Scope, Transaction

sql = load_queries(__name__, "attestations.sql")


@dataclass(frozen=True, slots=True)
class CollateralStore:
    """Collateral of every platform, public to all tenants; operators add to it."""

    scope: Scope

    async def add(self, document: bytes) -> Collateral:
        """Check collateral and keep it; adding the same twice changes nothing.

        Raises BadCollateral, and psycopg's InsufficientPrivilege where no operator acts.
        """
        collateral = await asyncio.to_thread(read_collateral, document)
        async with self.scope.transaction() as tx:
            names = {field.name: getattr(collateral, field.name) for field in fields(collateral)}
            if await tx.one(sql.add_collateral, names) is not None:
                changes = {"tee": collateral.tee, "fmspc": collateral.fmspc}
                audit.append(tx, audit.Entry("CREATE", "collateral", collateral.id, changes))
        return collateral

    async def list(self, *, fmspc: str | None = None, limit: int = 100) -> list[Collateral]:
        """What is known, the newest first, without the documents."""
        names = {"fmspc": fmspc and fmspc.lower(), "limit": checked_limit(limit)}
        return [collateral_of(row) for row in await self.scope.fetch(sql.list_collateral, names)]


async def collateral_at(
    tx: Transaction, tee: Tee, platform: Platform, at: datetime
) -> Collateral | None:
    """The newest collateral of a platform that was published by then, or None."""
    names = {"tee": tee, "fmspc": platform.fmspc, "ca": platform.ca, "at": at}
    row = await tx.one(sql.collateral_at, names)
    return None if row is None else collateral_of(row)


def collateral_of(row: Sequence[Any]) -> Collateral:
    """A row of the columns that this file's queries return."""
    return Collateral(row[0], Tee(row[1]), *row[2:])
