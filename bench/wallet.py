"""A wallet's transactions and balance under row-level security, and the same join without it.

Both run the room's own code and statements; the peer's run as a superuser, whom no policy holds,
each as a transaction of its own over the same kind of pool. A tenth of all transactions go to one
busy address, which a few wallets watch.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

import psycopg

from bench.harness import Figure, Plan, alone, compare, progress
from bench.schema import NETWORK_ID, TEMPLATE, endpoints_of, migrated_template
from bench.server import Databases, open_folder, postgres
from neolayer.engines.endpoints import Role
from neolayer.engines.postgres.connections import Pool, open_pool
from neolayer.tenancy import Principal, Scope, open_core
from neolayer.wallets import movements

TRANSACTIONS = 240_000
TENANTS = 50
WALLETS_EACH = 100
_PAGE = 50
_OURS, _PEER = "ours", "superuser without policies"
_SEED = 5

_ADDRESS = "'0x' || left(encode(sha256(convert_to('address ' || ({})::text, 'UTF8')), 'hex'), 40)"
_FILL = f"""
INSERT INTO blockchain.transactions (
    network_id, transaction_hash, from_address, to_address, value, gas_price, gas_limit, gas_used,
    nonce, input_data, status, block_number, block_timestamp, transaction_index, transaction_type,
    effective_gas_price
)
SELECT
    %(network)s, '0x' || encode(sha256(convert_to('tx ' || n::text, 'UTF8')), 'hex'),
    {_ADDRESS.format("n::bigint * 7919 %% 20011")},
    {_ADDRESS.format("CASE WHEN n %% 10 = 0 THEN 0 ELSE n::bigint * 104729 %% 20011 END")},
    n, 10, 21000, 21000, n, '0x', CASE WHEN n %% 20 = 0 THEN 'failed' ELSE 'confirmed' END,
    n / 150, '2023-01-01+00'::timestamptz + n / 150 * interval '12 hours', n %% 150, 2, 10
FROM generate_series(1, %(count)s) AS n
"""
_WALLETS = f"""
INSERT INTO blockchain.wallets (tenant_id, network_id, address, wallet_type)
SELECT t.id, %(network)s, {_ADDRESS.format("(t.number * 61 + n) %% 20011")}, 'watch-only'
FROM (SELECT id, row_number() OVER (ORDER BY id) AS number FROM core.tenants) AS t
CROSS JOIN generate_series(1, %(each)s) AS n
"""


@dataclass(frozen=True)
class _Unbound:
    """What `movements` needs of a scope, without a tenant, over a superuser's pool."""

    pool: Pool

    async def fetch(self, query: Any, params: Any = None) -> list[tuple[Any, ...]]:
        async with self.pool.connection() as connection:
            return await (await connection.execute(query, params)).fetchall()

    async def one(self, query: Any, params: Any = None) -> tuple[Any, ...] | None:
        rows = await self.fetch(query, params)
        return rows[0] if rows else None


Ask = Callable[[Scope, UUID], Awaitable[Any]]


async def _page(scope: Scope, wallet: UUID) -> None:
    await movements.transactions(scope, wallet, after=None, limit=_PAGE)


async def _balance(scope: Scope, wallet: UUID) -> None:
    await movements.balance(scope, wallet, as_of_block=None)


def figures(plan: Plan) -> Iterator[Figure]:
    with open_folder() as folder, postgres(folder) as endpoint:
        databases = Databases(endpoint)
        migrated_template(databases)
        tenant, wallets, busy = _fill(databases)
        yield from asyncio.run(_measured(databases, plan, tenant, wallets, busy))


def _fill(databases: Databases) -> tuple[UUID, list[UUID], UUID]:
    """Chain, tenants and wallets; the asking tenant, its wallets, and that of the busy address."""
    with psycopg.connect(databases.dsn(Role.ADMIN, TEMPLATE), autocommit=True) as admin:
        admin.execute("SELECT blockchain.ensure_partitions('2023-01-01+00', '2025-12-31+00')")
        admin.execute(_FILL, {"network": NETWORK_ID, "count": TRANSACTIONS})
        admin.execute(
            "INSERT INTO blockchain.chain_heads (network_id, head_number, covered)"
            " VALUES (%s, %s, int8multirange(int8range(0, %s)))",
            [NETWORK_ID, TRANSACTIONS // 150, TRANSACTIONS // 150 + 1],
        )
        admin.execute(
            "INSERT INTO core.tenants (name, identifier, subscription_tier)"
            " SELECT 'Tenant', 'tenant-' || n, 'enterprise' FROM generate_series(1, %s) AS n",
            [TENANTS],
        )
        admin.execute(_WALLETS, {"network": NETWORK_ID, "each": WALLETS_EACH})
        admin.execute("VACUUM ANALYZE")
        (tenant,) = admin.execute("SELECT id FROM core.tenants LIMIT 1").fetchone() or ()
        (busy,) = (
            admin.execute(
                "INSERT INTO blockchain.wallets (tenant_id, network_id, address, wallet_type)"
                f" VALUES (%s, %s, {_ADDRESS.format('0')}, 'watch-only')"
                " ON CONFLICT ON CONSTRAINT wallets_address_unique DO UPDATE SET name = 'busy'"
                " RETURNING id",
                [tenant, NETWORK_ID],
            ).fetchone()
            or ()
        )
        wallets = admin.execute(
            "SELECT id FROM blockchain.wallets WHERE tenant_id = %s AND id <> %s ORDER BY id",
            [tenant, busy],
        ).fetchall()
    progress(f"  {TRANSACTIONS} transactions, {TENANTS * WALLETS_EACH} wallets")
    return tenant, [row[0] for row in wallets], busy


async def _measured(
    databases: Databases, plan: Plan, tenant: UUID, wallets: Sequence[UUID], busy: UUID
) -> list[Figure]:
    count, asked = plan.pick(5, 15), plan.pick(150, 600)
    dsn = databases.dsn(Role.ADMIN, TEMPLATE)
    found: list[Figure] = []
    async with (
        open_core(endpoints_of(databases.endpoint), size=1, application_name="bench") as core,
        open_pool(dsn, size=1, autocommit=True, application_name="bench") as pool,
    ):
        contenders = {
            _OURS: core.scope(tenant, by=Principal.system("bench")),
            _PEER: cast("Scope", _Unbound(pool)),
        }
        for name, ask, whose, times in (
            ("wallet-page", _page, wallets, asked),
            ("wallet-balance", _balance, wallets, asked),
            ("wallet-busy-page", _page, [busy], asked),
            ("wallet-busy-balance", _balance, [busy], max(asked // 30, 3)),
        ):
            samples, slowest = await _rounds(contenders, ask, whose, times, count)
            found.append(compare(name, samples, _OURS, _PEER))
            found.append(alone(f"{name}-p99", slowest))
    return found


async def _rounds(
    contenders: dict[str, Scope], ask: Ask, wallets: Sequence[UUID], times: int, count: int
) -> tuple[dict[str, list[float]], list[float]]:
    """Questions a second of each contender, in turn; and our 99th percentile in milliseconds."""
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    slowest: list[float] = []
    chance = random.Random(_SEED)
    for number in range(-1, count):
        chosen = [chance.choice(wallets) for _ in range(times)]
        names = list(contenders) if number % 2 == 0 else list(reversed(contenders))
        for name in names:
            took = [await _timed(contenders[name], ask, wallet) for wallet in chosen]
            if number < 0:
                continue  # warms caches and prepares statements
            samples[name].append(len(took) / sum(took))
            if name == _OURS:
                slowest.append(1000 * statistics.quantiles(took, n=100, method="inclusive")[98])
    return samples, slowest


async def _timed(scope: Scope, ask: Ask, wallet: UUID) -> float:
    began = time.perf_counter()
    await ask(scope, wallet)
    return time.perf_counter() - began
