"""kill -9 of PostgreSQL while blocks are ingested or a node is followed: the run waits for it to
come back, makes the commit again whose answer it never got, and loses and doubles nothing."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import pytest_asyncio
from tests.fixtures.fabricated import fabricate_chain
from tests.fixtures.fix_chain import EMPTY_BLOCKS, Stored
from tests.fixtures.fix_databases import postgres_only
from tests.fixtures.fix_postgres import await_postgres, reachable_wheel, traversable_folder
from tests.fixtures.fix_rpc import PlayedNode
from tests.fixtures.followers import Follower
from tests.fixtures.patience import PATIENCE_S

from neolayer.chain.ingest import ingest
from neolayer.chain.pending import Pool
from neolayer.chain.registry import ensure_network
from neolayer.chain.sources.jsonrpc import open_rpc
from neolayer.chain.synthetic import make_chain
from neolayer.engines.embedded.ports import free_port
from neolayer.engines.embedded.postgres import STOP_SIGNAL, EmbeddedPostgres, server_environment
from neolayer.engines.embedded.privileges import spawn_options
from neolayer.engines.endpoints import PostgresEndpoint, Role
from neolayer.engines.postgres.connections import connect
from neolayer.schema.lines import POSTGRES_LINES
from neolayer.schema.runner import migrate_up

pytestmark = pytest.mark.faults
ROUNDS, KILLS_PER_ROUND = 4, 5
SEED = int(os.environ.get("TEST_SEED", "20261124"))


class Server:
    """A PostgreSQL that may be killed and started again where it was."""

    def __init__(self, folder: Path) -> None:
        self._cluster = EmbeddedPostgres(
            folder / "postgres", secrets.token_urlsafe(18), bin_dir=reachable_wheel(folder)
        )
        self._cluster.initialise()
        self._log = folder / "postgres.log"
        self.port = free_port()
        self._process = self._spawn()

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as output:
            process = subprocess.Popen(
                self._cluster.argv(self.port, fsync="off"),
                stdout=output,
                stderr=output,
                cwd=self._cluster.directory,
                env=server_environment(),
                start_new_session=True,
                **spawn_options(self._cluster.account),
            )
        await_postgres(process, self._cluster.admin_dsn(self.port), self._log)
        return process

    def endpoint(self) -> PostgresEndpoint:
        passwords = {role: secrets.token_urlsafe(18) for role in Role if role is not Role.ADMIN}
        return self._cluster.endpoint(self.port, passwords=passwords)

    def kill_and_start(self, *, away_s: float = 0) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        time.sleep(away_s)
        self._process = self._spawn()

    def stop(self) -> None:
        self._process.send_signal(STOP_SIGNAL)
        self._process.wait(60)  # what a supervisor gives it


@pytest.fixture
def server() -> Iterator[Server]:
    with traversable_folder() as folder:
        made = Server(folder)
        try:
            yield made
        finally:
            made.stop()


@pytest_asyncio.fixture
async def killable(server: Server) -> AsyncIterator[Stored]:
    cluster = server.endpoint()
    await migrate_up(postgres_only(cluster), lines=POSTGRES_LINES)
    dsn = cluster.dsn(Role.INGEST)
    async with await connect(dsn, autocommit=True, application_name="tests") as connection:
        network = await ensure_network(connection, "testnet", chain_id=1337)
    admin_dsn = cluster.dsn(Role.ADMIN, "neolayer")
    admin = await connect(admin_dsn, autocommit=True, application_name="tests")
    yield Stored(network, dsn, admin)
    await admin.close()


@asynccontextmanager
async def looking(server: Server, stored: Stored) -> AsyncIterator[Stored]:
    """The same with a connection of now: those of before die with the server."""
    dsn = server.endpoint().dsn(Role.ADMIN, "neolayer")
    async with await connect(dsn, autocommit=True, application_name="tests") as admin:
        yield Stored(stored.network, stored.dsn, admin)


async def test_C2_postgres_killed_at_random_moments(killable: Stored, server: Server) -> None:
    """Twenty kills under running ingests; one report each, and the rows of a quiet run."""
    chance = random.Random(SEED)
    blocks = fabricate_chain(range(1, 601), transactions=6)

    async def run() -> int:
        report = await ingest(
            blocks, dsn=killable.dsn, network=killable.network, blocks_per_commit=2
        )
        assert report.refused == ()
        return report.blocks + report.skipped

    started = asyncio.get_running_loop().time()
    await run()
    duration = asyncio.get_running_loop().time() - started
    wanted = await killable.fingerprint()
    for _ in range(ROUNDS):
        async with looking(server, killable) as stored:
            await stored.admin.execute(EMPTY_BLOCKS)
        task = asyncio.create_task(run())
        for _ in range(KILLS_PER_ROUND):
            await asyncio.sleep(chance.uniform(0, duration / KILLS_PER_ROUND))
            await asyncio.to_thread(server.kill_and_start)
        assert await task == len(blocks)
        async with looking(server, killable) as stored:
            assert await stored.fingerprint() == wanted, f"seed {SEED}"


async def test_C2_postgres_killed_under_a_follower(
    killable: Stored, server: Server, played_node: PlayedNode
) -> None:
    """Twenty kills while a node grows, changes its mind and has transactions that wait: the
    follower ends at the node's head with the rows of one that was never disturbed."""
    chance = random.Random(SEED)
    chain = make_chain(blocks=160, transactions_per_block=4, seed=SEED, reorg_at=80, reorg_depth=20)
    played_node.chain_id = 1337
    steps = [*(chain.first[:end] for end in range(8, 100, 8)), chain.first]
    steps += [chain.fork[:end] for end in range(8, 80, 8)] + [chain.fork]

    async def run(kills: int) -> dict[str, str]:
        async with looking(server, killable) as stored:
            await stored.admin.execute(EMPTY_BLOCKS)
        played_node.forget_above(0)
        async with open_rpc(played_node.url, timeout_s=20) as rpc:
            follower = Follower(killable, rpc)
            task = asyncio.create_task(follower.run(Pool(rpc)))
            due = set(chance.sample(range(len(steps)), kills))
            for number, step in enumerate(steps):
                played_node.serve(step)
                await asyncio.sleep(chance.uniform(0, 0.3))
                if number in due:
                    away_s = chance.choice((0, 0, 1))
                    await asyncio.to_thread(server.kill_and_start, away_s=away_s)
            try:
                await asyncio.wait_for(head_is(chain.fork[-1].block["hash"], task), PATIENCE_S)
            finally:
                follower.stop.set()
            await task
        async with looking(server, killable) as stored:
            found = await stored.fingerprint()
            return {table: found[table] for table in ("blocks", "logs", "contracts", "heads")}

    async def head_is(wanted: str, task: asyncio.Task[object]) -> None:
        while not task.done():
            async with looking(server, killable) as stored:
                with suppress(ValueError):  # no row yet
                    query = "SELECT head_hash FROM blockchain.chain_heads"
                    if await stored.value(query) == wanted:
                        return
            await asyncio.sleep(0.1)

    wanted = await run(kills=0)
    for _ in range(ROUNDS):
        assert await run(kills=KILLS_PER_ROUND) == wanted, f"seed {SEED}"
