"""The second factor of a login: each code and each recovery code lets in once."""

from __future__ import annotations

from uuid import UUID

from neolayer.engines.postgres.queries import load_queries
from neolayer.identity.credentials import Credentials
from neolayer.identity.stored_users import StoredUser
from neolayer.identity.totp import matching_step, recovery_code_hash, seed_binding
from neolayer.keys import Keyring
from neolayer.tenancy import Transaction

QUERIES = load_queries(__name__, "people.sql")


class Refused(Exception):
    """Rolls back what a login began to write."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


async def seed_for(
    keyring: Keyring, tenant: UUID | None, stored: StoredUser, offered: Credentials
) -> bytes | None:
    """What a code is checked with, opened before the transaction; None where none is needed."""
    if not stored.mfa_enabled or stored.mfa_secret is None or offered.code is None:
        return None
    assert stored.id is not None
    return await keyring.open(stored.mfa_secret, bound_to=seed_binding(tenant, stored.id))


async def take_second(
    tx: Transaction, stored: StoredUser, offered: Credentials, seed: bytes | None
) -> None:
    """Use the second factor up, where there is one. Raises Refused."""
    if not stored.mfa_enabled:
        return
    assert stored.id is not None
    if seed is not None and offered.code is not None:
        now = await tx.one(QUERIES.server_time)
        step = matching_step(seed, offered.code, at=now[0] if now else 0)
        query, values = QUERIES.take_step, {"step": step}
        if step is None:
            raise Refused("wrong code")
    elif offered.recovery_code is not None:
        query = QUERIES.take_recovery_code
        values = {"code_hash": recovery_code_hash(stored.id, offered.recovery_code)}
    else:
        raise Refused("wrong code")
    if await tx.one(query, values | {"user_id": stored.id}) is None:
        raise Refused("a code that is used up, or wrong")
