"""Row-level security: what a read costs through a tenant's scope, and what a bulk load does.

The peers have no row security: psycopg's own pool, a transaction a read (its default) and
autocommit, and COPY straight into the table, all as a superuser. Eight tasks read at once; a
reader alone would measure how fast the loop wakes.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import psycopg
import psycopg_pool
from psycopg.types.json import Jsonb

from bench.harness import Figure, Plan, Samples, compare, rounds
from bench.schema import endpoints_of, migrated_template
from bench.server import Databases, open_folder, postgres
from neolayer.engines.endpoints import Database, Role
from neolayer.engines.postgres.copy import copy_rows
from neolayer.tenancy import Principal, Scope, Tenants, open_core

OURS, TRANSACTION, AUTOCOMMIT, COPY = "ours", "transaction", "autocommit", "raw COPY"
_TASKS = 8
_READS = 2_000
_USERS = 2_000
_DOCUMENTS = 10_000
_READ = (
    "SELECT email, username, status, created_at FROM auth.users WHERE tenant_id = %s AND id = %s"
)
_ADD = """
    INSERT INTO auth.users (tenant_id, email, username, password_hash)
    SELECT %s, 'u' || n || '@example.com', 'u' || n, 'x' FROM generate_series(1, %s) AS n
    RETURNING id
"""
_COLUMNS, _TYPES = ("tenant_id", "data_id", "data"), ("uuid", "uuid", "jsonb")
# The same table without row security and without the count of documents.
_TWIN = """
    CREATE TABLE public.documents (LIKE core.tenant_data INCLUDING ALL)
    PARTITION BY HASH (tenant_id);
    ALTER TABLE public.documents ADD FOREIGN KEY (tenant_id) REFERENCES core.tenants (id);
    CREATE TABLE public.documents_0 PARTITION OF public.documents
    FOR VALUES WITH (MODULUS 4, REMAINDER 0);
    CREATE TABLE public.documents_1 PARTITION OF public.documents
    FOR VALUES WITH (MODULUS 4, REMAINDER 1);
    CREATE TABLE public.documents_2 PARTITION OF public.documents
    FOR VALUES WITH (MODULUS 4, REMAINDER 2);
    CREATE TABLE public.documents_3 PARTITION OF public.documents
    FOR VALUES WITH (MODULUS 4, REMAINDER 3);
"""
Read = Callable[[UUID], Awaitable[object]]


@dataclass(slots=True)
class Contenders:
    """Everything opened once; `latencies` gathers each call's seconds by contender."""

    scope: Scope
    users: list[UUID]
    pools: dict[str, psycopg_pool.AsyncConnectionPool]
    superuser: psycopg.AsyncConnection[Any]
    latencies: dict[str, list[float]]

    async def ours(self, user: UUID) -> object:
        return await self.scope.one(_READ, (self.scope.tenant, user))

    async def pooled(self, name: str, user: UUID) -> object:
        async with self.pools[name].connection() as connection:
            cursor = await connection.execute(_READ, (self.scope.tenant, user))
            return await cursor.fetchone()

    async def reads(self, name: str, read: Read) -> float:
        """Reads a second; every one must find its row."""
        todo = iter(range(_READS))

        async def work() -> None:
            for number in todo:
                began = time.perf_counter()
                assert await read(self.users[number % len(self.users)]) is not None
                self.latencies.setdefault(name, []).append(time.perf_counter() - began)

        began = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(_TASKS)))
        return _READS / (time.perf_counter() - began)

    async def copy_in(self) -> float:
        rows = _documents(self.scope.tenant)
        began = time.perf_counter()
        async with self.scope.transaction() as tx:
            assert await tx.copy_in("core.tenant_data", _COLUMNS, _TYPES, rows) == len(rows)
        taken = time.perf_counter() - began
        await self.superuser.execute("TRUNCATE core.tenant_data")
        return len(rows) / taken

    async def raw_copy(self) -> float:
        rows = _documents(self.scope.tenant)
        began = time.perf_counter()
        async with self.superuser.transaction(), self.superuser.cursor() as cursor:
            statement = f"COPY public.documents ({', '.join(_COLUMNS)}) FROM STDIN (FORMAT BINARY)"
            assert await copy_rows(cursor, statement, _TYPES, rows) == len(rows)  # type: ignore[arg-type]
        taken = time.perf_counter() - began
        await self.superuser.execute("TRUNCATE public.documents")
        return len(rows) / taken


def figures(plan: Plan) -> Iterator[Figure]:
    with open_folder() as folder, postgres(folder) as endpoint:
        databases = Databases(endpoint)
        migrated_template(databases)
        with asyncio.Runner() as runner:
            opened = _opened(databases)
            contenders = runner.run(anext(opened))
            yield from _measured(runner, contenders, plan)
            runner.run(opened.aclose())


def _measured(runner: asyncio.Runner, with_: Contenders, plan: Plan) -> Iterator[Figure]:
    def reading(name: str, read: Read) -> Callable[[], float]:
        return lambda: runner.run(with_.reads(name, read))

    reads: dict[str, Read] = {
        OURS: with_.ours,
        TRANSACTION: lambda user: with_.pooled(TRANSACTION, user),
        AUTOCOMMIT: lambda user: with_.pooled(AUTOCOMMIT, user),
    }
    count = plan.pick(6, 20)
    samples = rounds({name: reading(name, read) for name, read in reads.items()}, count)
    yield compare("rls-point-read-vs-transaction", samples, OURS, TRANSACTION)
    yield compare("rls-point-read-vs-autocommit", samples, OURS, AUTOCOMMIT)
    yield compare("rls-point-read-p99", _p99s(with_.latencies, count), OURS, AUTOCOMMIT)
    copies = {
        OURS: lambda: runner.run(with_.copy_in()),
        COPY: lambda: runner.run(with_.raw_copy()),
    }
    yield compare("rls-copy-in", rounds(copies, count), OURS, COPY)


def _p99s(latencies: dict[str, list[float]], count: int) -> Samples:
    """Of each round, in ms; the warm-up does not count."""
    found: Samples = {}
    for name, values in latencies.items():
        per_round = [values[_READS * n : _READS * (n + 1)] for n in range(1, count + 1)]
        found[name] = [statistics.quantiles(each, n=100)[98] * 1000 for each in per_round]
    return found


def _documents(tenant: UUID | None) -> list[tuple[Any, ...]]:
    return [
        (tenant, uuid4(), Jsonb({"n": n, "name": f"document {n}", "tags": ["a", "b"]}))
        for n in range(_DOCUMENTS)
    ]


async def _opened(databases: Databases) -> AsyncGenerator[Contenders]:
    dsn = databases.dsn(Role.ADMIN, Database.CORE)
    async with (
        open_core(endpoints_of(databases.endpoint), size=_TASKS) as core,
        psycopg_pool.AsyncConnectionPool(
            dsn, min_size=_TASKS, max_size=_TASKS, open=False
        ) as default,
        psycopg_pool.AsyncConnectionPool(
            dsn, min_size=_TASKS, max_size=_TASKS, open=False, kwargs={"autocommit": True}
        ) as autocommit,
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as superuser,
    ):
        operator = Principal.operator("bench")
        tenant = await Tenants(core.platform(by=operator)).create(
            name="bench", identifier="bench", tier="enterprise"
        )
        scope = core.scope(tenant.id, by=Principal.user(uuid4()))
        added = await core.scope(tenant.id, by=operator).fetch(_ADD, (tenant.id, _USERS))
        users = [row[0] for row in added]
        for statement in _TWIN.split(";"):
            if statement.strip():
                await superuser.execute(statement)  # type: ignore[arg-type]
        await superuser.execute("VACUUM ANALYZE auth.users")
        pools = {TRANSACTION: default, AUTOCOMMIT: autocommit}
        yield Contenders(scope, users, pools, superuser, {})
