"""One audit entry, and how it joins a transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, LiteralString, Protocol
from uuid import UUID

from psycopg.types.json import Jsonb

from neolayer.engines.postgres.queries import load_queries

QUERIES = load_queries(__name__)
Action = Literal["CREATE", "READ", "UPDATE", "DELETE", "EXECUTE", "LOGIN", "LOGOUT"]


class _Principal(Protocol):
    @property
    def user_id(self) -> UUID | None: ...


class Writer(Protocol):
    """A transaction that knows who acts in it."""

    @property
    def tenant(self) -> UUID | None: ...
    @property
    def by(self) -> _Principal: ...
    def defer(self, query: LiteralString, params: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class Entry:
    """What was done to which thing. `changes` names fields and never holds a secret."""

    action: Action
    resource: str
    resource_id: str | None = None
    changes: Mapping[str, Any] | None = None
    success: bool = True
    error_message: str | None = None
    ip_address: str | None = None
    user_agent: str | None = None


def append(tx: Writer, entry: Entry) -> None:
    """Add the entry to the transaction: it is stored if and only if the change is."""
    tx.defer(
        QUERIES.append_entry,
        {
            "tenant_id": tx.tenant,
            "principal": str(tx.by),
            "user_id": tx.by.user_id,
            "action": entry.action,
            "resource": entry.resource,
            "resource_id": entry.resource_id,
            "changes": None if entry.changes is None else Jsonb(dict(entry.changes)),
            "ip_address": entry.ip_address,
            "user_agent": entry.user_agent,
            "success": entry.success,
            "error_message": entry.error_message,
        },
    )
