"""A store is waited for until it reflects the position, and no shorter."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.fixtures.fix_relay import RelayScene
from tests.fixtures.patience import PATIENCE
from tests.fixtures.silence import silence

from neolayer.errors import EngineUnavailable
from neolayer.freshness import NotFresh, Store, position_of, positions, wait_for
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


async def test_C5_a_store_that_says_nothing_is_waited_for_no_longer_than_asked(
    relay_scene: RelayScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has five seconds (here: two) to say where it is; then it counts as at nothing, and
    a look says that it is silent."""
    monkeypatch.setattr(positions, "LOOK_S", 2.0)
    redis = relay_scene.redis_sink()
    await redis.open(0)
    await redis.reflect(Position(1, 0x1000).version)
    async with silence() as port:
        at = relay_scene.endpoints
        at = replace(at, clickhouse=replace(at.clickhouse, host="127.0.0.1", port=port))
        with pytest.raises(NotFresh, match="clickhouse is at nothing yet, redis is there") as told:
            await wait_for(Position(1, 0x1000), at, stores=BOTH, timeout=NOW)
        assert told.value.reached == {Store.CLICKHOUSE: None, Store.REDIS: Position(1, 0x1000)}
        with pytest.raises(EngineUnavailable, match=r"has said nothing for 2 seconds"):
            await position_of(Store.CLICKHOUSE, at)
    await redis.close()
