"""A wallet's transactions and balance against the chain's own files, computed another way."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from tests.fixtures.fabricated import account, fabricate
from tests.fixtures.fix_chain import EMPTY_BLOCKS
from tests.fixtures.fix_wallets import NewWallets
from tests.fixtures.neo_dump import read_dump
from tests.fixtures.shared_data import shared_data

from neolayer.chain.ingest import ingest
from neolayer.chain.model import BlockRows
from neolayer.chain.neo import decode_block
from neolayer.chain.registry import network_of
from neolayer.chain.sources.files import read_blocks
from neolayer.chain.store import open_store
from neolayer.engines.endpoints import Endpoints, Role
from neolayer.engines.postgres.connections import Connection
from neolayer.errors import InvalidInput
from neolayer.wallets import Movement, WalletNotFound, Wallets


@pytest.fixture(autouse=True)
async def no_blocks(chain_admin: Connection) -> None:
    """Every test begins with networks of which nothing is stored."""
    await chain_admin.execute(EMPTY_BLOCKS)


async def commit(endpoints: Endpoints, network: str, blocks: Iterable[BlockRows]) -> None:
    dsn = endpoints.postgres.dsn(Role.INGEST)
    async with open_store(dsn, await network_of(dsn, network)) as store:
        assert (await store.commit([*blocks])).refused == ()


async def watched(wallets: Wallets, address: str, network: str = "ethereum") -> Any:
    return (await wallets.watch(network=network, address=address)).id


async def everything(wallets: Wallets, wallet_id: Any, limit: int) -> list[Movement]:
    """All pages, one after the other."""
    found: list[Movement] = []
    after = None
    while True:
        page = await wallets.transactions(wallet_id, after=after, limit=limit)
        assert len(page.items) <= limit
        found += page.items
        after = page.after
        if after is None:
            return found


def real_transactions() -> list[dict[str, Any]]:
    """The transactions of two mainnet blocks with their receipts, in chain order."""
    folder = shared_data("data", "chain", "mainnet-with-receipts")
    found: list[dict[str, Any]] = []
    for number in (19433902, 19433903):
        block = _result(folder / f"block_{number}.json")
        receipts = _result(folder / f"receipts-{number}.json")
        for tx, receipt in zip(block["transactions"], receipts, strict=True):
            assert tx["hash"] == receipt["transactionHash"]
            found.append({**tx, "receipt": receipt})
    return found


def _result(path: Path) -> Any:
    value = json.loads(path.read_bytes())
    return value.get("result", value) if isinstance(value, dict) else value


def expected_balance(address: str, transactions: Iterable[dict[str, Any]]) -> tuple[int, int, int]:
    """Received, sent and fees, by hand."""
    received = sent = fees = 0
    for tx in transactions:
        succeeded = int(tx["receipt"]["status"], 16)
        if tx["from"] == address:
            fees += int(tx["receipt"]["gasUsed"], 16) * int(tx["receipt"]["effectiveGasPrice"], 16)
            sent += int(tx["value"], 16) * succeeded
        if tx["to"] == address:
            received += int(tx["value"], 16) * succeeded
    return received, sent, fees


async def test_real_blocks(new_wallets: NewWallets, module_databases: Endpoints) -> None:
    """Busy, failing and receiving addresses of two mainnet blocks: every movement, every sum."""
    transactions = real_transactions()
    dsn = module_databases.postgres.dsn(Role.INGEST)
    network = await network_of(dsn, "ethereum")
    folder = shared_data("data", "chain", "mainnet-with-receipts")
    report = await ingest(
        read_blocks([folder], network=network, verify=True), dsn=dsn, network=network
    )
    assert (report.transactions, report.refused) == (len(transactions), ())
    senders = Counter(tx["from"] for tx in transactions)
    receivers = Counter(tx["to"] for tx in transactions if tx["to"])
    failing = {tx["from"] for tx in transactions if tx["receipt"]["status"] == "0x0"}
    chosen = {a for a, _ in [*senders.most_common(5), *receivers.most_common(5)]} | {*failing}
    assert len(chosen) > 10
    wallets = await new_wallets()
    for address in sorted(chosen):
        wallet_id = await watched(wallets, address)
        balance = await wallets.balance(wallet_id)
        assert (balance.received, balance.sent, balance.fees) == expected_balance(
            address, transactions
        )
        assert balance.amount == balance.received - balance.sent - balance.fees
        assert (balance.as_of_block, balance.fees_unknown) == (19433903, 0)
        assert balance.missing_blocks == 19433902
        own = [tx for tx in reversed(transactions) if address in (tx["from"], tx["to"])]
        found = await everything(wallets, wallet_id, 4)
        assert [m.transaction_hash for m in found] == [tx["hash"] for tx in own]
        assert [m.direction for m in found] == [
            "in" if tx["from"] != address else "self" if tx["to"] == address else "out"
            for tx in own
        ]
        assert [m.confirmation_count for m in found] == [
            19433904 - int(tx["blockNumber"], 16) for tx in own
        ]
        earlier = await wallets.balance(wallet_id, as_of_block=19433902)
        assert (earlier.received, earlier.sent, earlier.fees) == expected_balance(
            address, (tx for tx in transactions if int(tx["blockNumber"], 16) == 19433902)
        )


def made(sender: object, nonce: int, **values: Any) -> dict[str, Any]:
    from tests.fixtures.fabricated import transaction

    settled = {"gas_used": 21_000, "effective_gas_price": 3, "gas_price": 3, "transaction_type": 2}
    return transaction(sender, nonce, **(settled | values))


async def test_what_counts(new_wallets: NewWallets, module_databases: Endpoints) -> None:
    """Failed: the fee only. To oneself: the fee only. Without a receipt, or of blobs: not known.

    Not yet mined: listed first, counted nowhere. Up to a block: nothing above it.
    """
    me, you = account("me"), account("you")
    first = fabricate(
        0,
        "0x" + "00" * 32,
        [
            made("me", 0, to_address=you, value=100),
            made("me", 1, to_address=you, value=1000, status="failed"),
            made("me", 2, to_address=me, value=7),
            made("you", 0, to_address=me, value=50),
            made("you", 1, to_address=me, value=60, status="failed"),
            made("me", 3, to_address=None, value=5, contract_address=account("contract")),
        ],
        verification="none",
    )
    second = fabricate(
        1,
        first.block_hash,
        [
            made("me", 4, to_address=you, value=1, gas_used=None, effective_gas_price=None),
            made("me", 5, to_address=you, value=2, transaction_type=3),
            made("you", 2, to_address=me, value=2**200),
        ],
        verification="none",
    )
    await commit(module_databases, "sepolia", [first, second])
    wallets = await new_wallets()
    mine = await watched(wallets, me, "sepolia")
    fee = 63_000
    at_zero = await wallets.balance(mine, as_of_block=0)
    assert (at_zero.received, at_zero.sent, at_zero.fees) == (57, 112, 4 * fee)
    assert at_zero.amount == 57 - 112 - 4 * fee
    assert (at_zero.transactions_in, at_zero.transactions_out) == (3, 4)
    assert (at_zero.fees_unknown, at_zero.missing_blocks) == (0, 0)
    now = await wallets.balance(mine)
    assert (now.received, now.sent, now.fees) == (57 + 2**200, 115, 5 * fee)
    assert (now.as_of_block, now.fees_unknown, now.missing_blocks) == (1, 2, 0)
    assert (await wallets.balance(mine, as_of_block=11)).missing_blocks == 10
    listed = await everything(wallets, mine, 100)
    assert [(m.direction, m.value, m.fee, m.status) for m in listed] == [
        ("in", 2**200, fee, "confirmed"),
        ("out", 2, fee, "confirmed"),
        ("out", 1, None, "confirmed"),
        ("out", 5, fee, "confirmed"),
        ("in", 60, fee, "failed"),
        ("in", 50, fee, "confirmed"),
        ("self", 7, fee, "confirmed"),
        ("out", 1000, fee, "failed"),
        ("out", 100, fee, "confirmed"),
    ]


async def test_pending_transactions(
    new_wallets: NewWallets, chain_admin: Connection, module_databases: Endpoints
) -> None:
    """What waits stands first and moves nothing yet."""
    me, you = account("me"), account("you")
    block = fabricate(0, "0x" + "00" * 32, [made("you", 0, to_address=me, value=50)])
    await commit(module_databases, "sepolia", [block])
    await chain_admin.execute(
        "INSERT INTO blockchain.transactions (network_id, transaction_hash, from_address,"
        " to_address, value, nonce, status, block_timestamp)"
        " SELECT id, %s, %s, %s, 9, 0, 'pending', '2023-11-15+00' FROM blockchain.networks"
        " WHERE name = 'sepolia'",
        ("0x" + "ab" * 32, me, you),
    )
    wallets = await new_wallets()
    mine = await watched(wallets, me, "sepolia")
    waiting, mined = await everything(wallets, mine, 1)
    assert (waiting.status, waiting.fee, waiting.confirmation_count) == ("pending", None, 0)
    assert (mined.status, mined.confirmation_count) == ("confirmed", 1)
    assert (await wallets.balance(mine)).amount == 50


async def test_networks_do_not_mix(new_wallets: NewWallets, module_databases: Endpoints) -> None:
    """One address on two networks is two wallets with movements of their own."""
    me = account("me")
    for network, value in (("ethereum", 3), ("sepolia", 4)):
        block = fabricate(
            0, "0x" + "00" * 32, [made("you", 0, salt=network, to_address=me, value=value)]
        )
        await commit(module_databases, network, [block])
    wallets = await new_wallets()
    for network, value in (("ethereum", 3), ("sepolia", 4)):
        wallet_id = await watched(wallets, me, network)
        assert (await wallets.balance(wallet_id)).amount == value
        assert [m.value for m in await everything(wallets, wallet_id, 10)] == [value]


async def test_a_page_stays_while_blocks_arrive(
    new_wallets: NewWallets, module_databases: Endpoints
) -> None:
    """Blocks that come between two pages neither repeat a movement nor hide one."""
    me = account("me")
    parent, blocks = "0x" + "00" * 32, []
    for number in range(4):
        inward = [made(f"{number}/{n}", 0, to_address=me) for n in range(5)]
        blocks.append(fabricate(number, parent, inward, verification="none"))
        parent = blocks[-1].block_hash
    await commit(module_databases, "sepolia", blocks[:3])
    wallets = await new_wallets()
    mine = await watched(wallets, me, "sepolia")
    page = await wallets.transactions(mine, limit=7)
    await commit(module_databases, "sepolia", blocks[3:])
    rest = await wallets.transactions(mine, after=page.after, limit=100)
    seen = [m.transaction_hash for m in (*page.items, *rest.items)]
    assert len(seen) == len({*seen}) == 15
    assert rest.after is None


async def test_real_neo_blocks(new_wallets: NewWallets, module_databases: Endpoints) -> None:
    """On Neo N3 a sender pays the system and the network fee, also where the script faulted."""
    blocks = read_dump(shared_data("data", "chain", "neo", "chain50x2.acc"))
    dsn = module_databases.postgres.dsn(Role.INGEST)
    network = await network_of(dsn, "neo-n3-testnet")
    rows = [
        decode_block(
            msgspec.json.encode(block),
            network=network,
            application_logs=None,
            verify=True,
            origin="dump",
        )
        for block in blocks
    ]
    await commit(module_databases, "neo-n3-testnet", rows)
    sent = [tx for block in blocks for tx in block["tx"]]
    wallets = await new_wallets()
    for sender in {tx["sender"] for tx in sent}:
        own = [tx for tx in sent if tx["sender"] == sender]
        wallet_id = await watched(wallets, sender, "neo-n3-testnet")
        balance = await wallets.balance(wallet_id)
        fees = [int(tx["sysfee"]) + int(tx["netfee"]) for tx in own]
        assert (balance.amount, balance.transactions_out) == (-sum(fees), len(own))
        found = await everything(wallets, wallet_id, 7)
        assert sorted(m.fee or 0 for m in found) == sorted(fees)
        assert {m.direction for m in found} == {"out"}


async def test_D_ids_and_pages(new_wallets: NewWallets) -> None:
    """A foreign wallet answers as an absent one; forged places and bad blocks are refused."""
    ann, bob = await new_wallets(), await new_wallets()
    wallet_id = await watched(ann, account("me"))
    assert (await ann.transactions(wallet_id)).items == ()
    empty = await ann.balance(wallet_id)
    assert (empty.amount, empty.as_of_block) == (0, None)
    for absent in (wallet_id, uuid4()):
        with pytest.raises(WalletNotFound) as foreign:
            await bob.transactions(absent)
        assert foreign.value.message == "There is no such wallet."
        with pytest.raises(WalletNotFound):
            await bob.balance(absent)
    forged = ("", "x", "é", "e30", "WzEsMiwiYSJd" * 100, "Wy0xLDAsIngiXQ", "WzAsMCwiXHUwMDAwIl0")
    for after in forged:
        with pytest.raises(InvalidInput):
            await ann.transactions(wallet_id, after=after)
    for limit in (0, -1, 10**9):
        with pytest.raises(InvalidInput):
            await ann.transactions(wallet_id, limit=limit)
    for block in (-1, 2**63):
        with pytest.raises(InvalidInput):
            await ann.balance(wallet_id, as_of_block=block)


async def test_a_busy_wallet_reads_only_the_page(
    new_wallets: NewWallets, chain_admin: Connection
) -> None:
    """Among quiet addresses, a page of one with 10,000 movements reads a few hundred blocks."""
    busy = account("busy")
    await chain_admin.execute(
        "SELECT blockchain.ensure_partitions('2024-01-01+00', '2025-12-31+00')"
    )
    await chain_admin.execute(
        "INSERT INTO blockchain.transactions (network_id, transaction_hash, from_address,"
        " to_address, value, nonce, status, block_number, block_timestamp, transaction_index)"
        " SELECT w.id, '0x' || h, '0x' || left(h, 40),"
        " CASE WHEN n %% 2 = 0 THEN %s ELSE '0x' || right(h, 40) END,"
        " n, n, 'confirmed', n / 20, '2024-01-01+00'::timestamptz + n / 20 * interval '6 hours',"
        " n %% 20 FROM blockchain.networks AS w, generate_series(1, 20000) AS n,"
        " LATERAL (SELECT encode(sha256(n::text::bytea), 'hex') AS h) AS hashed"
        " WHERE w.name = 'sepolia'",
        (busy,),
    )
    await chain_admin.execute("ANALYZE blockchain.transactions")
    wallets = await new_wallets()
    mine = await watched(wallets, busy, "sepolia")
    explain = (
        "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM"
        " blockchain.wallet_transactions(%s, %s, 2147483647, '~', 50)"
    )
    for before in ("2262-01-01+00", "2024-08-01+00"):
        async with wallets.scope.transaction() as tx:
            await tx.fetch(explain, (mine, before))  # the plan is made
            ((plan,),) = await tx.fetch(explain, (mine, before))
        top = plan[0]["Plan"]
        assert top["Actual Rows"] == 50
        assert top["Shared Hit Blocks"] + top["Shared Read Blocks"] < 300, top
    first, second = [(await wallets.transactions(mine, limit=limit)).items for limit in (20, 10)]
    assert [m.value for m in first] == [*range(20000, 19960, -2)]
    assert first[:10] == second
