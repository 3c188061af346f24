"""C1, C2: kill -9 of the relay and of PostgreSQL while rows change; the copies end up equal."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import random
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from tests.crash.relay_process import arguments_of
from tests.crash.writer import Writer
from tests.fixtures.fix_databases import execute
from tests.fixtures.fix_postgres import await_postgres, reachable_wheel
from tests.fixtures.fix_relay import TABLES, RelayScene
from tests.fixtures.patience import PATIENCE_S, STOPS_S

from neolayer.engines.embedded.ports import free_port
from neolayer.engines.embedded.postgres import EmbeddedPostgres, server_environment
from neolayer.engines.embedded.privileges import spawn_options
from neolayer.engines.endpoints import PostgresEndpoint

pytestmark = pytest.mark.faults

KILLS = 20
SEED = int(os.environ.get("TEST_SEED", "20261124"))


def start_relay(scene: RelayScene) -> subprocess.Popen[bytes]:
    root = Path(__file__).parents[2]
    with scene.folder.parent.joinpath("relay.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.crash.relay_process", arguments_of(scene)],
            cwd=root,
            env={**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"},
            stdout=log,
            stderr=log,
        )


@contextlib.asynccontextmanager
async def relay_of(scene: RelayScene) -> AsyncIterator[list[subprocess.Popen[bytes]]]:
    """The running relay as a list of one, so that a test may replace it."""
    running = [start_relay(scene)]
    try:
        yield running
    finally:
        running[0].terminate()
        await asyncio.to_thread(running[0].wait, STOPS_S)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.05)


async def is_equal(scene: RelayScene) -> int:
    """Rows, and so counts, hashes and exact sums, are the same on both sides; how many."""
    await scene.arrives(scene.sql("SELECT 1"))
    rows, copied = scene.rows(), await scene.copied()
    assert len(copied) == len(rows)
    assert sum(int(row[2]) for row in copied) == sum(int(row[2]) for row in rows)
    assert copied == rows, f"seed {SEED}"
    return len(rows)


async def test_C1_kill_of_the_relay_at_random_moments(relay_scene: RelayScene) -> None:
    """20 kills between first connect and full flow: nothing lost, nothing doubled."""
    moments = random.Random(SEED)
    async with relay_of(relay_scene) as relay:
        with Writer(relay_scene.dsn, SEED) as writer:
            for _ in range(KILLS):
                if moments.random() < 0.8:  # else it may die while it starts
                    await until(relay_scene.is_streaming)
                await asyncio.sleep(moments.uniform(0, 0.6))
                relay[0].kill()
                relay[0].wait()
                relay[0] = start_relay(relay_scene)
        assert writer.committed > 100
        assert await is_equal(relay_scene) > 100


class MortalPostgres:
    """A server that can be killed and started again on the same port and data."""

    def __init__(self, folder: Path) -> None:
        self._cluster = EmbeddedPostgres(
            folder / "postgres", secrets.token_urlsafe(18), bin_dir=reachable_wheel(folder)
        )
        self._cluster.initialise()
        self._log = folder / "postgres.log"
        self._port = free_port()
        self._start()

    def _start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._cluster.argv(self._port, fsync="off"),
                stdout=log,
                stderr=log,
                cwd=self._cluster.directory,
                env=server_environment(),
                **spawn_options(self._cluster.account),
            )
        await_postgres(self._process, self._cluster.admin_dsn(self._port), self._log)

    @property
    def endpoint(self) -> PostgresEndpoint:
        return self._cluster.endpoint(self._port, passwords={})

    def kill_and_start(self) -> None:
        self.kill()
        self._cluster.prepare()
        self._start()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def mortal_postgres(traversable_tmp: Path) -> Iterator[MortalPostgres]:
    server = MortalPostgres(traversable_tmp)
    yield server
    server.kill()


async def test_C2_kill_of_postgresql_at_random_moments(
    relay_scene: RelayScene, mortal_postgres: MortalPostgres
) -> None:
    """20 kills of the server; the relay stays up, comes back by itself and misses nothing."""
    moments = random.Random(SEED)
    scene = dataclasses.replace(
        relay_scene,
        endpoints=dataclasses.replace(relay_scene.endpoints, postgres=mortal_postgres.endpoint),
    )
    execute(mortal_postgres.endpoint, f"CREATE DATABASE {scene.database}")
    with psycopg.connect(scene.dsn, autocommit=True) as connection:
        connection.execute(TABLES)
    async with relay_of(scene) as relay:
        with Writer(scene.dsn, SEED) as writer:
            for _ in range(KILLS):
                await asyncio.sleep(moments.uniform(0.2, 1.2))
                await asyncio.to_thread(mortal_postgres.kill_and_start)
        assert writer.committed > 100
        assert await is_equal(scene) > 100
        assert relay[0].poll() is None
