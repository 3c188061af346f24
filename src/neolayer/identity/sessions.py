"""Sessions: who logged in from where, until when, and the tokens that prove it.

A session is one login on one device. Its access token is short-lived; the refresh token renews it
and is used once. The refresh tokens of a session are a family, each with one child at most:

- the same token again within ten seconds, its child unused, is a lost answer or a second tab: it
  gets the same child, byte for byte;
- again later, or after its child was used, somebody else has it: the whole family ends.

A login always makes new tokens and never takes one, so nobody can be given a session that a
stranger knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from neolayer import audit
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import AccessDenied, NotFound
from neolayer.identity.access import Access
from neolayer.identity.access_cache import AccessCache
from neolayer.identity.guarded import refusing, source_address
from neolayer.identity.session_tokens import (
    Kind,
    Token,
    UnknownToken,
    new_salt,
    new_token,
    parse_token,
)
from neolayer.settings import SessionSettings
from neolayer.tenancy import Principal, Scope, Transaction
from neolayer.tenancy.context import Kind as Acting
from neolayer.tenancy.retrying import done_again

QUERIES = load_queries(__name__, "access.sql")
_MOST_SHOWN = 1000
_BOUND = (Acting.USER, Acting.SERVICE)


class SessionNotFound(NotFound):
    """There is no such session."""


@dataclass(frozen=True, slots=True)
class SessionPolicy:
    """How long things last: NIST SP 800-63B-4 at AAL2 asks for a day at most, an hour idle."""

    access: timedelta = timedelta(minutes=15)
    idle: timedelta = timedelta(hours=1)
    absolute: timedelta = timedelta(hours=24)
    grace: timedelta = timedelta(seconds=10)

    @classmethod
    def of(cls, settings: SessionSettings) -> SessionPolicy:
        """As the configuration says."""
        return cls(
            access=timedelta(minutes=settings.access_minutes),
            idle=timedelta(minutes=settings.idle_minutes),
            absolute=timedelta(hours=settings.absolute_hours),
            grace=timedelta(seconds=settings.grace_seconds),
        )


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a login or a refresh gives; the tokens are shown to nobody else and not in `repr`."""

    session_id: UUID
    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    access_expires_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Session:
    """A living session as its owner may see it."""

    id: UUID
    user_id: UUID
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    ip_address: str
    last_ip_address: str | None
    user_agent: str | None


@dataclass(frozen=True, slots=True)
class _Refresh:
    """The state of a refresh token, in the order of the query's columns."""

    id: UUID
    parent_id: UUID | None
    session_id: UUID
    user_id: UUID
    is_living: bool
    is_used: bool
    salt: bytes | None
    may_repeat: bool
    access_expires_at: datetime
    expires_at: datetime
    next_access_expires_at: datetime


@dataclass(frozen=True, slots=True)
class Sessions:
    """The sessions of one tenant. `cache` is the process's one."""

    scope: Scope
    cache: AccessCache
    policy: SessionPolicy = SessionPolicy()

    async def start(
        self, user_id: UUID, *, ip_address: str, user_agent: str | None = None
    ) -> Tokens:
        """A new session of a person who has just proved who they are.

        Raises SessionNotFound where the person is absent, suspended or deleted, and AccessDenied
        where another user or a service asks for it.
        """
        if self.scope.by.kind in _BOUND and self.scope.by != Principal.user(user_id):
            raise AccessDenied("a session is started by whoever it is for")
        tenant, ip_address = _tenant(self.scope), source_address(ip_address)
        access, refresh = new_token(Kind.ACCESS, tenant), new_token(Kind.REFRESH, tenant)
        async with self.scope.transaction() as tx:
            row = await tx.one(
                QUERIES.start_session,
                {
                    "user_id": user_id,
                    "access_hash": access.hash,
                    "refresh_hash": refresh.hash,
                    "ip_address": ip_address,
                    "user_agent": _bounded(user_agent),
                    "access": self.policy.access,
                    "idle": self.policy.idle,
                    "absolute": self.policy.absolute,
                },
            )
            if row is None:
                raise SessionNotFound("there is no such user to start a session for")
            _audit(tx, "CREATE", row[0], {"user_id": str(user_id)}, ip_address, user_agent)
        return Tokens(row[0], access.text, refresh.text, row[1], row[2])

    async def check(self, access_token: str, *, ip_address: str | None = None) -> Access:
        """Who bears the token, if it is one of this tenant. Raises UnknownToken."""
        access = await self.cache.check(access_token, ip_address=ip_address)
        if access.session_id is None or access.tenant != self.scope.tenant:
            raise UnknownToken
        return access

    async def refresh(
        self, refresh_token: str, *, ip_address: str, user_agent: str | None = None
    ) -> Tokens:
        """The next pair of tokens. Raises UnknownToken, for whatever reason it is refused.

        Replay ends the session: both whoever stole the token and whoever lost it must log in.
        """
        token = parse_token(refresh_token, Kind.REFRESH)
        ip_address = source_address(ip_address)
        asked = {
            "token_hash": token.hash,
            "grace": self.policy.grace,
            "access": self.policy.access,
        }
        async with self.scope.transaction() as tx:
            await tx.execute(QUERIES.lock_family, asked)
            row = await tx.one(QUERIES.refresh_state, asked)
            state = None if row is None else _Refresh(*row)
            tokens = None
            if state is not None and state.is_living:
                tokens = self._answer(tx, token, state, ip_address)
                if tokens is None:
                    await _end_family(tx, state, ip_address, user_agent)
        if state is not None:
            self._forget(state.user_id)
        if tokens is None:
            raise UnknownToken
        return tokens

    def _answer(
        self, tx: Transaction, token: Token, state: _Refresh, ip_address: str
    ) -> Tokens | None:
        """The child of a token that may have one, else None: it was replayed."""
        if not state.is_used:
            return self._rotate(tx, token, state, ip_address)
        if state.may_repeat and state.salt is not None:
            return _pair(token, bytes(state.salt), state, state.access_expires_at)
        return None

    def _rotate(self, tx: Transaction, token: Token, state: _Refresh, ip_address: str) -> Tokens:
        salt = new_salt()
        tokens = _pair(token, salt, state, state.next_access_expires_at)
        tx.defer(QUERIES.use_refresh_token, {"id": state.id, "salt": salt})
        if state.parent_id is not None:
            tx.defer(QUERIES.forget_salt, {"id": state.parent_id})
        tx.defer(
            QUERIES.add_child,
            {
                "session_id": state.session_id,
                "parent_id": state.id,
                "token_hash": token.child(salt, Kind.REFRESH).hash,
                "expires_at": state.expires_at,
            },
        )
        tx.defer(
            QUERIES.renew_access,
            {
                "session_id": state.session_id,
                "token_hash": token.child(salt, Kind.ACCESS).hash,
                "access_expires_at": state.next_access_expires_at,
                "ip_address": ip_address,
            },
        )
        return tokens

    async def list(self, user_id: UUID | None = None, *, limit: int = 100) -> Sequence[Session]:
        """Living sessions of one person or of the whole tenant, the last used first."""
        asked = {"user_id": user_id, "limit": max(0, min(limit, _MOST_SHOWN))}
        query = QUERIES.list_sessions if user_id is None else QUERIES.list_sessions_of
        return [Session(*row) for row in await self.scope.fetch(query, asked)]

    @done_again
    async def revoke(
        self, session_id: UUID, *, of: UUID | None = None, reason: str = "revoked"
    ) -> None:
        """End one session, everywhere within a second; with `of` only one of that person.

        Raises SessionNotFound, EscalationRefused where the person may do more than the caller.
        """
        query = QUERIES.revoke_session if of is None else QUERIES.revoke_own_session
        asked = {"id": session_id, "of": of, "reason": reason}
        refused = audit.Entry("DELETE", "session", str(session_id), {"reason": reason})
        async with refusing(self.scope, refused) as tx:
            row = await tx.one(query, asked)
            if row is not None:
                _audit(tx, "DELETE", session_id, {"reason": reason, "user_id": str(row[0])})
            elif await tx.one(QUERIES.session_exists, asked) is None:
                raise SessionNotFound
        if row is not None:
            self._forget(row[0])

    @done_again
    async def revoke_all(
        self, user_id: UUID, *, but: UUID | None = None, reason: str = "revoked"
    ) -> int:
        """End every session of a person, or all but one; the number of those ended.

        Raises EscalationRefused where the person may do more than the caller.
        """
        refused = audit.Entry("DELETE", "session", None, {"user_id": str(user_id)})
        async with refusing(self.scope, refused) as tx:
            ended = await end_sessions(tx, user_id, but=but, reason=reason)
        self._forget(user_id)
        return len(ended)

    async def log_out(self, access_token: str) -> None:
        """End the session of this access token, also if the token has run out.

        Raises UnknownToken.
        """
        token = parse_token(access_token, Kind.ACCESS)
        async with self.scope.transaction() as tx:
            found = await tx.one(QUERIES.session_of_token, {"token_hash": token.hash})
            if found is None:
                raise UnknownToken
            asked = {"id": found[0], "reason": "logout"}
            if (row := await tx.one(QUERIES.revoke_session, asked)) is not None:
                _audit(tx, "LOGOUT", found[0], {"user_id": str(row[0])})
        if row is not None:
            self._forget(row[0])

    def _forget(self, user_id: UUID) -> None:
        self.cache.forget(_tenant(self.scope), Principal.user(user_id))


async def end_sessions(
    tx: Transaction, user_id: UUID, *, reason: str, but: UUID | None = None
) -> Sequence[UUID]:
    """End a person's sessions in the transaction of what makes it necessary; their ids.

    For a new password, a reset second factor, a suspension.
    """
    asked = {"user_id": user_id, "but": but, "reason": reason}
    ended = [row[0] for row in await tx.fetch(QUERIES.revoke_sessions_of, asked)]
    for session_id in ended:
        _audit(tx, "DELETE", session_id, {"reason": reason, "user_id": str(user_id)})
    return ended


def _pair(token: Token, salt: bytes, state: _Refresh, access_expires_at: datetime) -> Tokens:
    access, refresh = token.child(salt, Kind.ACCESS), token.child(salt, Kind.REFRESH)
    return Tokens(state.session_id, access.text, refresh.text, access_expires_at, state.expires_at)


async def _end_family(
    tx: Transaction, state: _Refresh, ip_address: str, user_agent: str | None
) -> None:
    await tx.execute(QUERIES.revoke_session, {"id": state.session_id, "reason": "replay"})
    audit.append(
        tx,
        audit.Entry(
            "EXECUTE",
            "refresh_token",
            str(state.id),
            {"session_id": str(state.session_id), "user_id": str(state.user_id)},
            success=False,
            error_message="a used refresh token came back; its session was ended",
            ip_address=ip_address,
            user_agent=_bounded(user_agent),
        ),
    )


def _audit(
    tx: Transaction,
    action: audit.Action,
    session_id: UUID,
    changes: dict[str, Any],
    ip_address: str | None = None,
    user_agent: str | None = None,
) -> None:
    audit.append(
        tx,
        audit.Entry(
            action,
            "session",
            str(session_id),
            changes,
            ip_address=ip_address,
            user_agent=_bounded(user_agent),
        ),
    )


def _bounded(user_agent: str | None) -> str | None:
    """What a stranger wrote, cut to what is worth keeping, without what text cannot hold."""
    if user_agent is None:
        return None
    return "".join(c for c in user_agent[:400] if c.isprintable())


def _tenant(scope: Scope) -> UUID:
    if scope.tenant is None:
        raise SessionNotFound("sessions belong to a tenant")
    return scope.tenant
