"""Users of a tenant: the verbs over one row each, every change audited with the change.

Arguments are typed and named, so a caller can set what a verb is for and nothing else. What proves
who somebody is never leaves this room: a `User` has no field for it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

from psycopg.errors import UniqueViolation

from neolayer import audit
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import AccessDenied, InvalidInput
from neolayer.identity.credentials import Client, Credentials
from neolayer.identity.guarded import guarded, refusing
from neolayer.identity.login import Login
from neolayer.identity.mfa import SecondFactor
from neolayer.identity.model import (
    AlreadyRegistered,
    Status,
    User,
    UserNotFound,
    canonical_email,
    canonical_username,
)
from neolayer.identity.passwords import SERVICE_NAME, PasswordHasher, acceptable, personal_words
from neolayer.identity.sessions import end_sessions
from neolayer.identity.tries import forgive
from neolayer.keys import Keyring
from neolayer.tenancy import Principal, Scope, Transaction
from neolayer.tenancy.retrying import done_again

QUERIES = load_queries(__name__, "people.sql")
MAX_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Users:
    """The users of one tenant. A user of another is not found, like one that is not there."""

    scope: Scope
    hasher: PasswordHasher = field(repr=False)
    keyring: Keyring = field(repr=False)

    @property
    def mfa(self) -> SecondFactor:
        """Second factors of these users."""
        return SecondFactor(self.scope, self.hasher, self.keyring)

    @done_again
    async def create(self, *, email: str, username: str, password: str) -> User:
        """Register a user: active, with an address that is not verified yet.

        Raises InvalidName, WeakPassword, AlreadyRegistered, EscalationRefused. Who left may come
        back.
        """
        email, username = canonical_email(email), canonical_username(username)
        hashed = await self.hashed(password, email=email, username=username, mfa=False)
        async with refusing(self.scope, audit.Entry("CREATE", "user")) as tx:
            row = await tx.one(
                QUERIES.create_user,
                {
                    "tenant_id": tx.tenant,
                    "email": email,
                    "username": username,
                    "password_hash": hashed,
                },
            )
            if row is None:
                raise AlreadyRegistered
            user = User.of_row(row)
            audit.append(tx, _entry("CREATE", user.id, {"status": user.status}))
        return user

    async def get(self, user_id: UUID) -> User:
        """The user. Raises UserNotFound."""
        return _found(await self.scope.one(QUERIES.user_by_id, {"user_id": user_id}))

    async def find(self, name: str) -> User:
        """The user of an e-mail address or user name. Raises InvalidName, UserNotFound."""
        if "@" in name:
            query, name = QUERIES.user_by_email, canonical_email(name)
        else:
            query, name = QUERIES.user_by_username, canonical_username(name)
        return _found(await self.scope.one(query, {"name": name}))

    async def list(
        self, *, after: str = "", limit: int = 100, status: Status | None = None
    ) -> list[User]:
        """A page of users by user name; the last one's name is the next page's `after`."""
        if not 0 < limit <= MAX_PAGE:
            raise InvalidInput(f"a page has 1 to {MAX_PAGE} users")
        values = {"after": after, "page_size": limit, "status": status}
        return [User.of_row(row) for row in await self.scope.fetch(QUERIES.list_users, values)]

    async def update(
        self,
        user_id: UUID,
        *,
        username: str | None = None,
        email: str | None = None,
        status: Status | None = None,
    ) -> User:
        """Another user name, address or status: all that is given, or nothing of it.

        A new address is unverified, and letters to the old one are worthless; who is kept out is
        logged out everywhere. Raises InvalidName, UserNotFound, AlreadyRegistered, LastOwner, and
        AccessDenied to the person whose address it is: they change their own with `move`.
        """
        if email is not None and self.scope.by == Principal.user(user_id):
            raise AccessDenied(
                "one's own address changes with a proof", hint="PUT /v1/users/me/email"
            )
        return await self._update(user_id, username=username, email=email, status=status)

    async def rename(self, user_id: UUID, *, username: str) -> User:
        """Change the user name. Raises InvalidName, UserNotFound, AlreadyRegistered."""
        return await self.update(user_id, username=username)

    async def change_email(self, user_id: UUID, *, email: str) -> User:
        """Change the address. Raises as `update`."""
        return await self.update(user_id, email=email)

    async def move(
        self, user_id: UUID, offered: Credentials, client: Client, *, email: str
    ) -> User:
        """A person's own new address, proved with the password: letters that set a new password
        go there, so a stolen session must not be enough.

        Raises as `Login.prove` and `update`.
        """
        await Login(self.scope, self.hasher, self.keyring).prove(user_id, offered, client)
        return await self._update(user_id, email=email)

    async def _update(
        self,
        user_id: UUID,
        *,
        username: str | None = None,
        email: str | None = None,
        status: Status | None = None,
    ) -> User:
        values = {
            "username": None if username is None else canonical_username(username),
            "email": None if email is None else canonical_email(email),
            "status": status,
        }
        if not any(values.values()):
            return await self.get(user_id)
        keeps_out = status is not None and status is not Status.ACTIVE
        return await self._change(
            QUERIES.update_user,
            user_id,
            values,
            *(() if email is None else (QUERIES.drop_letters,)),
            ending=f"user is {status}" if keeps_out else None,
            forget_failures=status is Status.ACTIVE,
        )

    async def set_status(
        self, user_id: UUID, *, status: Status, until: datetime | None = None
    ) -> User:
        """Let a user in again, or keep them out; who is kept out is logged out everywhere.

        `until` ends a lock by itself. Raises UserNotFound, InvalidInput, LastOwner.
        """
        if until is not None and (status is not Status.LOCKED or until.tzinfo is None):
            raise InvalidInput("only a lock has an end, given with its time zone")
        active = status is Status.ACTIVE
        return await self._change(
            QUERIES.set_status,
            user_id,
            {"status": status, "until": until},
            ending=None if active else f"user is {status}",
            forget_failures=active,
        )

    async def set_password(self, user_id: UUID, *, password: str) -> User:
        """Give a user a new password and log them out everywhere: an operator's help.

        Raises UserNotFound, WeakPassword.
        """
        user = await self.get(user_id)
        hashed = await self.hashed(
            password, email=user.email, username=user.username, mfa=user.mfa_enabled
        )
        return await self._change(
            QUERIES.set_password,
            user_id,
            {"password_hash": hashed},
            *(QUERIES.forget_devices, QUERIES.drop_letters),
            ending="new password",
            forget_failures=True,
        )

    async def change_password(
        self, user_id: UUID, offered: Credentials, client: Client, *, password: str
    ) -> User:
        """A person's own new password, proved with the old one; every session ends.

        Raises as `Login.prove` and `set_password`.
        """
        await Login(self.scope, self.hasher, self.keyring).prove(user_id, offered, client)
        return await self.set_password(user_id, password=password)

    @done_again
    async def delete(self, user_id: UUID) -> None:
        """Take a user away; the address and the name are free again. Raises UserNotFound,
        LastOwner."""
        async with self._changing(_entry("DELETE", user_id)) as tx:
            _found(await tx.one(QUERIES.delete_user, {"user_id": user_id}))
            await end_sessions(tx, user_id, reason="user deleted")
            _drop_proofs(tx, user_id)

    @done_again
    async def anonymise(self, user_id: UUID) -> None:
        """Erase what names a person, also one deleted before; what refers to them stays.

        Raises UserNotFound.
        """
        async with self._changing(_entry("DELETE", user_id, {"anonymised": True})) as tx:
            if await tx.one(QUERIES.anonymise_user, {"user_id": user_id}) is None:
                raise UserNotFound
            _drop_proofs(tx, user_id)
            tx.defer(QUERIES.delete_sessions, {"user_id": user_id})

    async def hashed(self, password: str, *, email: str, username: str, mfa: bool) -> str:
        """The hash of a password that may be taken. Raises WeakPassword."""
        personal = personal_words(email, username, SERVICE_NAME)
        return await self.hasher.hash(acceptable(password, mfa=mfa, personal=personal))

    @asynccontextmanager
    async def _changing(self, entry: audit.Entry) -> AsyncGenerator[Transaction]:
        """A transaction with its audit entry, in which the database's rules are our errors."""
        try:
            async with guarded(self.scope, entry) as tx:
                yield tx
        except UniqueViolation:
            raise AlreadyRegistered from None

    @done_again
    async def _change(
        self,
        query: LiteralString,
        user_id: UUID,
        values: dict[str, Any],
        *also: LiteralString,
        ending: str | None = None,
        forget_failures: bool = False,
    ) -> User:
        fields = sorted(name for name, value in values.items() if value is not None)
        entry = _entry("UPDATE", user_id, {"fields": fields})
        async with self._changing(entry) as tx:
            user = _found(await tx.one(query, values | {"user_id": user_id}))
            if ending is not None:
                await end_sessions(tx, user_id, reason=ending)
            for statement in also:
                tx.defer(statement, {"user_id": user_id})
            if forget_failures:
                forgive(tx, user_id)
        return user


def _found(row: tuple[Any, ...] | None) -> User:
    if row is None:
        raise UserNotFound
    return User.of_row(row)


def _drop_proofs(tx: Transaction, user_id: UUID) -> None:
    for query in (QUERIES.forget_devices, QUERIES.drop_letters, QUERIES.drop_recovery_codes):
        tx.defer(query, {"user_id": user_id})
    forgive(tx, user_id)


def _entry(
    action: audit.Action, user_id: UUID, changes: dict[str, Any] | None = None
) -> audit.Entry:
    return audit.Entry(action, "user", str(user_id), changes)
