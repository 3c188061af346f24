"""C3: the primary dies and a standby takes over, with its last commits or without.

PostgreSQL's timeline rises, and with it the epoch of every position. Every copy starts over: after
an asynchronous failover it loses what was lost; after a synchronous one it comes out the same. What
is new wins, although the new primary writes at log positions that the sinks have seen before. An
older server that comes back afterwards is refused.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests.crash.test_C1_relay_kill import relay_of, until
from tests.fixtures.cached_accounts import believed, cache_all, compared_cache
from tests.fixtures.fix_databases import execute
from tests.fixtures.fix_relay import TABLES, RelayScene
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.standby import Pair, pair_in

from neolayer.engines.postgres.replication import ReplicationConnection, SlotActive
from neolayer.errors import EngineError, EngineUnavailable
from neolayer.freshness.positions import Store, position_of
from neolayer.position import Position
from neolayer.relay.sinks.null import NullSink
from neolayer.relay.state import read_state

pytestmark = pytest.mark.faults
PUT = "INSERT INTO accounts (id, owner, amount) SELECT g, '{}', g FROM generate_series({}, {}) g"
STANDS_ON = "SELECT temporary, synced, failover FROM pg_replication_slots WHERE slot_name = '{}'"


@pytest.fixture
def pair(traversable_tmp: Path) -> Iterator[Pair]:
    with pair_in(traversable_tmp) as servers:
        yield servers


@pytest.fixture
def scene(relay_scene: RelayScene, pair: Pair) -> RelayScene:
    """The relay's scene, its PostgreSQL behind the pair's address."""
    endpoints = dataclasses.replace(relay_scene.endpoints, postgres=pair.endpoint)
    moved = dataclasses.replace(relay_scene, endpoints=endpoints)
    execute(pair.endpoint, f"CREATE DATABASE {moved.database}")
    moved.sql(*(one for one in TABLES.split(";") if one.strip()))
    return moved


async def reaches(scene: RelayScene, written: Position) -> Position:
    """Where ClickHouse is once it and Redis have what was written; it is what the source is."""
    arrived = await scene.arrives(written, Store.CLICKHOUSE, Store.REDIS)
    assert scene.rows()
    await scene.same()
    return arrived[Store.CLICKHOUSE]


async def said(scene: RelayScene, words: str) -> None:
    """Return once the relay's reader, or a lane of it, says so."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            state = read_state(scene.state_file)
            flows = list(state.flows.values()) if state else []
            errors = [flow.error for flow in flows]
            errors += [lane.error for flow in flows for lane in flow.lanes.values()]
            if any(words in (error or "") for error in errors):
                return
            await asyncio.sleep(0.05)


def log_of(scene: RelayScene) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", scene.folder.parent.joinpath("relay.log").read_text())


def copies_made(scene: RelayScene) -> int:
    """How often ClickHouse was given the tables as they stand."""
    return len(re.findall(r"copied +sink=clickhouse", log_of(scene)))


async def test_C3_a_standby_that_lacks_the_last_commits_takes_over(
    scene: RelayScene, pair: Pair
) -> None:
    """What was lost is gone from the copies and no longer believed in the cache, what is new
    arrives in both, and positions only rise. A standby that only answers is not taken for the
    primary."""
    async with relay_of(scene) as relay:
        await reaches(scene, scene.sql(PUT.format("ann", 1, 500)))
        await asyncio.to_thread(pair.back_up)
        lost = scene.sql(
            PUT.format("lost", 501, 1500), "UPDATE accounts SET note = 'lost' WHERE id < 100"
        )
        before = await reaches(scene, lost)
        await reaches(scene, scene.sql("UPDATE accounts SET good = false WHERE id = 1"))
        assert cache_all(scene) == 1500
        await asyncio.to_thread(pair.fail_over)
        await said(scene, "is a standby")
        await asyncio.to_thread(pair.promote)
        written = scene.sql(PUT.format("new", 501, 600), "DELETE FROM accounts WHERE id = 7")
        after = await reaches(scene, written)
        assert believed(scene) == set()
        await reaches(scene, scene.sql("UPDATE accounts SET good = true WHERE id = 2"))
        assert cache_all(scene) == 599
        await reaches(scene, scene.sql("UPDATE accounts SET amount = amount + 1 WHERE id <= 10"))
        assert len(believed(scene)) == 599 - 9  # nine of ten were changed: 7 is gone
        assert (await compared_cache(scene)).total == 0
        assert relay[0].poll() is None
    assert written.lsn < before.lsn, "the log is where it was before"
    assert (before.epoch, written.epoch, after.epoch) == (1, 2, 2) and after > before
    assert len(scene.rows()) == 599 and {row[1] for row in await scene.copied()} == {"ann", "new"}


async def keep_slot_on_standby(scene: RelayScene, pair: Pair) -> None:
    """The relay's slot, made for failover before the relay starts; then the standby."""
    with psycopg.connect(scene.dsn, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_create_logical_replication_slot(%s, 'pgoutput', failover => true)",
            (scene.slot,),
        )
    await asyncio.to_thread(pair.replicate_synchronously)


async def slot_is_on_standby(scene: RelayScene, pair: Pair) -> None:
    """Return once it would outlive the primary."""
    found = "SELECT 1 FROM pg_replication_slots WHERE synced AND NOT temporary AND slot_name"
    await asyncio.to_thread(pair.standby.until, f"EXISTS ({found} = '{scene.slot}')")


async def test_C3_a_synchronous_standby_takes_over_with_the_slot(
    scene: RelayScene, pair: Pair
) -> None:
    """Nothing that was confirmed is lost, and the slot is there (made for failover, PostgreSQL 17).
    The copies start over all the same and come out equal: see docs/reliability.md for why."""
    await keep_slot_on_standby(scene, pair)
    async with relay_of(scene) as relay:
        confirmed = scene.sql(PUT.format("ann", 1, 500))
        await reaches(scene, confirmed)
        await slot_is_on_standby(scene, pair)
        await until(lambda: copies_made(scene) == 1)
        assert cache_all(scene) == 500
        last = scene.sql("UPDATE accounts SET note = 'confirmed' WHERE id < 100")
        await asyncio.to_thread(pair.fail_over)
        await asyncio.to_thread(pair.promote)
        after = await reaches(scene, scene.sql("SELECT 1"))
        assert len(scene.rows()) == 500
        assert scene.rows("SELECT count(*) FROM accounts WHERE note = 'confirmed'") == [(99,)]
        assert scene.rows(STANDS_ON.format(scene.slot)) == [(False, True, True)]
        assert believed(scene) == set()
        await until(lambda: copies_made(scene) == 2)
        assert relay[0].poll() is None
    assert confirmed < last < after and after.epoch == 2
    assert "made the slot" not in log_of(scene)
    assert copies_made(scene) == 2


async def test_C3_what_a_standby_refuses_before_it_is_promoted(
    scene: RelayScene, pair: Pair
) -> None:
    """A slot of the relay's name can neither be made there for failover nor read: whoever keeps a
    slot on a standby of PostgreSQL 17 makes it on the primary and lets it be synchronised."""
    await keep_slot_on_standby(scene, pair)
    async with scene.relaying(NullSink()):
        await slot_is_on_standby(scene, pair)
    dsn = psycopg.conninfo.make_conninfo(pair.standby.dsn, dbname=scene.database)
    with psycopg.connect(dsn, autocommit=True) as connection:
        with pytest.raises(psycopg.Error) as caught:
            connection.execute(
                "SELECT pg_create_logical_replication_slot('another', 'pgoutput', failover => true)"
            )
        assert caught.value.diag.message_primary == (
            "cannot enable failover for a replication slot created on the standby"
        )
    stream = await ReplicationConnection.connect(dsn, application_name="tests")
    try:
        with pytest.raises(EngineUnavailable, match="is a standby"):
            await stream.timeline()
        refusal: EngineError = SlotActive("postgres", "")
        while isinstance(refusal, SlotActive):  # while it is being synchronised just now
            with pytest.raises(EngineError) as refused:
                await stream.start(scene.slot, publication="neolayer_relay")
            refusal = refused.value
        assert f'cannot use replication slot "{scene.slot}" for logical decoding' in refusal.message
    finally:
        await stream.close()


async def test_C3_an_older_server_that_comes_back_is_refused(scene: RelayScene, pair: Pair) -> None:
    """The old primary answers at the address again, on its old timeline: the relay says so and
    writes nothing, also where its log was lost and only a sink knows of the newer timeline. When
    the promoted server is back, it goes on."""
    async with scene.relaying():
        await reaches(scene, scene.sql(PUT.format("ann", 1, 50)))
        await asyncio.to_thread(pair.back_up)
        await asyncio.to_thread(pair.fail_over)
        await asyncio.to_thread(pair.promote)
        await reaches(scene, scene.sql(PUT.format("new", 51, 60)))
        await asyncio.to_thread(pair.primary.start)
        pair.stand_behind(pair.primary)
        await said(scene, "on timeline 1, and what was read from it on 2: this is an older server")
        scene.sql(PUT.format("stray", 61, 70))
    reached = await position_of(Store.CLICKHOUSE, scene.endpoints)
    copied = await scene.copied()
    assert reached is not None and reached.epoch == 2
    other = dataclasses.replace(scene, folder=scene.folder.with_name("other"))
    async with other.relaying():
        await said(other, "reflects timeline 2 of the database, which is on 1")
        assert await position_of(Store.CLICKHOUSE, scene.endpoints) == reached
        assert await scene.copied() == copied
        pair.stand_behind(pair.standby)
        moved = scene.sql("UPDATE accounts SET amount = 7 WHERE id = 1")
        assert await reaches(other, moved) > reached
    assert {row[1] for row in await scene.copied()} == {"ann", "new"}
