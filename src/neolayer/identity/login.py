"""The check of credentials: one way in, one way to be refused.

To a stranger an absent user, a wrong password, a wrong code, a deleted or suspended user and an
account whose failures are used up are one answer after the same work: as many rows are read and
written, and the same hash is computed, whether or not there is somebody.

Three steps, each a transaction or none: find the account and count the try as failed (`tries.py`);
compare the password in a thread; let in, with the second factor used up, the counters settled and
the entry in the trail, or write the refusal down.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NoReturn
from uuid import UUID

from neolayer.engines.postgres.queries import load_queries
from neolayer.identity import backoff
from neolayer.identity.backoff import Kind
from neolayer.identity.credentials import (
    Authenticated,
    BadCredentials,
    Client,
    CodeRequired,
    Credentials,
)
from neolayer.identity.devices import remember
from neolayer.identity.login_trail import Stray, note
from neolayer.identity.model import User
from neolayer.identity.passwords import PasswordHasher
from neolayer.identity.second import Refused, seed_for, take_second
from neolayer.identity.stored_users import StoredUser, stored_user, stored_user_named
from neolayer.identity.tries import Try, begin, forgive_source, login_subjects, settle
from neolayer.keys import Keyring
from neolayer.tenancy import Principal, Scope

QUERIES = load_queries(__name__, "people.sql")


@dataclass(frozen=True, slots=True)
class Login:
    """Logins to one tenant; the scope acts as anonymous until somebody is known."""

    scope: Scope
    hasher: PasswordHasher = field(repr=False)
    keyring: Keyring = field(repr=False)
    stray: Stray | None = None

    async def check(self, name: str, offered: Credentials, client: Client) -> Authenticated:
        """Who it is, by e-mail address or user name.

        Raises BadCredentials, CodeRequired (the password is right and nothing else was offered),
        InvalidInput where the client's address is none, TooManyLogins.
        """
        sources = backoff.sources_of(client.ip)
        async with self.scope.transaction() as tx:
            stored, name = await stored_user_named(tx, name, client.device)
            if self.stray is not None:
                name, sources = self.stray.counted(name, sources)
            begun = await begin(tx, stored, login_subjects(stored, name, sources))
        new_hash = await self._compare(begun, offered, client)
        return await self._enter(begun, offered, client, new_hash)

    async def prove(self, user_id: UUID, offered: Credentials, client: Client) -> None:
        """Somebody who is logged in shows again who they are, before something dangerous.

        Raises as `check`.
        """
        nobody = self.scope.acting_as(Principal.anonymous())
        async with nobody.transaction() as tx:
            stored = await stored_user(tx, user_id)
            begun = await begin(tx, stored, {backoff.proof_subject(user_id): (Kind.PROOF, 1)})
        await self._compare(begun, offered, client)
        seed = await self._seed(stored, offered)
        async with self._refusing(stored, client), self.scope.transaction() as tx:
            await take_second(tx, stored, offered, seed)
            settle(tx, begun)

    async def _compare(self, begun: Try, offered: Credentials, client: Client) -> str:
        """The hash to store from now on. Raises BadCredentials, CodeRequired."""
        stored = begun.stored
        if begun.wait:
            await self._refuse(stored, client, "has to wait", retry_after=begun.wait)
        verdict = await self.hasher.verify(stored.password_hash, offered.password)
        if why := begun.objection(matches=verdict.matches):
            await self._refuse(stored, client, why)
        if stored.mfa_enabled and not offered.second:
            async with self.scope.transaction() as tx:
                await forgive_source(tx, begun)
                note(tx, stored, client, "a code is needed")
            raise CodeRequired
        assert stored.password_hash is not None
        if verdict.outdated:
            return await self.hasher.hash(offered.password)
        return stored.password_hash

    async def _enter(
        self, begun: Try, offered: Credentials, client: Client, new_hash: str
    ) -> Authenticated:
        """Let them in. Raises BadCredentials: wrong code, or something changed meanwhile."""
        stored = begun.stored
        assert stored.id is not None
        if stored.mfa_enabled and offered.code is not None and not begun.is_by_known_device:
            await self._count_code(stored, stored.id, client)
        seed = await self._seed(stored, offered)
        scope = self.scope.acting_as(Principal.user(stored.id))
        async with self._refusing(stored, client), scope.transaction() as tx:
            await take_second(tx, stored, offered, seed)
            row = await tx.one(
                QUERIES.enter,
                {
                    "user_id": stored.id,
                    "old_hash": stored.password_hash,
                    "new_hash": new_hash,
                    "mfa_enabled": stored.mfa_enabled,
                    "failures": begun.failed_before,
                },
            )
            if row is None:
                raise Refused("changed meanwhile")
            device = remember(tx, stored, client)
            own = backoff.proof_subject(stored.id), backoff.code_subject(stored.id)
            settle(tx, begun, *own)
            note(tx, stored, client)
        return Authenticated(
            user=User.of_row(row),
            device=device,
            known_device=stored.device_id is not None,
            failed_before=begun.failed_before,
            second_factor=stored.mfa_enabled,
        )

    async def _count_code(self, stored: StoredUser, user_id: UUID, client: Client) -> None:
        """Codes are a million: whoever has the password has few tries, wherever they come from.

        Raises BadCredentials.
        """
        async with self.scope.transaction() as tx:
            begun = await begin(tx, stored, {backoff.code_subject(user_id): (Kind.PROOF, 1)})
        if begun.wait:
            await self._refuse(stored, client, "has to wait", retry_after=begun.wait)
        if begun.is_barred:
            await self._refuse(stored, client, "too many wrong codes")

    async def _seed(self, stored: StoredUser, offered: Credentials) -> bytes | None:
        return await seed_for(self.keyring, self.scope.tenant, stored, offered)

    @asynccontextmanager
    async def _refusing(self, stored: StoredUser, client: Client) -> AsyncGenerator[None]:
        """Write a refusal down after what it interrupted was rolled back."""
        why: str | None = None
        try:
            yield
        except Refused as refused:
            why = refused.why
        if why is not None:
            await self._refuse(stored, client, why)

    async def _refuse(
        self,
        stored: StoredUser,
        client: Client,
        why: str,
        *,
        retry_after: timedelta | None = None,
    ) -> NoReturn:
        if self.stray is None:
            async with self.scope.transaction() as tx:
                note(tx, stored, client, why)
        else:
            async with self.stray.trail.transaction() as tx:
                self.stray.note(tx, client)
        raise BadCredentials(retry_after=retry_after)
