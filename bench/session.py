"""Checks of a session: token to principal with permissions, against the same joins each time."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import cycle, pairwise
from typing import LiteralString

import psycopg

from bench.harness import Figure, Plan, against_aim, compare, rounds
from bench.schema import endpoints_of, migrated_template
from bench.server import Databases, open_folder, postgres
from neolayer.engines.endpoints import Endpoints, Role
from neolayer.identity import AccessCache, Roles, Sessions
from neolayer.tenancy import CoreDatabase, Principal, Scope, open_core

_PEOPLE = 200
_AT_ONCE = 16
_SECONDS = 2.0  # longer than an answer is kept, so that every session is asked for again
_ROLES = ("member", "signer")

# What a check is without a cache: session to person, person to roles, roles to permissions.
_JOINS: LiteralString = """
    SELECT s.id, s.user_id, array_agg(DISTINCT p.name)
    FROM auth.sessions s
    JOIN auth.users u ON (u.tenant_id, u.id) = (s.tenant_id, s.user_id)
    LEFT JOIN auth.user_roles g ON (g.tenant_id, g.user_id) = (s.tenant_id, s.user_id)
        AND (g.expires_at IS NULL OR g.expires_at > now())
    LEFT JOIN auth.role_permissions rp
        ON (rp.scope_id, rp.role_id) = (g.role_scope_id, g.role_id)
    LEFT JOIN auth.permissions p ON p.id = rp.permission_id
    WHERE s.tenant_id = (SELECT core.current_tenant()) AND s.token_hash = %s
        AND s.revoked_at IS NULL AND s.expires_at > now() AND u.status = 'active'
    GROUP BY s.tenant_id, s.id
"""
_Check = Callable[[str], Awaitable[object]]


def figures(plan: Plan) -> Iterator[Figure]:
    count = plan.pick(5, 15)
    with open_folder() as folder, postgres(folder) as endpoint, asyncio.Runner() as runner:
        migrated_template(Databases(endpoint))
        endpoints = endpoints_of(endpoint)
        opened = open_core(endpoints, size=8, application_name="bench")
        core = runner.run(opened.__aenter__())
        try:
            bench = runner.run(_prepare(core))
            with psycopg.connect(endpoint.dsn(Role.ADMIN), autocommit=True) as admin:
                admin.execute("ANALYZE")  # as autovacuum would have done by now
            samples = rounds(
                {
                    "ours": lambda: runner.run(bench.cached()),
                    "cold": lambda: runner.run(bench.cold()),
                    "three joins": lambda: runner.run(bench.joins()),
                },
                count,
            )
            yield compare("session-check", samples, "ours", "three joins")
            yield compare("session-check-cold", samples, "cold", "three joins")
            trips = [float(n) for n in runner.run(_round_trips(endpoints, bench.tokens[:5]))]
            yield against_aim("session-check-round-trips", trips, aim=1.0)
        finally:
            runner.run(opened.__aexit__(None, None, None))


@dataclass(frozen=True, slots=True)
class _Bench:
    """A tenant full of people who are logged in."""

    core: CoreDatabase
    scope: Scope
    tokens: Sequence[str]
    cache: AccessCache

    async def cached(self) -> float:
        """Checks a second through the process's cache, as it lives on."""
        return await self._rate(self.cache.check)

    async def cold(self) -> float:
        """The same where nothing is ever known."""
        return await self._rate(AccessCache(self.core, lifetime_s=0.0).check)

    async def joins(self) -> float:
        """The peer: the same transaction helper and policies, no cache."""

        async def check(token: str) -> object:
            row = await self.scope.one(_JOINS, (sha256(token.encode()).hexdigest(),))
            assert row is not None
            return row[0], row[1], frozenset(row[2])

        return await self._rate(check)

    async def _rate(self, check: _Check) -> float:
        started = time.perf_counter()
        done = await asyncio.gather(
            *(self._ask(check, first, started + _SECONDS) for first in range(_AT_ONCE))
        )
        return sum(done) / (time.perf_counter() - started)

    async def _ask(self, check: _Check, first: int, until: float) -> int:
        tokens = cycle([*self.tokens[first::_AT_ONCE], *self.tokens[:first]])
        done = 0
        while time.perf_counter() < until:
            await check(next(tokens))
            done += 1
            if done % 64 == 0:
                await asyncio.sleep(0)  # a cached check never waits, so that others get a turn
        return done


async def _prepare(core: CoreDatabase) -> _Bench:
    row = await core.platform(by=Principal.operator("bench")).one("SELECT gen_random_uuid()")
    assert row is not None
    scope = core.scope(row[0], by=Principal.operator("bench"))
    await scope.fetch(
        "INSERT INTO core.tenants (id, name, identifier, subscription_tier)"
        " VALUES (%s, 'bench', 'bench', 'enterprise') RETURNING id",
        row,
    )
    people = await scope.fetch(
        "INSERT INTO auth.users (tenant_id, email, username, password_hash)"
        " SELECT %s, n || '@example.com', n::text, 'x' FROM generate_series(1, %s) n RETURNING id",
        (row[0], _PEOPLE),
    )
    cache = AccessCache(core)
    tokens: list[str] = []
    for (person,) in people:
        for role in _ROLES:
            await Roles(scope).grant(role, to=Principal.user(person))
        started = await Sessions(scope, cache).start(person, ip_address="192.0.2.1")
        tokens.append(started.access_token)
    return _Bench(core, scope, tokens, cache)


async def _round_trips(endpoints: Endpoints, tokens: Sequence[str]) -> list[int]:
    """Round trips on the wire of each cold check, as libpq's own trace tells them."""
    counts: list[int] = []
    async with open_core(endpoints, size=1, application_name="bench") as core:
        cache = AccessCache(core)
        for token in tokens:
            with tempfile.TemporaryFile("w+") as trace:
                async with core.connection() as connection:
                    connection.pgconn.trace(trace.fileno())
                await cache.check(token)
                await cache.check(token)
                async with core.connection() as connection:
                    connection.pgconn.untrace()
                trace.seek(0)
                counts.append(turns(trace))
    return counts


def turns(trace: Iterator[str]) -> int:
    """How often the server answered after we had spoken: `time, F or B, length, message` lines."""
    speakers = [line.split("\t")[1] for line in trace if line.count("\t") >= 2]
    return sum(1 for a, b in pairwise(speakers) if (a, b) == ("F", "B"))
