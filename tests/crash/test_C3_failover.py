"""C3: the primary dies and a standby that lacks its last commits takes over.

PostgreSQL's timeline rises, and with it the epoch of every position; the slot stayed behind with
the old primary. So every copy starts over, loses what was lost, and takes what is new, although the
new primary writes at log positions that the sinks have seen before.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests.crash.test_C1_relay_kill import relay_of
from tests.fixtures.fix_databases import execute
from tests.fixtures.fix_postgres import await_postgres, reachable_wheel
from tests.fixtures.fix_relay import TABLES, RelayScene
from tests.fixtures.patience import PATIENCE_S

from neolayer.engines.embedded.ports import free_port
from neolayer.engines.embedded.postgres import EmbeddedPostgres, server_environment
from neolayer.engines.embedded.privileges import give, spawn_options
from neolayer.engines.endpoints import PostgresEndpoint
from neolayer.freshness.positions import Store, position_of
from neolayer.position import Position

pytestmark = pytest.mark.faults
PUT = "INSERT INTO accounts (id, owner, amount) SELECT g, '{}', g FROM generate_series({}, {}) g"


class Pair:
    """A primary and its asynchronous standby, which takes over the primary's address."""

    def __init__(self, folder: Path) -> None:
        self.bin_dir = reachable_wheel(folder)
        self.password = secrets.token_urlsafe(18)
        self.port = free_port()
        self.log = folder / "postgres.log"
        self.primary = EmbeddedPostgres(folder / "primary", self.password, bin_dir=self.bin_dir)
        self.standby = EmbeddedPostgres(folder / "standby", self.password, bin_dir=self.bin_dir)
        self.primary.initialise()
        self.running = [self.start(self.primary, self.port)]

    @property
    def endpoint(self) -> PostgresEndpoint:
        return self.primary.endpoint(self.port, passwords={})

    def start(self, cluster: EmbeddedPostgres, port: int) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                cluster.argv(port, fsync="off"),
                stdout=log,
                stderr=log,
                cwd=cluster.directory,
                env=server_environment(),
                **spawn_options(cluster.account),
            )
        await_postgres(process, cluster.admin_dsn(port), self.log)
        return process

    def make_standby(self) -> None:
        """A copy of the primary as it is now; it does not hear of what follows."""
        self.standby.directory.mkdir(mode=0o700)
        account = self.primary.account
        give(self.standby.directory, account)
        dsn = self.primary.admin_dsn(self.port)
        program = self.primary.program("pg_basebackup")
        how = ("-c", "fast", "-X", "stream", "-R")
        subprocess.run(
            [program, "-D", str(self.standby.data), "-d", dsn, *how],
            check=True,
            cwd=self.primary.directory,
            env=server_environment(),
            timeout=60,
            **spawn_options(account),
        )

    def fail_over(self, *, pause_s: float) -> None:
        """The primary is gone at once; the standby goes on from what it has.

        For a while it only answers; the relay must not take it for the primary.
        """
        self.kill()
        self.running = [self.start(self.standby, self.port)]
        time.sleep(pause_s)
        with psycopg.connect(self.standby.admin_dsn(self.port), autocommit=True) as connection:
            connection.execute("SELECT pg_promote(wait => true)")

    def kill(self) -> None:
        for process in self.running:
            process.kill()
            process.wait()


@pytest.fixture
def pair(traversable_tmp: Path) -> Iterator[Pair]:
    servers = Pair(traversable_tmp)
    yield servers
    servers.kill()


async def reaches(scene: RelayScene) -> Position:
    """Where the copy is once it is what the source is."""
    async with asyncio.timeout(PATIENCE_S):
        while not scene.rows() or await scene.copied() != scene.rows():
            await asyncio.sleep(0.1)
    reached = await position_of(Store.CLICKHOUSE, scene.endpoints)
    assert reached is not None
    return reached


async def test_C3_a_standby_that_lacks_the_last_commits_takes_over(
    relay_scene: RelayScene, pair: Pair
) -> None:
    """What was lost is gone from the copies, what is new arrives, and positions only rise."""
    scene = dataclasses.replace(
        relay_scene, endpoints=dataclasses.replace(relay_scene.endpoints, postgres=pair.endpoint)
    )
    execute(pair.endpoint, f"CREATE DATABASE {scene.database}")
    scene.sql(*(one for one in TABLES.split(";") if one.strip()))
    async with relay_of(scene) as relay:
        scene.sql(PUT.format("ann", 1, 500))
        await reaches(scene)
        await asyncio.to_thread(pair.make_standby)
        scene.sql(PUT.format("lost", 501, 3000), "UPDATE accounts SET note = 'lost' WHERE id < 100")
        before = await reaches(scene)
        await asyncio.to_thread(pair.fail_over, pause_s=3)
        written = scene.sql(PUT.format("new", 501, 600), "DELETE FROM accounts WHERE id = 7")
        after = await reaches(scene)
        assert relay[0].poll() is None
    assert written.lsn < before.lsn, "the log is where it was before"
    assert (before.epoch, written.epoch, after.epoch) == (1, 2, 2) and after > before
    assert len(scene.rows()) == 599 and {row[1] for row in await scene.copied()} == {"ann", "new"}
