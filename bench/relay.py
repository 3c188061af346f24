"""The relay: a backlog into ClickHouse, the decoder alone, its flow, and a rebuild."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import secrets
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psycopg

from bench import relay_flow, relay_rebuild
from bench.harness import Figure, Plan, alone, progress
from bench.process import Process, running
from bench.replay import BLOCKS_PER_COPY, replay
from bench.schema import NETWORK_ID, TEMPLATE, endpoints_of, migrated_template
from bench.server import Databases, open_folder, postgres
from neolayer.chain.catalogue import CLASSES
from neolayer.engines.clickhouse.client import connect
from neolayer.engines.embedded.clickhouse import EmbeddedClickHouse
from neolayer.engines.embedded.ports import free_port
from neolayer.engines.endpoints import ClickHouseEndpoint, Database, Endpoints, Role
from neolayer.engines.postgres.replication import ReplicationConnection
from neolayer.errors import EngineUnavailable
from neolayer.freshness import Store, wait_for
from neolayer.position import CURRENT_EPOCH, Position
from neolayer.relay.changes import TableChanges
from neolayer.relay.decoder import Decoder
from neolayer.relay.run import run_sinks
from neolayer.relay.sinks.clickhouse import ClickHouseSink
from neolayer.relay.state import PUBLICATION
from neolayer.schema.lines import Line
from neolayer.settings import RelaySettings
from neolayer.telemetry import configure_logging

_COPIES = 16
_CAPTURE = "bench_capture"
_TIME_LIMIT = timedelta(minutes=5)
_TAKE_ROWS = 8_192


def figures(plan: Plan) -> Iterator[Figure]:
    count = plan.pick(3, 10)
    configure_logging(level=logging.WARNING)
    with open_folder() as folder, postgres(folder) as endpoint, _clickhouse(folder) as clickhouse:
        databases = Databases(endpoint)
        endpoints = dataclasses.replace(endpoints_of(endpoint), clickhouse=clickhouse)
        migrated_template(databases, endpoints, lines=[Line.CORE, Line.CLICKHOUSE])
        asyncio.run(_drain(endpoints, _now(databases)))  # makes the slot; nothing to copy yet
        with running("ours") as ours:
            paths = replay(_COPIES * (count + 1))
            size = _COPIES * BLOCKS_PER_COPY
            slices = [paths[start : start + size] for start in range(0, len(paths), size)]
            yield alone("relay-end-to-end", _rounds(databases, endpoints, ours, slices[:-1]))
            messages = asyncio.run(_captured(databases, ours, slices[-1]))
        yield alone("relay-decoder", [_decoded(messages) for _ in range(count)])
        yield from relay_flow.figures(plan, databases, clickhouse, folder)
        yield from relay_rebuild.figures(plan, databases, clickhouse, folder)


@contextmanager
def _clickhouse(folder: Path) -> Iterator[ClickHouseEndpoint]:
    """The embedded ClickHouse, as `neolayer up` starts it."""
    directory = folder / "clickhouse"
    server = EmbeddedClickHouse(directory, secrets.token_hex(16), secrets.token_hex(16))
    server.initialise()
    port = free_port()
    with (folder / "clickhouse.log").open("wb") as log:
        process = subprocess.Popen(server.argv(port), stdout=log, stderr=log)
    try:
        endpoint = server.endpoint(port)
        asyncio.run(_answers(endpoint))
        yield endpoint
    finally:
        process.terminate()
        process.wait(timeout=60)


async def _answers(endpoint: ClickHouseEndpoint) -> None:
    deadline = time.monotonic() + 60
    at_default = dataclasses.replace(endpoint, database="default")
    while True:
        try:
            client = await connect(at_default)
            break
        except EngineUnavailable:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)
    await client.close()


def _rounds(
    databases: Databases, endpoints: Endpoints, ours: Process, slices: Sequence[Sequence[Path]]
) -> list[float]:
    """Rows a second, round by round: a backlog is made, then the relay starts and clears it."""
    rates: list[float] = []
    for number, paths in enumerate(slices, 1):
        rows = _ingest(databases, ours, paths)
        started = time.perf_counter()
        asyncio.run(_drain(endpoints, _now(databases)))
        rates.append(rows / (time.perf_counter() - started))
        _same(databases, endpoints)
        progress(f"  relay round {number}/{len(slices)}: {rates[-1]:,.0f} rows/s")
    return rates


def _ingest(databases: Databases, ours: Process, paths: Sequence[Path]) -> int:
    """The rows that one ingest committed: transactions and blocks."""
    outcome = ours.run(
        dsn=databases.dsn(Role.INGEST, TEMPLATE),
        network_id=NETWORK_ID,
        paths=[str(path) for path in paths],
        blocks_per_commit=14,
        verify=False,
    )
    return outcome.transactions + len(paths)


async def _drain(endpoints: Endpoints, position: Position) -> None:
    """Run the relay until ClickHouse reflects `position`."""
    settings = RelaySettings()
    sink = ClickHouseSink(endpoints.clickhouse, CLASSES, wait_s=settings.batch_seconds)
    stop = asyncio.Event()
    dsn = endpoints.postgres.dsn(Role.RELAY, Database.CORE)
    relay = asyncio.create_task(run_sinks(dsn, [sink], settings, stop))
    await wait_for(position, endpoints, stores=[Store.CLICKHOUSE], timeout=_TIME_LIMIT)
    stop.set()
    await relay


def _same(databases: Databases, endpoints: Endpoints) -> None:
    """A fast relay is also a right one."""
    stored = databases.count(TEMPLATE, "blockchain.transactions")
    copied = asyncio.run(_copied(endpoints.clickhouse))
    if stored != copied:
        raise SystemExit(f"{stored} transactions in PostgreSQL, {copied} in ClickHouse")


async def _copied(endpoint: ClickHouseEndpoint) -> int:
    client = await connect(endpoint)
    try:
        return int(str(await client.command("SELECT count() FROM transactions FINAL")))
    finally:
        await client.close()


def _now(databases: Databases) -> Position:
    with psycopg.connect(databases.dsn(Role.ADMIN, TEMPLATE)) as admin:
        row = admin.execute("SELECT pg_current_wal_flush_lsn() - '0/0'::pg_lsn").fetchone()
    assert row is not None
    return Position(CURRENT_EPOCH, int(row[0]))


async def _captured(databases: Databases, ours: Process, paths: Sequence[Path]) -> list[bytes]:
    """What PostgreSQL sends for one ingest."""
    dsn = databases.dsn(Role.RELAY, TEMPLATE)
    stream = await ReplicationConnection.connect(dsn, application_name="bench")
    try:
        await stream.create_slot(_CAPTURE, temporary=True)
        _ingest(databases, ours, paths)
        await stream.start(_CAPTURE, publication=PUBLICATION)
        return await _received(stream, _now(databases))
    finally:
        await stream.close()


async def _received(stream: ReplicationConnection, up_to: Position) -> list[bytes]:
    messages: list[bytes] = []
    progress = Decoder(epoch=CURRENT_EPOCH)

    def keep(message: memoryview) -> None:
        messages.append(bytes(message))
        progress.feed(memoryview(messages[-1]))

    while progress.position < up_to.lsn:
        if stream.receive(keep, limit=1_000):
            progress.take()
        else:
            stream.confirm(received=progress.position, durable=0, ask=True)
            await stream.wait(0.25)
    return messages


def _decoded(messages: Sequence[bytes]) -> float:
    """Rows a second from the stream's bytes to rows of text."""
    decoder = Decoder(epoch=CURRENT_EPOCH)
    views = [memoryview(message) for message in messages]
    rows = 0
    started = time.perf_counter()
    for view in views:
        decoder.feed(view)
        if decoder.rows >= _TAKE_ROWS:
            rows += _taken(decoder)
    rows += _taken(decoder)
    return rows / (time.perf_counter() - started)


def _taken(decoder: Decoder) -> int:
    batch = decoder.take()
    tables = () if batch is None else batch.changes
    inserts = [table for table in tables if isinstance(table, TableChanges) and table.inserts_only]
    return sum(len(page) for table in inserts for page in table.rows())
