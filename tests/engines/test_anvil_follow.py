"""Following a real node: growth, reorganisations also past finality, replaced and dropped
transactions, and a node that goes backwards."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from tests.fixtures.fix_anvil import Anvil

from neolayer.chain.follow import Following, follow
from neolayer.chain.ingest import IngestReport
from neolayer.chain.model import Network
from neolayer.chain.pending import Pool
from neolayer.chain.registry import network_of
from neolayer.chain.sources.jsonrpc import JsonRpc, open_rpc
from neolayer.chain.sources.rpc import EvmNode
from neolayer.engines.endpoints import Endpoints, Role

pytestmark = pytest.mark.engines


class Follower:
    """One follow after the other, each up to the node's head of that moment."""

    def __init__(self, anvil: Anvil, rpc: JsonRpc, network: Network, dsn: str) -> None:
        self.anvil, self.rpc, self.network, self.dsn = anvil, rpc, network, dsn

    async def catch_up(self) -> IngestReport:
        following = Following(self.network, poll_s=0.02, until=self.anvil.head())
        node = EvmNode(self.rpc, self.network)
        return await follow(node, dsn=self.dsn, following=following, pool=Pool(self.rpc))

    async def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        connection = await psycopg.AsyncConnection.connect(self.dsn)
        async with connection:
            return await (await connection.execute(statement, values)).fetchall()  # type: ignore[arg-type]

    async def states(self, hashes: list[str]) -> list[str]:
        statement = (
            "SELECT status FROM blockchain.transactions JOIN unnest(%s::text[]) WITH ORDINALITY"
            " AS asked (hash, place) ON transaction_hash = hash ORDER BY place"
        )
        return [status for (status,) in await self.rows(statement, hashes)]

    async def agrees(self) -> None:
        """Every stored block is the node's, and none is missing."""
        rows = await self.rows(
            "SELECT block_number, block_hash FROM blockchain.blocks ORDER BY block_number"
        )
        assert [number for number, _ in rows] == list(range(self.anvil.head() + 1))
        assert all(self.anvil.hash_of(number) == found for number, found in rows)


@pytest_asyncio.fixture
async def follower(anvil: Anvil, layer_databases: Endpoints) -> AsyncIterator[Follower]:
    dsn = layer_databases.postgres.dsn(Role.INGEST)
    network = await network_of(dsn, "devnet", chain_id=31337)
    async with open_rpc(anvil.url, timeout_s=20) as rpc:
        yield Follower(anvil, rpc, network, dsn)


async def test_growth_and_a_reorganisation(anvil: Anvil, follower: Follower) -> None:
    """Five blocks change their hashes and lose their transactions: the store follows."""
    sent = anvil.mine(20, transfers=4)
    report = await follower.catch_up()
    assert (report.blocks, report.transactions) == (21, 80)
    await follower.agrees()
    anvil.ask("anvil_reorg", 5, [])
    anvil.mine(1)
    await follower.catch_up()
    await follower.agrees()
    states = await follower.states(sent)
    assert states[:60] == ["confirmed"] * 60
    assert set(states[60:]) <= {"pending", "dropped"}
    assert len(await follower.rows("SELECT FROM blockchain.orphaned_blocks")) == 5


async def test_a_reorganisation_past_finality(anvil: Anvil, follower: Follower) -> None:
    """A hundred blocks go, also those the node had called final; every derived row goes too."""
    anvil.mine(110, transfers=1)
    await follower.catch_up()
    assert await follower.rows("SELECT FROM blockchain.blocks WHERE is_final LIMIT 1")
    anvil.ask("anvil_reorg", 100, [])
    anvil.mine(1)
    await follower.catch_up()
    await follower.agrees()
    (confirmed,) = await follower.rows(
        "SELECT count(*) FROM blockchain.transactions WHERE status = 'confirmed'"
    )
    assert confirmed == (10,)


async def test_a_replaced_and_a_dropped_transaction(anvil: Anvil, follower: Follower) -> None:
    """Same sender and nonce at a higher fee wins; a transaction the node forgot is no row of a
    block."""
    anvil.mine(1)
    gas = int(anvil.ask("eth_gasPrice"), 16)
    cheap = anvil.send(0, nonce="0x0", gasPrice=hex(gas * 2))
    gone = anvil.send(1, nonce="0x0", gasPrice=hex(gas * 2))
    await follower.catch_up()
    assert await follower.states([cheap, gone]) == ["pending", "pending"]
    dear = anvil.send(0, nonce="0x0", gasPrice=hex(gas * 4), value="0x2")
    anvil.ask("anvil_dropTransaction", gone)
    anvil.mine(1)
    await follower.catch_up()
    assert await follower.states([cheap, dear]) == ["replaced", "confirmed"]
    rows = await follower.rows(
        "SELECT replaced_by FROM blockchain.transactions WHERE transaction_hash = %s", cheap
    )
    assert rows == [(dear,)]
    assert (await follower.states([gone]))[0] in ("pending", "dropped")


async def test_a_node_that_goes_backwards_is_waited_for(anvil: Anvil, follower: Follower) -> None:
    """A lower head with the same hashes is no reorganisation: nothing is taken back."""
    anvil.mine(30, transfers=1)
    await follower.catch_up()
    anvil.ask("anvil_rollback", 10)
    await follower.catch_up()
    (stored,) = await follower.rows("SELECT max(block_number) FROM blockchain.blocks")
    assert stored == (30,)
    assert not await follower.rows("SELECT FROM blockchain.orphaned_blocks")
    anvil.mine(12)
    await follower.catch_up()
    await follower.agrees()
