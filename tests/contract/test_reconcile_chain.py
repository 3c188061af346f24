"""`neolayer reconcile` over the layer's real schema: an ingested chain, every store, by command."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import secrets
import shlex
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from textwrap import indent
from typing import Any

import psycopg
import pytest
import redis
from tests.fixtures.fix_relay import clickhouse_statements, flushed
from tests.fixtures.patience import PATIENCE, PATIENCE_S

from neolayer.catalogue import CacheCopy, ClickHouseCopy
from neolayer.chain.cache import TransactionCache
from neolayer.chain.catalogue import CLASSES
from neolayer.cli import main, root
from neolayer.cli import query as query_command
from neolayer.cli import reconcile as command
from neolayer.cli import where as where_command
from neolayer.engines.endpoints import ClickHouseEndpoint, Endpoints, RedisEndpoint, Role
from neolayer.engines.postgres.connections import connect
from neolayer.engines.redis.client import connect as connect_redis
from neolayer.errors import InvalidInput
from neolayer.face import open_at
from neolayer.freshness import stores_at, wait_for
from neolayer.insight import demonstration
from neolayer.relay.run import run as run_relay
from neolayer.relay.where import class_of
from neolayer.relay.where import where as look
from neolayer.schema.runner import migrate_up
from neolayer.settings import RelaySettings, Settings
from neolayer.tenancy import Principal, Tenants, open_core

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
    for name, count in (("_BLOCKS", 12), ("_PER_BLOCK", 10), ("_FORK", 8)):
        monkeypatch.setattr(demonstration, name, count)
    await demonstration.show_synthetic(endpoints, lambda _: None)
    for _ in range(2):  # nothing is cached up to where the cache began: the log moves on from there
        with psycopg.connect(endpoints.postgres.dsn(Role.ADMIN), autocommit=True) as admin:
            admin.execute("UPDATE blockchain.networks SET is_active = is_active")
            await wait_for(flushed(admin), endpoints, timeout=PATIENCE)
    yield endpoints
    stop.set()
    await asyncio.wait_for(task, PATIENCE_S)


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


@pytest.fixture
def run_where(
    layer: Endpoints, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Any]:
    monkeypatch.setattr(where_command, "endpoints", lambda settings: layer)
    monkeypatch.setenv("COLUMNS", "200")

    def called(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(("where", *arguments))
        said = capfd.readouterr()
        return int(str(stopped.value.code or 0)), said.out, said.err

    async def elsewhere(*arguments: str) -> tuple[int, str, str]:
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
    assert rows["blockchain.transactions", "clickhouse"] > 100
    assert rows["blockchain.transactions", "redis"] == 3

    network, first = hashes[0]
    await clickhouse_statements(
        layer.clickhouse,
        "ALTER TABLE blocks DELETE WHERE block_number BETWEEN 3 AND 5 SETTINGS mutations_sync = 2",
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
            {"kind": "missing", "key": [network, str(number)]} for number in (3, 4, 5)
        ],
        "blockchain.transactions": [
            {"kind": "differing", "key": [network, first]},
            {"kind": "stale", "key": [network, hashes[1][1]]},
        ],
    }
    code, out = await run("--json", "--sink", "clickhouse", "--deep", "--table", "transactions")
    (deep,) = json.loads(out)
    assert [one["columns"] for one in deep["keys"]] == [["value"], ["status", "updated_at"]]
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


async def test_where_shows_every_copy_of_a_row(
    layer: Endpoints, run_where: Callable[..., Any]
) -> None:
    """A transaction in three engines; altered, uncached and left behind, each said as it is."""
    dsn = layer.postgres.dsn(Role.ADMIN, "neolayer")
    async with await connect(dsn, autocommit=True, application_name="tests") as connection:
        cursor = await connection.execute(
            "SELECT network_id::text, transaction_hash FROM blockchain.transactions"
            " ORDER BY transaction_hash LIMIT 2"
        )
        (network, first), (_, second) = await cursor.fetchall()
        client = connect_redis(layer.redis)
        assert await TransactionCache(connection, client).transaction("synthetic", first)
        await client.aclose()
        copies = (await located(run_where, "transaction", first.upper().replace("0X", "0x")))[0]
        assert copies == {"postgres": "same", "clickhouse": "same", "redis": "same"}

        await clickhouse_statements(
            layer.clickhouse,
            f"ALTER TABLE transactions UPDATE nonce = 77 WHERE transaction_hash = '{second}'"
            " SETTINGS mutations_sync = 2",
            "INSERT INTO blocks SELECT * REPLACE (99999 AS block_number) FROM blocks FINAL LIMIT 1",
        )
        copies = (await located(run_where, "transactions", second))[0]
        assert copies == {"postgres": "same", "clickhouse": "differs", "redis": "not cached"}
        with redis.Redis.from_url(layer.redis.url) as strange:
            strange.hset(f"transaction:{network}:{second}", "a", "b")
        copies = (await located(run_where, "transactions", second))[0]
        assert copies["redis"] == "differs"
        _, out, _ = await run_where("transactions", second)
        assert "redis: a hash lies there" in out
        copies = (await located(run_where, "block", "99999"))[0]
        assert copies == {"postgres": "missing", "clickhouse": "differs"}

    code, out, _ = await run_where("transaction", first, "--values", "--json")
    (row,) = json.loads(out)
    assert code == 0 and row["key"]["network_id"] == network
    assert row["values"]["transaction_hash"] == first
    assert all(copy["position"].startswith("neolayer:1:") for copy in row["copies"])
    # The server's own housekeeping writes log at any moment.
    assert all(0 <= copy["lag_bytes"] < 1 << 20 for copy in row["copies"])
    assert row["copies"][0]["place"].startswith("neolayer.blockchain.transactions_")
    code, _, error = await run_where("transaction", "0x00")
    assert code == 1 and "no row of transactions is known by '0x00'" in error
    code, _, error = await run_where("block", "3", "--network", "nosuch")
    assert code == 2 and "network 'nosuch' is not known" in error
    code, _, error = await run_where("tenant", "acme", "--network", "synthetic")
    assert code == 2 and "tenants are on no network" in error
    code, _, error = await run_where("nonsense", "1")
    assert code == 2 and "smart_contracts" in error
    code, _, error = await run_where("audit_entry", "1")
    assert code == 1 and "no row of audit_entries" in error
    with pytest.raises(InvalidInput, match="is not text"):
        await look(layer, class_of("blocks", CLASSES), "\udce9")


async def test_where_says_of_a_row_that_the_store_may_have_let_go_of_that_it_expired(
    layer: Endpoints, run_where: Callable[..., Any]
) -> None:
    """As reconcile, which does not compare it: nobody looks for what has gone as it should."""
    dsn = layer.postgres.dsn(Role.ADMIN, "neolayer")
    async with await connect(dsn, application_name="tests") as connection:
        await connection.execute(
            "UPDATE blockchain.blocks SET created_at = now() - interval '2 years'"
            " WHERE block_number = 3"
        )
    clickhouse = layer.clickhouse
    await clickhouse_statements(clickhouse, "TRUNCATE TABLE blocks")
    copies = (await located(run_where, "block", "3"))[0]
    assert copies == {"postgres": "same", "clickhouse": "expired"}


async def test_what_cannot_be_compared_is_not_called_equal(run: Callable[..., Any]) -> None:
    """Messages, and a table of which the store that is asked for has no copies."""
    for arguments in (("--table", "events"), ("--table", "blocks", "--sink", "redis")):
        code, out = await run(*arguments)
        assert code == 2 and out == "", arguments


async def test_where_keeps_to_the_tenant_and_shows_no_secret(
    layer: Endpoints, run_where: Callable[..., Any]
) -> None:
    """One tenant does not find another's people; what proves who one is, is never shown."""
    async with open_core(layer, application_name="tests") as core:
        tenants = Tenants(core.platform(by=Principal.operator("tests")))
        for name in ("acme", "globex"):
            await tenants.create(name=name, identifier=name, tier="pro")
    with psycopg.connect(layer.postgres.dsn(Role.ADMIN, "neolayer"), autocommit=True) as admin:
        admin.execute("SET session_replication_role = replica")
        admin.execute(
            "INSERT INTO auth.users"
            " (tenant_id, email, username, password_hash, mfa_secret, mfa_key_id)"
            " SELECT id, 'ann@example.com', 'ann', 'H-CANARY', 'S-CANARY', 'k' FROM core.tenants"
            " WHERE identifier = 'acme'"
        )
    code, out, _ = await run_where("user", "ann", "--tenant", "acme", "--values", "--json")
    assert code == 0 and "CANARY" not in out
    assert json.loads(out)[0]["values"]["email"] == "ann@example.com"
    code, out, _ = await run_where("user", "ann@example.com", "--values")
    assert code == 0 and "CANARY" not in out
    code, _, error = await run_where("user", "ann", "--tenant", "globex")
    assert code == 1 and "no row of users" in error
    code, out, _ = await run_where("tenant", "acme", "--tenant", "globex")
    assert code == 1


async def located(run_where: Callable[..., Any], *arguments: str) -> list[dict[str, str]]:
    """Each copy's state, once no store is behind."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            code, out, error = await run_where(*arguments, "--json")
            assert code == 0, error
            rows = [{one["engine"]: one["state"] for one in r["copies"]} for r in json.loads(out)]
            if not any("behind" in row.values() for row in rows):
                return rows


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


PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "reconcile.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


async def test_the_how_to_reads_its_own_writes(layer: Endpoints, tmp_path: Path) -> None:
    """The Python of docs/how-to/reconcile.md, as it stands there."""
    (code,) = blocks("python")
    names: dict[str, Any] = {}
    arguments = "platform, tenant, password, transaction_hash, print"
    exec(f"async def run({arguments}):\n{indent(code, '    ')}", names)
    printed: list[tuple[Any, ...]] = []
    async with open_at(Settings(data_dir=tmp_path), layer) as platform:
        tenant = await platform.tenants.create(name="Acme", identifier="acme", tier="pro")
        dsn = layer.postgres.dsn(Role.ADMIN, "neolayer")
        async with await connect(dsn, application_name="tests") as connection:
            found = await connection.execute(
                "SELECT transaction_hash FROM blockchain.transactions LIMIT 1"
            )
            (transaction_hash,) = await found.fetchone() or ("",)
        await names["run"](
            platform, tenant, "a long pass phrase", transaction_hash, lambda *w: printed.append(w)
        )
    ((reached, transaction, position),) = printed
    assert (
        set(reached) == set(stores_at(layer)) and transaction.transaction_hash == transaction_hash
    )
    assert position is not None


def test_the_commands_of_the_how_to_are_there() -> None:
    """Every command of the page parses."""
    lines = [line.partition("#")[0] for block in blocks("sh") for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.strip()]
    assert len(commands) == 10
    assert query_command.query and command.reconcile and where_command.where
    for arguments in commands:
        _, _, unused = root.app.parse_args(arguments, exit_on_error=False, print_error=False)
        assert not unused
