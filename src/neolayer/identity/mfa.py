"""The second factor of a user: enrolled, confirmed with a code, ended with a proof.

The seed is encrypted and bound to its tenant and user: copied into another row it opens nothing.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from uuid import UUID

from neolayer import audit
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import AccessDenied, Conflict, InvalidInput
from neolayer.identity.credentials import Client, Credentials
from neolayer.identity.guarded import guarded
from neolayer.identity.login import Login
from neolayer.identity.model import UserNotFound
from neolayer.identity.passwords import PasswordHasher, acceptable
from neolayer.identity.sessions import end_sessions
from neolayer.identity.totp import (
    matching_step,
    new_recovery_codes,
    new_seed,
    provisioning_uri,
    recovery_code_hash,
    secret_text,
    seed_binding,
)
from neolayer.keys import Keyring, key_id_of
from neolayer.tenancy import Scope, Transaction
from neolayer.tenancy.context import Kind

QUERIES = load_queries(__name__, "people.sql")


class SecondFactorConflict(Conflict):
    """The second factor is on already, or enrolment was not begun."""


class WrongCode(InvalidInput):
    """This is not the code that the authenticator shows now."""


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What the user's authenticator needs; shown once."""

    uri: str = field(repr=False)
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class SecondFactor:
    """Second factors of one tenant's users."""

    scope: Scope
    hasher: PasswordHasher = field(repr=False)
    keyring: Keyring = field(repr=False)
    issuer: str = "neolayer"

    async def begin(self, user_id: UUID) -> Enrolment:
        """Make a seed; it counts for nothing until `confirm`. Begun again, the earlier one is void.

        Raises UserNotFound, SecondFactorConflict.
        """
        seed = new_seed()
        sealed = await self.keyring.seal(seed, bound_to=seed_binding(self.scope.tenant, user_id))
        async with self._changing(user_id, "begun") as tx:
            values = {"user_id": user_id, "secret": sealed, "key_id": key_id_of(sealed)}
            row = await tx.one(QUERIES.begin_mfa, values)
            if row is None:
                await _require_user(tx, user_id)
                raise SecondFactorConflict
        uri = provisioning_uri(seed, account=row[0], issuer=self.issuer)
        return Enrolment(uri, secret_text(seed))

    async def enrol(self, user_id: UUID, offered: Credentials, client: Client) -> Enrolment:
        """The same, proved with the password: a stolen session must not lock its owner out.

        Raises as `Login.prove`, SecondFactorConflict.
        """
        await self._login.prove(user_id, offered, client)
        return await self.begin(user_id)

    async def confirm(self, user_id: UUID, *, code: str) -> tuple[str, ...]:
        """Ask for codes from now on, and give the recovery codes, which are shown once.

        Raises UserNotFound, SecondFactorConflict, WrongCode.
        """
        row = await self.scope.one(QUERIES.pending_mfa, {"user_id": user_id})
        if row is None:
            await _require_user(self.scope, user_id)
            raise SecondFactorConflict
        sealed, now = row
        binding = seed_binding(self.scope.tenant, user_id)
        step = matching_step(await self.keyring.open(sealed, bound_to=binding), code, at=now)
        if step is None:
            raise WrongCode
        async with self._changing(user_id, "on") as tx:
            values = {"user_id": user_id, "step": step, "secret": sealed}
            if await tx.one(QUERIES.confirm_mfa, values) is None:
                raise SecondFactorConflict
            return _renew_codes(tx, user_id)

    async def renew_recovery_codes(
        self, user_id: UUID, offered: Credentials, client: Client
    ) -> tuple[str, ...]:
        """New recovery codes; the old ones are void. Raises as `Login.prove`."""
        await self._login.prove(user_id, offered, client)
        async with self._changing(user_id, "recovery codes renewed") as tx:
            return _renew_codes(tx, user_id)

    async def recovery_codes_left(self, user_id: UUID) -> int:
        """How many recovery codes are not used yet."""
        row = await self.scope.one(QUERIES.count_recovery_codes, {"user_id": user_id})
        return row[0] if row else 0

    async def disable(self, user_id: UUID, offered: Credentials, client: Client) -> None:
        """Ask for no codes any more, if the password is long enough to stand alone.

        Raises as `Login.prove`, WeakPassword.
        """
        await self._login.prove(user_id, offered, client)
        acceptable(offered.password, mfa=False, personal=())
        await self._end(user_id, "off")

    async def remove(self, user_id: UUID) -> None:
        """An operator's help for who has lost everything. Raises AccessDenied, UserNotFound."""
        if self.scope.by.kind is not Kind.OPERATOR:
            raise AccessDenied("only an operator takes a second factor away without a proof")
        await self._end(user_id, "taken away by an operator")

    @property
    def _login(self) -> Login:
        return Login(self.scope, self.hasher, self.keyring)

    def _changing(self, user_id: UUID, what: str) -> AbstractAsyncContextManager[Transaction]:
        entry = audit.Entry("UPDATE", "user", str(user_id), {"second_factor": what})
        return guarded(self.scope, entry)

    async def _end(self, user_id: UUID, how: str) -> None:
        async with self._changing(user_id, how) as tx:
            if await tx.one(QUERIES.end_mfa, {"user_id": user_id}) is None:
                raise UserNotFound
            tx.defer(QUERIES.drop_recovery_codes, {"user_id": user_id})
            await end_sessions(tx, user_id, reason="second factor ended")


async def _require_user(tx: Transaction | Scope, user_id: UUID) -> None:
    if await tx.one(QUERIES.user_by_id, {"user_id": user_id}) is None:
        raise UserNotFound


def _renew_codes(tx: Transaction, user_id: UUID) -> tuple[str, ...]:
    codes = new_recovery_codes()
    hashes = [recovery_code_hash(user_id, code) for code in codes]
    tx.defer(QUERIES.drop_recovery_codes, {"user_id": user_id})
    values = {"tenant_id": tx.tenant, "user_id": user_id, "hashes": hashes}
    tx.defer(QUERIES.add_recovery_codes, values)
    return codes
