"""A store is waited for until it reflects the position, and no shorter."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from tests.fixtures.fix_relay import RelayScene
from tests.fixtures.patience import PATIENCE

from neolayer.freshness import NotFresh, Store, wait_for
from neolayer.position import Position

NOW = timedelta(0)
BOTH = (Store.CLICKHOUSE, Store.REDIS)


async def test_a_store_that_is_behind_is_not_fresh(relay_scene: RelayScene) -> None:
    """A byte of the log short, a timeline short, or one store of two: who is where is told. A wait
    ends when the last store is there."""
    here, there = Position(1, 0x1000), Position(1, 0x1001)
    at = relay_scene.endpoints
    clickhouse, redis = relay_scene.clickhouse_sink(), relay_scene.redis_sink()
    for sink in (clickhouse, redis):
        await sink.open(0)
        await sink.reflect(here.version)
    assert await wait_for(here, at, stores=BOTH, timeout=NOW) == dict.fromkeys(BOTH, here)
    for wanted in (there, Position(2, 1)):
        for store in BOTH:
            with pytest.raises(NotFresh, match=f"{store} is ") as raised:
                await wait_for(wanted, at, stores=[store], timeout=NOW)
            assert raised.value.reached == {store: here}
    await redis.reflect(there.version)
    with pytest.raises(NotFresh) as raised:
        await wait_for(there, at, stores=BOTH, timeout=NOW)
    assert raised.value.reached == {Store.CLICKHOUSE: here, Store.REDIS: there}
    waiting = asyncio.create_task(wait_for(there, at, stores=BOTH, timeout=PATIENCE))
    await clickhouse.reflect(there.version)
    assert await waiting == dict.fromkeys(BOTH, there)
    for sink in (clickhouse, redis):
        await sink.close()
