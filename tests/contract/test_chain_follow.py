"""Following a node that grows, changes its mind, falls back and misbehaves."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from tests.fixtures.fix_chain import Stored
from tests.fixtures.fix_rpc import PlayedNode, reversed_order
from tests.fixtures.followers import Follower, eventually, following

from neolayer.chain import reading
from neolayer.chain.batches import ahead
from neolayer.chain.ingest import ingest
from neolayer.chain.model import Network
from neolayer.chain.pending import Pool
from neolayer.chain.sources.jsonrpc import JsonRpc
from neolayer.chain.sources.rpc import EvmNode, fetch_range
from neolayer.chain.store import open_store
from neolayer.chain.synthetic import SyntheticChain, make_chain
from neolayer.errors import BadBlock, SourceError


@pytest.fixture(scope="module")
def chain() -> SyntheticChain:
    return make_chain(blocks=30, transactions_per_block=6, seed=7, reorg_at=18, reorg_depth=6)


async def rows_of(stored: Stored) -> dict[str, str]:
    """What is stored of mined blocks, whatever else was seen on the way."""
    mined = await stored.rows(
        "SELECT to_jsonb(t) - '{id,created_at,updated_at,confirmation_count}'::text[] AS row"
        " FROM blockchain.transactions t WHERE block_number IS NOT NULL ORDER BY transaction_hash"
    )
    found = await stored.fingerprint()
    kept = {table: found[table] for table in ("blocks", "logs", "contracts")}
    return {**kept, "transactions": repr(mined)}


async def test_follows_a_reorganisation(
    stored: Stored, rpc: JsonRpc, played_node: PlayedNode, chain: SyntheticChain
) -> None:
    """After a reorganisation the rows are those of the branch that won, and every transaction of
    the other reached a state: mined again, replaced, or waiting."""
    played_node.every_reply = reversed_order
    follower = Follower(stored, rpc)
    async with following(follower):
        played_node.serve(chain.first[:5])
        await follower.reaches(chain.first[4].block)
        played_node.serve(chain.first)
        await follower.reaches(chain.first[-1].block)
        played_node.serve(chain.fork)
        await follower.reaches(chain.fork[-1].block)
    assert follower.reports[-1].orphaned == 6
    statuses = await stored.statuses()
    assert {statuses[each] for each in chain.reincluded} == {"confirmed"}
    assert {statuses[each] for each in chain.replaced} == {"replaced"}
    assert {statuses[each] for each in chain.dropped} == {"pending"}
    for loser, winner in chain.replaced.items():
        found = await reading.transaction(stored.admin, "testnet", loser)
        assert found is not None and found.replaced_by == winner
    followed = await rows_of(stored)
    assert followed == await rows_when_ingested_plainly(stored, rpc)


async def rows_when_ingested_plainly(stored: Stored, rpc: JsonRpc) -> dict[str, str]:
    await stored.admin.execute(
        "DELETE FROM blockchain.transactions; TRUNCATE blockchain.blocks, blockchain.logs,"
        " blockchain.smart_contracts, blockchain.chain_heads"
    )
    node = EvmNode(rpc, stored.network)
    blocks = fetch_range(node, first=1, last=await node.head())
    async with open_store(stored.dsn, stored.network, old_is_final=False) as store:
        async for batch in ahead(blocks, blocks_per_commit=7):
            await store.commit(batch.blocks)
    return await rows_of(stored)


async def test_a_lower_head_is_no_reorganisation(
    stored: Stored, rpc: JsonRpc, played_node: PlayedNode, chain: SyntheticChain
) -> None:
    """A node that falls back without contradicting is waited for; nothing is taken back."""
    played_node.serve(chain.first)
    follower = Follower(stored, rpc)
    async with following(follower):
        await follower.reaches(chain.first[-1].block)
        played_node.head = 9
        asked = played_node.calls["eth_blockNumber"]
        await eventually(_true_when(lambda: played_node.calls["eth_blockNumber"] > asked + 3))
        assert await follower.head() == chain.first[-1].block["hash"]
        played_node.forget_above(17)
        played_node.head = None
        played_node.serve(chain.fork)
        await follower.reaches(chain.fork[-1].block)
    assert follower.reports[-1].orphaned == 6


async def test_a_shorter_branch_wins(
    stored: Stored, rpc: JsonRpc, played_node: PlayedNode, chain: SyntheticChain
) -> None:
    """Another hash at a known height is a reorganisation, also when the head is lower."""
    played_node.serve(chain.first)
    follower = Follower(stored, rpc)
    async with following(follower):
        await follower.reaches(chain.first[-1].block)
        played_node.forget_above(17)
        played_node.serve(chain.fork[:2])
        await follower.reaches(chain.fork[1].block)
    assert await stored.value("SELECT covered::text FROM blockchain.chain_heads") == "{[1,20)}"


async def test_the_node_changes_its_mind_between_answers(
    stored: Stored, rpc: JsonRpc, played_node: PlayedNode, chain: SyntheticChain
) -> None:
    """Blocks of two branches in one round do not fit together: nothing of them is stored, and the
    next round gets it right."""
    played_node.serve(chain.first)
    follower = Follower(stored, rpc)
    async with following(follower):
        await follower.reaches(chain.first[-1].block)
        own = played_node._shown
        served = itertools.count()

        def flickering(number: int, *, full: bool) -> Any:
            if number == 21 and full and next(served) < 2:
                return chain.first[20].block
            return own(number, full=full)

        played_node._shown = flickering  # type: ignore[method-assign]
        played_node.serve(chain.fork)
        await follower.reaches(chain.fork[-1].block)
    assert await rows_of(stored) == await rows_when_ingested_plainly(stored, rpc)


async def test_a_wrong_parent_for_good(
    stored: Stored,
    rpc: JsonRpc,
    played_node: PlayedNode,
    chain: SyntheticChain,
) -> None:
    """A node that goes on sending a block that does not follow its predecessor is given up, with
    the block's number; what fits stays stored."""
    played_node.serve(chain.first[:10])
    await Follower(stored, rpc).run(until=10)
    stranger = make_chain(blocks=11, transactions_per_block=2, seed=99).first[-1]
    played_node.serve([stranger])
    with pytest.raises(BadBlock, match="block 11: its parent"):
        await Follower(stored, rpc).run(until=11)
    assert await Follower(stored, rpc).head() == chain.first[9].block["hash"]


async def test_a_gap_for_good(
    stored: Stored, rpc: JsonRpc, played_node: PlayedNode, chain: SyntheticChain
) -> None:
    """A node that names a head but has not the blocks below it is given up, with the number."""
    played_node.serve(chain.first)
    del played_node.blocks[12]
    with pytest.raises(SourceError, match="block 12 is missing"):
        await Follower(stored, rpc).run(until=20)


async def test_a_tampered_block_for_good(
    stored: Stored, rpc: JsonRpc, played_node: PlayedNode, chain: SyntheticChain
) -> None:
    """A node that goes on sending a bad block is given up; nothing of that block is stored."""
    played_node.serve(chain.first)
    changed = copy.deepcopy(chain.first[7].block)
    changed["transactions"][0]["value"] = "0x1"
    played_node.blocks[8] = changed
    with pytest.raises(BadBlock, match="block 8"):
        await Follower(stored, rpc).run(until=20)
    assert await stored.value("SELECT max(block_number) FROM blockchain.blocks") in (None, 7)


async def test_a_node_of_another_chain(
    stored: Stored, rpc: JsonRpc, played_node: PlayedNode, chain: SyntheticChain
) -> None:
    """A node that agrees at no height is no reorganisation; nothing is taken back."""
    played_node.serve(chain.first[:6])
    await Follower(stored, rpc).run(until=6)
    played_node.serve(make_chain(blocks=8, transactions_per_block=1, seed=99).first)
    with pytest.raises(SourceError, match="shares no block"):
        await Follower(stored, rpc).run(until=8)
    assert await Follower(stored, rpc).head() == chain.first[5].block["hash"]


async def test_deeper_than_final(
    stored: Stored, rpc: JsonRpc, played_node: PlayedNode, chain: SyntheticChain
) -> None:
    """A branch may win that forks below what the node called final."""
    played_node.overrides["eth_getBlockByNumber"] = lambda tag, full: (
        played_node.blocks[20]
        if tag == "finalized"
        else played_node._eth_getBlockByNumber(tag, full)
    )
    played_node.serve(chain.first)
    follower = Follower(stored, rpc)
    async with following(follower):
        await follower.reaches(chain.first[-1].block)
        await eventually(_finalised(stored, 20))
        played_node.serve(chain.fork)
        await follower.reaches(chain.fork[-1].block)
        await eventually(_finalised(stored, 20))
    states = await stored.rows(
        "SELECT DISTINCT is_final FROM blockchain.blocks WHERE block_number <= 20"
    )
    assert [row["is_final"] for row in states] == [True]


def _finalised(stored: Stored, number: int) -> Callable[[], Any]:
    async def look() -> bool:
        query = "SELECT finalized_number FROM blockchain.chain_heads"
        return await stored.value(query) == number

    return look


async def test_pending_mined_replaced_dropped(
    stored: Stored, rpc: JsonRpc, played_node: PlayedNode, chain: SyntheticChain
) -> None:
    """What waits in the node's pool is stored, and ends mined, replaced or dropped."""
    orphaned = [tx for mined in chain.orphaned for tx in mined.block["transactions"]]
    played_node.serve(chain.first[:17])
    played_node.pool = [{**tx, "blockNumber": None, "blockHash": None} for tx in orphaned]
    follower = Follower(stored, rpc)
    async with following(follower, Pool(rpc, drop_after=timedelta(seconds=0.2))):
        await eventually(_count(stored, "pending", len(orphaned)))
        played_node.pool = [tx for tx in played_node.pool if tx["hash"] not in chain.dropped]
        await eventually(_count(stored, "dropped", len(chain.dropped)))
        played_node.serve(chain.fork)
        played_node.pool = []
        await follower.reaches(chain.fork[-1].block)
    statuses = await stored.statuses()
    assert {statuses[each] for each in chain.reincluded} == {"confirmed"}
    assert {statuses[each] for each in chain.replaced} == {"replaced"}
    assert {statuses[each] for each in chain.dropped} == {"dropped"}


def _count(stored: Stored, status: str, wanted: int) -> Callable[[], Any]:
    async def look() -> bool:
        return list((await stored.statuses()).values()).count(status) == wanted

    return look


def _true_when(condition: Callable[[], bool]) -> Callable[[], Any]:
    async def look() -> bool:
        return condition()

    return look


async def test_range_from_a_node(
    stored: Stored, rpc: JsonRpc, played_node: PlayedNode, chain: SyntheticChain
) -> None:
    """A range is ingested with several requests in flight; where it contradicts what is stored it
    is refused, not taken for a reorganisation."""
    network: Network = stored.network
    node = EvmNode(rpc, network)
    played_node.serve(chain.first)
    source = fetch_range(node, first=3, last=23, blocks_per_request=4)
    report = await ingest(source, dsn=stored.dsn, network=network, blocks_per_commit=5)
    assert (report.blocks, report.refused) == (21, ())
    assert await stored.value("SELECT covered::text FROM blockchain.chain_heads") == "{[3,24)}"
    played_node.serve(chain.fork)
    report = await ingest(fetch_range(node, first=16, last=23), dsn=stored.dsn, network=network)
    assert [bad.block for bad in report.refused] == list(range(18, 24))
    assert report.skipped == 2
