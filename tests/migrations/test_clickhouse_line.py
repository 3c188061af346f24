"""ClickHouse's line in the same history, on a real engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest
from clickhouse_connect.driver.asyncclient import AsyncClient
from tests.fixtures.batches import PlainSnapshot
from tests.fixtures.copies import copy_only

from neolayer.catalogue import ClickHouseCopy
from neolayer.chain.catalogue import CLASSES
from neolayer.engines.clickhouse.client import BOOTSTRAP_DATABASE, connect
from neolayer.engines.endpoints import ClickHouseEndpoint, Endpoints, Role
from neolayer.errors import MigrationError
from neolayer.relay.changes import Relation
from neolayer.relay.sinks.clickhouse import ClickHouseSink
from neolayer.schema.files import Migration, load_migrations, parse_migration
from neolayer.schema.lines import Line
from neolayer.schema.runner import migrate_down, migrate_up
from neolayer.schema.state import schema_version, status

LINES = (Line.CORE, Line.CLICKHOUSE)
COPIES = [(c.table, copy) for c in CLASSES for copy in c.copies if isinstance(copy, ClickHouseCopy)]


async def drop_database(endpoint: ClickHouseEndpoint) -> None:
    client = await connect(endpoint, database=BOOTSTRAP_DATABASE)
    await client.command(f"DROP DATABASE IF EXISTS {endpoint.database}")
    await client.close()


@contextmanager
def new_database(at: Endpoints, server: ClickHouseEndpoint) -> Iterator[Endpoints]:
    endpoint = replace(server, database=f"migrate_{uuid4().hex[:8]}")
    yield replace(at, clickhouse=endpoint)
    asyncio.run(drop_database(endpoint))


@pytest.fixture
def layer(
    module_databases: Endpoints, clickhouse_server: ClickHouseEndpoint
) -> Iterator[Endpoints]:
    """A migrated core, and a ClickHouse database that does not exist yet."""
    with new_database(module_databases, clickhouse_server) as endpoints:
        yield endpoints


@pytest.fixture(scope="module")
def migrated(
    module_databases: Endpoints, clickhouse_server: ClickHouseEndpoint
) -> Iterator[Endpoints]:
    """Both databases as the migrations leave them."""
    with new_database(module_databases, clickhouse_server) as endpoints:
        asyncio.run(migrate_up(endpoints, lines=LINES))
        yield endpoints


@pytest.fixture
async def client(migrated: Endpoints) -> AsyncIterator[AsyncClient]:
    """A client of the migrated database."""
    opened = await connect(migrated.clickhouse)
    yield opened
    await opened.close()


async def rows(client: AsyncClient, text: str) -> list[tuple[object, ...]]:
    return [tuple(row) for row in (await client.query(text)).result_rows]


async def test_up_down_and_up_again(layer: Endpoints) -> None:
    """The database is made, filled, emptied and filled, and equals the committed picture."""
    numbers = [m.number for m in load_migrations() if m.line is Line.CLICKHOUSE]
    later = [m.number for m in load_migrations() if m.line in LINES and m.number >= numbers[0]]
    assert [step.number for step in await migrate_up(layer, lines=LINES)] == numbers
    assert await schema_version(layer, Line.CLICKHOUSE) == numbers[-1]
    steps = await migrate_down(layer, to=str(numbers[0] - 1), lines=LINES)
    assert [step.number for step in steps] == later[::-1]  # one history: the core's later ones too
    assert await schema_version(layer, Line.CLICKHOUSE) is None
    await migrate_up(layer, lines=LINES)
    state = await status(layer, lines=LINES)
    assert state.drift == ()
    assert state.is_current


async def test_a_lost_clickhouse_is_made_anew(layer: Endpoints) -> None:
    """What a database has seen is written in it, so an empty one is migrated from the start."""
    await migrate_up(layer, lines=LINES)
    await drop_database(layer.clickhouse)
    assert await migrate_up(layer, lines=LINES) != []


@pytest.mark.parametrize("boundary", range(4))
async def test_C16_killed_between_statements(layer: Endpoints, boundary: int) -> None:
    """Each statement may run twice; the next run goes on where the last one died."""
    text = (
        "-- migrate:up\n"
        "CREATE TABLE IF NOT EXISTS a (x Int8) ENGINE = MergeTree ORDER BY x;\n"
        "CREATE TABLE IF NOT EXISTS b (x Int8) ENGINE = MergeTree ORDER BY x;\n"
        "-- migrate:down\n"
        "DROP TABLE IF EXISTS b;\n"
        "DROP TABLE IF EXISTS a;\n"
    )
    toy = [parse_migration(text, line=Line.CLICKHOUSE, file="0001_toy.sql")]

    class Killed(Exception):
        pass

    def die(_: Migration, done: int) -> None:
        if done == boundary:
            raise Killed

    with pytest.raises(Killed):
        await migrate_up(layer, lines=[Line.CLICKHOUSE], migrations=toy, on_statement=die)
    steps = await migrate_up(layer, lines=[Line.CLICKHOUSE], migrations=toy)
    assert [step.number for step in steps] == ([] if boundary == 3 else [1])
    opened = await connect(layer.clickhouse)
    tables = await rows(opened, "SHOW TABLES")
    await opened.close()
    assert {"a", "b"} <= {str(name) for (name,) in tables}


async def test_a_refused_statement_is_named(layer: Endpoints) -> None:
    """The error says which file and which statement."""
    text = (
        "-- migrate:up\nCREATE TABLE IF NOT EXISTS a (x Nonsense);\n-- migrate:down none: a test\n"
    )
    toy = [parse_migration(text, line=Line.CLICKHOUSE, file="0001_toy.sql")]
    with pytest.raises(MigrationError, match=r"clickhouse/0001_toy.sql: .*Nonsense"):
        await migrate_up(layer, lines=[Line.CLICKHOUSE], migrations=toy)


@pytest.mark.parametrize(("table", "copy"), COPIES, ids=lambda value: str(value)[:20])
async def test_a_copy_has_the_columns_of_its_source(
    migrated: Endpoints, client: AsyncClient, table: str, copy: ClickHouseCopy
) -> None:
    """By name, and nullable where the source is: otherwise a row could not be copied."""
    with psycopg.connect(migrated.postgres.dsn(Role.ADMIN)) as admin:
        source = {
            str(name): not not_null
            for name, not_null in admin.execute(
                "SELECT attname, attnotnull FROM pg_attribute"
                " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
                (table,),
            )
        }
    described = await rows(client, f"DESCRIBE TABLE {copy.table}")
    found = {str(row[0]): "Nullable(" in str(row[1]) for row in described}
    extra = {"_version", "_deleted", "ingested_at"}
    assert {name: found[name] for name in found.keys() - extra} == source
    assert extra <= found.keys()
    assert set(copy.columns) <= source.keys()


async def test_the_highest_version_wins_and_a_delete_hides(client: AsyncClient) -> None:
    """Out of order and twice: under FINAL one row a key, or none."""
    key = str(uuid4())
    insert = (
        "INSERT INTO logs (network_id, block_number, log_index, address, _version, _deleted)"
        f" VALUES ('{key}', 1, 0, "
    )
    for version, address in ((7, "new"), (5, "old"), (7, "new")):
        await client.command(f"{insert} '{address}', {version}, 0)")
    found = f"SELECT address FROM logs FINAL WHERE network_id = '{key}'"
    assert await rows(client, found) == [("new",)]
    await client.command(f"{insert} '', 9, 1)")
    assert await rows(client, found) == []


async def test_old_blocks_stay_when_they_arrive_late(client: AsyncClient) -> None:
    """The year of retention runs from ingestion: a backfill of 2016 is not a year old."""
    key = str(uuid4())
    await client.command(
        "INSERT INTO blocks (network_id, block_number, block_timestamp, created_at)"
        f" VALUES ('{key}', 1, '2016-01-01 00:00:00', now64(6))"
    )
    await client.command("OPTIMIZE TABLE blocks FINAL")
    found = await rows(client, f"SELECT count() FROM blocks WHERE network_id = '{key}'")
    assert found == [(1,)]


@pytest.mark.parametrize("table", ["blocks", "transactions", "logs", "smart_contracts"])
async def test_a_rebuild_keeps_nobody_another_year(
    migrated: Endpoints, client: AsyncClient, table: str
) -> None:
    """What PostgreSQL took in more than a year ago goes as if it had always been here; what is
    younger stays, and so does the trace of a deletion, which does not say how old its row was."""
    source, copy = next((source, copy) for source, copy in COPIES if copy.table == table)
    key = str(uuid4())
    empty = {"network_id": key, "address": "", "abi": "{}"}

    def row(age_days: int, name: str) -> list[str | None]:
        at = f"{datetime.now(UTC) - timedelta(days=age_days):%Y-%m-%d %H:%M:%S.%f+00}"
        named = dict.fromkeys(copy.key, name) | {"created_at": at, "id": str(uuid4())} | empty
        if "address" in copy.key:
            named["address"] = name
        return [named.get(column) for column in copy.columns]

    schema, _, name = source.partition(".")
    relation = Relation(1, schema, name, copy.columns, (25,) * len(copy.columns))
    snapshot = PlainSnapshot(7, {source: (relation, [row(400, "1"), row(300, "2")])})
    sink = ClickHouseSink(migrated.clickhouse, CLASSES, wait_s=0.0)
    await sink.open(0)
    try:
        assert await copy_only(sink, snapshot, source) == []
        gone = dict.fromkeys(copy.key, "3") | {"network_id": key}
        names, texts = ", ".join(gone), ", ".join(f"'{text}'" for text in gone.values())
        await client.command(
            f"INSERT INTO {table} ({names}, _version, _deleted) VALUES ({texts}, 9, 1)"
        )
    finally:
        await sink.close()
    await client.command(f"OPTIMIZE TABLE {table} FINAL")
    left = f"SELECT toString({copy.key[1]}), _deleted FROM {table} WHERE network_id = '{key}'"
    assert sorted(await rows(client, left)) == [("2", 0), ("3", 1)]
