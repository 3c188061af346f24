"""The audit trail: what an entry costs its transaction, and how fast entries are sealed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any, LiteralString
from uuid import uuid4

import psycopg
from psycopg.types.json import Jsonb

from bench.harness import Figure, Plan, alone, compare, rounds
from bench.schema import endpoints_of
from bench.server import open_folder, postgres
from neolayer import audit
from neolayer.audit import entries
from neolayer.audit.sealer import Sealer
from neolayer.engines.endpoints import Endpoints, Role
from neolayer.engines.postgres.parameters import Encoded
from neolayer.schema.lines import Line
from neolayer.schema.runner import migrate_up
from neolayer.tenancy import Principal, Scope, Transaction, open_core

WITH, WITHOUT, BARE = "write and entry", "the write alone", "write and a bare row"
ONE, MANY = "writers of one tenant", "writers of a tenant each"
_WRITERS = 8
_SEAL_EVERY_S = 0.25
_WRITE = "INSERT INTO core.tenant_data (tenant_id, data_id, data) VALUES (%s, %s, %s)"
_DOCUMENT = {"name": "Ann", "address": {"street": "1 Main Street", "city": "Springfield"}, "n": 7}
_ENTRY = audit.Entry(
    "UPDATE",
    "document",
    "7",
    {"fields": ["name", "address"]},
    ip_address="203.0.113.7",
    user_agent="Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
)
# An entry's columns and defaults without key, index, check and policy: what any row costs that a
# statement of its own stores.
_BARE_TABLE = """
CREATE TABLE audit.bare (LIKE audit.entries INCLUDING DEFAULTS);
GRANT INSERT ON audit.bare TO neolayer_app
"""
_BARE_ROW: LiteralString = entries.QUERIES.append_entry.replace("audit.entries", "audit.bare")
_BACKLOG = """
INSERT INTO audit.entries (tenant_id, principal, action, resource, resource_id, changes, success)
SELECT (%s::uuid[])[1 + n %% 8], 'operator:bench', 'UPDATE', 'document', n::text,
    '{"fields": ["name", "address"]}', true
FROM generate_series(1, %s) n
"""
_LAG = """
SELECT percentile_cont(0.99) WITHIN GROUP (
    ORDER BY extract(epoch FROM sealed_at - occurred_at)::float8 * 1000
)
FROM audit.entries WHERE resource_id = '7'
"""


def figures(plan: Plan) -> Iterator[Figure]:
    with open_folder() as folder, postgres(folder) as endpoint:
        endpoints = endpoints_of(endpoint)
        asyncio.run(migrate_up(endpoints, lines=[Line.CORE]))
        with contextlib.closing(_Scene(endpoints)) as scene:
            yield from _figures(scene, plan)


def _figures(scene: _Scene, plan: Plan) -> Iterator[Figure]:
    one, many = scene.scopes[:1], scene.scopes
    contenders = {
        WITH: lambda: scene.run(_rate(one, 25)),
        WITHOUT: lambda: scene.run(_rate(one, 25, write=_write_alone)),
        BARE: lambda: scene.run(_rate(one, 25, write=_write_bare)),
    }
    samples = rounds(contenders, plan.pick(60, 300))
    yield compare("audit-append", samples, WITH, WITHOUT)
    yield compare("audit-append-floor", samples, BARE, WITHOUT)
    contenders = {
        ONE: lambda: scene.run(_rate(one * _WRITERS, 10)),
        MANY: lambda: scene.run(_rate(many, 10)),
    }
    samples = rounds(contenders, plan.pick(30, 120))
    yield compare("audit-writers-of-one-tenant", samples, ONE, MANY)
    scene.empty()
    yield alone("audit-sealing", [scene.sealing(20_000) for _ in range(plan.pick(3, 6))])
    scene.empty()
    yield alone("audit-seal-lag-p99", [scene.lag(plan.pick(5, 30))])


class _Scene:
    """Tenants, and connections that stay open between the rounds."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._tenants = [uuid4() for _ in range(_WRITERS)]
        with self._admin() as admin:
            for tenant in self._tenants:
                admin.execute(
                    "INSERT INTO core.tenants (id, name, identifier, subscription_tier)"
                    " VALUES (%s, 'bench', %s, 'enterprise')",
                    (tenant, f"t{tenant}"),
                )
            admin.execute(_BARE_TABLE)
        self._runner = asyncio.Runner()
        self._opened = contextlib.AsyncExitStack()
        self.scopes = self._runner.run(self._open())

    async def _open(self) -> list[Scope]:
        database = open_core(self._endpoints, size=_WRITERS, application_name="bench")
        core = await self._opened.enter_async_context(database)
        ours = Principal.operator("bench")
        return [core.scope(tenant, by=ours) for tenant in self._tenants]

    def close(self) -> None:
        self._runner.run(self._opened.aclose())
        self._runner.close()

    def run(self, work: Coroutine[Any, Any, float]) -> float:
        return self._runner.run(work)

    def sealing(self, count: int) -> float:
        """Entries sealed a second, out of a backlog of eight tenants."""
        with self._admin() as admin:
            admin.execute(_BACKLOG, (self._tenants, count))

        async def seal() -> float:
            sealer = Sealer(self._endpoints.postgres.dsn(Role.AUDITOR))
            started = time.perf_counter()
            assert await sealer.seal_waiting() == count
            elapsed = time.perf_counter() - started
            await sealer.close()
            return count / elapsed

        return self._runner.run(seal())

    def lag(self, seconds: float) -> float:
        """The 99th percentile of an entry's wait for its seal, under eight writers, in ms."""

        async def write_and_seal() -> None:
            sealer = Sealer(self._endpoints.postgres.dsn(Role.AUDITOR))
            ends = time.monotonic() + seconds
            sealing = asyncio.create_task(_seal_until(sealer, ends + 2 * _SEAL_EVERY_S))
            await asyncio.gather(*(_write_until(scope, ends) for scope in self.scopes))
            await sealing
            await sealer.close()

        self._runner.run(write_and_seal())
        with self._admin() as admin:
            row = admin.execute(_LAG).fetchone()
        assert row is not None
        return float(row[0])

    def empty(self) -> None:
        with self._admin() as admin:
            admin.execute("SET session_replication_role = replica")
            admin.execute("TRUNCATE audit.entries, audit.heads, core.tenant_data")

    def _admin(self) -> psycopg.Connection[tuple[Any, ...]]:
        dsn = self._endpoints.postgres.dsn(Role.ADMIN, "neolayer")
        return psycopg.connect(dsn, autocommit=True)


async def _write_alone(scope: Scope) -> None:
    async with scope.transaction() as tx:
        await tx.execute(_WRITE, (tx.tenant, uuid4(), Jsonb(_DOCUMENT)))


async def _write(scope: Scope) -> None:
    async with scope.transaction() as tx:
        await tx.execute(_WRITE, (tx.tenant, uuid4(), Jsonb(_DOCUMENT)))
        audit.append(tx, _ENTRY)


class _Elsewhere:
    """A transaction whose entries go into the bare table."""

    def __init__(self, tx: Transaction) -> None:
        self.tenant, self.by, self._tx = tx.tenant, tx.by, tx

    def defer(self, query: LiteralString, params: Encoded) -> None:
        del query
        self._tx.defer(_BARE_ROW, params)


async def _write_bare(scope: Scope) -> None:
    async with scope.transaction() as tx:
        await tx.execute(_WRITE, (tx.tenant, uuid4(), Jsonb(_DOCUMENT)))
        audit.append(_Elsewhere(tx), _ENTRY)


async def _rate(
    scopes: Sequence[Scope], count: int, *, write: Callable[[Scope], Awaitable[None]] = _write
) -> float:
    """Transactions a second, each scope a writer that does `count` one after another."""

    async def writer(scope: Scope) -> None:
        for _ in range(count):
            await write(scope)

    started = time.perf_counter()
    await asyncio.gather(*map(writer, scopes))
    return count * len(scopes) / (time.perf_counter() - started)


async def _write_until(scope: Scope, ends: float) -> None:
    while time.monotonic() < ends:
        await _write(scope)


async def _seal_until(sealer: Sealer, ends: float) -> None:
    while time.monotonic() < ends:
        await sealer.seal_waiting()
        await asyncio.sleep(_SEAL_EVERY_S)
