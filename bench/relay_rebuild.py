"""Making a table anew in ClickHouse while its relay runs, against copying it out and in by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import psycopg

from bench.accounts import (
    ACCOUNTS,
    ALL_COLUMNS,
    INSERT_ROWS,
    ROWS,
    SELECTED,
    TABLE,
    make_copies,
)
from bench.claims import COPY_AND_INSERT
from bench.harness import Figure, Plan, compare, rounds
from bench.schema import TEMPLATE
from bench.server import Databases
from neolayer.engines.clickhouse.client import connect
from neolayer.engines.endpoints import ClickHouseEndpoint, Role
from neolayer.position import CURRENT_EPOCH, pack_version
from neolayer.relay.operations import watch
from neolayer.relay.operations.desk import Desk
from neolayer.relay.run import run_sinks
from neolayer.relay.sinks.clickhouse import ClickHouseSink
from neolayer.relay.state import PUBLICATION, STATE_FILE, read_state
from neolayer.settings import RelaySettings

DATABASE = "bench_rebuild"
_SLOT = "bench_rebuild"
_COUNTED = 1_000_000


def figures(
    plan: Plan, databases: Databases, clickhouse: ClickHouseEndpoint, folder: Path
) -> Iterator[Figure]:
    databases.fresh(DATABASE, template=TEMPLATE)
    dsn = databases.dsn(Role.ADMIN, DATABASE)
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(TABLE)
        admin.execute(ROWS.format(1, _COUNTED))  # type: ignore[arg-type]
        admin.execute(f"ALTER PUBLICATION {PUBLICATION} ADD TABLE accounts")  # type: ignore[arg-type]
        admin.execute(f"SELECT pg_create_logical_replication_slot('{_SLOT}', 'pgoutput')")  # type: ignore[arg-type]
        found = admin.execute("SELECT pg_current_wal_flush_lsn() - '0/0'").fetchone()
        assert found is not None
        admin.execute("VACUUM ANALYZE accounts")
    asyncio.run(make_copies(clickhouse, pack_version(CURRENT_EPOCH, int(found[0]))))
    watch.LOOK_S = 0.05  # type: ignore[misc]
    contenders = {
        "rebuild": lambda: asyncio.run(_rebuilt(dsn, clickhouse, folder / "rebuild")),
        COPY_AND_INSERT: partial(_copied_by_hand, dsn, clickhouse),
    }
    samples = rounds(contenders, plan.pick(3, 10))
    yield compare("relay-rebuild", samples, "rebuild", COPY_AND_INSERT)


async def _rebuilt(dsn: str, clickhouse: ClickHouseEndpoint, folder: Path) -> float:
    """Rows a second from the request to the end of it, in a relay that runs."""
    async with Desk(dsn) as desk, _relaying(dsn, clickhouse, folder, desk):
        await desk.request_rebuild("clickhouse", ACCOUNTS.table)
        started = time.perf_counter()
        while True:
            (status,) = [one for one in await desk.rebuilds() if one.table == ACCOUNTS.table]
            if status.ended:
                break
            await asyncio.sleep(0.02)
        seconds = time.perf_counter() - started
    if status.error or status.rows != _COUNTED:
        raise SystemExit(f"the rebuild ended with {status.error}, {status.rows} rows")
    return _COUNTED / seconds


@asynccontextmanager
async def _relaying(
    dsn: str, clickhouse: ClickHouseEndpoint, folder: Path, desk: Desk
) -> AsyncIterator[None]:
    stop, settings = asyncio.Event(), RelaySettings()
    sink = ClickHouseSink(clickhouse, [ACCOUNTS], wait_s=settings.batch_seconds)
    relay = asyncio.create_task(
        run_sinks(dsn, [sink], settings, stop, slot=_SLOT, folder=folder, desk=desk)
    )
    while not _follows(folder):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    yield
    stop.set()
    await relay


def _follows(folder: Path) -> bool:
    state = read_state(folder / STATE_FILE)
    return state is not None and bool(state.lanes["clickhouse"].position)


def _copied_by_hand(dsn: str, clickhouse: ClickHouseEndpoint) -> float:
    """Rows a second of COPY out and inserts of its lines, one after the other, nothing checked."""
    return asyncio.run(_copy_and_insert(dsn, clickhouse))


async def _copy_and_insert(dsn: str, clickhouse: ClickHouseEndpoint) -> float:
    client = await connect(clickhouse)
    await client.command("TRUNCATE TABLE direct")
    settings = {"date_time_input_format": "best_effort", "async_insert": 0}
    started = time.perf_counter()
    query = f"COPY (SELECT {SELECTED} FROM accounts) TO STDOUT"
    options = "-c TimeZone=UTC"
    async with (
        await psycopg.AsyncConnection.connect(dsn, options=options) as connection,
        connection.cursor().copy(query) as copy,  # type: ignore[arg-type]
    ):
        lines: list[bytes] = []
        async for line in copy:
            lines.append(bytes(line))
            if len(lines) == INSERT_ROWS:
                await client.raw_insert(
                    "direct", ALL_COLUMNS, b"".join(lines), settings=settings, fmt="TabSeparated"
                )
                lines.clear()
    seconds = time.perf_counter() - started
    await client.close()
    return _COUNTED / seconds
