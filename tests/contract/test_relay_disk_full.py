"""C4: no room, at the source or in a sink: it is said, delays no other, and needs no hands."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests.contract.test_relay_faults import HUNDRED, own_clickhouse, until
from tests.fixtures.cached_accounts import cache_all, cached
from tests.fixtures.fix_databases import execute
from tests.fixtures.fix_disk import disk_of, fill
from tests.fixtures.fix_relay import RelayScene

from neolayer.engines.embedded.privileges import account_for
from neolayer.freshness import Store
from neolayer.relay.sinks.null import NullSink

BIG = (
    "INSERT INTO accounts (id, owner, note) SELECT g, 'big', (SELECT string_agg(md5(g::text || n),"
    " '') FROM generate_series(1, 1000) n) FROM generate_series(1001, 1400) g"
)


@pytest.fixture
def disk() -> Iterator[Path]:
    with disk_of(128) as mounted:
        yield mounted


async def test_C4_a_clickhouse_whose_disk_is_full(relay_scene: RelayScene, disk: Path) -> None:
    """Its lane says so and tries again, the others have everything meanwhile; with room again the
    rows are the same, without a copy anew."""
    counting = NullSink()
    async with own_clickhouse(relay_scene, disk):
        at_clickhouse, at_redis = relay_scene.clickhouse_sink(), relay_scene.redis_sink()
        async with relay_scene.relaying(at_clickhouse, at_redis, counting):
            await until(relay_scene.is_streaming)
            await relay_scene.arrives(relay_scene.sql(HUNDRED))
            filler = fill(disk)
            position = relay_scene.sql("UPDATE accounts SET note = repeat('x', 100)")
            assert "not enough space" in await relay_scene.error_of("clickhouse")
            await relay_scene.arrives(position, Store.REDIS)
            await relay_scene.arrives_at(counting, position)
            filler.unlink()
            await relay_scene.arrives(position)
            await relay_scene.same()
    assert (counting.rows, counting.copies) == (200, 0)


async def test_C4_a_redis_that_has_no_room(relay_scene: RelayScene) -> None:
    """What it refuses to note is noted when there is room: until then its checkpoint stands, and in
    the end nothing that changed is believed."""
    async with relay_scene.relaying():
        await until(relay_scene.is_streaming)
        await relay_scene.arrives(relay_scene.sql(HUNDRED))
        await relay_scene.arrives(relay_scene.sql("UPDATE accounts SET amount = 1"))
        assert cache_all(relay_scene) == 100
        with relay_scene.redis() as client:
            client.config_set("maxmemory", 1)
            try:
                position = relay_scene.sql("UPDATE accounts SET amount = 2 WHERE id <= 40")
                assert "maxmemory" in await relay_scene.error_of("redis")
                await relay_scene.arrives(position, Store.CLICKHOUSE)
            finally:
                client.config_set("maxmemory", 0)
        await relay_scene.arrives(position)
        wrong, right = cached(relay_scene)
    assert (wrong, len(right)) == ([], 60)


async def test_C4_a_postgresql_whose_disk_is_full(relay_scene: RelayScene, disk: Path) -> None:
    """It refuses to write, in words that say why; what it committed arrives all the same, nothing
    of what it refused does, and with room again everything goes on."""
    if (account := account_for(None)) is not None:
        os.chown(disk, account.uid, account.gid)
    at = relay_scene.endpoints.postgres
    space = f"small_{relay_scene.database}"
    execute(
        at,
        f"CREATE TABLESPACE {space} LOCATION '{disk}'",
        f"ALTER DATABASE {relay_scene.database} SET TABLESPACE {space}",
    )
    try:
        async with relay_scene.relaying():
            await until(relay_scene.is_streaming)
            position = relay_scene.sql(HUNDRED)
            filler = fill(disk, leave_bytes=1 << 20)
            with pytest.raises(psycopg.errors.DiskFull, match="No space left on device"):
                relay_scene.sql(BIG)
            await relay_scene.arrives(position)
            await relay_scene.same()
            filler.unlink()
            await relay_scene.arrives(relay_scene.sql(BIG))
            await relay_scene.same()
            assert len(await relay_scene.copied()) == 500
    finally:
        execute(at, f"ALTER DATABASE {relay_scene.database} SET TABLESPACE pg_default")
        execute(at, f"DROP TABLESPACE {space}")
