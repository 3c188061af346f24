"""The key that signs a transaction's tenant context (see `core/0001_foundation.sql`).

Made here once and put into every database that checks contexts. HMAC's two padded blocks are
stored rather than the key, so that the database needs nothing but its own sha256().
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from neolayer.engines.postgres.connections import Connection
from neolayer.engines.postgres.queries import load_queries

QUERIES = load_queries("neolayer.schema")
_BLOCK = 64
_INNER, _OUTER = 0x36, 0x5C


def sign_context(secret: bytes, *, tenant: UUID, principal: str, expires_at: datetime) -> str:
    """The value of the setting `neolayer.context` for one transaction."""
    if not principal or "." in principal:
        raise ValueError(f"a principal is text without dots, not {principal!r}")
    message = f"{tenant}.{principal}.{int(expires_at.timestamp())}"
    return f"{message}.{hmac.new(secret, message.encode(), hashlib.sha256).hexdigest()}"


def pads(secret: bytes) -> tuple[bytes, bytes]:
    """HMAC's inner and outer block of a key of at most 64 bytes (RFC 2104)."""
    block = secret.ljust(_BLOCK, b"\0")
    return bytes(byte ^ _INNER for byte in block), bytes(byte ^ _OUTER for byte in block)


def secret_of(inner_pad: bytes) -> bytes:
    """The key behind an inner block; trailing zeros make no difference to HMAC."""
    return bytes(byte ^ _INNER for byte in inner_pad)


async def read_context_secret(owner: Connection) -> bytes | None:
    """The key, read as the owner (nobody else may); None before it was made."""
    row = await (await owner.execute(QUERIES.read_context_secret)).fetchone()
    return secret_of(bytes(row[0])) if row else None


async def share_context_secret(owners: Sequence[Connection]) -> None:
    """Make the key if there is none, and put it into every database that checks contexts."""
    checking = [owner for owner in owners if await _checks(owner)]
    known = [await read_context_secret(owner) for owner in checking]
    secret = next((found for found in known if found), None) or secrets.token_bytes(32)
    inner, outer = pads(secret)
    for owner, found in zip(checking, known, strict=True):
        if found is None or not hmac.compare_digest(secret_of(inner), found):
            await owner.execute(
                QUERIES.write_context_secret, {"inner_pad": inner, "outer_pad": outer}
            )


async def _checks(owner: Connection) -> bool:
    row = await (await owner.execute(QUERIES.has_context_secrets)).fetchone()
    return row is not None and bool(row[0])
