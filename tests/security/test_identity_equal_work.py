"""E3: what a stranger asks is the same work whether or not there is the tenant or the person.

Time is noisy (see test_identity_timing); what takes it is not: the answer, round trips to the
database, every statement in them word for word, questions to Redis, and what argon2 computes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import argon2
import httpx
import psycopg
import pytest
from argon2.exceptions import VerificationError, VerifyMismatchError
from redis.asyncio import Redis

from neolayer.engines.endpoints import Endpoints, Role
from neolayer.engines.postgres.round_trip import RoundTripConnection
from neolayer.face import TenantView
from neolayer.identity import Status
from neolayer.identity.backoff import (
    MOST_OF_AN_ACCOUNT,
    TRIES_UNDER_ATTACK,
    account_subject,
    pair_subject,
)
from tests.fixtures.fix_api import PASSWORD, Api

Ask = Callable[[Api, str, str, str], Awaitable[httpx.Response]]
Cost = tuple[int, int, int]
WRONG = "not the password"
ASKED: ContextVar[bool] = ContextVar("asked", default=False)  # not what runs beside the request


@dataclass
class Work:
    """What one answer took: each round trip with its statements, other questions, hashes."""

    trips: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])
    outside: list[str] = field(default_factory=list[str])
    hashes: list[Cost] = field(default_factory=list[Cost])


@contextmanager
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Work]:
    """Count below our own code, where the work is done, and leave it as it is."""
    work = Work()
    sending, verifying = RoundTripConnection.round_trip, argon2.PasswordHasher.verify
    executing, asking = psycopg.AsyncCursor.execute, Redis.execute_command

    async def round_trip(connection: Any, statements: Any, **options: Any) -> Any:
        sent = [*statements, *options.get("after", ())]
        if ASKED.get():
            work.trips.append(tuple(" ".join(str(query).split()) for query, _ in sent))
        return await sending(connection, statements, **options)

    async def execute(cursor: Any, query: Any, *args: Any, **options: Any) -> Any:
        if ASKED.get():
            work.outside.append(str(query))
        return await executing(cursor, query, *args, **options)

    async def execute_command(redis: Any, *args: Any, **options: Any) -> Any:
        if ASKED.get():
            work.outside.append(str(args[0]))
        return await asking(redis, *args, **options)

    def verify(hasher: Any, stored: str, password: bytes) -> Any:
        costs = argon2.extract_parameters(stored)
        computed = True
        try:
            return verifying(hasher, stored, password)
        except VerificationError as exc:  # a mismatch is known at the end, a fault at once
            computed = isinstance(exc, VerifyMismatchError)
            raise
        finally:
            if computed:
                work.hashes.append((costs.memory_cost, costs.time_cost, costs.parallelism))

    with monkeypatch.context() as patch:
        patch.setattr(RoundTripConnection, "round_trip", round_trip)
        patch.setattr(psycopg.AsyncCursor, "execute", execute)
        patch.setattr(Redis, "execute_command", execute_command)
        patch.setattr(argon2.PasswordHasher, "verify", verify)
        token = ASKED.set(True)
        yield work
        ASKED.reset(token)


async def log_in(api: Api, tenant: str, name: str, password: str) -> httpx.Response:
    body = {"tenant": tenant, "name": name, "password": password}
    return await api.client.post("/v1/sessions", json=body)


async def reset(api: Api, tenant: str, name: str, _: str) -> httpx.Response:
    body = {"tenant": tenant, "email": f"{name}@example.com"}
    return await api.client.post("/v1/password-resets", json=body)


async def redeem(api: Api, tenant: str, _: str, __: str) -> httpx.Response:
    body = {"tenant": tenant, "token": "x" * 43, "password": PASSWORD}
    return await api.client.post("/v1/password-resets/redeem", json=body)


async def verify_email(api: Api, tenant: str, _: str, __: str) -> httpx.Response:
    body = {"tenant": tenant, "token": "x" * 43}
    return await api.client.post("/v1/email-verifications/redeem", json=body)


@dataclass(frozen=True)
class Town:
    """A tenant with people in every state, and what its passwords' hashes cost."""

    identifier: str
    id: UUID
    cost: Cost
    absent: UUID = field(default_factory=uuid4)

    def tries(self) -> dict[str, tuple[str, str, str]]:
        here = self.identifier
        return {
            "wrong password": (here, "ann", WRONG),
            "absent": (here, "nobody", PASSWORD),
            "locked": (here, "locked", PASSWORD),
            "suspended": (here, "suspended", PASSWORD),
            "inactive": (here, "inactive", PASSWORD),
            "gone": (here, "gone", PASSWORD),
            "failures used up": (here, "guessed", PASSWORD),
            "by the tenant's id": (str(self.id), "bob", WRONG),
            "no tenant": ("absent", "ann", PASSWORD),
            "no tenant of this id": (str(self.absent), "ann", PASSWORD),
            "no tenant can be called so": ("Not An Identifier!", "ann", PASSWORD),
            "no password can be like it": (here, "ann", "x" * 300),
        }


async def settle(api: Api, admin: psycopg.Connection[Any]) -> Town:
    acme = await api.tenant()
    assert acme.scope.tenant is not None
    for name in ("ann", "bob"):
        await _add(acme, name)
    for name in ("locked", "suspended", "inactive"):
        await acme.users.set_status(await _add(acme, name), status=Status(name))
    await acme.users.delete(await _add(acme, "gone"))
    guessed = await _add(acme, "guessed")
    for kind, subject, failures in (
        ("account", account_subject(guessed), MOST_OF_AN_ACCOUNT),
        ("pair", pair_subject("guessed", "203.0.113.1"), TRIES_UNDER_ATTACK),
    ):
        admin.execute(
            "INSERT INTO auth.login_failures (tenant_id, subject, kind, failures, last_failed_at)"
            " VALUES (%s, %s, %s, %s, clock_timestamp())",
            (acme.scope.tenant, subject, kind, failures),
        )
    stored = admin.execute("SELECT password_hash FROM auth.users LIMIT 1").fetchone()
    assert stored is not None
    made = argon2.extract_parameters(stored[0])
    return Town(
        (await acme.tenants.get(acme.scope.tenant)).identifier,
        acme.scope.tenant,
        (made.memory_cost, made.time_cost, made.parallelism),
    )


async def _add(acme: TenantView, name: str) -> UUID:
    user = await acme.users.create(email=f"{name}@example.com", username=name, password=PASSWORD)
    return user.id


@dataclass(frozen=True)
class Told:
    """What a stranger sees of an answer."""

    status: int
    text: str
    headers: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, answer: httpx.Response) -> Told:
        return cls(answer.status_code, answer.text, tuple(sorted(answer.headers.items())))


async def answered(
    api: Api, monkeypatch: pytest.MonkeyPatch, ask: Ask, town: Town
) -> dict[str, tuple[Told, Work]]:
    await ask(api, "absent-too", "ann", WRONG)  # the first of all gives Redis its script
    done: dict[str, tuple[Told, Work]] = {}
    for kind, tried in town.tries().items():
        with counting(monkeypatch) as work:
            answer = await ask(api, *tried)
        done[kind] = Told.of(answer), work
    return done


def assert_alike(done: dict[str, tuple[Told, Work]], status: int, *, writes: bool) -> Work:
    """One answer after one work, which is that of the real route; returns the work.

    Whoever asks says whether it is by the tenant's id or by its identifier: two queries, one each.
    """
    told, usual = done["wrong password"]
    _, by_id = done["by the tenant's id"]
    assert told.status == status, told
    assert [len(trip) for trip in by_id.trips] == [len(trip) for trip in usual.trips]
    statements = [statement for trip in usual.trips for statement in trip]
    assert any("core.enter" in one for one in statements), usual
    assert any("INSERT INTO audit.entries" in one for one in statements) == writes, usual
    assert "EVALSHA" in usual.outside  # the bound on strangers' tries, in Redis
    for kind, (also_told, work) in done.items():
        assert also_told == told, kind
        assert work == (by_id if " id" in kind else usual), kind
    return usual


async def test_E3_a_refused_login_is_the_same_work_for_everybody(
    api: Api, monkeypatch: pytest.MonkeyPatch, layer_databases: Endpoints
) -> None:
    """401 after one argon2 of the usual cost and the same statements: absent, wrong, locked,
    suspended, deleted, guessed too often, by identifier and by id, and in tenants that are not
    there. Where the pair of name and source has to wait, the same answer without argon2."""
    with psycopg.connect(layer_databases.postgres.dsn(Role.ADMIN), autocommit=True) as admin:
        town = await settle(api, admin)
        for _ in range(2):
            done = await answered(api, monkeypatch, log_in, town)
            work = assert_alike(done, 401, writes=True)
            assert work.hashes == [town.cost]
            assert len(work.trips) > 3
        paused = "UPDATE auth.login_failures SET failures = 12, last_failed_at = 'now'"
        assert admin.execute(f"{paused} WHERE kind = 'pair'").rowcount == len(town.tries())
        waiting = await answered(api, monkeypatch, log_in, town)
        assert assert_alike(waiting, 401, writes=True).hashes == []
        assert waiting["absent"][0] == done["absent"][0]  # that one has to wait is told to nobody


@pytest.mark.parametrize(
    ("ask", "status", "writes"),
    [(reset, 202, True), (redeem, 401, False), (verify_email, 401, False)],
)
async def test_E3_letters_are_the_same_work_for_everybody(
    api: Api,
    monkeypatch: pytest.MonkeyPatch,
    layer_databases: Endpoints,
    ask: Ask,
    status: int,
    writes: bool,
) -> None:
    """202 to whoever asks for one, 401 to a token that is made up; what is sent costs the database
    as many statements as what is not, and nothing is hashed."""
    with psycopg.connect(layer_databases.postgres.dsn(Role.ADMIN), autocommit=True) as admin:
        town = await settle(api, admin)
        letters = "SELECT count(*) FROM auth.one_time_tokens"
        for round_ in (1, 2):
            done = await answered(api, monkeypatch, ask, town)
            work = assert_alike(done, status, writes=writes)
            assert work.hashes == []
            sent = admin.execute(letters).fetchone()
            assert sent is not None and (sent[0] > 0) == (ask is reset), round_
