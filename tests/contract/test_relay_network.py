"""C5: a network that loses, delays, cuts and falls silent, between the relay and each server."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import random
from collections.abc import AsyncIterator, Iterator
from functools import partial
from urllib.parse import urlsplit

import pytest
from tests.contract.test_relay_faults import HUNDRED, said_by, until
from tests.crash.writer import Writer
from tests.fixtures.cached_accounts import cache_all, compared_cache
from tests.fixtures.fix_relay import ACCOUNTS, RelayScene
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.tcp_proxy import Proxy, proxied

from neolayer.engines.clickhouse import client as clickhouse_client
from neolayer.engines.endpoints import Endpoints
from neolayer.engines.postgres import connections, replication
from neolayer.engines.redis.client import connect as connect_redis
from neolayer.freshness import Store
from neolayer.relay.sinks import redis as redis_sink
from neolayer.relay.sinks.clickhouse import ClickHouseSink
from neolayer.relay.sinks.null import NullSink
from neolayer.relay.sinks.redis import RedisSink

SEED = int(os.environ.get("TEST_SEED", "20261127"))
SOON_S = 2.0  # instead of a minute, or five


@dataclasses.dataclass(frozen=True)
class Network:
    """The scene as its relay sees it: every server behind a proxy of its own."""

    scene: RelayScene
    seen: RelayScene
    postgres: Proxy
    clickhouse: Proxy
    redis: Proxy

    @property
    def all(self) -> tuple[Proxy, ...]:
        return self.postgres, self.clickhouse, self.redis

    @contextlib.asynccontextmanager
    async def relaying(self) -> AsyncIterator[NullSink]:
        """A relay into all stores, and the one that counts what it is given."""
        counting, at = NullSink(), self.seen.endpoints
        sinks = (
            ClickHouseSink(at.clickhouse, [ACCOUNTS], wait_s=0.05),
            RedisSink(at.redis, [ACCOUNTS]),
            counting,
        )
        before = len(asyncio.all_tasks())
        async with self.seen.relaying(*sinks):
            await until(self.scene.is_streaming)
            yield counting
        async with asyncio.timeout(PATIENCE_S):
            while len(asyncio.all_tasks()) > before:  # none is left
                await asyncio.sleep(0.01)


def through(at: Endpoints, postgres: Proxy, clickhouse: Proxy, redis: Proxy) -> Endpoints:
    admin = at.postgres.admin_dsn.replace(f"port={postgres.upstream}", f"port={postgres.port}")
    assert admin != at.postgres.admin_dsn
    url = at.redis.url.replace(f":{redis.upstream}", f":{redis.port}")
    return dataclasses.replace(
        at,
        postgres=dataclasses.replace(at.postgres, admin_dsn=admin),
        clickhouse=dataclasses.replace(at.clickhouse, port=clickhouse.port),
        redis=dataclasses.replace(at.redis, url=url),
    )


@pytest.fixture
def network(relay_scene: RelayScene, monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    monkeypatch.setattr(replication, "SILENCE_S", SOON_S)
    monkeypatch.setattr(connections, "CONNECT_TIMEOUT_S", 2)
    monkeypatch.setattr(clickhouse_client, "ANSWER_TIMEOUT_S", SOON_S)
    monkeypatch.setattr(redis_sink, "connect", partial(connect_redis, timeout_s=SOON_S))
    at = relay_scene.endpoints
    # The server too gives up on a peer that says nothing; it holds the slot until then.
    relay_scene.sql(f"ALTER DATABASE {relay_scene.database} SET wal_sender_timeout = '2s'")
    redis_port = urlsplit(at.redis.url).port or 0
    postgres_port = int(at.postgres.address.rsplit(":", 1)[1])
    with (
        proxied(postgres_port, seed=SEED) as postgres,
        proxied(at.clickhouse.port, seed=SEED + 1) as clickhouse,
        proxied(redis_port, seed=SEED + 2) as redis,
    ):
        seen = dataclasses.replace(relay_scene, endpoints=through(at, postgres, clickhouse, redis))
        yield Network(relay_scene, seen, postgres, clickhouse, redis)


async def test_C5_a_half_open_postgresql_is_noticed(network: Network) -> None:
    """The server's host is gone without a word: the relay hangs up, says so, connects anew, and
    misses nothing; what comes is given once."""
    scene = network.scene
    async with network.relaying() as counting:
        await scene.arrives(scene.sql(HUNDRED))
        network.postgres.hold()
        position = scene.sql("UPDATE accounts SET amount = 1")
        await until(lambda: "has said nothing for" in (said_by(scene.state_file) or ""))
        network.postgres.release()
        await scene.arrives(position)
        await scene.arrives_at(counting, position)
        assert (counting.rows, counting.copies) == (200, 0)
        await scene.same()


@pytest.mark.parametrize("store", ["clickhouse", "redis"])
async def test_C5_a_half_open_store_is_noticed_and_delays_no_other(
    network: Network, store: str
) -> None:
    """Its lane says that it does not answer, and goes on when it does; the others have everything
    meanwhile."""
    scene, broken = network.scene, getattr(network, store)
    well = Store.REDIS if store == "clickhouse" else Store.CLICKHOUSE
    async with network.relaying() as counting:
        await scene.arrives(scene.sql(HUNDRED))
        broken.hold()
        position = scene.sql("UPDATE accounts SET amount = 1")
        await scene.arrives(position, well)
        await scene.arrives_at(counting, position)
        assert "does not answer in time" in await scene.error_of(store)
        broken.release()
        await scene.arrives(position)
        assert counting.rows == 200
        await scene.same()
        assert (await compared_cache(scene)).total == 0


@pytest.mark.parametrize("store", ["postgres", "clickhouse", "redis"])
async def test_C5_a_connection_that_is_cut_anywhere_loses_and_doubles_nothing(
    network: Network, store: str
) -> None:
    """After so many chunks, wherever in a message or an answer that is."""
    scene, broken = network.scene, getattr(network, store)
    async with network.relaying() as counting:
        await scene.arrives(scene.sql(HUNDRED))
        for chunks in range(5):
            broken.cut_after(chunks)
            position = scene.sql("UPDATE accounts SET amount = amount + 1")
        await scene.arrives(position)
        await scene.arrives_at(counting, position)
        assert (counting.rows, counting.copies) == (600, 0)
        await scene.same()


async def weathered(network: Network, *, rounds: int) -> int:
    """Rows change while the network gets worse and better; how many transactions there were."""
    scene, dice = network.scene, random.Random(SEED)
    async with network.relaying() as counting:
        await scene.arrives(scene.sql(HUNDRED))
        with Writer(scene.dsn, SEED) as writer:
            for _ in range(rounds):
                proxy = dice.choice(network.all)
                match dice.randrange(4):
                    case 0:
                        proxy.delay_s = dice.choice((0.0, 0.005, 0.05))
                    case 1:
                        proxy.loss = dice.choice((0.0, 0.05, 0.2))
                    case 2:
                        proxy.cut_after(dice.randrange(20))
                    case 3:
                        with proxy.refusing():
                            await asyncio.sleep(dice.uniform(0, 0.2))
                await asyncio.sleep(dice.uniform(0, 0.3))
            cache_all(scene)
        for proxy in network.all:
            proxy.delay_s = proxy.loss = 0.0
        position = scene.sql("SELECT 1")
        await scene.arrives(position)
        await scene.arrives_at(counting, position)
        assert counting.copies == 0
        await scene.same()
        assert (await compared_cache(scene)).total == 0, f"seed {SEED}"
    return writer.committed


async def test_C5_loss_delay_and_cuts_change_nothing(network: Network) -> None:
    """A short spell of bad weather: rows are equal on all sides, and nothing was copied."""
    assert await weathered(network, rounds=12) > 5


@pytest.mark.faults
async def test_C5_a_long_spell_of_loss_delay_and_cuts_changes_nothing(network: Network) -> None:
    """The same for minutes."""
    assert await weathered(network, rounds=200) > 100
