"""A table of ClickHouse that is gone or lacks a column: the cause is told, and a way back."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import secrets
from collections.abc import AsyncIterator

import psycopg
import pytest
import structlog
from tests.contract.test_relay_operations import TABLE, error_of, hint_of, rebuilt
from tests.fixtures.fix_relay import COPIES, RelayScene, clickhouse_statements
from tests.fixtures.fix_relay_operations import (
    desk_at,
    eventually,
    relaying_with_desk,
    tables,
)
from tests.fixtures.patience import PATIENCE, PATIENCE_S

from neolayer.chain.catalogue import CLASSES
from neolayer.engines.endpoints import ClickHouseEndpoint, Endpoints, RedisEndpoint, Role
from neolayer.errors import RelayError
from neolayer.freshness import NotFresh, Store
from neolayer.position import Position
from neolayer.relay.comparing import stores
from neolayer.relay.comparing.report import TableReport
from neolayer.relay.comparing.stores import reconcile
from neolayer.relay.operations import watch
from neolayer.relay.operations.desk import desk_of
from neolayer.relay.run import run as run_relay
from neolayer.schema.lines import Line
from neolayer.schema.runner import migrate_up
from neolayer.schema.state import status
from neolayer.settings import RelaySettings

ROWS = "INSERT INTO accounts (id, owner) SELECT g, 'owner' FROM generate_series({}, {}) g"
DAMAGES = {
    "DROP TABLE accounts": "ClickHouse has no table accounts",
    "ALTER TABLE accounts DROP COLUMN note": "table accounts of ClickHouse has no column 'note'",
    "ALTER TABLE accounts RENAME COLUMN note TO remark": (
        "table accounts of ClickHouse has no column 'note'"
    ),
}


@pytest.fixture
def scene(relay_scene: RelayScene, monkeypatch: pytest.MonkeyPatch) -> RelayScene:
    relay_scene.sql(tables(), ROWS.format(1, 100))
    monkeypatch.setattr(watch, "LOOK_S", 0.05)
    return relay_scene


async def made_again(scene: RelayScene) -> None:
    await clickhouse_statements(
        scene.endpoints.clickhouse, "DROP TABLE IF EXISTS accounts", COPIES[0]
    )


@pytest.mark.parametrize(("damage", "cause"), DAMAGES.items())
async def test_a_rebuild_that_cannot_work_ends_with_its_cause(
    scene: RelayScene, damage: str, cause: str
) -> None:
    """The rebuild and the log say why and what to do; once that is done, the next one works."""
    async with desk_at(scene) as desk, relaying_with_desk(scene, scene.clickhouse_sink()):
        await scene.arrives(scene.sql("SELECT 1"), Store.CLICKHOUSE)
        await clickhouse_statements(scene.endpoints.clickhouse, damage)
        with structlog.testing.capture_logs() as logs:
            await desk.request_rebuild("clickhouse", TABLE)
            failed = await rebuilt(desk)
        assert failed.state == "failed"
        assert failed.error and failed.error.startswith(f"{cause}: run: neolayer migrate up; ")
        assert "by itself" not in failed.error
        warnings = [one for one in logs if one["event"] == "the rebuild failed"]
        assert [(one["log_level"], one["error"]) for one in warnings] == [("warning", failed.error)]
        await made_again(scene)
        await desk.request_rebuild("clickhouse", TABLE)
        assert (await rebuilt(desk)).error is None
        await scene.same()


async def test_a_write_that_finds_no_table_waits_for_it_and_copies_it_anew(
    scene: RelayScene,
) -> None:
    """Also the rows from before, though the log has let go of them."""
    async with desk_at(scene), relaying_with_desk(scene, scene.clickhouse_sink()):
        await scene.arrives(scene.sql(ROWS.format(101, 110)), Store.CLICKHOUSE)
        await clickhouse_statements(scene.endpoints.clickhouse, "DROP TABLE accounts")
        position = scene.sql("UPDATE accounts SET note = 'n' WHERE id < 50")
        await eventually(lambda: error_of(scene) == "ClickHouse has no table accounts")
        assert hint_of(scene).startswith("run: neolayer migrate up; ")
        await made_again(scene)
        await scene.arrives(position, Store.CLICKHOUSE)
        await scene.same()


async def test_a_write_that_finds_no_column_waits_for_it(scene: RelayScene) -> None:
    """Nothing was lost, so nothing is copied: where migrations come after the relay, for one."""
    at = scene.endpoints.clickhouse
    async with desk_at(scene), relaying_with_desk(scene, scene.clickhouse_sink()):
        await scene.arrives(scene.sql(ROWS.format(101, 110)), Store.CLICKHOUSE)
        with structlog.testing.capture_logs() as logs:
            await clickhouse_statements(at, "ALTER TABLE accounts RENAME COLUMN note TO remark")
            position = scene.sql("UPDATE accounts SET note = 'n' WHERE id < 50")
            lacking = "table accounts of ClickHouse has no column 'note'"
            await eventually(lambda: error_of(scene) == lacking)
            assert hint_of(scene).startswith("run: neolayer migrate up; ")
            await clickhouse_statements(at, "ALTER TABLE accounts RENAME COLUMN remark TO note")
            await scene.arrives(position, Store.CLICKHOUSE)
        await scene.same()
    assert {one["event"] for one in logs} == {"cannot write, will try again"}


async def test_a_table_that_is_emptied_while_its_copy_is_gone_comes_back_empty(
    scene: RelayScene,
) -> None:
    """A truncation looks at the table as an insert does."""
    async with desk_at(scene), relaying_with_desk(scene, scene.clickhouse_sink()):
        await scene.arrives(scene.sql("SELECT 1"), Store.CLICKHOUSE)
        await clickhouse_statements(scene.endpoints.clickhouse, "DROP TABLE accounts")
        position = scene.sql("TRUNCATE accounts")
        await eventually(lambda: error_of(scene) == "ClickHouse has no table accounts")
        await made_again(scene)
        await scene.arrives(position, Store.CLICKHOUSE)
        await scene.same()


@pytest.fixture
async def layer(
    layer_databases: Endpoints,
    clickhouse_server: ClickHouseEndpoint,
    redis_server: RedisEndpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Endpoints]:
    """The layer's real schema with one row in it, and its relay running."""
    monkeypatch.setattr(watch, "LOOK_S", 0.05)
    clickhouse = dataclasses.replace(clickhouse_server, database=f"neolayer_{secrets.token_hex(4)}")
    endpoints = dataclasses.replace(layer_databases, clickhouse=clickhouse, redis=redis_server)
    await migrate_up(endpoints)
    with psycopg.connect(endpoints.postgres.dsn(Role.ADMIN), autocommit=True) as admin:
        admin.execute(
            "INSERT INTO blockchain.networks (name, chain_id, network_type)"
            " VALUES ('testnet', 1337, 'evm')"
        )
    stop = asyncio.Event()
    settings = RelaySettings(batch_seconds=0.05)
    task = asyncio.create_task(run_relay(endpoints, settings, stop, classes=CLASSES))
    yield endpoints
    stop.set()
    await asyncio.wait_for(task, PATIENCE_S)


async def compared(at: Endpoints, into: list[TableReport]) -> None:
    only = [Store.CLICKHOUSE]
    async for report in reconcile(at, CLASSES, stores=only, repair=True, patience=PATIENCE):
        into.append(report)


async def test_a_store_that_is_too_far_behind_keeps_no_other_from_being_compared(
    layer: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked once; what is wrong with tables of the others is told beside it."""
    asked: list[str] = []

    async def behind(_: object, table: str, *__: object, **___: object) -> TableReport:
        asked.append(table)
        raise NotFresh(Position(1, 1, "neolayer"), {})

    monkeypatch.setattr(stores, "reconcile_cache", behind)
    await compared(layer, [])
    await clickhouse_statements(layer.clickhouse, "DROP TABLE networks")
    reports: list[TableReport] = []
    with pytest.raises(RelayError) as found:
        async for report in reconcile(layer, CLASSES, patience=PATIENCE):
            reports.append(report)
    assert "ClickHouse has no table networks; " in found.value.message
    assert NotFresh(Position(1, 1, "neolayer"), {}).message in found.value.message
    assert found.value.exit_code == NotFresh.exit_code
    assert len(asked) == 1 and len(reports) > 1


@pytest.mark.parametrize(
    ("damage", "lacking"),
    [
        ("DROP TABLE networks", "ClickHouse has no table networks"),
        (
            "ALTER TABLE networks DROP COLUMN name",
            "table networks of ClickHouse has no column 'name'",
        ),
    ],
)
async def test_the_hint_brings_back_what_was_declared(
    layer: Endpoints, damage: str, lacking: str
) -> None:
    """All other tables are compared meanwhile. What the hint says, done as it stands, makes the
    table as the migrations do, and leaves the others as they are."""
    whole: list[TableReport] = []
    await compared(layer, whole)
    await clickhouse_statements(layer.clickhouse, damage)
    reports: list[TableReport] = []
    with pytest.raises(RelayError) as found:
        await compared(layer, reports)
    assert found.value.message == lacking
    missed = {one.table for one in whole} - {one.table for one in reports}
    assert missed == {"blockchain.networks"}
    assert await migrate_up(layer) == []  # the marks say that all is done
    hint = found.value.hint or ""
    statements = re.findall(r"DROP TABLE IF EXISTS \w+", hint)
    assert len(statements) == 2
    await clickhouse_statements(layer.clickhouse, *statements)
    assert {step.line for step in await migrate_up(layer)} == {Line.CLICKHOUSE}
    assert (await status(layer, lines=[Line.CLICKHOUSE])).drift == ()
    rebuild = re.search(r"then: neolayer relay rebuild clickhouse (\S+)$", hint)
    assert rebuild
    async with desk_of(layer, Role.OPERATOR) as desk:
        await desk.request_rebuild("clickhouse", rebuild[1])
        assert (await rebuilt(desk, table=rebuild[1])).error is None
    after: list[TableReport] = []
    await compared(layer, after)
    assert [(one.table, one.rows, one.total) for one in after] == [
        (one.table, one.rows, 0) for one in whole
    ]
    assert sum(one.rows for one in after) == 1


async def test_of_two_tables_that_are_gone_both_are_named(layer: Endpoints) -> None:
    """And one look at the migrations brings back both."""
    await compared(layer, [])
    await clickhouse_statements(layer.clickhouse, "DROP TABLE logs", "DROP TABLE blocks")
    reports: list[TableReport] = []
    with pytest.raises(RelayError, match=r"no table blocks; .* no table logs") as found:
        await compared(layer, reports)
    assert len(reports) == 3
    statements = re.findall(r"DROP TABLE IF EXISTS \w+", found.value.hint or "")
    await clickhouse_statements(layer.clickhouse, *statements)
    await migrate_up(layer)
    await compared(layer, reports)
    assert (await status(layer, lines=[Line.CLICKHOUSE])).is_current
