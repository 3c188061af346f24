"""One audit entry, and how it joins a transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, LiteralString, Protocol
from uuid import UUID

from neolayer.audit.changes import address, as_json
from neolayer.engines.postgres.parameters import Encoded
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import visible
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
    def defer(self, query: LiteralString, params: Encoded) -> None: ...


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
    error = entry.error_message
    tx.defer(
        QUERIES.append_entry,
        Encoded(
            (
                *_actor(tx.tenant, tx.by),
                _word(entry.action),
                _word(entry.resource),
                _text(entry.resource_id, _RESOURCE_ID),
                None if entry.changes is None else as_json(entry.changes),
                _address(entry.ip_address),
                _text(entry.user_agent, _USER_AGENT),
                b"t" if entry.success else b"f",
                None if error is None else mask(visible(error)[:_ERROR_MESSAGE]).encode(),
            )
        ),
    )


@lru_cache(maxsize=4096)
def _actor(tenant: UUID | None, by: _Principal) -> tuple[bytes | None, bytes, bytes | None]:
    """Tenant, principal and user, which are the same in many entries."""
    user_id = by.user_id
    return (
        None if tenant is None else str(tenant).encode(),
        str(by).encode(),
        None if user_id is None else str(user_id).encode(),
    )


@lru_cache(maxsize=4096)
def _word(name: str) -> bytes:
    """One of our own few names."""
    return visible(name).encode()


@lru_cache(maxsize=4096)
def _address(value: str | None) -> bytes | None:
    plain = address(value)
    return None if plain is None else plain.encode()


def _text(value: str | None, longest: int) -> bytes | None:
    """What a stranger may have written, cut and printable."""
    return None if value is None else visible(value)[:longest].encode()
