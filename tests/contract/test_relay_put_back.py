"""PostgreSQL is put back on its old timeline: the relay says so and waits for a later one.

What such a server writes stands at positions that the copies have seen before, so nothing of it is
relayed, also once it has passed them again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.fixtures.fix_databases import execute
from tests.fixtures.fix_postgres import reachable_wheel
from tests.fixtures.fix_relay import TABLES, RelayScene
from tests.fixtures.patience import PATIENCE, PATIENCE_S
from tests.fixtures.standby import Server

from neolayer.engines.endpoints import Role
from neolayer.freshness import PutBack, Store, position_of, wait_for
from neolayer.freshness.cache_versions import FLOOR_KEY, version_text
from neolayer.insight.querying import Target, ask
from neolayer.position import Position, pack_version
from neolayer.relay.sinks.null import NullSink
from neolayer.relay.state import FlowState, read_state
from neolayer.supervision import _is_primary

PASSWORD = "of the application"
ROWS = "INSERT INTO accounts (id, owner) SELECT g, '{}' FROM generate_series({}, {}) g"


@pytest.fixture
def server(traversable_tmp: Path) -> Iterator[Server]:
    found = Server(
        traversable_tmp / "server",
        secrets.token_urlsafe(18),
        reachable_wheel(traversable_tmp),
        traversable_tmp / "postgres.log",
    )
    found.cluster.initialise()
    found.start()
    try:
        yield found
    finally:
        found.kill()


@pytest.fixture
def scene(relay_scene: RelayScene, server: Server) -> RelayScene:
    endpoint = server.cluster.endpoint(server.port, passwords={Role.APP: PASSWORD})
    found = dataclasses.replace(
        relay_scene, endpoints=dataclasses.replace(relay_scene.endpoints, postgres=endpoint)
    )
    execute(endpoint, "CREATE DATABASE neolayer")
    execute(endpoint, f"CREATE ROLE {Role.APP} LOGIN PASSWORD '{PASSWORD}'")
    make_tables(found)
    return found


def make_tables(scene: RelayScene) -> None:
    execute(scene.endpoints.postgres, f"CREATE DATABASE {scene.database}")
    scene.sql(*(one for one in TABLES.split(";") if one.strip()))


async def flow_where(scene: RelayScene, holds: Callable[[FlowState], bool]) -> FlowState:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            state = read_state(scene.state_file)
            if state is not None and holds(flow := state.flows["neolayer"]):
                return flow
            await asyncio.sleep(0.05)


async def is_refused(scene: RelayScene) -> FlowState:
    def holds(flow: FlowState) -> bool:
        return "PostgreSQL was put back" in (flow.error or "")

    flow = await flow_where(scene, holds)
    assert "onto a new timeline" in (flow.hint or "")
    assert not scene.is_streaming()
    return flow


def kept(server: Server) -> Path:
    """The server's data as it is now, as a snapshot of its disk would have it."""
    server.stop()
    copy = server.cluster.data.with_name("kept")
    shutil.copytree(server.cluster.data, copy, copy_function=shutil.copy2)
    own(copy, server.cluster.data)
    server.start()
    return copy


def own(copy: Path, like: Path) -> None:
    """The same owner for all of it: the server may run as another account than the tests."""
    owner = like.stat()
    for path in (copy, *copy.rglob("*")):
        shutil.chown(path, owner.st_uid, owner.st_gid)


def put_back(server: Server, copy: Path) -> None:
    server.stop()
    shutil.rmtree(server.cluster.data)
    copy.rename(server.cluster.data)
    server.start()


async def is_no_answer(scene: RelayScene, fresh: Position) -> None:
    """Though every copy is further than the write, none is said to have it; nor is it queried."""
    at, notes = scene.endpoints, {"neolayer": scene.folder / scene.slot / "server"}
    for store in (Store.CLICKHOUSE, Store.REDIS):
        reflected = await position_of(store, at)
        assert reflected is not None and reflected >= fresh
        with pytest.raises(PutBack, match="was put back on the same") as refused:
            await wait_for(fresh, at, stores=[store], timeout=PATIENCE, notes=notes)
        assert "onto a new timeline" in (refused.value.hint or "")
    with pytest.raises(PutBack):
        async with ask(at, Target.ANALYTICS, "SELECT 1", at_least=fresh, notes=notes):
            pytest.fail("it was answered")


async def nothing_is_believed(scene: RelayScene) -> None:
    """What lies in the cache is older than the next timeline, and so is whatever is put there."""
    floor = version_text(pack_version(2, 0)).encode()
    async with asyncio.timeout(PATIENCE_S):
        while scene.redis().get(FLOOR_KEY) != floor:
            await asyncio.sleep(0.05)


async def recovers(scene: RelayScene, server: Server) -> None:
    """The way out as the hint tells it, and everything arrives."""
    await asyncio.to_thread(server.stop)
    server.cluster.data.joinpath("standby.signal").touch()
    await asyncio.to_thread(server.start)
    await asyncio.to_thread(server.promote)
    position = scene.sql("UPDATE accounts SET amount = 7 WHERE id = 1")
    assert position.epoch == 2
    async with asyncio.timeout(PATIENCE_S):
        while not scene.rows() or await scene.copied() != scene.rows():
            await asyncio.sleep(0.1)


async def test_C3_a_snapshot_of_the_disk_that_was_put_back_is_refused_until_it_is_recovered(
    scene: RelayScene, server: Server
) -> None:
    """Nothing is relayed, also when the server has passed the copies' position again and the relay
    starts anew. On a new timeline every copy starts over, and is what PostgreSQL is."""
    async with scene.relaying():
        await scene.arrives(scene.sql(ROWS.format("ann", 1, 50)), Store.CLICKHOUSE)
        copy = await asyncio.to_thread(kept, server)
        lost = scene.sql(ROWS.format("lost", 51, 2000))
        await scene.arrives(lost, Store.CLICKHOUSE, Store.REDIS)
        await asyncio.to_thread(put_back, server, copy)
        fresh = scene.sql(ROWS.format("new", 51, 51))
        with pytest.raises(PutBack, match="clickhouse reflects"):
            await wait_for(fresh, scene.endpoints, stores=[Store.CLICKHOUSE], timeout=PATIENCE)
        flow = await is_refused(scene)
        assert "timeline: it is at neolayer:1:" in (flow.error or "")
        await is_no_answer(scene, fresh)
        scene.sql(ROWS.format("new", 52, 9000))
        assert scene.sql("SELECT 1") > lost
        await is_no_answer(scene, fresh)
        await nothing_is_believed(scene)
    copied = await scene.copied()
    scene.state_file.unlink()
    async with scene.relaying():
        assert (await is_refused(scene)).error == flow.error
        assert await scene.copied() == copied
        await recovers(scene, server)
        await flow_where(scene, lambda flow: flow.error is None)
        await scene.arrives(scene.sql("SELECT 1"))
    assert {row[1] for row in await scene.copied()} == {"ann", "new"}


@pytest.mark.faults
async def test_C3_a_sink_that_is_ahead_of_the_server_tells_where_the_log_was_lost(
    scene: RelayScene, server: Server
) -> None:
    """On another machine, with an empty folder, only a sink knows how far PostgreSQL was."""
    async with scene.relaying():
        await scene.arrives(scene.sql(ROWS.format("ann", 1, 50)), Store.CLICKHOUSE)
    copy = kept(server)
    async with scene.relaying():
        lost = scene.sql(ROWS.format("lost", 51, 2000))
        await scene.arrives(lost, Store.CLICKHOUSE, Store.REDIS)
    put_back(server, copy)
    other = dataclasses.replace(scene, folder=scene.folder.with_name("other"))
    async with other.relaying():
        flow = await is_refused(other)
        assert str(await position_of(Store.CLICKHOUSE, scene.endpoints)) in (flow.error or "")
        scene.sql(ROWS.format("new", 51, 9000))
    other.state_file.unlink()
    async with other.relaying():
        assert (await is_refused(other)).error == flow.error


@pytest.mark.faults
async def test_C3_another_cluster_on_the_same_timeline_is_refused(
    scene: RelayScene, server: Server, traversable_tmp: Path
) -> None:
    """A fresh cluster, filled from a dump, whatever its position is."""
    async with scene.relaying(NullSink()):
        await flow_where(scene, lambda _: scene.is_streaming())
    fresh = traversable_tmp / "fresh"
    fresh.mkdir()
    other = Server(fresh, secrets.token_urlsafe(18), server.cluster.bin_dir, fresh / "postgres.log")
    other.cluster.initialise()
    other.start()
    try:
        endpoint = other.cluster.endpoint(other.port, passwords={})
        moved = dataclasses.replace(
            scene, endpoints=dataclasses.replace(scene.endpoints, postgres=endpoint)
        )
        make_tables(moved)
        moved.sql(ROWS.format("new", 1, 20_000))
        async with moved.relaying(NullSink()):
            flow = await is_refused(moved)
        assert "as another server on the same timeline" in (flow.error or "")
    finally:
        other.kill()


@pytest.mark.faults
async def test_C3_a_crash_of_postgresql_is_not_taken_for_that(
    scene: RelayScene, server: Server
) -> None:
    """Killed while it sends: what it had sent is on its disk, and the copies go on."""
    async with scene.relaying():
        for amount in range(3):
            scene.sql(ROWS.format("ann", 1 + amount * 500, 500 + amount * 500))
            server.kill()
            await asyncio.to_thread(server.start)
        await scene.arrives(scene.sql("UPDATE accounts SET amount = 1"), Store.CLICKHOUSE)
        await scene.same()
        await flow_where(scene, lambda flow: flow.error is None)


@pytest.mark.faults
async def test_C3_an_embedded_server_that_is_to_come_up_on_a_new_timeline_is_promoted(
    scene: RelayScene, server: Server
) -> None:
    """`neolayer up` takes it for ready when it can be written to, on the next timeline."""
    await asyncio.to_thread(server.stop)
    server.cluster.data.joinpath("standby.signal").touch()
    await asyncio.to_thread(server.start)
    assert server.run("SELECT pg_is_in_recovery()") == [(True,)]
    ready = _is_primary(server.cluster, scene.endpoints.postgres, server.port)
    async with asyncio.timeout(PATIENCE_S):
        while not await ready():
            await asyncio.sleep(0.05)
    assert scene.sql(ROWS.format("ann", 1, 1)).epoch == 2
