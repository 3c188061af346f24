"""Taking a branch back: one commit, every derived row, and an end state for every transaction."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from tests.fixtures.fabricated import account, digest, fabricate, fabricate_chain, transaction
from tests.fixtures.fix_chain import Stored

from neolayer.chain import reading
from neolayer.chain.finality import finalise
from neolayer.chain.model import TRANSACTION_COLUMNS
from neolayer.chain.store import BlockStore, Terms
from neolayer.errors import BadBlock

A, B, C, D = (transaction(name, 1) for name in "abcd")
C_PLUS = transaction("c", 1, salt="higher fee")


def waiting(**values: object) -> tuple[object, ...]:
    """A transaction's row as it waits."""
    row = {**values, "status": "pending", "block_timestamp": datetime.now(UTC)}
    return tuple(row.get(name) for name, _ in TRANSACTION_COLUMNS)


async def test_a_new_branch_takes_the_place_of_the_old(stored: Stored, store: BlockStore) -> None:
    """After a reorganisation everything is as if only the new branch had ever been stored."""
    base = fabricate_chain(range(3))
    below = fabricate(3, base[-1].block_hash, [A, B])
    above = fabricate(4, below.block_hash, [{**C, "contract_address": account("new")}])
    new = fabricate(3, base[-1].block_hash, [B, A], branch="'")
    top = fabricate(4, new.block_hash, [C_PLUS], branch="'")
    await store.commit([*base, new, top])
    wanted = await stored.fingerprint()
    await _start_anew(stored)

    await store.commit([*base, below, above])
    commit = await store.commit([new, top], Terms(fork=2, all_or_none=True))
    assert (commit.orphaned, commit.blocks) == (2, 2)
    found = await stored.fingerprint()
    for table in ("blocks", "logs", "contracts", "heads"):
        assert found[table] == wanted[table], table
    statuses = await stored.statuses()
    assert statuses[A["transaction_hash"]] == statuses[B["transaction_hash"]] == "confirmed"
    orphans = await stored.rows(
        "SELECT block_number, replaced_by FROM blockchain.orphaned_blocks ORDER BY 1"
    )
    assert [row["replaced_by"] for row in orphans] == [new.block_hash, top.block_hash]


async def test_every_transaction_reaches_a_state(stored: Stored, store: BlockStore) -> None:
    """Of an orphaned block: mined again, replaced by another of its nonce, or waiting."""
    base = fabricate_chain([0])
    await store.commit([*base, fabricate(1, base[0].block_hash, [A, C, D])])
    new = fabricate(1, base[0].block_hash, [A, C_PLUS], branch="'")
    await store.commit([new], Terms(fork=0))
    statuses = await stored.statuses()
    assert statuses[A["transaction_hash"]] == "confirmed"
    assert statuses[C["transaction_hash"]] == "replaced"
    assert statuses[D["transaction_hash"]] == "pending"
    replaced = await reading.transaction(stored.admin, "testnet", C["transaction_hash"])
    assert replaced is not None
    assert replaced.replaced_by == C_PLUS["transaction_hash"]
    assert (replaced.block_number, replaced.confirmation_count) == (None, 0)


async def test_and_back_again(stored: Stored, store: BlockStore) -> None:
    """The first branch may win in the end: its blocks are no orphans, its rows as before."""
    base = fabricate_chain([0])
    old = fabricate(1, base[0].block_hash, [A, C])
    new = fabricate(1, base[0].block_hash, [C_PLUS], branch="'")
    await store.commit([*base, old])
    before = await stored.fingerprint()
    await store.commit([new], Terms(fork=0))
    await store.commit([old], Terms(fork=0))
    after = await stored.fingerprint()
    for table in ("blocks", "logs", "contracts", "heads"):
        assert after[table] == before[table], table
    assert await stored.statuses() == {
        **{row[0]: "confirmed" for row in [*base[0].transactions, *old.transactions]},
        C_PLUS["transaction_hash"]: "replaced",
    }
    orphans = await stored.rows("SELECT block_hash FROM blockchain.orphaned_blocks")
    assert [row["block_hash"] for row in orphans] == [new.block_hash]


async def test_deeper_than_final(stored: Stored, store: BlockStore) -> None:
    """A reorganisation below the final height is stored too; what is final follows."""
    chain = fabricate_chain(range(100), transactions=1)
    for start in range(0, 100, 20):
        await store.commit(chain[start : start + 20])
    await finalise(store)
    assert await stored.value("SELECT finalized_number FROM blockchain.chain_heads") == 35
    branch = fabricate_chain(range(11, 105), parent_hash=chain[10].block_hash, branch="'")
    commit = await store.commit(branch, Terms(fork=10, all_or_none=True))
    assert (commit.orphaned, commit.blocks) == (89, 94)
    await finalise(store)
    assert await stored.value("SELECT finalized_number FROM blockchain.chain_heads") == 104 - 64
    states = await stored.rows(
        "SELECT status, count(*) AS n, max(confirmation_count) AS top"
        " FROM blockchain.transactions GROUP BY 1 ORDER BY 1"
    )
    assert [(row["status"], row["n"]) for row in states] == [
        ("confirmed", 11 + 3 * 94),
        ("pending", 89),
    ]
    assert states[1]["top"] == 0


async def test_a_shorter_branch(stored: Stored, store: BlockStore) -> None:
    """A branch may win that is shorter: the head falls, nothing of the old one is left."""
    chain = fabricate_chain(range(10), transactions=1)
    await store.commit(chain)
    (new,) = fabricate_chain([5], parent_hash=chain[4].block_hash, branch="'")
    await store.commit([new], Terms(fork=4))
    head = await store.head()
    assert head is not None
    assert (head.number, head.block_hash) == (5, new.block_hash)
    assert await stored.value("SELECT covered::text FROM blockchain.chain_heads") == "{[0,6)}"
    assert await stored.value("SELECT count(*) FROM blockchain.logs WHERE block_number > 5") == 0


async def test_a_fork_takes_only_what_follows_it(stored: Stored, store: BlockStore) -> None:
    """Blocks beyond a gap are not known to belong to the lost branch: they stay."""
    chain = fabricate_chain(range(10), transactions=1)
    await store.commit([*chain[:6], *chain[8:]])
    (new,) = fabricate_chain([4], parent_hash=chain[3].block_hash, branch="'")
    commit = await store.commit([new], Terms(fork=3))
    assert commit.orphaned == 2
    covered = await stored.value("SELECT covered::text FROM blockchain.chain_heads")
    assert covered == "{[0,5),[8,10)}"


async def test_a_fork_that_is_refused_changes_nothing(stored: Stored, store: BlockStore) -> None:
    """A new branch that does not fit leaves the old one in its place."""
    chain = fabricate_chain(range(5))
    await store.commit(chain)
    before = await stored.fingerprint()
    stranger = fabricate_chain([3], parent_hash=digest("elsewhere"), branch="'")
    with pytest.raises(BadBlock, match="parent"):
        await store.commit(stranger, Terms(fork=2, all_or_none=True))
    assert await stored.fingerprint() == before


async def test_seen_before_they_are_mined(stored: Stored, store: BlockStore) -> None:
    """A waiting transaction keeps its row, its id and its first-seen time when it is mined."""
    await store.record_pending([waiting(**A), waiting(**C), waiting(**D)])
    await store.record_pending([waiting(**A)])
    seen = await reading.transaction(stored.admin, "testnet", A["transaction_hash"])
    assert seen is not None
    assert (seen.status, seen.confirmation_count) == ("pending", 0)
    block = fabricate(1, digest("genesis"), [A, B, C_PLUS])
    await store.commit([block])
    mined = await reading.transaction(stored.admin, "testnet", A["transaction_hash"])
    assert mined is not None
    assert (mined.id, mined.created_at) == (seen.id, seen.created_at)
    assert (mined.status, mined.block_number, mined.confirmation_count) == ("confirmed", 1, 1)
    statuses = await stored.statuses()
    assert statuses[C["transaction_hash"]] == "replaced"
    assert statuses[D["transaction_hash"]] == "pending"
    await store.record_pending([waiting(**C)])  # a node that lags behind still shows it
    assert (await stored.statuses())[C["transaction_hash"]] == "replaced"


async def test_dropped_and_seen_again(stored: Stored, store: BlockStore) -> None:
    """A forgotten transaction is dropped, waits again when it is seen again, and may be mined."""
    await store.record_pending([waiting(**A), waiting(**B)])
    await store.drop_pending([A["transaction_hash"], B["transaction_hash"]])
    assert set((await stored.statuses()).values()) == {"dropped"}
    await store.record_pending([waiting(**A)])
    assert (await stored.statuses())[A["transaction_hash"]] == "pending"
    assert await store.pending(limit=10) == [A["transaction_hash"]]
    await store.commit([fabricate(1, digest("genesis"), [A, B])])
    assert set((await stored.statuses()).values()) == {"confirmed"}


async def _start_anew(stored: Stored) -> None:
    await stored.admin.execute(
        "DELETE FROM blockchain.transactions; TRUNCATE blockchain.blocks, blockchain.logs,"
        " blockchain.smart_contracts, blockchain.chain_heads"
    )
