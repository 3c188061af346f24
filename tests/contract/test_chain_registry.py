"""When a network becomes known: with its first good block, and never without one."""

from __future__ import annotations

import asyncio

import pytest
from tests.fixtures.fabricated import fabricate, fabricate_chain, transaction
from tests.fixtures.fix_chain import Stored

from neolayer.chain.model import BlockRows
from neolayer.chain.registry import find_network, ingest_as
from neolayer.errors import BadBlock, ChainError

NAMES = "SELECT array_agg(name::text ORDER BY name) FROM blockchain.networks"
BAD = [BadBlock(f"is no block {number}", origin="x.json") for number in range(3)]


async def test_a_refused_run_leaves_no_network(stored: Stored) -> None:
    """Where no block is good the name stays free, and so does the chain id given with it."""
    new = await find_network(stored.dsn, "foo", chain_id=99)
    assert (new.id, new.chain_id) == (None, 99)
    report = await ingest_as(BAD, dsn=stored.dsn, network=new)
    assert (report.blocks, report.refused, report.position) == (0, tuple(BAD), None)
    assert await stored.value(NAMES) == ["testnet"]
    assert (await find_network(stored.dsn, "foo", chain_id=100)).chain_id == 100
    assert (await find_network(stored.dsn, "bar", chain_id=99)).chain_id == 99


def impossible(numbers: range) -> list[BlockRows]:
    """Blocks that decode, and that only the database refuses."""
    spent = [transaction("spender", 0, value=-1)]
    return [fabricate(number, f"parent of {number}", spent) for number in numbers]


async def test_blocks_that_the_database_refuses_leave_no_network(stored: Stored) -> None:
    """Good is what is stored: where PostgreSQL takes no block the network stays unknown too."""
    new = await find_network(stored.dsn, "foo", chain_id=99)
    source = [*BAD, *impossible(range(0, 50, 10))]
    report = await ingest_as(source, dsn=stored.dsn, network=new, blocks_per_commit=2)
    assert (report.blocks, report.position) == (0, None)
    assert [bad.block for bad in report.refused] == [None, None, None, *range(0, 50, 10)]
    assert await stored.value(NAMES) == ["testnet"]
    report = await ingest_as(
        [*source, *fabricate_chain(range(100, 107)), *impossible(range(200, 201))],
        dsn=stored.dsn,
        network=new,
        blocks_per_commit=2,
    )
    assert (report.blocks, report.skipped, report.transactions) == (7, 0, 21)
    assert [bad.block for bad in report.refused] == [None, None, None, *range(0, 50, 10), 200]
    assert await stored.value(NAMES) == ["foo", "testnet"]


async def test_a_good_block_makes_its_network_known(stored: Stored) -> None:
    """What was refused before it is reported still, and every good block is stored, once."""
    new = await find_network(stored.dsn, "foo", chain_id=99)
    source = [*BAD, *fabricate_chain(range(7))]
    report = await ingest_as(source, dsn=stored.dsn, network=new, blocks_per_commit=2)
    assert (report.blocks, report.refused) == (7, tuple(BAD))
    assert report.position is not None
    again = await ingest_as(source, dsn=stored.dsn, network=new, blocks_per_commit=2)
    assert (again.blocks, again.skipped) == (0, 7)
    known = await find_network(stored.dsn, "foo")
    assert (known.id is None, known.chain_id) == (False, 99)
    with pytest.raises(ChainError, match="'foo' has chain id 99, not 100"):
        await find_network(stored.dsn, "foo", chain_id=100)


async def test_two_runs_make_one_network(stored: Stored) -> None:
    """Side by side they store one chain; a run beside them that takes nothing in does no harm."""
    new = await find_network(stored.dsn, "foo", chain_id=99)
    blocks = fabricate_chain(range(30))
    reports = await asyncio.gather(
        *(ingest_as(blocks, dsn=stored.dsn, network=new, blocks_per_commit=3) for _ in range(2)),
        ingest_as(BAD, dsn=stored.dsn, network=new),
    )
    assert sum(report.blocks for report in reports) == 30
    assert reports[2].refused == tuple(BAD)
    assert await stored.value(NAMES) == ["foo", "testnet"]
    assert await stored.value("SELECT count(*) FROM blockchain.blocks") == 30


@pytest.mark.parametrize("rival", [("foo", 100), ("bar", 99)])
async def test_of_two_that_contradict_one_is_refused(
    stored: Stored, rival: tuple[str, int]
) -> None:
    """Whoever has a good block first keeps name and chain id; the other stores nothing."""
    ours = await find_network(stored.dsn, "foo", chain_id=99)
    theirs = await find_network(stored.dsn, rival[0], chain_id=rival[1])
    await ingest_as(fabricate_chain(range(3)), dsn=stored.dsn, network=ours)
    with pytest.raises(ChainError, match="chain id"):
        await ingest_as(fabricate_chain(range(9)), dsn=stored.dsn, network=theirs)
    assert await stored.value(NAMES) == ["foo", "testnet"]
    assert await stored.value("SELECT count(*) FROM blockchain.blocks") == 3
