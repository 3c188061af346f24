"""Commits that overlap: what happens between the writing of a batch and its turn at the lock."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import LiteralString

import pytest
from tests.fixtures.fabricated import digest, fabricate, fabricate_chain, transaction
from tests.fixtures.fix_chain import Stored
from tests.fixtures.patience import PATIENCE_S

from neolayer.chain.batches import Batch
from neolayer.chain.finality import finalise
from neolayer.chain.ingest import ingest
from neolayer.chain.lanes import Lanes
from neolayer.chain.model import BLOCK_COLUMNS, BlockRows
from neolayer.chain.store import BlockStore, open_store, sql
from neolayer.engines.postgres.copy import copy_rows

WAITING: LiteralString = (
    "SELECT count(*) FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND NOT granted"
)
DEADLOCKS: LiteralString = (
    "SELECT deadlocks FROM pg_catalog.pg_stat_database WHERE datname = current_database()"
)


@asynccontextmanager
async def held(stored: Stored, lock: LiteralString, *, until_waiting: int) -> AsyncGenerator[None]:
    """Hold a lock of the network until so many writers wait for it."""
    async with stored.admin.transaction():
        await stored.admin.execute(lock, {"network_id": stored.network.id})
        yield
        await waiting(stored, until_waiting)


async def waiting(stored: Stored, count: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await stored.value(WAITING) < count:
            await asyncio.sleep(0.01)


async def insert_block(stored: Stored, block: BlockRows) -> None:
    """What another writer would store, but for the transactions."""
    columns = ("network_id", *(name for name, _ in BLOCK_COLUMNS))
    statement = f"COPY blockchain.blocks ({', '.join(columns)}) FROM STDIN (FORMAT BINARY)"
    types = ["uuid", *(kind for _, kind in BLOCK_COLUMNS)]
    async with stored.admin.cursor() as cursor:
        await copy_rows(cursor, statement, types, [(stored.network.id, *block.block)])  # type: ignore[arg-type]


def batch_of(blocks: Sequence[BlockRows]) -> Batch:
    batch = Batch()
    for block in blocks:
        batch.add(block)
    return batch


async def test_two_commits_overlap(stored: Stored) -> None:
    """While one batch waits for its turn to commit, the next has written its rows and waits."""
    blocks = fabricate_chain(range(12))
    async with held(stored, sql.lock_commits, until_waiting=2):
        run = asyncio.create_task(
            ingest(blocks, dsn=stored.dsn, network=stored.network, blocks_per_commit=3)
        )
    report = await run
    assert (report.blocks, report.refused) == (12, ())


async def test_what_a_source_says_first_counts(stored: Stored) -> None:
    """Of rivals in neighbouring batches the first is stored, every time; a repeat is skipped."""
    blocks = fabricate_chain(range(4))
    rival = fabricate(1, blocks[0].block_hash, [transaction("x", 1)], branch="-rival")
    order = [blocks[0], blocks[1], rival, blocks[2], blocks[2], blocks[3]]
    for _ in range(5):
        await stored.admin.execute("DELETE FROM blockchain.transactions")
        await stored.admin.execute(
            "TRUNCATE blockchain.logs, blockchain.blocks, blockchain.chain_heads"
        )
        report = await ingest(order, dsn=stored.dsn, network=stored.network, blocks_per_commit=1)
        assert [bad.block for bad in report.refused] == [1]
        assert (report.blocks, report.skipped) == (4, 1)
        stands = await stored.value(
            "SELECT block_hash FROM blockchain.blocks WHERE block_number = 1"
        )
        assert stands == blocks[1].block_hash


async def test_batches_that_must_wait(stored: Stored) -> None:
    """A batch starts beside one it continues, not beside one it repeats or contradicts."""
    blocks = fabricate_chain(range(6))
    misfit = fabricate(3, digest("elsewhere"), [])
    async with aclosing(Lanes(stored.dsn, stored.network)) as lanes:
        lanes.start(batch_of(blocks[:3]))
        assert lanes.may_start(batch_of(blocks[3:]))
        assert not lanes.may_start(batch_of(blocks[2:4]))
        assert not lanes.may_start(batch_of([misfit]))
        lanes.start(batch_of(blocks[3:]))
        assert not lanes.may_start(batch_of(fabricate_chain(range(90, 92))))
        landed = [(await lanes.land())[1].blocks for _ in range(2)]
    assert landed == [3, 3]


async def test_a_neighbour_that_came_in_between(stored: Stored, store: BlockStore) -> None:
    """A block is refused that no longer fits when its turn comes; the rest of its batch stays."""
    blocks = fabricate_chain(range(4))
    above = fabricate(4, digest("another parent"), [])
    async with held(stored, sql.lock_commits, until_waiting=1):
        run = asyncio.create_task(store.commit(blocks))
        await insert_block(stored, above)
    commit = await run
    assert [bad.block for bad in commit.refused] == [3]
    assert commit.blocks == 3
    query = "SELECT count(*) FROM blockchain.transactions"
    assert await stored.value(query) == 9


async def test_a_parent_that_left_in_between(stored: Stored, store: BlockStore) -> None:
    """A batch that stood on a block which was taken back is looked at again, and stored alone."""
    blocks = fabricate_chain(range(4))
    await store.commit(blocks[:2])
    rival = fabricate(1, blocks[0].block_hash, [], branch="-rival")
    async with held(stored, sql.lock_network, until_waiting=1):
        run = asyncio.create_task(store.commit(blocks[2:]))
        await stored.admin.execute("DELETE FROM blockchain.blocks WHERE block_number = 1")
        await insert_block(stored, rival)
    commit = await run
    assert [bad.block for bad in commit.refused] == [2]
    assert "its parent is" in commit.refused[0].message


async def test_a_transaction_that_began_to_wait_in_between(
    stored: Stored, store: BlockStore
) -> None:
    """A mined transaction replaces one of its nonce that was recorded while it was written."""
    block = fabricate(1, digest("genesis"), [transaction("x", 7, "mined")])
    waits = transaction("x", 7, "waits")
    async with held(stored, sql.lock_network, until_waiting=1):
        run = asyncio.create_task(store.commit([block]))
        await stored.admin.execute(
            "INSERT INTO blockchain.transactions"
            " (network_id, transaction_hash, from_address, nonce, block_timestamp)"
            " VALUES (%s, %s, %s, 7, now())",
            (stored.network.id, waits["transaction_hash"], waits["from_address"]),
        )
    assert (await run).blocks == 1
    mined = transaction("x", 7, "mined")["transaction_hash"]
    assert await stored.statuses() == {waits["transaction_hash"]: "replaced", mined: "confirmed"}


async def test_finality_waits_for_what_is_being_written(stored: Stored) -> None:
    """A batch that was under way when blocks became final is final with them, or made so next."""
    chain = fabricate_chain(range(301), transactions=1, start_s=4_000_000_000)
    async with (
        open_store(stored.dsn, stored.network) as store,
        open_store(stored.dsn, stored.network) as other,
    ):
        await store.commit([*chain[:10], *chain[100:]])
        async with held(stored, sql.lock_commits, until_waiting=1):
            late = asyncio.create_task(store.commit(chain[20:30]))
            await waiting(stored, 1)
            run = asyncio.create_task(finalise(other))
            await waiting(stored, 2)
        assert (await late).blocks == 10
        await run
        await finalise(other)
    query = "SELECT count(*) FROM blockchain.blocks WHERE is_final"
    assert await stored.value(query) == 10 + 10 + 137


async def test_the_same_blocks_in_two_orders_and_no_deadlock(stored: Stored) -> None:
    """Two that write the same rows wait for each other in one direction only."""
    before = await stored.value(DEADLOCKS)
    async with (
        open_store(stored.dsn, stored.network) as store,
        open_store(stored.dsn, stored.network) as other,
    ):
        for start in range(0, 640, 80):
            blocks = fabricate_chain(range(start, start + 40), transactions=20)
            both = store.commit(blocks), other.commit(blocks[::-1])
            assert sorted(each.blocks for each in await asyncio.gather(*both)) == [0, 40]
    await stored.nobody_ingests()  # a backend counts its deadlocks when it ends, if not before
    assert await stored.value(DEADLOCKS) == before


async def test_cancelled_at_any_moment(stored: Stored) -> None:
    """Whoever ends an ingest gets CancelledError, and no connection stays."""
    chance = random.Random(7)
    chain = fabricate_chain(range(400), transactions=10)
    for _ in range(12):
        run = asyncio.create_task(
            ingest(chain, dsn=stored.dsn, network=stored.network, blocks_per_commit=3)
        )
        await asyncio.wait([run], timeout=chance.uniform(0.02, 0.3))
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        await stored.nobody_ingests()


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_opposite_directions_meet(stored: Stored, count: int) -> None:
    """Ingests that hold each other's keys come out of it, each row stored once."""
    blocks = fabricate_chain(range(24), transactions=2)
    orders = [blocks, blocks[::-1], blocks[12:] + blocks[:12]][: count + 1]
    reports = await asyncio.gather(
        *(
            ingest(order, dsn=stored.dsn, network=stored.network, blocks_per_commit=6)
            for order in orders
        )
    )
    assert sum(report.blocks for report in reports) == 24
    assert all(report.refused == () for report in reports)
    assert await stored.value("SELECT count(*) FROM blockchain.transactions") == 48
