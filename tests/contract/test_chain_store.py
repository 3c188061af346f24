"""What the chain's store promises, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import random

import pytest
from tests.fixtures.fabricated import account, digest, fabricate, fabricate_chain, transaction
from tests.fixtures.fix_chain import Stored

from neolayer.chain import reading
from neolayer.chain.finality import finalise
from neolayer.chain.ingest import ingest
from neolayer.chain.model import BlockRows
from neolayer.chain.registry import ensure_network
from neolayer.chain.store import BlockStore, Terms, open_store
from neolayer.errors import BadBlock, ChainError

DAY_S = 86_400
FUTURE_S = 4_000_000_000  # no block of that time is old


async def test_stores_blocks_with_their_cursor(stored: Stored, store: BlockStore) -> None:
    """A commit's blocks, transactions, logs, coverage and head are there together."""
    blocks = fabricate_chain(range(5, 8))
    commit = await store.commit(blocks)
    assert (commit.blocks, commit.transactions, commit.logs, commit.refused) == (3, 9, 9, ())
    (coverage,) = await reading.network_coverage(stored.admin)
    assert coverage.covered == ((5, 7),)
    assert (coverage.head_number, coverage.head_hash) == (7, blocks[-1].block_hash)
    assert await stored.value("SELECT count(*) FROM blockchain.transactions") == 9


async def test_the_same_block_again_is_skipped(stored: Stored, store: BlockStore) -> None:
    """Blocks that are stored already change nothing, in this commit or a later one."""
    blocks = fabricate_chain(range(3))
    await store.commit([*blocks, blocks[1]])
    before = await stored.fingerprint()
    commit = await store.commit(blocks)
    assert (commit.blocks, commit.skipped, commit.refused) == (0, 3, ())
    assert await stored.fingerprint() == before


async def test_any_order_and_missing_ranges(stored: Stored, store: BlockStore) -> None:
    """Blocks come in any order; what lies between is listed as missing; the rows are the same."""
    blocks = fabricate_chain(range(20))
    shuffled = [block for block in blocks if block.number not in (7, 8, 13)]
    random.Random(5).shuffle(shuffled)
    for block in shuffled:
        await store.commit([block])
    (coverage,) = await reading.network_coverage(stored.admin)
    assert coverage.missing == ((7, 8), (13, 13))
    assert coverage.covered == ((0, 6), (9, 12), (14, 19))
    assert (coverage.head_number, coverage.head_hash) == (19, blocks[19].block_hash)


async def test_two_blocks_of_one_height(stored: Stored, store: BlockStore) -> None:
    """The second block of a height is refused by file and number; nothing of it is stored."""
    blocks = fabricate_chain(range(4))
    rival = fabricate(2, blocks[1].block_hash, [transaction("x", 1)], branch="-rival")
    commit = await store.commit([*blocks[:3], rival, blocks[3]])
    assert commit.blocks == 4
    (bad,) = commit.refused
    assert "block-2-rival.json: block 2" in bad.message
    assert blocks[2].block_hash in bad.message
    assert rival.transactions[0][0] not in await stored.statuses()


@pytest.mark.parametrize("place", [1, 3])
async def test_wrong_neighbour(stored: Stored, store: BlockStore, place: int) -> None:
    """A block that does not fit the block stored below or above it is refused."""
    blocks = fabricate_chain(range(5))
    await store.commit([blocks[2]])
    stranger = fabricate_chain([place], parent_hash=digest("elsewhere"), branch="-other")[0]
    commit = await store.commit([stranger, blocks[0]])
    assert commit.blocks == 1
    assert "parent" in commit.refused[0].message
    assert commit.refused[0].block == place


async def test_one_flaw_does_not_cost_the_batch(stored: Stored, store: BlockStore) -> None:
    """A block that the database refuses is named; its neighbours in the commit are stored."""
    first, _, last = fabricate_chain(range(3))
    too_much = transaction("x", 1, value=2**256)
    flawed = fabricate(1, first.block_hash, [transaction("y", 1), too_much])
    last = fabricate_chain([2], parent_hash=flawed.block_hash)[0]
    commit = await store.commit([first, flawed, last])
    assert [bad.block for bad in commit.refused] == [1]
    assert "transactions_value_check" in commit.refused[0].message
    (coverage,) = await reading.network_coverage(stored.admin)
    assert coverage.missing == ((1, 1),)
    assert flawed.transactions[0][0] not in await stored.statuses()
    assert await stored.value("SELECT count(*) FROM blockchain.transaction_keys") == 6


async def test_a_transaction_in_two_blocks(stored: Stored, store: BlockStore) -> None:
    """A transaction that a stored block holds cannot be in another one."""
    shared = transaction("x", 1)
    first = fabricate(1, digest("genesis"), [shared])
    second = fabricate(2, first.block_hash, [shared, transaction("y", 1)])
    commit = await store.commit([first, second])
    assert [bad.block for bad in commit.refused] == [2]
    assert "stored in block 1" in commit.refused[0].message


async def test_receipts_that_come_later(stored: Stored, store: BlockStore) -> None:
    """A block given again with its receipts gains its logs; without them it loses nothing."""
    content = [transaction("x", 1), transaction("y", 1)]
    bare = fabricate(1, digest("genesis"), content, verification="transactions")
    full = fabricate(1, digest("genesis"), content)
    assert (await store.commit([bare])).logs == 0
    assert (await store.commit([full])).logs == 2
    assert (await store.commit([bare])).skipped == 1
    assert await stored.value("SELECT count(*) FROM blockchain.logs") == 2
    assert await stored.value("SELECT verification FROM blockchain.blocks") == "receipts"


async def test_all_or_none(stored: Stored, store: BlockStore) -> None:
    """With `all_or_none` a refused block is raised, and no block of the commit is stored."""
    blocks = fabricate_chain(range(3))
    rival = fabricate(1, blocks[0].block_hash, [], branch="-rival")
    with pytest.raises(BadBlock, match="block 1"):
        await store.commit([*blocks, rival], Terms(all_or_none=True))
    assert await store.head() is None
    assert await stored.value("SELECT count(*) FROM blockchain.transactions") == 0


async def test_two_ingests_at_once(stored: Stored) -> None:
    """Two ingests of one range, at once and in opposite directions, come to one result."""
    blocks = fabricate_chain(range(60))

    async def run(order: list[BlockRows]) -> int:
        report = await ingest(order, dsn=stored.dsn, network=stored.network, blocks_per_commit=4)
        assert report.refused == ()
        return report.blocks

    counts = await asyncio.gather(run(blocks), run(blocks[::-1]))
    assert sum(counts) == 60
    assert min(counts) > 0
    together = await stored.fingerprint()
    async with open_store(stored.dsn, stored.network) as store:
        assert (await store.commit(blocks)).skipped == 60
    assert await stored.fingerprint() == together
    assert await stored.value("SELECT covered::text FROM blockchain.chain_heads") == "{[0,60)}"


async def test_confirmations_are_right_at_all_times(stored: Stored, store: BlockStore) -> None:
    """What we answer counts from the head; stored, once, is the count that made it final."""
    blocks = fabricate_chain(range(100), transactions=1, start_s=FUTURE_S)
    asked = blocks[30].transactions[0][0]
    stamped: set[int] = set()
    for start in range(0, 100, 10):
        await store.commit(blocks[start : start + 10])
        await finalise(store)
        found = await reading.transaction(stored.admin, "testnet", asked)
        if start >= 30:
            assert found is not None
            assert found.confirmation_count == start + 9 - 30 + 1
        query = "SELECT confirmation_count FROM blockchain.transactions WHERE block_number = 30"
        stamped |= {row["confirmation_count"] for row in await stored.rows(query)}
    assert stamped == {0, 65}
    assert await stored.value("SELECT count(*) FROM blockchain.blocks WHERE is_final") == 36
    assert await stored.value("SELECT finalized_number FROM blockchain.chain_heads") == 35


async def test_finalising_is_bounded_and_may_stop(stored: Stored, store: BlockStore) -> None:
    """Blocks are made final in order, in commits of at most 32, and never twice."""
    await store.commit(fabricate_chain(range(200), transactions=1, start_s=FUTURE_S))
    assert await finalise(store) == 0  # they came in one commit whose head made them final
    late = fabricate_chain(range(200, 300), parent_hash=None, transactions=1, start_s=FUTURE_S)
    for block in late[1:]:
        await store.commit([block])
    assert await finalise(store) == 99  # 136 to 199, 201 to 235
    assert await finalise(store) == 0


async def test_old_blocks_are_final_as_they_arrive(stored: Stored, store: BlockStore) -> None:
    """A backfill writes each row once: what is older than a day is final at once."""
    await store.commit(fabricate_chain(range(3)))
    counts = await stored.rows(
        "SELECT block_number, confirmation_count FROM blockchain.transactions"
    )
    found = {row["block_number"]: row["confirmation_count"] for row in counts}
    assert found == dict.fromkeys(range(3), 65)
    async with open_store(stored.dsn, stored.network, old_is_final=False) as careful:
        await careful.commit(fabricate_chain([10]))
    assert await stored.value("SELECT is_final FROM blockchain.blocks WHERE block_number = 10") is (
        False
    )


async def test_partitions_for_old_and_coming_years(stored: Stored, store: BlockStore) -> None:
    """Every block finds its year's partition, from the first block of 2015 on."""
    for year_s in (1_438_269_988, 1_700_000_000, FUTURE_S):
        await store.commit(fabricate_chain([year_s], start_s=year_s - 12 * year_s))
    rows = await stored.rows("SELECT tableoid::regclass::text AS home FROM blockchain.transactions")
    homes = {row["home"] for row in rows}
    expected = {f"blockchain.transactions_{year}" for year in (2015, 2023, 2096)}
    assert homes == expected


async def test_contracts_and_their_redeployment(stored: Stored, store: BlockStore) -> None:
    """A contract is one row an address; the later deployment stands, whichever came first."""
    at = account("contract")
    first = fabricate(1, digest("genesis"), [transaction("x", 1, contract_address=at)])
    second = fabricate(2, first.block_hash, [transaction("x", 2, contract_address=at)])
    await store.commit([second])
    await store.commit([first])
    query = "SELECT address, deployed_block_number FROM blockchain.smart_contracts"
    assert await stored.rows(query) == [{"address": at, "deployed_block_number": 2}]


async def test_a_network_keeps_its_chain_id(stored: Stored) -> None:
    """A name with another chain id, or a chain id with another name, is refused in one sentence."""
    ask = ensure_network
    assert (await ask(stored.admin, "testnet")).chain_id == 1337
    assert await ask(stored.admin, "testnet", chain_id=1337) == stored.network
    with pytest.raises(ChainError, match="'testnet' has chain id 1337, not 5"):
        await ask(stored.admin, "testnet", chain_id=5)
    with pytest.raises(ChainError, match="chain id 1337 is stored as network 'testnet'"):
        await ask(stored.admin, "other", chain_id=1337)
    with pytest.raises(ChainError, match="'ethereum' has chain id 1, not 7"):
        await ask(stored.admin, "ethereum", chain_id=7)
    with pytest.raises(ChainError, match="'nowhere' is not known"):
        await ask(stored.admin, "nowhere")
    assert (await ask(stored.admin, "neo-n3")).kind == "neo-n3"


async def test_a_report_ends_at_a_position(stored: Stored) -> None:
    """The report's position lies at or above everything stored, and rises from run to run."""
    first = await ingest(fabricate_chain(range(3)), dsn=stored.dsn, network=stored.network)
    second = await ingest(fabricate_chain(range(9)), dsn=stored.dsn, network=stored.network)
    assert first.position is not None and second.position is not None
    assert first.position < second.position
    behind = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') >= %s"
    assert await stored.value(behind, second.position.lsn)


async def test_an_ingest_goes_on_past_bad_blocks(stored: Stored) -> None:
    """What a source could not decode is reported beside what was refused, once, at the end: a list
    that went with each commit would cost the square of its length. The rest is stored."""
    blocks = fabricate_chain(range(4))
    bad = BadBlock("is no block", origin="x.json")
    seen: list[tuple[int, int]] = []
    report = await ingest(
        [blocks[0], bad, *blocks[1:]],
        dsn=stored.dsn,
        network=stored.network,
        blocks_per_commit=2,
        on_progress=lambda so_far: seen.append((so_far.blocks, len(so_far.refused))),
    )
    assert report.refused == (bad,)
    assert report.blocks == 4
    assert seen == [(2, 0), (4, 0)]
