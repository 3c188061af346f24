"""C12: a slot that holds back more than half of what the server keeps is told, with exit code 1."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from tests.fixtures.fix_databases import postgres_only
from tests.fixtures.fix_postgres import running_postgres

from neolayer.cli import main
from neolayer.cli import relay as command
from neolayer.engines.endpoints import ClickHouseEndpoint, Endpoints, RedisEndpoint, Role
from neolayer.engines.postgres.replication import ReplicationConnection
from neolayer.relay.state import PUBLICATION, SLOT
from neolayer.schema.lines import Line
from neolayer.schema.runner import migrate_up

EIGHT_MB = "SELECT pg_logical_emit_message(true, 'tests', repeat('x', 8 << 20))"
Status = Callable[[], tuple[int, list[str]]]


@pytest.fixture
def layer(
    traversable_tmp: Path, clickhouse_server: ClickHouseEndpoint, redis_server: RedisEndpoint
) -> Iterator[Endpoints]:
    """What `relay status` looks at, with a PostgreSQL of its own that keeps 64 MB for a slot."""
    clickhouse = dataclasses.replace(clickhouse_server, database=f"neolayer_{secrets.token_hex(4)}")
    with running_postgres(traversable_tmp, max_slot_wal_keep_size="64MB") as server:
        at = dataclasses.replace(postgres_only(server), clickhouse=clickhouse, redis=redis_server)
        asyncio.run(migrate_up(at, lines=(Line.CORE, Line.CLICKHOUSE)))
        with redis.Redis.from_url(redis_server.url) as client:
            client.flushdb()
        yield at


@pytest.fixture
def status(
    layer: Endpoints,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Status:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "endpoints", lambda settings: layer)

    def asked() -> tuple[int, list[str]]:
        with pytest.raises(SystemExit) as ended:
            main(("relay", "status", "--json"))
        found: dict[str, Any] = json.loads(capfd.readouterr().out)
        return int(ended.value.code or 0), found["alarms"]

    return asked


def test_C12_a_slot_past_half_of_its_limit_needs_a_person(layer: Endpoints, status: Status) -> None:
    """A reader that is there and confirms nothing: nothing is told at first, then the slot is, with
    its figures and exit code 1, and nothing once it has been read."""
    with psycopg.connect(layer.postgres.dsn(Role.ADMIN), autocommit=True) as admin:
        admin.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (SLOT,))
        with reading(layer):
            assert status() == (0, [])
            for _ in range(5):
                admin.execute(EIGHT_MB)
            code, alarms = status()
        assert code == 1
        assert len(alarms) == 1 and f"slot {SLOT} holds back" in alarms[0]
        assert "of commit log and is given up at 64 MB" in alarms[0]
        advance(admin)
        with reading(layer):
            assert status() == (0, [])


@contextmanager
def reading(layer: Endpoints) -> Iterator[None]:
    """A reader of the slot that never says what it has."""

    async def started() -> ReplicationConnection:
        dsn = layer.postgres.dsn(Role.ADMIN)
        stream = await ReplicationConnection.connect(dsn, application_name="tests")
        await stream.start(SLOT, publication=PUBLICATION)
        return stream

    with asyncio.Runner() as runner:
        stream = runner.run(started())
        try:
            yield
        finally:
            runner.run(stream.close())


def advance(admin: psycopg.Connection) -> None:
    """The slot lets go of what it held, once its reader has let go of the slot."""
    active = "SELECT active FROM pg_replication_slots WHERE slot_name = %s"
    while admin.execute(active, (SLOT,)).fetchone() == (True,):
        admin.execute("SELECT pg_sleep(0.01)")
    for _ in range(2):  # it begins at a note of who ran, the last but one that it passed
        admin.execute("SELECT pg_log_standby_snapshot()")
        admin.execute("SELECT pg_logical_emit_message(true, 'tests', 'a commit, to be flushed')")
        admin.execute("SELECT pg_replication_slot_advance(%s, pg_current_wal_flush_lsn())", (SLOT,))
