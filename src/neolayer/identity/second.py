"""The second factor of a login: each code and each recovery code lets in once."""

from __future__ import annotations

from uuid import UUID

from neolayer.engines.postgres.queries import load_queries
from neolayer.identity.accounts import Account
from neolayer.identity.credentials import Credentials
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
    keyring: Keyring, tenant: UUID | None, account: Account, offered: Credentials
) -> bytes | None:
    """What a code is checked with, opened before the transaction; None where none is needed."""
    if not account.mfa_enabled or account.mfa_secret is None or offered.code is None:
        return None
    assert account.id is not None
    return await keyring.open(account.mfa_secret, bound_to=seed_binding(tenant, account.id))


async def take_second(
    tx: Transaction, account: Account, offered: Credentials, seed: bytes | None
) -> None:
    """Use the second factor up, where there is one. Raises Refused."""
    if not account.mfa_enabled:
        return
    assert account.id is not None
    if seed is not None and offered.code is not None:
        now = await tx.one(QUERIES.server_time)
        step = matching_step(seed, offered.code, at=now[0] if now else 0)
        query, values = QUERIES.take_step, {"step": step}
        if step is None:
            raise Refused("wrong code")
    elif offered.recovery_code is not None:
        query = QUERIES.take_recovery_code
        values = {"code_hash": recovery_code_hash(account.id, offered.recovery_code)}
    else:
        raise Refused("wrong code")
    if await tx.one(query, values | {"user_id": account.id}) is None:
        raise Refused("a code that is used up, or wrong")
