"""The check of credentials: one way in, one way to be refused.

To a stranger an absent user, a wrong password, a wrong code, a deleted or suspended user and an
account whose failures are used up are one answer after the same work: as many rows are read and
written, and the same hash is computed, whether or not there is somebody.

A try is counted as failed before its outcome is known, in a transaction of its own, so that a
thousand tries at once are a thousand failures; who gets in takes it back.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from hashlib import sha256
from typing import Any, LiteralString, NoReturn
from uuid import UUID

from neolayer import audit
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import Unauthenticated
from neolayer.identity import backoff
from neolayer.identity.backoff import Counter, Kind, Source
from neolayer.identity.model import InvalidName, User, canonical_email, canonical_username
from neolayer.identity.passwords import PasswordHasher
from neolayer.identity.tokens import new_token, token_hash
from neolayer.identity.totp import matching_step, recovery_code_hash, seed_binding
from neolayer.keys import Keyring
from neolayer.tenancy import Principal, Scope, Transaction

QUERIES = load_queries(__name__, "people.sql")
DEVICE_LIFETIME = timedelta(days=365)
MOST_DEVICES = 20


class BadCredentials(Unauthenticated):
    """The name, the password or the code is wrong."""

    def __init__(self, *, retry_after: timedelta | None = None) -> None:
        super().__init__()
        self.retry_after = retry_after  # where the source itself has failed too often


class CodeRequired(Unauthenticated):
    """The password is right; a code of the second factor is needed too."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What somebody offers. A recovery code stands in for the code of a lost second factor."""

    password: str = field(repr=False)
    code: str | None = field(default=None, repr=False)
    recovery_code: str | None = field(default=None, repr=False)

    @property
    def second(self) -> bool:
        """Whether a second factor is offered."""
        return self.code is not None or self.recovery_code is not None


@dataclass(frozen=True, slots=True)
class Client:
    """Where a try comes from. `device` is what an earlier login from there was given."""

    ip: str
    user_agent: str | None = None
    device: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Authenticated:
    """Who it is. `device` is for the client to keep and to show next time; a new one each time the
    one shown was not known. `failed_before` are the failures since the last time somebody got in.
    """

    user: User
    device: str = field(repr=False)
    known_device: bool
    failed_before: int
    second_factor: bool


@dataclass(frozen=True, slots=True)
class _Account:
    """What is stored about whoever is tried, or nothing of it."""

    id: UUID | None = None
    password_hash: str | None = field(default=None, repr=False)
    mfa_enabled: bool = False
    mfa_secret: str | None = field(default=None, repr=False)
    is_open: bool = False
    device_id: UUID | None = None

    @classmethod
    def of_row(cls, row: Sequence[Any] | None) -> _Account:
        return cls() if row is None else cls(*row)


@dataclass(frozen=True, slots=True)
class _Try:
    """A try and the counters that were read for it."""

    account: _Account
    counters: tuple[Counter, ...]

    @property
    def counted(self) -> tuple[Counter, ...]:
        """What this try counts against: a known device's own failures, or all but those."""
        known = tuple(c for c in self.counters if c.kind is Kind.DEVICE and not c.is_used_up)
        return known or tuple(c for c in self.counters if c.kind is not Kind.DEVICE)

    @property
    def is_by_known_device(self) -> bool:
        return all(counter.kind is Kind.DEVICE for counter in self.counted)

    @property
    def wait(self) -> timedelta:
        return max(counter.wait for counter in self.counted)

    @property
    def is_barred(self) -> bool:
        """Whether it cannot succeed; the answer is that of a wrong password."""
        if any(counter.is_under_attack for counter in self.counted):
            return any(counter.has_tried for counter in self.counted)
        return any(counter.is_used_up for counter in self.counted)

    @property
    def failed_before(self) -> int:
        own = (Kind.ACCOUNT, Kind.DEVICE)
        return sum(counter.failures for counter in self.counters if counter.kind in own)


@dataclass(frozen=True, slots=True)
class Stray:
    """A tenant that was asked for and is not there, and where tries at it are written down.

    Its tries are counted apart from those at any other that is not there, as a tenant's own are:
    who has to wait is told sooner, and must not learn from that which of two names is taken.
    """

    tenant: str
    trail: Scope

    def counted_as(self, text: str) -> str:
        return f"{len(self.tenant)} {self.tenant} {text}"


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
        query, name = _lookup(name)
        values = {"name": name, "device": client.device and token_hash(client.device)}
        async with self.scope.transaction() as tx:
            account = _Account.of_row(await tx.one(query, values))
            if self.stray is not None:
                name = self.stray.counted_as(name)
                sources = tuple(
                    replace(source, text=self.stray.counted_as(source.text)) for source in sources
                )
            counters = await _open(tx, _subjects(account, name, sources))
            begun = _begin(tx, account, counters)
        new_hash = await self._compare(begun, offered, client)
        return await self._enter(begun, offered, client, new_hash)

    async def prove(self, user_id: UUID, offered: Credentials, client: Client) -> None:
        """Somebody who is logged in shows again who they are, before something dangerous.

        Raises as `check`.
        """
        nobody = self.scope.acting_as(Principal.anonymous())
        async with nobody.transaction() as tx:
            row = await tx.one(QUERIES.credentials_by_id, {"user_id": user_id})
            account = _Account.of_row(row)
            counters = await _open(tx, {backoff.proof_subject(user_id): (Kind.PROOF, 1)})
            begun = _begin(tx, account, counters)
        await self._compare(begun, offered, client)
        seed = await self._seed(account, offered)
        async with self._refusing(account, client), self.scope.transaction() as tx:
            await _take_second(tx, account, offered, seed)
            _settle(tx, [counter.subject for counter in counters])

    async def _compare(self, begun: _Try, offered: Credentials, client: Client) -> str:
        """The hash to store from now on. Raises BadCredentials, CodeRequired."""
        account = begun.account
        if begun.wait:
            await self._refuse(account, client, "has to wait", retry_after=begun.wait)
        verdict = await self.hasher.verify(account.password_hash, offered.password)
        if why := _objection(begun, matches=verdict.matches):
            await self._refuse(account, client, why)
        if account.mfa_enabled and not offered.second:
            async with self.scope.transaction() as tx:
                subjects = [counter.subject for counter in begun.counted]
                await tx.execute(QUERIES.forgive_source, {"subjects": subjects})
                _note(tx, account, client, "a code is needed")
            raise CodeRequired
        assert account.password_hash is not None
        if verdict.outdated:
            return await self.hasher.hash(offered.password)
        return account.password_hash

    async def _enter(
        self, begun: _Try, offered: Credentials, client: Client, new_hash: str
    ) -> Authenticated:
        """Let them in. Raises BadCredentials: wrong code, or something changed meanwhile."""
        account = begun.account
        assert account.id is not None
        if account.mfa_enabled and offered.code is not None and not begun.is_by_known_device:
            await self._count_code(account, account.id, client)
        seed = await self._seed(account, offered)
        scope = self.scope.acting_as(Principal.user(account.id))
        async with self._refusing(account, client), scope.transaction() as tx:
            await _take_second(tx, account, offered, seed)
            row = await tx.one(
                QUERIES.enter,
                {
                    "user_id": account.id,
                    "old_hash": account.password_hash,
                    "new_hash": new_hash,
                    "mfa_enabled": account.mfa_enabled,
                    "failures": begun.failed_before,
                },
            )
            if row is None:
                raise _Refused("changed meanwhile")
            device = _remember(tx, account, client)
            subjects = [counter.subject for counter in begun.counters]
            subjects += backoff.proof_subject(account.id), backoff.code_subject(account.id)
            _settle(tx, subjects)
            _note(tx, account, client)
        return Authenticated(
            user=User.of_row(row),
            device=device,
            known_device=account.device_id is not None,
            failed_before=begun.failed_before,
            second_factor=account.mfa_enabled,
        )

    async def _count_code(self, account: _Account, user_id: UUID, client: Client) -> None:
        """Codes are a million: whoever has the password has few tries, wherever they come from.

        Raises BadCredentials.
        """
        async with self.scope.transaction() as tx:
            counters = await _open(tx, {backoff.code_subject(user_id): (Kind.PROOF, 1)})
            begun = _begin(tx, account, counters)
        if begun.wait:
            await self._refuse(account, client, "has to wait", retry_after=begun.wait)
        if begun.is_barred:
            await self._refuse(account, client, "too many wrong codes")

    async def _seed(self, account: _Account, offered: Credentials) -> bytes | None:
        if not account.mfa_enabled or account.mfa_secret is None or offered.code is None:
            return None
        assert account.id is not None
        binding = seed_binding(self.scope.tenant, account.id)
        return await self.keyring.open(account.mfa_secret, bound_to=binding)

    @asynccontextmanager
    async def _refusing(self, account: _Account, client: Client) -> AsyncGenerator[None]:
        """Write a refusal down after what it interrupted was rolled back."""
        why: str | None = None
        try:
            yield
        except _Refused as refused:
            why = refused.why
        if why is not None:
            await self._refuse(account, client, why)

    async def _refuse(
        self,
        account: _Account,
        client: Client,
        why: str,
        *,
        retry_after: timedelta | None = None,
    ) -> NoReturn:
        scope = self.scope if self.stray is None else self.stray.trail
        async with scope.transaction() as tx:
            if self.stray is None:
                _note(tx, account, client, why)
            else:
                audit.append(tx, _stray(client))
        raise BadCredentials(retry_after=retry_after)


class _Refused(Exception):
    """Rolls back what a login began to write."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def _lookup(name: str) -> tuple[LiteralString, str]:
    """The query for a name and its canonical form; what can be nobody's name is looked up too."""
    by_email = "@" in name
    query = QUERIES.credentials_by_email if by_email else QUERIES.credentials_by_username
    try:
        return query, canonical_email(name) if by_email else canonical_username(name)
    except InvalidName:
        return query, f"nobody {sha256(name.encode(errors='surrogatepass')).hexdigest()}"


def _subjects(
    account: _Account, name: str, sources: Sequence[Source]
) -> dict[bytes, tuple[Kind, int]]:
    subjects: dict[bytes, tuple[Kind, int]] = {}
    for source in sources:
        subjects[backoff.pair_subject(name, source.text)] = Kind.PAIR, source.scale
        subjects[backoff.source_subject(source.text)] = Kind.SOURCE, source.scale
    if account.id is None:
        subjects[backoff.nobody_subject(name)] = Kind.NOBODY, 1
    else:
        subjects[backoff.account_subject(account.id)] = Kind.ACCOUNT, 1
    if account.device_id is not None:
        subjects[backoff.device_subject(account.device_id)] = Kind.DEVICE, 1
    return subjects


async def _open(tx: Transaction, subjects: Mapping[bytes, tuple[Kind, int]]) -> tuple[Counter, ...]:
    """Lock and read the counters of these subjects: their kind, and how much they may do."""
    rows = await tx.fetch(
        QUERIES.open_counters,
        {
            "tenant_id": tx.tenant,
            "subjects": list(subjects),
            "kinds": [str(kind) for kind, _ in subjects.values()],
        },
    )
    scales = {subject: scale for subject, (_, scale) in subjects.items()}
    return tuple(Counter.of_row(row, scales) for row in rows)


def _begin(tx: Transaction, account: _Account, counters: tuple[Counter, ...]) -> _Try:
    """Count the try, unless it has to wait."""
    begun = _Try(account, counters)
    if begun.wait:
        return begun
    counted = [counter for counter in begun.counted if not counter.is_used_up]
    values = {
        "subjects": [counter.subject for counter in counted],
        "failures": [counter.level + 1 for counter in counted],
    }
    tx.defer(QUERIES.count_failures, values)
    return begun


def _settle(tx: Transaction, subjects: Sequence[bytes]) -> None:
    """Take back what was counted. As nobody: who is known may not touch a counter."""
    tx.defer_as(Principal.anonymous(), QUERIES.settle_counters, {"subjects": subjects})


def forgive(tx: Transaction, user_id: UUID) -> None:
    """Start counting the failures of somebody's account anew: for whoever may change them."""
    tx.defer(QUERIES.require_over, {"user_id": user_id})
    subjects = [backoff.account_subject(user_id), backoff.code_subject(user_id)]
    tx.defer_as(Principal.anonymous(), QUERIES.forget_failures, {"subjects": subjects})


def _objection(begun: _Try, *, matches: bool) -> str | None:
    """Why nobody gets in, whatever the second factor; for the audit, never for who asks."""
    if begun.account.id is None:
        return "no such user"
    if not matches:
        return "wrong password"
    if begun.is_barred:
        return "too many failures"
    return None if begun.account.is_open else "not active"


async def _take_second(
    tx: Transaction, account: _Account, offered: Credentials, seed: bytes | None
) -> None:
    """Use the second factor up, where there is one. Raises _Refused."""
    if not account.mfa_enabled:
        return
    assert account.id is not None
    if seed is not None and offered.code is not None:
        now = await tx.one(QUERIES.server_time)
        step = matching_step(seed, offered.code, at=now[0] if now else 0)
        query, values = QUERIES.take_step, {"step": step}
        if step is None:
            raise _Refused("wrong code")
    elif offered.recovery_code is not None:
        query = QUERIES.take_recovery_code
        values = {"code_hash": recovery_code_hash(account.id, offered.recovery_code)}
    else:
        raise _Refused("wrong code")
    if await tx.one(query, values | {"user_id": account.id}) is None:
        raise _Refused("a code that is used up, or wrong")


def _remember(tx: Transaction, account: _Account, client: Client) -> str:
    """The token by which the device is known from now on."""
    if account.device_id is not None and client.device is not None:
        values = {"device_id": account.device_id, "lifetime": DEVICE_LIFETIME}
        tx.defer(QUERIES.see_device, values)
        return client.device
    token = new_token()
    tx.defer(
        QUERIES.meet_device,
        {
            "tenant_id": tx.tenant,
            "user_id": account.id,
            "token_hash": token_hash(token),
            "lifetime": DEVICE_LIFETIME,
        },
    )
    tx.defer(QUERIES.limit_devices, {"user_id": account.id, "most": MOST_DEVICES})
    return token


def _note(tx: Transaction, account: _Account, client: Client, why: str | None = None) -> None:
    audit.append(
        tx,
        audit.Entry(
            "LOGIN",
            "user",
            None if account.id is None else str(account.id),
            success=why is None,
            error_message=why,
            ip_address=client.ip,
            user_agent=client.user_agent,
        ),
    )


def _stray(client: Client) -> audit.Entry:
    return audit.Entry(
        "LOGIN",
        "tenant",
        success=False,
        error_message="a login to a tenant that is not there",
        ip_address=client.ip,
        user_agent=client.user_agent,
    )
