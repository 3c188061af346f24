"""Blocks stored above a gap, and what a followed node says of them: where it contradicts them they
are taken back, where it agrees or cannot tell yet they stay."""

from __future__ import annotations

import msgspec
import pytest
from tests.fixtures.fabricated import account, digest, fabricate, fabricate_chain, transaction
from tests.fixtures.fix_chain import Stored
from tests.fixtures.fix_rpc import PlayedNode
from tests.fixtures.followers import Follower, following

from neolayer.chain.evm import decode_block
from neolayer.chain.ingest import ingest
from neolayer.chain.model import BlockRows
from neolayer.chain.sources.jsonrpc import JsonRpc
from neolayer.chain.store import BlockStore, Terms
from neolayer.chain.synthetic import SyntheticChain, make_chain
from neolayer.chain.synthetic_blocks import Mined
from neolayer.errors import SourceError

A, B, C = (transaction(name, 1) for name in "abc")
COVERED = "SELECT covered::text FROM blockchain.chain_heads"


@pytest.fixture(scope="module")
def chain() -> SyntheticChain:
    return make_chain(blocks=30, transactions_per_block=4, seed=3, reorg_at=20, reorg_depth=6)


async def take_in(stored: Stored, mined: list[Mined]) -> None:
    """Ingest blocks as files would be."""
    network = stored.network

    def decoded(each: Mined) -> BlockRows:
        block, receipts = (msgspec.json.encode(part) for part in each)
        return decode_block(block, network=network, receipts=receipts, verify=True, origin="file")

    report = await ingest([decoded(each) for each in mined], dsn=stored.dsn, network=network)
    assert report.refused == ()


async def test_an_orphaned_island_above_a_gap(
    stored: Stored, rpc: JsonRpc, played_node: PlayedNode, chain: SyntheticChain
) -> None:
    """A branch's end that was stored before what lies below it is taken back when the node reaches
    it: its blocks are remembered, its transactions end as those of any lost branch."""
    await take_in(stored, chain.first[21:25])
    await take_in(stored, chain.first[:19])
    assert await stored.value(COVERED) == "{[1,20),[22,26)}"
    played_node.serve(chain.canonical)
    report = await Follower(stored, rpc).run(until=30)
    assert report.orphaned == 4
    assert await stored.value(COVERED) == "{[1,31)}"
    assert await Follower(stored, rpc).head() == chain.fork[-1].block["hash"]
    island = {mined.block["hash"] for mined in chain.first[21:25]}
    rows = await stored.rows("SELECT block_hash, block_number FROM blockchain.orphaned_blocks")
    assert {row["block_hash"] for row in rows} == island
    heirs = {mined.block["hash"] for mined in chain.fork}
    rows = await stored.rows("SELECT DISTINCT replaced_by FROM blockchain.orphaned_blocks")
    assert {row["replaced_by"] for row in rows} <= heirs
    statuses = await stored.statuses()
    inside = {tx["hash"] for mined in chain.first[21:25] for tx in mined.block["transactions"]}
    assert {statuses[each] for each in set(chain.reincluded) & inside} == {"confirmed"}
    assert {statuses[each] for each in set(chain.replaced) & inside} <= {"replaced"}
    assert {statuses[each] for each in set(chain.dropped) & inside} <= {"pending"}


@pytest.mark.parametrize("heads", [[19, 20, 21], [20, 22], [21, 26, 30], [19, 24, 25]])
async def test_a_node_that_grows_past_an_island(
    stored: Stored,
    rpc: JsonRpc,
    played_node: PlayedNode,
    chain: SyntheticChain,
    heads: list[int],
) -> None:
    """The follower is at the node's head all the way up, below the island, at it and above."""
    await take_in(stored, chain.first[21:25])
    await take_in(stored, chain.first[:19])
    played_node.serve(chain.canonical)
    played_node.head = heads[0]
    follower = Follower(stored, rpc)
    async with following(follower):
        for head in heads:
            played_node.head = head
            await follower.stores(chain.canonical[head - 1].block)
        played_node.head = None
        await follower.reaches(chain.fork[-1].block)
    assert await stored.value(COVERED) == "{[1,31)}"


async def test_an_island_the_node_agrees_with(
    stored: Stored, rpc: JsonRpc, played_node: PlayedNode, chain: SyntheticChain
) -> None:
    """It stays, and what lies below it is filled in from a node that has not come so far yet."""
    await take_in(stored, chain.canonical[23:26])
    await take_in(stored, chain.first[:19])
    played_node.serve(chain.canonical)
    played_node.head = 21
    follower = Follower(stored, rpc)
    async with following(follower):
        await follower.stores(chain.canonical[20].block)
        assert await stored.value(COVERED) == "{[1,22),[24,27)}"
        played_node.head = None
        await follower.reaches(chain.fork[-1].block)
    assert follower.reports[-1].orphaned == 0


async def test_two_islands_far_above(
    stored: Stored, rpc: JsonRpc, played_node: PlayedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gap wider than a step back is stepped over; each island is taken back when it is reached,
    though the branch that is fetched at once ends below it."""
    monkeypatch.setattr("neolayer.chain.follow.LONGEST_BRANCH", 16)
    old = make_chain(blocks=80, transactions_per_block=1, seed=3, reorg_at=10, reorg_depth=60)
    await take_in(stored, old.first[60:66])
    await take_in(stored, old.first[40:44])
    await take_in(stored, old.first[:9])
    played_node.serve(old.canonical)
    report = await Follower(stored, rpc).run(until=80)
    assert report.orphaned == 10
    assert await stored.value(COVERED) == "{[1,81)}"
    assert await stored.value("SELECT count(*) FROM blockchain.orphaned_blocks") == 10


async def test_only_an_island_of_another_branch(
    stored: Stored, rpc: JsonRpc, played_node: PlayedNode, chain: SyntheticChain
) -> None:
    """Where nothing at all is shared, it may as well be another chain: nothing is taken back."""
    await take_in(stored, chain.first[21:25])
    played_node.serve(chain.canonical)
    with pytest.raises(SourceError, match="shares no block"):
        await Follower(stored, rpc).run(until=30)
    assert await stored.value(COVERED) == "{[22,26)}"


async def test_an_island_contradicted_in_its_middle(stored: Stored, store: BlockStore) -> None:
    """What a branch agrees with stays; from the first contradiction upward all is taken back."""
    old = fabricate_chain(range(10), transactions=1)
    top = fabricate_chain(range(8, 10), parent_hash=old[7].block_hash, branch="'", transactions=1)
    await store.commit([*old[:3], *old[6:]])
    branch = [*old[3:8], *top]
    commit = await store.commit(branch, Terms(fork=2, all_or_none=True))
    assert (commit.orphaned, commit.blocks, commit.skipped) == (2, 5, 2)
    rows = await stored.rows("SELECT block_number FROM blockchain.orphaned_blocks ORDER BY 1")
    assert [row["block_number"] for row in rows] == [8, 9]


@pytest.mark.parametrize("shares", ["nothing", "its place", "a transaction"])
async def test_an_island_above_the_branch(stored: Stored, store: BlockStore, shares: str) -> None:
    """An island that does not stand on the branch's end, or holds a transaction that the branch
    has lower down, is none of this chain; of another nothing can be told yet."""
    base = fabricate_chain(range(3), transactions=1)
    first = 4 if shares == "its place" else 6
    island = [fabricate(first, digest("elsewhere"), [])]
    island.append(fabricate(first + 1, island[0].block_hash, [A, B]))
    island.append(fabricate(first + 2, island[1].block_hash, [C]))
    await store.commit([*base, *island])
    mined = [A] if shares == "a transaction" else []
    branch = [fabricate(3, base[-1].block_hash, mined, branch="'")]
    commit = await store.commit(branch, Terms(fork=2, all_or_none=True))
    assert commit.orphaned == {"nothing": 0, "its place": 3, "a transaction": 2}[shares]
    statuses = await stored.statuses()
    lost = shares != "nothing"
    assert statuses[B["transaction_hash"]] == ("pending" if lost else "confirmed")
    wanted = {"nothing": "{[0,4),[6,9)}", "its place": "{[0,4)}", "a transaction": "{[0,4),[6,7)}"}
    assert await stored.value(COVERED) == wanted[shares]
    head = await store.head()
    assert head is not None
    assert head.number == {"nothing": 8, "its place": 3, "a transaction": 6}[shares]


async def test_what_was_final_falls_with_an_island(stored: Stored, store: BlockStore) -> None:
    """Blocks that come below a lost island are not final because it was."""
    base = fabricate_chain(range(3), transactions=1)
    island = fabricate_chain(range(5, 7), parent_hash=digest("elsewhere"), branch="'")
    await store.commit([*base, *island])
    await stored.admin.execute("UPDATE blockchain.chain_heads SET finalized_number = 6")
    branch = fabricate_chain(range(3, 7), parent_hash=base[-1].block_hash, branch='"')
    commit = await store.commit(branch, Terms(fork=2, all_or_none=True))
    assert commit.orphaned == 2
    assert await stored.value("SELECT finalized_number FROM blockchain.chain_heads") == 2


@pytest.mark.parametrize("as_island", [False, True])
async def test_an_earlier_deployment_stands_again(
    stored: Stored, store: BlockStore, as_island: bool
) -> None:
    """Where the later deployment at an address is taken back, the earlier one stands, with what
    people wrote about the contract; without an earlier one there is no contract."""
    at, alone = account("contract"), account("alone")
    base = fabricate_chain(range(2), transactions=1)
    earlier = transaction("x", 1, contract_address=at)
    failed = transaction("x", 2, contract_address=at, status="failed")
    below = fabricate(2, base[-1].block_hash, [earlier])
    above = fabricate(3, below.block_hash, [failed])
    parent = digest("elsewhere") if as_island else above.block_hash
    number = 6 if as_island else 4
    later = transaction("x", 1, salt="later", contract_address=at)
    lost = fabricate(
        number, parent, [later, transaction("z", 1, contract_address=alone)], branch="'"
    )
    await store.commit([*base, below, above, lost])
    await stored.admin.execute("UPDATE blockchain.smart_contracts SET name = 'known'")
    branch = fabricate_chain(range(4, 8), parent_hash=above.block_hash, branch='"')
    await store.commit(branch, Terms(fork=3, all_or_none=True))
    rows = await stored.rows(
        "SELECT address, deployed_block_number, deployment_transaction_hash, deployed_by, name,"
        " deployed_at FROM blockchain.smart_contracts"
    )
    assert rows == [
        {
            "address": at,
            "deployed_block_number": 2,
            "deployment_transaction_hash": earlier["transaction_hash"],
            "deployed_by": earlier["from_address"],
            "deployed_at": rows[0]["deployed_at"],
            "name": "known",
        }
    ]
    assert rows[0]["deployed_at"].timestamp() == below.timestamp
