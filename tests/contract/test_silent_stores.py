"""Beside a store that takes connections and says nothing, a look ends, and says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from tests.fixtures.silence import silence

from neolayer.catalogue import DataClass
from neolayer.chain.catalogue import CLASSES
from neolayer.engines.endpoints import Endpoints, Level, ObjectsEndpoint, RedisEndpoint, Role
from neolayer.errors import EngineUnavailable
from neolayer.events.segments import Segment, SegmentStore
from neolayer.freshness import positions
from neolayer.relay import where as looking
from neolayer.relay.comparing.stores import reconcile
from neolayer.relay.where import State, class_of, where

HASH = "0x" + "ab" * 32


@pytest.fixture
async def silent(
    module_databases: Endpoints, redis_server: RedisEndpoint, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Endpoints]:
    """A layer whose ClickHouse says nothing, and who is asked a quarter of a second."""
    monkeypatch.setattr(positions, "LOOK_S", 0.25)
    async with silence() as port:
        at = module_databases
        clickhouse = replace(at.clickhouse, host="127.0.0.1", port=port)
        yield replace(at, clickhouse=clickhouse, redis=redis_server)


def named(name: str) -> DataClass:
    return class_of(name, CLASSES)


async def test_reconcile_says_that_a_store_is_silent(silent: Endpoints) -> None:
    """Before anything else is asked of it, whatever may be waited for what is only behind."""
    async with asyncio.timeout(60):
        with pytest.raises(EngineUnavailable, match=r"clickhouse: has said nothing for 0\.25 sec"):
            async for _ in reconcile(silent, [named("blocks")], patience=timedelta(0)):
                pass


async def test_where_knows_of_a_row_what_the_others_have(silent: Endpoints) -> None:
    """The silent store's copy is of state unknown, with the reason."""
    with psycopg.connect(silent.postgres.dsn(Role.ADMIN, "neolayer")) as admin:
        admin.execute(
            "INSERT INTO blockchain.networks (name, chain_id, network_type)"
            " VALUES ('beside', 7, 'evm')"
        )
    async with asyncio.timeout(60):
        (network,) = await where(silent, named("networks"), "beside")
    states = [(copy.engine, copy.state) for copy in network.copies]
    assert states == [("postgres", State.SAME), ("clickhouse", State.UNKNOWN)]
    assert network.copies[1].detail == "clickhouse: has said nothing for 0.25 seconds"


async def test_where_does_not_call_a_row_unknown_that_a_silent_store_may_have(
    silent: Endpoints,
) -> None:
    """PostgreSQL does not have it; of the silent store nothing is known, and that is said."""
    async with asyncio.timeout(60):
        (block,) = await where(silent, named("blocks"), HASH)
    assert block.key == {"block_hash": HASH}
    states = [(copy.engine, copy.state) for copy in block.copies]
    assert states == [("postgres", State.MISSING), ("clickhouse", State.UNKNOWN)]
    assert "has said nothing" in (block.copies[1].detail or "")


async def test_where_says_that_the_object_store_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an archived stream: the object store is there, and does not answer."""

    async def never(*_: object, **__: object) -> bytes:
        await asyncio.Event().wait()
        return b""

    monkeypatch.setattr(SegmentStore, "lines", never)
    monkeypatch.setattr(looking, "_SEARCH_S", 0.1)
    store = SegmentStore(ObjectsEndpoint(Level.EMBEDDED, tmp_path.as_uri(), tmp_path))
    async with asyncio.timeout(60):
        copy = await looking._segment_copy(store, Segment(f"{uuid4()}", "", None), 1)  # pyright: ignore[reportPrivateUsage]
    assert copy.state is State.UNKNOWN and "has said nothing" in (copy.detail or "")
