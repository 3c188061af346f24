"""`neolayer reconcile` over the layer's real schema: an ingested chain, every store, by command."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis
from tests.fixtures.fix_relay import clickhouse_statements

from neolayer.catalogue import CacheCopy, ClickHouseCopy
from neolayer.chain.cache import TransactionCache
from neolayer.chain.catalogue import CLASSES
from neolayer.cli import main
from neolayer.cli import reconcile as command
from neolayer.engines.endpoints import ClickHouseEndpoint, Endpoints, RedisEndpoint, Role
from neolayer.engines.postgres.connections import connect
from neolayer.engines.redis.client import connect as connect_redis
from neolayer.insight import demonstration
from neolayer.relay.run import run as run_relay
from neolayer.schema.runner import migrate_up
from neolayer.settings import RelaySettings

Run = Callable[..., tuple[int, list[dict[str, Any]]]]


@pytest.fixture
async def layer(
    layer_databases: Endpoints,
    clickhouse_server: ClickHouseEndpoint,
    redis_server: RedisEndpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Endpoints]:
    """A layer with a synthetic chain in it, reorganisation included, and its relay running."""
    clickhouse = dataclasses.replace(clickhouse_server, database=f"neolayer_{secrets.token_hex(4)}")
    endpoints = dataclasses.replace(layer_databases, clickhouse=clickhouse, redis=redis_server)
    await migrate_up(endpoints)
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushdb()
    stop = asyncio.Event()
    settings = RelaySettings(batch_seconds=0.05)
    task = asyncio.create_task(run_relay(endpoints, settings, stop, classes=CLASSES))
    monkeypatch.setattr(demonstration, "settled", _nothing_more)
    await demonstration.show_synthetic(endpoints, lambda _: None)
    yield endpoints
    stop.set()
    await asyncio.wait_for(task, 20)


async def _nothing_more(*_: object) -> None:
    """The demonstration would go on to compare sums."""


@pytest.fixture
def run(
    layer: Endpoints, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Any]:
    monkeypatch.setattr(command, "endpoints", lambda settings: layer)
    monkeypatch.setenv("COLUMNS", "200")

    def called(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stopped:
            main(("reconcile", *arguments))
        return int(str(stopped.value.code or 0)), capfd.readouterr().out

    async def elsewhere(*arguments: str) -> tuple[int, str]:
        """In a thread of its own, as the command runs its own loop."""
        return await asyncio.to_thread(called, *arguments)

    return elsewhere


async def test_an_ingested_chain_is_equal_everywhere_and_faults_are_named(
    layer: Endpoints, run: Callable[..., Any]
) -> None:
    """Every declared copy is compared; each planted fault is found by key, and repaired."""
    dsn = layer.postgres.dsn(Role.ADMIN, "neolayer")
    async with await connect(dsn, autocommit=True, application_name="tests") as connection:
        cursor = await connection.execute(
            "SELECT network_id::text, transaction_hash FROM blockchain.transactions"
            " ORDER BY transaction_hash LIMIT 3"
        )
        hashes = await cursor.fetchall()
        client = connect_redis(layer.redis)
        cache = TransactionCache(connection, client)
        for _, transaction_hash in hashes:
            assert await cache.transaction("synthetic", transaction_hash) is not None
        await client.aclose()

    code, out = await run("--json")
    reports = json.loads(out)
    compared = {(one["table"], one["store"]) for one in reports}
    assert compared == {
        (one.table, "redis" if isinstance(copy, CacheCopy) else "clickhouse")
        for one in CLASSES
        for copy in one.copies
        if isinstance(copy, CacheCopy | ClickHouseCopy)
    }
    assert code == 0 and all(one["differences"] == one["unsettled"] == 0 for one in reports)
    rows = {(one["table"], one["store"]): one["rows"] for one in reports}
    assert rows["blockchain.transactions", "clickhouse"] > 1000
    assert rows["blockchain.transactions", "redis"] == 3

    network, first = hashes[0]
    await clickhouse_statements(
        layer.clickhouse,
        "ALTER TABLE blocks DELETE WHERE block_number BETWEEN 10 AND 12"
        " SETTINGS mutations_sync = 2",
        f"ALTER TABLE transactions UPDATE value = value + 1 WHERE transaction_hash = '{first}'"
        " SETTINGS mutations_sync = 2",
        "INSERT INTO transactions SELECT * REPLACE (toDateTime64('2020-01-01', 6) AS updated_at,"
        " 'failed' AS status, _version + 1 AS _version) FROM transactions FINAL"
        f" WHERE transaction_hash = '{hashes[1][1]}'",
    )
    code, out = await run("--json", "--sink", "clickhouse")
    found = {one["table"]: one["keys"] for one in json.loads(out) if one["differences"]}
    assert code == 1
    assert found == {
        "blockchain.blocks": [
            {"kind": "missing", "key": [network, str(number)]} for number in (10, 11, 12)
        ],
        "blockchain.transactions": [
            {"kind": "differing", "key": [network, first]},
            {"kind": "stale", "key": [network, hashes[1][1]]},
        ],
    }
    code, out = await run("--repair")
    assert code == 0
    assert "blockchain.blocks in clickhouse: 3 differences, 3 repaired as of neolayer:1:" in out
    assert f"  stale: {network} {hashes[1][1]}" in out
    code, out = await run("--table", "transactions")
    assert code == 0
    assert [line[:54] for line in out.splitlines()] == [
        "blockchain.transactions in clickhouse: 0 differences a",
        "blockchain.transactions in redis: 0 differences as of ",
    ]


async def test_a_store_that_stands_still_is_not_compared(
    layer_databases: Endpoints,
    clickhouse_server: ClickHouseEndpoint,
    redis_server: RedisEndpoint,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Without a relay nobody is told a difference that is only lag: the code is 4."""
    clickhouse = dataclasses.replace(clickhouse_server, database=f"neolayer_{secrets.token_hex(4)}")
    endpoints = dataclasses.replace(layer_databases, clickhouse=clickhouse, redis=redis_server)
    await migrate_up(endpoints)
    monkeypatch.setattr(command, "endpoints", lambda settings: endpoints)

    def called() -> int:
        with pytest.raises(SystemExit) as stopped:
            main(("reconcile", "--table", "blocks", "--wait", "0"))
        return int(str(stopped.value.code))

    assert await asyncio.to_thread(called) == 4
    assert "clickhouse is at nothing yet" in capfd.readouterr().err
