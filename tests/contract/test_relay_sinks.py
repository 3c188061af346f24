"""The sinks of the wheels, held to the contract that all sinks share."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import pytest
import redis
from tests.fixtures.fix_relay import COPIES, clickhouse_statements
from tests.fixtures.sink_suite import (
    CLICKHOUSE_TABLE,
    OWNER,
    THINGS,
    Log,
    SinkCase,
    SinkSuite,
    Thing,
    change,
    empty,
    put,
)

from neolayer.engines.clickhouse.client import connect
from neolayer.engines.endpoints import ClickHouseEndpoint, RedisEndpoint
from neolayer.freshness.cache_versions import CHECKPOINT_KEY, FLOOR_KEY, read_entry, version_text
from neolayer.relay.sinks.clickhouse import ClickHouseSink
from neolayer.relay.sinks.null import NullSink
from neolayer.relay.sinks.redis import RedisSink


class ClickHouseCase(SinkCase):
    remembers_truncations = False  # rows are gone with their versions
    checkpoint_step = "neolayer.relay.sinks.clickhouse.ClickHouseSink.reflect"

    def __init__(self, endpoint: ClickHouseEndpoint) -> None:
        self.endpoint = endpoint

    def sink(self) -> ClickHouseSink:
        return ClickHouseSink(self.endpoint, [THINGS], wait_s=0.01)

    async def rows(self) -> Mapping[Any, Any]:
        client = await connect(self.endpoint)
        try:
            found = await client.query("SELECT toString(owner), id, note FROM things FINAL")
            return {(owner, number): note for owner, number, note in found.result_rows}
        finally:
            await client.close()

    async def wipe(self) -> bool:
        await clickhouse_statements(
            self.endpoint, "TRUNCATE TABLE things", "TRUNCATE TABLE relay_checkpoints"
        )
        return True


class TestClickHouse(SinkSuite):
    @pytest.fixture
    async def case(self, clickhouse_server: ClickHouseEndpoint) -> AsyncIterator[SinkCase]:
        name = f"sink_{secrets.token_hex(4)}"
        server = dataclasses.replace(clickhouse_server, database="default")
        endpoint = dataclasses.replace(clickhouse_server, database=name)
        await clickhouse_statements(server, f"CREATE DATABASE {name}")
        await clickhouse_statements(endpoint, CLICKHOUSE_TABLE, COPIES[1])
        yield ClickHouseCase(endpoint)
        await clickhouse_statements(server, f"DROP DATABASE {name}")


class RedisCase(SinkCase):
    """What it holds are the versions at or below which nothing is believed. The last of them and
    the checkpoint are stored at once: nobody dies between them."""

    keeps_rows = False

    def __init__(self, endpoint: RedisEndpoint, client: redis.Redis) -> None:
        self.endpoint = endpoint
        self.client = client

    def sink(self) -> RedisSink:
        return RedisSink(self.endpoint, [THINGS])

    async def rows(self) -> Mapping[Any, Any]:
        return {key: self.client.get(key) for key in self.client.keys("thing:*")}


class TestRedis(SinkSuite):
    @pytest.fixture
    def case(self, redis_server: RedisEndpoint) -> Iterator[SinkCase]:
        with redis.Redis.from_url(redis_server.url) as client:
            client.flushdb()
            yield RedisCase(redis_server, client)


async def test_an_emptied_table_ends_belief_in_older_entries(redis_server: RedisEndpoint) -> None:
    """TRUNCATE names no keys: what a reader believed before it is not believed behind it."""
    log = Log()
    sink = RedisSink(redis_server, [THINGS])
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushdb()
        await sink.open(log.position)
        for number in (1, 2):  # the first checkpoint raises the floor to where it is
            await sink.write([log.commit(put(Thing(number)))])
        entry = (version_text(log.position) + "+old").encode()
        before = client.get(FLOOR_KEY)
        await sink.write([log.commit(empty())])
        after = client.get(FLOOR_KEY)
    await sink.close()
    assert read_entry(entry, before) == b"old"  # type: ignore[arg-type]
    assert read_entry(entry, after) is None  # type: ignore[arg-type]


async def test_a_write_costs_a_cache_one_call(redis_server: RedisEndpoint) -> None:
    """However many transactions come together: each call more is lag for all that follow."""
    log = Log()
    sink = RedisSink(redis_server, [THINGS])
    await sink.open(log.position)
    batches = [log.commit(change(Thing(number))) for number in range(100)]
    await sink.write([log.commit(change(Thing(0)))])  # the server knows the script from now on
    with redis.Redis.from_url(redis_server.url) as client:
        client.config_resetstat()
        await sink.write(batches)
        calls = client.info("commandstats")["cmdstat_evalsha"]["calls"]  # type: ignore[index]
        assert calls == 1
        assert len(client.keys("thing:*")) == 100  # type: ignore[arg-type]
    await sink.close()


def plant(client: redis.Redis, key: str, kind: str) -> None:
    """What a stranger left under a key: of each type, and texts that would sort above ours."""
    client.delete(key)
    match kind:
        case "hash":
            client.hset(key, "a", "b")
        case "list":
            client.rpush(key, "a")
        case "set":
            client.sadd(key, "a")
        case "zset":
            client.zadd(key, {"a": 1})
        case "stream":
            client.xadd(key, {"a": "b"})
        case text:
            client.set(key, text)


FOREIGN = ("hash", "list", "set", "zset", "stream", "", "text", "f+", "z" * 16 + "+x", "f" * 17)


@pytest.mark.parametrize("per_call", [1, 1_024])
async def test_what_is_no_entry_gives_way_to_the_mark(
    redis_server: RedisEndpoint, monkeypatch: pytest.MonkeyPatch, per_call: int
) -> None:
    """A key of another type holds up neither its neighbours nor itself, in whichever call it comes;
    a newer entry of ours stays."""
    monkeypatch.setattr("neolayer.relay.sinks.redis._KEYS_PER_CALL", per_call)
    log = Log()
    sink = RedisSink(redis_server, [THINGS])
    keys = [f"thing:{OWNER}:{number}" for number in range(len(FOREIGN) + 2)]
    newer = (version_text(9 << 60) + "+newer").encode()
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushdb()
        await sink.open(log.position)
        for key, kind in zip(keys, FOREIGN, strict=False):
            plant(client, key, kind)
        client.set(keys[-2], newer)
        changes = [change(Thing(number)) for number in range(len(keys))]
        await sink.write([log.commit(*changes)])
        *marks, kept, last = client.mget(keys)  # type: ignore[misc]
    await sink.close()
    assert last is not None and last.endswith(b"-")
    assert dict(zip(FOREIGN, marks, strict=True)) == dict.fromkeys(FOREIGN, last)
    assert kept == newer


@pytest.mark.parametrize("kind", ["hash", "set", "no version"])
async def test_a_floor_or_checkpoint_that_is_none_is_put_right(
    redis_server: RedisEndpoint, kind: str
) -> None:
    """While the sink writes, raises its floor or starts: nothing older is believed behind it."""
    log = Log()
    sink = RedisSink(redis_server, [THINGS])
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushdb()
        await sink.open(log.position)
        for key in (CHECKPOINT_KEY, FLOOR_KEY):
            await sink.write([log.commit(put(Thing(1)))])
            plant(client, key, kind)
            await sink.write([log.commit(change(Thing(1)))])
            here = version_text(log.position).encode()
            assert client.mget(CHECKPOINT_KEY, FLOOR_KEY) == [here, here]
        plant(client, FLOOR_KEY, kind)
        await sink.write([log.commit(empty())])
        floor = client.get(FLOOR_KEY)
        assert here < floor <= version_text(log.position).encode()  # type: ignore[operator]
        await sink.close()
        plant(client, CHECKPOINT_KEY, kind)
        plant(client, FLOOR_KEY, kind)
        assert await sink.open(log.position) == log.position
        assert client.get(FLOOR_KEY) == version_text(log.position).encode()
    await sink.close()


class NullCase(SinkCase):
    keeps_rows = False

    def sink(self) -> NullSink:
        return NullSink()

    async def rows(self) -> Mapping[Any, Any]:
        return {}


class TestNull(SinkSuite):
    @pytest.fixture
    def case(self) -> SinkCase:
        return NullCase()
