"""What is sent to an e-mail address and comes back once: to verify it, or to set a new password.

Only hashes are stored. Whether an address is known is told to its owner alone: the answer to
everybody else is the same, after the same time.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Literal, Protocol
from uuid import UUID

from neolayer import audit
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import Unauthenticated
from neolayer.identity.backoff import account_subject
from neolayer.identity.model import InvalidName, User, canonical_email
from neolayer.identity.passwords import SERVICE_NAME, PasswordHasher, acceptable, personal_words
from neolayer.identity.sessions import end_sessions
from neolayer.tenancy import Principal, Scope, Transaction

QUERIES = load_queries(__name__, "people.sql")
Purpose = Literal["email_verification", "password_reset"]
LIFETIMES: dict[Purpose, timedelta] = {
    "email_verification": timedelta(days=3),
    "password_reset": timedelta(minutes=30),
}
MOST_LETTERS = 3  # of one purpose that are good at once: a stranger cannot fill a mailbox
_ANSWER_AFTER = timedelta(milliseconds=100)


class BadToken(Unauthenticated):
    """The token is wrong, was used or has run out."""


@dataclass(frozen=True, slots=True)
class Letter:
    """What to send to whom. The token goes to that address and nowhere else."""

    purpose: Purpose
    to: str
    token: str = field(repr=False)
    expires_at: datetime


class Mailer(Protocol):
    """Takes letters to be sent."""

    def post(self, letter: Letter) -> None:
        """Put the letter where it will be sent from. Must return at once and not raise: the time
        it takes would tell whether there was anything to send."""


def new_token() -> str:
    """256 random bits."""
    return secrets.token_urlsafe(32)


def token_hash(token: str) -> str:
    """The form in which a token is stored: so many random bits need no slow hash."""
    return sha256(token.encode(errors="surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class EmailTokens:
    """Letters to the users of one tenant, and their answers."""

    scope: Scope
    hasher: PasswordHasher = field(repr=False)
    mailer: Mailer = field(repr=False)

    async def request_verification(self, user_id: UUID) -> None:
        """Send a letter to a user's address, unless it is verified or three are on their way."""
        await self._send("email_verification", user_id=user_id, email=None)

    async def verify_email(self, token: str) -> User:
        """Take the address as the user's. Raises BadToken, also where it was changed since."""
        async with self.scope.transaction() as tx:
            user_id = await _redeem(tx, "email_verification", token)
            values = {"user_id": user_id, "hash": token_hash(token)}
            row = await tx.one(QUERIES.verify_email, values)
            if row is None:
                raise BadToken
            _note(tx, "UPDATE", user_id, {"fields": ["email_verified"]})
        return User.of_row(row)

    async def request_reset(self, email: str) -> None:
        """Send a letter to an address if a user who may log in has it. Says nothing of either."""
        async with answering_evenly():
            try:
                address = canonical_email(email)
            except InvalidName:
                address = "nobody"
            await self._send("password_reset", user_id=None, email=address)

    async def reset_password(self, token: str, *, password: str) -> User:
        """Set a new password; every session and known device of the user is forgotten.

        Raises BadToken, WeakPassword (the token is then still good).
        """
        user = await self._owner(token)
        personal = personal_words(user.email, user.username, SERVICE_NAME)
        hashed = await self.hasher.hash(
            acceptable(password, mfa=user.mfa_enabled, personal=personal)
        )
        async with self.scope.transaction() as tx:
            user_id = await _redeem(tx, "password_reset", token)
            row = await tx.one(
                QUERIES.reset_password, {"user_id": user_id, "password_hash": hashed}
            )
            if row is None:
                raise BadToken
            await end_sessions(tx, user_id, reason="password reset")
            for query in (QUERIES.forget_devices, QUERIES.drop_letters):
                tx.defer(query, {"user_id": user_id})
            subjects = [account_subject(user_id)]
            tx.defer_as(Principal.anonymous(), QUERIES.forget_failures, {"subjects": subjects})
            _note(tx, "UPDATE", user_id, {"fields": ["password_hash"], "by": "reset"})
        return User.of_row(row)

    async def _owner(self, token: str) -> User:
        row = await self.scope.one(QUERIES.owner_of_reset, {"hash": token_hash(token)})
        if row is None:
            raise BadToken
        return User.of_row(row)

    async def _send(self, purpose: Purpose, *, user_id: UUID | None, email: str | None) -> None:
        token = new_token()
        values: dict[str, Any] = {
            "purpose": purpose,
            "user_id": user_id,
            "email": email,
            "hash": token_hash(token),
            "lifetime": LIFETIMES[purpose],
            "most": MOST_LETTERS,
        }
        async with self.scope.transaction() as tx:
            row = await tx.one(QUERIES.issue_token, values)
            # Written for an unknown address too: a commit that writes takes longer than one that
            # does not.
            _note(
                tx, "EXECUTE", row[0] if row else None, {"letter": purpose}, success=row is not None
            )
        if row is not None:
            self.mailer.post(Letter(purpose, row[1], token, row[2]))


async def _redeem(tx: Transaction, purpose: Purpose, token: str) -> UUID:
    """Use a token up: of many at once one gets through. Raises BadToken."""
    row = await tx.one(QUERIES.redeem_token, {"purpose": purpose, "hash": token_hash(token)})
    if row is None:
        raise BadToken
    return row[0]


@asynccontextmanager
async def answering_evenly() -> AsyncGenerator[None]:
    """Stretch what is done inside to tenths of a second, so that its length says nothing."""
    clock = asyncio.get_running_loop().time
    start, length = clock(), _ANSWER_AFTER.total_seconds()
    try:
        yield
    finally:
        await asyncio.sleep(length - (clock() - start) % length)


def _note(
    tx: Transaction,
    action: audit.Action,
    user_id: UUID | None,
    changes: dict[str, Any],
    *,
    success: bool = True,
) -> None:
    resource_id = None if user_id is None else str(user_id)
    audit.append(tx, audit.Entry(action, "user", resource_id, changes, success=success))
