"""What is stored about whoever is tried: found by any name, the same for nobody as for somebody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, LiteralString
from uuid import UUID

from neolayer.engines.postgres.queries import load_queries
from neolayer.identity.model import InvalidName, canonical_email, canonical_username
from neolayer.identity.tokens import token_hash
from neolayer.tenancy import Transaction

QUERIES = load_queries(__name__, "people.sql")


@dataclass(frozen=True, slots=True)
class StoredUser:
    """What is stored about whoever is tried, or nothing of it."""

    id: UUID | None = None
    password_hash: str | None = field(default=None, repr=False)
    mfa_enabled: bool = False
    mfa_secret: str | None = field(default=None, repr=False)
    is_open: bool = False
    device_id: UUID | None = None

    @classmethod
    def of_row(cls, row: Sequence[Any] | None) -> StoredUser:
        return cls() if row is None else cls(*row)


async def stored_user(tx: Transaction, user_id: UUID) -> StoredUser:
    """Of somebody who is logged in."""
    return StoredUser.of_row(await tx.one(QUERIES.credentials_by_id, {"user_id": user_id}))


async def stored_user_named(
    tx: Transaction, name: str, device: str | None
) -> tuple[StoredUser, str]:
    """By e-mail address or user name, with the device if it is theirs; and the canonical name."""
    query, canonical = _lookup(name)
    values = {"name": canonical, "device": device and token_hash(device)}
    return StoredUser.of_row(await tx.one(query, values)), canonical


def _lookup(name: str) -> tuple[LiteralString, str]:
    """The query for a name and its canonical form; what can be nobody's name is looked up too."""
    by_email = "@" in name
    query = QUERIES.credentials_by_email if by_email else QUERIES.credentials_by_username
    try:
        return query, canonical_email(name) if by_email else canonical_username(name)
    except InvalidName:
        return query, f"nobody {sha256(name.encode(errors='surrogatepass')).hexdigest()}"
