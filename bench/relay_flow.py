"""The relay's own figures: reading, writing into ClickHouse, lag, memory with a sink down.

The lag is measured at 10,000 row changes a second, and a figure of its own says whether the writer
kept that up; another counts the inserts ClickHouse got meanwhile, by ClickHouse's own account.

All contenders of a round read the same committed backlog, each through a copy of one slot. Ours is
the whole relay: slot, decoder, fsynced segment log, lane and sink; the null sink unpacks every row.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import psycopg
import redis
from clickhouse_connect.driver.asyncclient import AsyncClient

from bench.accounts import (
    ACCOUNTS,
    ALL_COLUMNS,
    COLUMNS,
    INSERT_ROWS,
    PUBLICATION,
    PUBLISH,
    ROWS,
    SELECTED,
    TABLE,
    make_copies,
)
from bench.claims import DIRECT, LINES, PGSYNC, PYPGOUTPUT, RAW
from bench.harness import Figure, Plan, against_aim, compare, progress, rounds
from bench.peers import PGSYNC as PGSYNC_REQUIREMENTS
from bench.peers import peer_python
from bench.process import Process, running
from bench.server import Databases
from neolayer.engines.clickhouse.client import connect
from neolayer.engines.embedded.ports import free_port
from neolayer.engines.embedded.valkey import EmbeddedValkey
from neolayer.engines.endpoints import ClickHouseEndpoint, RedisEndpoint, Role
from neolayer.engines.postgres.replication import ReplicationConnection
from neolayer.position import CURRENT_EPOCH, pack_version
from neolayer.relay.changes import Batch
from neolayer.relay.run import run_sinks
from neolayer.relay.sinks.clickhouse import ClickHouseSink
from neolayer.relay.sinks.null import NullSink
from neolayer.relay.sinks.redis import RedisSink
from neolayer.relay.sinks.sink import Rejected, Sink
from neolayer.settings import RelaySettings

DATABASE = "bench_relay"
_CHANGES = 10_000  # a second
_CHANGES_A_COMMIT = 100
_INSERTS = 5  # a second: of rows and of the checkpoint, each twice, and room for one more
_TRANSACTION = 1_000
_REST_S = (
    0.008  # with which receiving is fastest; to be woken for each message is slower than the relay
)
_AMOUNT = COLUMNS.index("amount")
Columns = list[tuple[object, ...]]
P = TypeVar("P")


def figures(
    plan: Plan, databases: Databases, clickhouse: ClickHouseEndpoint, folder: Path
) -> Iterator[Figure]:
    rows = plan.pick(200_000, 500_000)
    source = _Source(databases, rows)
    with (
        running("pypgoutput", peer_python()) as peer,
        running("pgsync", peer_python(PGSYNC_REQUIREMENTS)) as pgsync,
    ):
        contenders = {
            "null sink": partial(_ours, source),
            RAW: partial(_raw, source),
            PYPGOUTPUT: partial(_pypgoutput, source, peer),
            PGSYNC: partial(_pgsync, source, pgsync),
        }
        samples = rounds(contenders, plan.pick(3, 10))
    yield compare("relay-null-vs-pypgoutput", samples, "null sink", PYPGOUTPUT)
    yield compare("relay-null-vs-pgsync", samples, "null sink", PGSYNC)
    yield compare("relay-null-vs-raw", samples, "null sink", RAW)
    lines, columns = source.lines(), source.columns()
    asyncio.run(make_copies(clickhouse, source.begins_at()))
    into_clickhouse = {
        "relay": lambda: _into_clickhouse(source, _clickhouse_sink(clickhouse, source)),
        DIRECT: lambda: asyncio.run(_direct(clickhouse, columns)),
        LINES: lambda: asyncio.run(_lines(clickhouse, lines)),
    }
    samples = rounds(into_clickhouse, plan.pick(3, 10))
    yield compare("relay-clickhouse-vs-direct", samples, "relay", DIRECT)
    yield compare("relay-clickhouse-vs-lines", samples, "relay", LINES)
    yield from _lag_figures(source, clickhouse, folder, plan.pick(5, 30))
    yield _memory(databases, plan)


_ORIGINS = {"pgoutput": "bench_origin", "test_decoding": "bench_text"}


@dataclass
class _Source:
    """A database with a backlog, and slots from before it to make copies of."""

    databases: Databases
    rows: int

    def __post_init__(self) -> None:
        self.databases.fresh(DATABASE)
        self.run(TABLE, PUBLISH, "ALTER TABLE accounts REPLICA IDENTITY FULL")
        for plugin, origin in _ORIGINS.items():
            self.run(f"SELECT pg_create_logical_replication_slot('{origin}', '{plugin}')")
        for first in range(1, self.rows + 1, _TRANSACTION):
            self.run(ROWS.format(first, first + _TRANSACTION - 1))

    @property
    def dsn(self) -> str:
        return self.databases.dsn(Role.ADMIN, DATABASE)

    def run(self, *statements: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def slot(self, plugin: str = "pgoutput") -> Iterator[str]:
        """A slot of this moment's own, at the beginning of the backlog."""
        name = f"bench_{time.monotonic_ns()}"
        self.run(f"SELECT pg_copy_logical_replication_slot('{_ORIGINS[plugin]}', '{name}')")
        yield name
        self.run(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
            f" WHERE slot_name = '{name}' AND active"
        )
        for _ in range(100):
            try:
                self.run(f"SELECT pg_drop_replication_slot('{name}')")
                return
            except psycopg.errors.ObjectInUse:
                time.sleep(0.05)

    def close(self) -> None:
        for origin in _ORIGINS.values():
            self.run(f"SELECT pg_drop_replication_slot('{origin}')")

    def begins_at(self) -> int:
        """The position of the slot, as a version."""
        query = "SELECT confirmed_flush_lsn - '0/0' FROM pg_replication_slots WHERE slot_name = %s"
        with psycopg.connect(self.dsn) as connection:
            row = connection.execute(query, ["bench_origin"]).fetchone()
        assert row is not None
        return pack_version(CURRENT_EPOCH, int(row[0]))

    def lines(self) -> list[bytes]:
        """The rows as an insert into the copy, in parts of one insert's size."""
        query = f"COPY (SELECT {SELECTED} FROM accounts) TO STDOUT"
        with (
            psycopg.connect(self.dsn, options="-c TimeZone=UTC") as connection,
            connection.cursor().copy(query) as copy,  # type: ignore[arg-type]
        ):
            lines = [bytes(line) for line in copy]
        starts = range(0, len(lines), INSERT_ROWS)
        return [b"".join(lines[start : start + INSERT_ROWS]) for start in starts]

    def columns(self) -> list[Columns]:
        """The rows as columns of Python's values, in parts of the same size."""
        with psycopg.connect(self.dsn) as connection:
            found = connection.execute(f"SELECT {SELECTED} FROM accounts")  # type: ignore[arg-type]
            rows = [(*row[:_AMOUNT], int(row[_AMOUNT]), *row[_AMOUNT + 1 :]) for row in found]
        starts = range(0, len(rows), INSERT_ROWS)
        return [list(zip(*rows[start : start + INSERT_ROWS], strict=True)) for start in starts]


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.002)


async def _relayed(dsn: str, slot: str, sinks: Sequence[Sink], done: Callable[[], bool]) -> float:
    """Seconds from the relay's start until `done`."""
    stop = asyncio.Event()
    started = time.perf_counter()
    relay = asyncio.create_task(run_sinks(dsn, sinks, RelaySettings(), stop, slot=slot))
    await _until(done)
    seconds = time.perf_counter() - started
    stop.set()
    await relay
    return seconds


class _Null(NullSink):
    """Tells when it had what."""

    def __init__(self) -> None:
        super().__init__()
        self.reached: list[tuple[int, float]] = []

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        rejected = await super().write(batches)
        self.reached.append((batches[-1].position, time.time()))
        return rejected


class _Cache(RedisSink):
    def __init__(self, endpoint: RedisEndpoint) -> None:
        super().__init__(endpoint, [ACCOUNTS])
        self.reached: list[tuple[int, float]] = []

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        rejected = await super().write(batches)
        self.reached.append((batches[-1].position, time.time()))
        return rejected


class _Analytics(ClickHouseSink):
    def __init__(self, *arguments: object, **options: float) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self.reached: list[tuple[int, float]] = []
        self.rows = 0
        self.writes: list[tuple[int, float]] = []  # rows in all, and when they were stored

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        rejected = await super().write(batches)
        self.rows += sum(batch.rows for batch in batches)
        self.reached.append((batches[-1].position, time.time()))
        self.writes.append((self.rows, time.perf_counter()))
        return rejected


def _clickhouse_sink(endpoint: ClickHouseEndpoint, source: _Source) -> _Analytics:
    asyncio.run(make_copies(endpoint, source.begins_at()))
    return _Analytics(endpoint, [ACCOUNTS], wait_s=RelaySettings().batch_seconds)


def _ours(source: _Source) -> float:
    """Rows a second through the whole relay."""
    sink = _Null()
    with source.slot() as slot:
        return source.rows / asyncio.run(_emptied(source, slot, sink))


def _into_clickhouse(source: _Source, sink: _Analytics) -> float:
    """Rows a second stored by all writes but the last: that one first waits for company."""
    with source.slot() as slot:
        started = time.perf_counter()
        asyncio.run(_emptied(source, slot, sink))
    rows, at = [write for write in sink.writes if write[0] < source.rows][-1]
    return rows / (at - started)


async def _emptied(source: _Source, slot: str, sink: _Null | _Analytics) -> float:
    """Seconds until a sink has the whole backlog."""
    return await _relayed(source.dsn, slot, [sink], lambda: sink.rows >= source.rows)


def _raw(source: _Source) -> float:
    """Rows a second received, and nothing done with them."""
    with source.slot() as slot:
        return source.rows / asyncio.run(_received(source.dsn, slot, source.rows))


async def _received(dsn: str, slot: str, rows: int) -> float:
    started = time.perf_counter()
    stream = await ReplicationConnection.connect(dsn, application_name="bench")
    await stream.start(slot, publication=PUBLICATION)
    seen = 0

    def count(message: memoryview) -> None:
        nonlocal seen
        seen += message[0] == ord("w") and message[25] == ord("I")

    while seen < rows:
        received = stream.receive(count, limit=2_000)
        if received == 0:
            await stream.wait(0.25)
        elif received < 2_000:
            await asyncio.sleep(_REST_S)
    await stream.close()
    return time.perf_counter() - started


def _pypgoutput(source: _Source, peer: Process) -> float:
    with source.slot() as slot:
        job = {"dsn": source.dsn, "slot": slot, "publication": PUBLICATION, "rows": source.rows}
        return peer.run(**job).per_second


def _pgsync(source: _Source, peer: Process) -> float:
    with source.slot("test_decoding") as slot:
        return peer.run(dsn=source.dsn, slot=slot, rows=source.rows).per_second


async def _direct(endpoint: ClickHouseEndpoint, parts: Sequence[Columns]) -> float:
    """Rows a second of inserting the same columns with the driver, without a relay."""
    return await _inserted(endpoint, parts, _insert_columns)


async def _lines(endpoint: ClickHouseEndpoint, parts: Sequence[bytes]) -> float:
    """Rows a second of inserting what is the server's own text already."""
    return await _inserted(endpoint, parts, _insert_lines)


async def _inserted(
    endpoint: ClickHouseEndpoint,
    parts: Sequence[P],
    insert: Callable[[AsyncClient, P], Awaitable[int]],
) -> float:
    client = await connect(endpoint)
    await client.command("TRUNCATE TABLE direct")
    started = time.perf_counter()
    rows = sum([await insert(client, part) for part in parts])
    seconds = time.perf_counter() - started
    await client.close()
    return rows / seconds


async def _insert_columns(client: AsyncClient, part: Columns) -> int:
    settings = {"async_insert": 0}
    await client.insert(
        "direct", part, column_names=ALL_COLUMNS, column_oriented=True, settings=settings
    )
    return len(part[0])


async def _insert_lines(client: AsyncClient, part: bytes) -> int:
    settings = {"date_time_input_format": "best_effort", "async_insert": 0}
    await client.raw_insert("direct", ALL_COLUMNS, part, settings=settings, fmt="TabSeparated")
    return part.count(b"\n")


def _lag_figures(
    source: _Source, clickhouse: ClickHouseEndpoint, folder: Path, seconds: int
) -> Iterator[Figure]:
    with _valkey(folder) as cache:
        null, redis_ = (_lag(source, sink, seconds) for sink in (_Null(), _Cache(cache)))
    sink = _clickhouse_sink(clickhouse, source)
    before = asyncio.run(_inserts(clickhouse))
    analytics = _lag(source, sink, seconds)
    inserts = asyncio.run(_inserts(clickhouse)) - before
    yield against_aim("relay-lag-null", null.worst_ms, aim=100)
    yield against_aim("relay-lag-redis", redis_.worst_ms, aim=100)
    yield against_aim("relay-lag-clickhouse", analytics.worst_ms, aim=2_000)
    kept = min(lag.per_second for lag in (null, redis_, analytics))
    yield against_aim("relay-lag-changes", [kept], aim=_CHANGES)
    yield against_aim("relay-lag-inserts", [inserts / analytics.seconds], aim=_INSERTS)


@dataclass(frozen=True, slots=True)
class _Lag:
    """How late changes came, and how many were made: the writer may be too slow for the machine."""

    worst_ms: list[float]  # the 99th percentile of each part of the time
    per_second: float
    seconds: float


def _lag(source: _Source, sink: _Null | _Cache | _Analytics, seconds: int) -> _Lag:
    with source.slot() as slot, _writer() as writer:
        source.run(f"SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())")

        async def measured() -> tuple[list[tuple[int, float]], float]:
            stop = asyncio.Event()
            relay = asyncio.create_task(
                run_sinks(source.dsn, [sink], RelaySettings(), stop, slot=slot)
            )
            # An idle database tells nothing: one change says that the relay is there.
            source.run("UPDATE accounts SET amount = amount WHERE id = 1")
            await _until(lambda: bool(sink.reached))
            commits, took = await asyncio.wrap_future(writer.submit(_write, source.dsn, seconds))
            await _until(lambda: sink.reached[-1][0] & ((1 << 48) - 1) >= commits[-1][0])
            stop.set()
            await relay
            return commits, took

        commits, took = asyncio.run(measured())
    per_second = len(commits) * _CHANGES_A_COMMIT / took
    progress(f"  {per_second:,.0f} row changes/s")
    return _Lag(_percentiles(commits, sink.reached), per_second, took)


async def _inserts(endpoint: ClickHouseEndpoint) -> int:
    """How many inserts the server has been sent so far."""
    client = await connect(endpoint)
    query = "SELECT value FROM system.events WHERE event = 'InsertQuery'"
    found = await client.query(query)
    await client.close()
    return int(found.result_rows[0][0])


def _writer() -> ProcessPoolExecutor:
    """A process of its own, so that writing does not slow what is measured."""
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def _write(dsn: str, seconds: int) -> tuple[list[tuple[int, float]], float]:
    """Transactions of 100 updates, so many a second as make 10,000 changes: where each ended in
    the log, and when; and how long it took in all."""
    commits: list[tuple[int, float]] = []
    update = "UPDATE accounts SET amount = amount + 1 WHERE id BETWEEN %s AND %s"
    each = _CHANGES_A_COMMIT / _CHANGES
    with psycopg.connect(dsn, autocommit=True) as connection:
        started = time.monotonic()
        for number in range(round(seconds / each)):
            time.sleep(max(0.0, started + number * each - time.monotonic()))
            first = 1 + _CHANGES_A_COMMIT * (number % 500)
            changed = connection.execute(update, (first, first + _CHANGES_A_COMMIT - 1))
            assert changed.rowcount == _CHANGES_A_COMMIT
            committed_at = time.time()
            row = connection.execute("SELECT pg_current_wal_flush_lsn() - '0/0'").fetchone()
            assert row is not None
            commits.append((int(row[0]), committed_at))
        return commits, max(seconds, time.monotonic() - started)


def _percentiles(
    commits: Sequence[tuple[int, float]], reached: Sequence[tuple[int, float]]
) -> list[float]:
    lags: list[float] = []
    marks = iter(reached)
    position, at = next(marks)
    for lsn, committed_at in commits:
        while position & ((1 << 48) - 1) < lsn:
            position, at = next(marks)
        lags.append(max(0.0, at - committed_at) * 1000)
    part = max(100, len(lags) // 5)
    parts = [lags[start : start + part] for start in range(0, len(lags), part)]
    worst = [statistics.quantiles(one, n=100)[98] for one in parts if len(one) >= 100]
    progress(f"  lag p50 {statistics.median(lags):.1f} ms, p99 {max(worst):.1f} ms")
    return worst


@contextlib.contextmanager
def _valkey(folder: Path) -> Iterator[RedisEndpoint]:
    server, port = EmbeddedValkey(folder / "valkey", "bench"), free_port()
    server.initialise()
    process = subprocess.Popen(server.argv(port), stdout=subprocess.DEVNULL)
    endpoint = server.endpoint(port)
    try:
        with redis.Redis.from_url(endpoint.url) as client:
            while True:
                try:
                    client.ping()
                    break
                except redis.exceptions.RedisError:
                    time.sleep(0.05)
        yield endpoint
    finally:
        process.terminate()
        process.wait(timeout=30)


def _memory(databases: Databases, plan: Plan) -> Figure:
    """Peak memory of a relay whose one sink is down while changes come for the other."""
    few, many = 300_000, 1_000_000
    contenders = {f"{rows:,} changes": partial(_peak_mib, databases, rows) for rows in (few, many)}
    samples = rounds(contenders, plan.pick(1, 3), warm_up=False)
    return compare("relay-memory-sink-down", samples, f"{many:,} changes", f"{few:,} changes")


def _peak_mib(databases: Databases, rows: int) -> float:
    source = _Source(databases, rows)
    with source.slot() as slot, running("relay_down") as process:
        peak = process.run(dsn=source.dsn, slot=slot, rows=rows).peak_kb / 1024
    source.close()
    return peak
