"""The relay over the layer's real schema: what the catalogue declares is what both sides have."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import psycopg
import pytest
import redis
from tests.fixtures.fix_relay import flushed
from tests.fixtures.patience import PATIENCE, PATIENCE_S

from neolayer.catalogue import ClickHouseCopy
from neolayer.chain.catalogue import CLASSES
from neolayer.engines.clickhouse.client import connect
from neolayer.engines.endpoints import ClickHouseEndpoint, Endpoints, RedisEndpoint, Role
from neolayer.freshness import NotFresh, wait_for
from neolayer.position import Position
from neolayer.relay.run import run
from neolayer.relay.status import relay_status
from neolayer.schema.runner import migrate_up
from neolayer.settings import RelaySettings

NETWORK = "00000000-0000-0000-0000-000000000001"
NETWORK_ROW = f"""INSERT INTO blockchain.networks (id, name, chain_id, network_type)
VALUES ('{NETWORK}', 'synthetic', 1337, 'evm')"""
TRANSACTIONS = f"""INSERT INTO blockchain.transactions
    (network_id, transaction_hash, from_address, value, status, block_number, block_timestamp)
SELECT '{NETWORK}', '0x' || lpad(to_hex(g), 64, '0'), '0x' || lpad(to_hex(g), 40, '0'),
    (2::numeric ^ 256) - g, 'confirmed', g, '2021-01-01'::timestamptz + g * interval '1 day'
FROM generate_series(1, 500) g"""
LOGS = f"""INSERT INTO blockchain.logs (network_id, block_number, log_index, block_timestamp,
    transaction_hash, transaction_index, address, data)
SELECT '{NETWORK}', g, 0, '2021-01-01'::timestamptz + g * interval '1 day',
    '0x' || lpad(to_hex(g), 64, '0'), 0, '0x' || lpad(to_hex(g), 40, '0'), '0x'
FROM generate_series(1, 500) g"""


@pytest.fixture
async def layer(
    layer_databases: Endpoints, clickhouse_server: ClickHouseEndpoint, redis_server: RedisEndpoint
) -> Endpoints:
    """All migrated databases, ClickHouse's too, and Redis."""
    clickhouse = dataclasses.replace(clickhouse_server, database=f"neolayer_{secrets.token_hex(4)}")
    endpoints = dataclasses.replace(layer_databases, clickhouse=clickhouse, redis=redis_server)
    await migrate_up(endpoints)
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushdb()
    return endpoints


@pytest.fixture
async def relaying(layer: Endpoints) -> AsyncIterator[Endpoints]:
    stop = asyncio.Event()
    settings = RelaySettings(batch_seconds=0.05)
    task = asyncio.create_task(run(layer, settings, stop, classes=CLASSES))
    yield layer
    stop.set()
    await asyncio.wait_for(task, PATIENCE_S)


def write(endpoints: Endpoints, *statements: str) -> Position:
    with psycopg.connect(endpoints.postgres.dsn(Role.ADMIN), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)  # type: ignore[arg-type]
        return flushed(connection)


async def arrives(endpoints: Endpoints, position: Position) -> None:
    await wait_for(position, endpoints, timeout=PATIENCE)


def columns_of(endpoints: Endpoints, table: str) -> list[str]:
    schema, name = table.split(".")
    query = """SELECT column_name FROM information_schema.columns
    WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position"""
    with psycopg.connect(endpoints.postgres.dsn(Role.ADMIN)) as connection:
        return [name for (name,) in connection.execute(query, (schema, name)).fetchall()]


async def copied_columns(endpoints: Endpoints, table: str) -> list[str]:
    client = await connect(endpoints.clickhouse)
    try:
        result = await client.query(f"DESCRIBE TABLE {table}")
        return [row[0] for row in result.result_rows]
    finally:
        await client.close()


def clickhouse_copies() -> Iterator[tuple[str, ClickHouseCopy]]:
    for one in CLASSES:
        for copy in one.copies:
            if isinstance(copy, ClickHouseCopy):
                yield one.table, copy


async def test_the_catalogue_the_tables_and_their_copies_agree(layer: Endpoints) -> None:
    """Every column of a copied table is declared, in order, and its copy has it."""
    for table, copy in clickhouse_copies():
        assert list(copy.columns) == columns_of(layer, table)
        own = [*copy.columns, "_version", "_deleted", "ingested_at"]
        assert await copied_columns(layer, copy.table) == own


async def answer(endpoints: Endpoints, query: str) -> list[tuple[object, ...]]:
    client = await connect(endpoints.clickhouse, settings={"final": "1"})
    try:
        return [tuple(row) for row in (await client.query(query)).result_rows]
    finally:
        await client.close()


async def test_partitions_made_late_and_sums_beyond_64_bits(relaying: Endpoints) -> None:
    """Rows that wait in a default partition and move to their year stay one row each, exactly."""
    position = write(relaying, NETWORK_ROW, TRANSACTIONS, LOGS)
    await arrives(relaying, position)
    moved = write(
        relaying,
        "SELECT blockchain.ensure_partitions('2021-01-01', '2022-12-31')",
        f"DELETE FROM blockchain.logs WHERE block_number > 400 AND network_id = '{NETWORK}'",
        "UPDATE blockchain.transactions SET confirmation_count = 64, block_timestamp ="
        " block_timestamp + interval '1 year' WHERE block_number % 2 = 0",
    )
    await arrives(relaying, moved)
    total = 500 * 2**256 - sum(range(1, 501))
    exact = await answer(relaying, "SELECT value, confirmation_count FROM transactions")
    assert len(exact) == 500 and sum(int(str(value)) for value, _ in exact) == total
    assert sum(int(str(count)) for _, count in exact) == 250 * 64
    assert await answer(relaying, "SELECT count() FROM logs") == [(400,)]
    assert await answer(relaying, "SELECT name FROM networks") == [("synthetic",)]


async def test_status_and_freshness_say_how_far_each_store_is(layer: Endpoints) -> None:
    """Before the first start nothing is there; while it runs the lag goes to nothing."""
    position = write(layer, NETWORK_ROW)
    before = await relay_status(layer)
    assert not before.core.exists and not before.running
    with pytest.raises(NotFresh, match="clickhouse is at nothing yet"):
        await wait_for(position, layer, timeout=timedelta(0))
    stop = asyncio.Event()
    task = asyncio.create_task(run(layer, RelaySettings(), stop, classes=CLASSES))
    await arrives(layer, position)
    during = await relay_status(layer)
    assert during.running and during.core.confirmed is not None
    assert {sink.name for sink in during.sinks if sink.position and sink.position >= position} == {
        "clickhouse",
        "redis",
    }
    stop.set()
    await asyncio.wait_for(task, PATIENCE_S)
