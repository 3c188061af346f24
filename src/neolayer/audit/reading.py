"""Reading the trail: a tenant's entries, where the chains end, and what still waits for a seal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString, Protocol
from uuid import UUID

import psycopg

from neolayer.audit.entries import Action
from neolayer.engines.postgres.connections import connect, explain
from neolayer.engines.postgres.queries import load_queries

SQL = load_queries(__name__, "reading.sql")


class Reader(Protocol):
    """Whoever may read a tenant's entries, such as a scope."""

    @property
    def tenant(self) -> UUID | None: ...
    async def fetch(
        self, query: LiteralString, params: Mapping[str, Any]
    ) -> Sequence[tuple[Any, ...]]: ...


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """An entry as it is stored. `number` and `sealed_at` are None until it is sealed."""

    id: UUID
    tenant: UUID | None
    occurred_at: datetime
    principal: str
    action: Action
    resource: str
    resource_id: str | None
    changes: dict[str, Any] | None
    ip_address: str | None
    user_agent: str | None
    success: bool
    error_message: str | None
    number: int | None
    sealed_at: datetime | None

    @property
    def place(self) -> tuple[datetime, UUID]:
        """Where the entry stands among all of its tenant."""
        return self.occurred_at, self.id


@dataclass(frozen=True, slots=True)
class AuditTrail:
    """What was done in one tenant."""

    scope: Reader

    async def list(
        self,
        *,
        action: Action | None = None,
        resource: str | None = None,
        resource_id: str | None = None,
        principal: str | None = None,
        success: bool | None = None,
        since: datetime | None = None,
        before: tuple[datetime, UUID] | None = None,
        limit: int = 100,
    ) -> list[StoredEntry]:
        """Entries that meet every condition, the newest first; go on before the last's `place`."""
        rows = await self.scope.fetch(
            SQL.entries,
            {
                "tenant": self.scope.tenant,
                "action": action,
                "resource": resource,
                "resource_id": resource_id,
                "principal": principal,
                "success": success,
                "since": since,
                "before_at": before and before[0],
                "before_id": before and before[1],
                "limit": limit,
            },
        )
        return [StoredEntry(*row) for row in rows]


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator's reading of one tenant's entries, or of those of no tenant."""

    dsn: str
    tenant: UUID | None = None

    async def fetch(
        self, query: LiteralString, params: Mapping[str, Any] | None = None
    ) -> Sequence[tuple[Any, ...]]:
        """All rows of one statement. Raises EngineUnavailable."""
        try:
            async with await connect(self.dsn, application_name="audit") as connection:
                return await (await connection.execute(query, params)).fetchall()
        except psycopg.OperationalError as exc:
            raise explain(exc, self.dsn) from exc


@dataclass(frozen=True, slots=True)
class ChainHead:
    """Where a chain ends. `tenant` and `identifier` are None for the entries without a tenant."""

    tenant: UUID | None
    identifier: str | None
    number: int
    hash: bytes
    sealed_at: datetime
    anchored_number: int


async def heads(operator_dsn: str) -> list[ChainHead]:
    """Every chain's head, that of no tenant first. Raises EngineUnavailable."""
    return [ChainHead(*row) for row in await Operator(operator_dsn).fetch(SQL.heads)]


@dataclass(frozen=True, slots=True)
class AuditStatus:
    """How far sealing and anchoring are. `lag_seconds` is the age of the oldest entry unsealed."""

    unsealed: int
    lag_seconds: float
    chains: int
    unanchored_chains: int
    last_anchor: int | None
    anchored_at: datetime | None


async def audit_status(operator_dsn: str) -> AuditStatus:
    """Sealing and anchoring as they are now. Raises EngineUnavailable."""
    (row,) = await Operator(operator_dsn).fetch(SQL.status)
    return AuditStatus(*row)
