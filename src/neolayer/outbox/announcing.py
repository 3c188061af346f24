"""One announcement, and how it joins a transaction.

    async with scope.transaction() as tx:
        await tx.execute(sql.insert_wallet, values)
        announce(tx, Announcement("wallets", key=wallet_id, type="wallet.created", data={...}))

The row is stored if and only if the change is, and the commit log carries it to the outgoing
streams in commit order. Nobody publishes from application code: what is published and then rolled
back, or committed and then not published, cannot happen here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, LiteralString, Protocol
from uuid import UUID, uuid4

import orjson
from psycopg.types.json import Jsonb

from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import InvalidInput
from neolayer.nuls import refuse_nul, spells_nul

QUERIES = load_queries(__name__)
MOST_BYTES = 262_144  # brokers stop at 1 MB, receivers of webhooks earlier
_SUBJECT = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")
_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")


class Writer(Protocol):
    """A transaction of a tenant."""

    @property
    def tenant(self) -> UUID | None: ...
    def defer(self, query: LiteralString, params: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class Announcement:
    """An event for whoever listens outside.

    `subject` is its kind of thing ("wallets"), `key` the one thing it is about: what is announced
    of one key arrives in commit order. `data` is plain JSON and never holds a secret.
    """

    subject: str
    key: str | UUID
    type: str
    data: Mapping[str, Any]
    event_id: UUID = field(default_factory=uuid4)
    schema_version: int = 1
    correlation_id: UUID | None = None
    causation_id: UUID | None = None


def announce(tx: Writer, told: Announcement) -> UUID:
    """Add the event to the transaction, at no round trip; its id.

    Raises InvalidInput. COMMIT fails where the id was announced before.
    """
    if tx.tenant is None:
        raise InvalidInput("only what belongs to a tenant is announced")
    if _SUBJECT.fullmatch(told.subject) is None:
        raise InvalidInput("a subject is a-z, digits, - and _, up to 100 characters")
    if _TYPE.fullmatch(told.type) is None:
        raise InvalidInput("an event's type is letters, digits, dots, - and _, such as wallet.made")
    key = str(told.key)
    if not 0 < len(key) <= 255 or not key.isprintable():
        raise InvalidInput("a key has 1 to 255 printable characters")
    tx.defer(
        QUERIES.announce,
        {
            "tenant_id": tx.tenant,
            "event_id": told.event_id,
            "subject": told.subject,
            "key": key,
            "event_type": told.type,
            "event_data": Jsonb(_checked(told.data), dumps=orjson.dumps),
            "schema_version": told.schema_version,
            "correlation_id": told.correlation_id,
            "causation_id": told.causation_id,
        },
    )
    return told.event_id


def _checked(data: Mapping[str, Any]) -> dict[str, Any]:
    """The data, if it is JSON of a size that every stream takes. Raises InvalidInput."""
    try:
        text = orjson.dumps(dict(data))
    except (TypeError, ValueError) as exc:
        raise InvalidInput(f"an announcement is no JSON: {str(exc)[:200]}") from exc
    if len(text) > MOST_BYTES:
        raise InvalidInput(
            f"an announcement's data has {len(text)} bytes as JSON; at most {MOST_BYTES}"
        )
    if spells_nul(text):
        refuse_nul(orjson.loads(text), "data")
    return dict(data)
