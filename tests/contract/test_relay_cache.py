"""Cached transactions follow the commit log: a reader that comes late never puts old data back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from importlib.resources import files

import msgspec
import psycopg
import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis
from redis.exceptions import RedisError
from tests.contract.test_relay_chain import (
    NETWORK,
    NETWORK_ROW,
    TRANSACTIONS,
    arrives,
    layer,
    relaying,
    write,
)
from tests.fixtures.fix_relay import RelayScene

from neolayer.chain import reading
from neolayer.chain.cache import TransactionCache
from neolayer.engines.endpoints import Endpoints, RedisEndpoint, Role
from neolayer.engines.engine import Level
from neolayer.engines.postgres.connections import Connection, connect
from neolayer.engines.redis.client import connect as connect_redis
from neolayer.freshness import Store, position_of
from neolayer.freshness.cache_versions import CHECKPOINT_KEY, FLOOR_KEY, read_entry, version_text
from neolayer.position import Position, pack_version
from neolayer.relay.sinks.redis import RedisSink

__all__ = ["layer", "relaying"]

HASH = "0x" + f"{1:064x}"
KEY = f"transaction:{NETWORK}:{HASH}"
HEAD = f"""INSERT INTO blockchain.chain_heads (network_id, head_number) VALUES ('{NETWORK}', 500)
ON CONFLICT (network_id) DO UPDATE SET head_number = chain_heads.head_number + 1"""
CONFIRM = f"UPDATE blockchain.transactions SET gas_used = 21000 WHERE transaction_hash = '{HASH}'"
MOVE_ON = f"UPDATE blockchain.networks SET is_active = is_active WHERE id = '{NETWORK}'"


@pytest.fixture
async def core(relaying: Endpoints) -> AsyncIterator[Connection]:
    await arrives(relaying, write(relaying, NETWORK_ROW, TRANSACTIONS, HEAD))
    # Where the rows came with the relay's first copy, nothing is cached until the log moves on.
    await arrives(relaying, write(relaying, MOVE_ON))
    dsn = relaying.postgres.dsn(Role.APP)
    async with await connect(dsn, autocommit=True, application_name="test") as connection:
        yield connection


@pytest.fixture
async def redis(relaying: Endpoints) -> AsyncIterator[Redis]:
    client = connect_redis(relaying.redis, timeout_s=2)
    yield client
    await client.aclose()


async def test_what_the_cache_answers_is_what_the_database_answers(
    relaying: Endpoints, core: Connection, redis: Redis
) -> None:
    """First from PostgreSQL, then from Redis: every field alike, confirmations as of now."""
    cache = TransactionCache(core, redis)
    expected = await reading.transaction(core, "synthetic", HASH)
    assert expected is not None and expected.value == Decimal(2**256 - 1)
    assert await cache.transaction("synthetic", HASH) == expected
    assert read_entry(await redis.get(KEY), None) is not None
    write(relaying, HEAD)
    again = await cache.transaction("synthetic", HASH.upper().replace("0X", "0x"))
    assert again == await reading.transaction(core, "synthetic", HASH)
    assert again is not None and again.confirmation_count == 501
    assert await cache.transaction("synthetic", "0x" + "f" * 64) is None
    assert await cache.transaction("nowhere", HASH) is None


async def test_a_change_is_seen_as_soon_as_the_relay_has_it(
    relaying: Endpoints, core: Connection, redis: Redis
) -> None:
    """A tombstone takes the entry's place; the next read caches the new row."""
    cache = TransactionCache(core, redis)
    await cache.transaction("synthetic", HASH)
    await arrives(relaying, write(relaying, CONFIRM))
    entry = await redis.get(KEY)
    assert entry is not None and entry.endswith(b"-") and await redis.pttl(KEY) > 0
    fresh = await cache.transaction("synthetic", HASH)
    assert fresh is not None and fresh.gas_used == 21000
    assert read_entry(await redis.get(KEY), None) is not None


async def test_a_slow_reader_cannot_put_an_old_row_back(
    relaying: Endpoints, core: Connection, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row changes, and the relay tells so, between a reader's look and its put."""
    cache = TransactionCache(core, redis)
    read_row = cache._row

    async def read_then_dawdle(*names: object) -> object:
        row = await read_row(*names)  # type: ignore[arg-type]
        await arrives(relaying, write(relaying, CONFIRM))
        return row

    monkeypatch.setattr(cache, "_row", read_then_dawdle)
    late = await cache.transaction("synthetic", HASH)
    assert late is not None and late.gas_used is None
    entry = await redis.get(KEY)
    assert entry is not None and entry.endswith(b"-")


async def test_a_row_under_change_is_answered_but_not_cached(
    relaying: Endpoints, core: Connection, redis: Redis
) -> None:
    """A commit may be on disk before it is visible: a row that bears its mark is not kept."""
    cache = TransactionCache(core, redis)
    with psycopg.connect(relaying.postgres.dsn(Role.ADMIN)) as writer:
        writer.execute(CONFIRM)
        before = await cache.transaction("synthetic", HASH)
        assert before is not None and before.gas_used is None
        assert await redis.get(KEY) is None


async def test_without_redis_reads_go_to_the_database(core: Connection) -> None:
    """Redis down: every answer is right, none waits for long, none raises."""
    nobody = connect_redis(RedisEndpoint(Level.REAL, "redis://127.0.0.1:1/0", "127.0.0.1:1"))
    cache = TransactionCache(core, nobody)
    for _ in range(3):
        found = await cache.transaction("synthetic", HASH)
        assert found is not None and found.block_timestamp == datetime(2021, 1, 2, tzinfo=UTC)
    await nobody.aclose()


@pytest.mark.parametrize("text", [None, "text", "z" * 16 + "+"])
async def test_a_key_that_is_no_entry_is_read_past_and_replaced(
    relaying: Endpoints, core: Connection, redis: Redis, text: str | None
) -> None:
    """Of another type or another form: the database answers, the cache goes on, and the row it
    gave is cached in its place."""
    cache = TransactionCache(core, redis)
    expected = await reading.transaction(core, "synthetic", HASH)
    assert expected is not None
    await redis.delete(KEY)
    if text is None:
        await redis.hset(KEY, "a", "b")  # type: ignore[misc]
    else:
        lie = msgspec.msgpack.encode(replace(expected, gas_used=7))
        await redis.set(KEY, text.encode() + lie)
    assert await cache.transaction("synthetic", HASH) == expected
    assert read_entry(await redis.get(KEY), None) is not None
    assert await cache.transaction("synthetic", HASH) == expected


async def test_under_a_floor_of_another_type_nothing_is_put(
    relaying: Endpoints, core: Connection, redis: Redis
) -> None:
    """What it said nobody knows: the database answers until the relay has put it right."""
    cache = TransactionCache(core, redis)
    await redis.delete(FLOOR_KEY, KEY)
    await redis.hset(FLOOR_KEY, "a", "b")  # type: ignore[misc]
    assert await cache.transaction("synthetic", HASH) is not None
    assert await redis.get(KEY) is None and cache._rests_until == 0
    await arrives(relaying, write(relaying, MOVE_ON))
    assert await redis.type(FLOOR_KEY) == b"string"
    await arrives(relaying, write(relaying, MOVE_ON))
    assert await cache.transaction("synthetic", HASH) is not None
    assert read_entry(await redis.get(KEY), await redis.get(FLOOR_KEY)) is not None


async def believed_entry(scene: RelayScene, client: SyncRedis) -> int:
    """Put an entry above the floor that the relay's start left, where it is believed; its version.

    The first row may be part of the start; the second one is behind it.
    """
    await scene.arrives(scene.sql("INSERT INTO accounts (id, owner) VALUES (1, 'ann')"))
    position = scene.sql("INSERT INTO accounts (id, owner) VALUES (2, 'bob')")
    await scene.arrives(position)
    client.set("account:ann:1", version_text(position.version) + "+old")
    assert believed(client) == b"old"
    return position.version


def believed(client: SyncRedis) -> bytes | None:
    entry, floor = client.get("account:ann:1"), client.get(FLOOR_KEY)
    return read_entry(entry, floor)  # type: ignore[arg-type]


async def test_after_truncate_nothing_older_is_believed(relay_scene: RelayScene) -> None:
    """TRUNCATE names no rows: the floor rises above every entry made before it."""
    async with relay_scene.relaying():
        with relay_scene.redis() as client:
            await believed_entry(relay_scene, client)
            await relay_scene.arrives(relay_scene.sql("TRUNCATE accounts"))
            assert believed(client) is None


async def test_a_redis_that_lost_its_memory_is_noticed(relay_scene: RelayScene) -> None:
    """A checkpoint that is not the one we left means old entries may be back: the floor rises."""
    async with relay_scene.relaying():
        with relay_scene.redis() as client:
            version = await believed_entry(relay_scene, client)
            client.set(CHECKPOINT_KEY, version_text(version - 1))  # an older file came back
            await relay_scene.arrives(
                relay_scene.sql("INSERT INTO accounts (id, owner) VALUES (3, 'cid')")
            )
            assert believed(client) is None


async def test_changed_keys_leave_tombstones_under_both_names(relay_scene: RelayScene) -> None:
    """An update that changes a cache key marks the old and the new one; an insert marks none."""
    async with relay_scene.relaying():
        await relay_scene.arrives(
            relay_scene.sql("INSERT INTO accounts (id, owner) VALUES (1, 'ann'), (2, 'bob')")
        )
        await relay_scene.arrives(
            relay_scene.sql(
                "INSERT INTO accounts (id, owner) VALUES (3, 'cid')",
                "UPDATE accounts SET owner = 'eve' WHERE id = 1",
            )
        )
        with relay_scene.redis() as client:
            assert sorted(client.keys("account:*")) == [b"account:ann:1", b"account:eve:1"]


async def test_a_cached_answer_is_used_only_where_it_reflects_what_is_asked(
    layer: Endpoints,
) -> None:
    """What lies in a cache whose relay stands still answers up to where it was read; above that
    the database does, and either says which position its answer reflects."""
    write(layer, NETWORK_ROW, TRANSACTIONS, HEAD)
    client = connect_redis(layer.redis)
    async with await connect(
        layer.postgres.dsn(Role.APP), autocommit=True, application_name="test"
    ) as connection:
        cache = TransactionCache(connection, client)
        first = await cache.transaction_as_of("synthetic", HASH)
        position = write(layer, CONFIRM)
        stale = await cache.transaction_as_of("synthetic", HASH, at_least=first.position)
        fresh = await cache.transaction_as_of("synthetic", HASH, at_least=position)
        await client.set(CHECKPOINT_KEY, version_text(position.version))
        moved = await cache.transaction_as_of("synthetic", HASH)
    await client.aclose()
    assert stale.value is not None and stale.value.gas_used is None
    assert stale.position == first.position
    assert fresh.value is not None and fresh.value.gas_used == 21000
    assert fresh.position is not None and moved.position is not None
    assert fresh.position >= position and moved.position >= fresh.position


async def test_a_checkpoint_that_is_none_of_ours(relaying: Endpoints, redis: Redis) -> None:
    """What a stranger wrote in its place counts as no checkpoint: nobody waits on it or fails, and
    the sink puts it right and believes no older entry."""
    kept = await redis.get(CHECKPOINT_KEY)
    for text in (b"not hex", b"-000000000000001", b"", b"1" * 400):
        await redis.set(CHECKPOINT_KEY, text)
        assert await position_of(Store.REDIS, relaying) is None
    await redis.delete(CHECKPOINT_KEY)
    await redis.hset(CHECKPOINT_KEY, "of another", "type")  # type: ignore[misc]
    assert await position_of(Store.REDIS, relaying) is None
    sink = RedisSink(relaying.redis, [])
    assert await sink.open(7) == 7
    await sink.close()
    assert await redis.get(FLOOR_KEY) >= version_text(7).encode()
    if kept is not None:
        await redis.set(CHECKPOINT_KEY, kept)


async def test_C3_what_is_ahead_of_the_log_is_not_answered(
    relaying: Endpoints, core: Connection, redis: Redis
) -> None:
    """As the entry of a server that was put back is, or all of what the relay gave the cache."""
    cache = TransactionCache(core, redis)
    expected = await cache.transaction("synthetic", HASH)
    assert expected is not None
    other = msgspec.msgpack.encode(replace(expected, gas_used=7))
    ahead = version_text(pack_version(1, 1 << 44))
    await redis.set(KEY, ahead.encode() + b"+" + other)
    here = write(relaying, MOVE_ON)
    assert await cache.transaction("synthetic", HASH, at_least=here) == expected
    found = await cache.transaction_as_of("synthetic", HASH)
    assert found.value == expected and found.position is not None
    assert found.position < Position(1, 1 << 44)


async def test_an_entry_that_cannot_be_looked_at_is_not_replaced(
    redis_server: RedisEndpoint,
) -> None:
    """What is of another type gives way; who may not look does not know that it is older."""
    script = files("neolayer.chain").joinpath("put_if_newer.lua").read_text()
    entry, floor = f"blind:{HASH}", f"blind:{FLOOR_KEY}"
    newer = version_text(99) + "-"
    with SyncRedis.from_url(redis_server.url) as admin:
        admin.set(entry, newer)
        admin.acl_setuser(
            "blind", enabled=True, passwords=["+secret"], keys=["*"], categories=["+@all"]
        )
        admin.acl_setuser("blind", enabled=True, keys=["*"], commands=["-getrange"])
        host, port = redis_server.address.rsplit(":", 1)
        blind = SyncRedis(host, int(port), username="blind", password="secret")
        try:
            with blind, pytest.raises(RedisError, match=r"(?i)acl|permission"):
                blind.eval(script, 2, entry, floor, version_text(50), "stale", "1000")
        finally:
            admin.acl_deluser("blind")
        assert admin.get(entry) == newer.encode()
        admin.delete(entry)
