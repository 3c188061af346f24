"""One audit entry, and how it joins a transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, LiteralString, Protocol
from uuid import UUID

from neolayer.audit.changes import address, as_json, text
from neolayer.engines.postgres.queries import load_queries
from neolayer.engines.postgres.round_trip import Texts
from neolayer.telemetry import mask

QUERIES = load_queries(__name__)
_RESOURCE_ID, _USER_AGENT, _ERROR_MESSAGE = 255, 512, 2_000
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
    def defer(self, query: LiteralString, params: Texts) -> None: ...


@dataclass(frozen=True, slots=True)
class Entry:
    """What was done to which thing. `changes` names fields and never holds a secret.

    `user_agent` and `error_message` may come from strangers: they are cut and made printable.
    """

    action: Action
    resource: str
    resource_id: str | None = None
    changes: Mapping[str, Any] | None = None
    success: bool = True
    error_message: str | None = None
    ip_address: str | None = None
    user_agent: str | None = None


def append(tx: Writer, entry: Entry) -> None:
    """Add the entry to the transaction: it is stored if and only if the change is.

    It costs no round trip. Raises NotAuditable where it would put a secret into the trail.
    """
    error = text(entry.error_message, longest=_ERROR_MESSAGE)
    user_id = tx.by.user_id
    tx.defer(
        QUERIES.append_entry,
        Texts(
            tenant_id=None if tx.tenant is None else str(tx.tenant),
            principal=str(tx.by),
            user_id=None if user_id is None else str(user_id),
            action=entry.action,
            resource=entry.resource,
            resource_id=text(entry.resource_id, longest=_RESOURCE_ID),
            changes=None if entry.changes is None else as_json(entry.changes),
            ip_address=address(entry.ip_address),
            user_agent=text(entry.user_agent, longest=_USER_AGENT),
            success="t" if entry.success else "f",
            error_message=None if error is None else mask(error),
        ),
    )
