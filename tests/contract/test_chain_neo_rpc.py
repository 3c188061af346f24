"""Neo N3 blocks from a node, through the same door as all others: a real HTTP server plays it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.fixtures.fix_chain import Stored
from tests.fixtures.fix_rpc import PlayedNode, Refused
from tests.fixtures.shared_data import shared_data

from neolayer.chain.ingest import ingest
from neolayer.chain.model import BlockRows
from neolayer.chain.networks import PRESETS
from neolayer.chain.registry import ensure_network
from neolayer.chain.sources.jsonrpc import open_rpc
from neolayer.chain.sources.neo_rpc import NeoNode, node_for
from neolayer.chain.sources.rpc import MissingBlock, fetch_range
from neolayer.errors import BadBlock, ChainError

NETWORK = PRESETS["neo-n3"]


def recorded(name: str) -> Any:
    """What a node answered, in Neo's own test cases."""
    path = shared_data("data", "chain", "neo", "RpcTestCases.json")
    cases = json.loads(path.read_text(encoding="utf-8"))
    return next(case["Response"]["result"] for case in cases if case["Name"] == name)


@pytest_asyncio.fixture
async def node(played_node: PlayedNode) -> AsyncIterator[NeoNode]:
    block = recorded("getblockasync")
    version = recorded("getversionasync")
    version["protocol"]["network"] = NETWORK.chain_id
    halted = {"trigger": "Application", "vmstate": "HALT", "gasconsumed": "9007990"}
    log = {"executions": [{**halted, "stack": [], "notifications": []}]}
    played_node.overrides = {
        "getversion": lambda: version,
        "getblockcount": lambda: block["index"] + 1,
        "getblockhash": lambda number: block["hash"],
        "getblock": lambda number, verbose: block if number == block["index"] else None,
        "getapplicationlog": lambda key: {**log, "txid": key},
    }
    async with open_rpc(played_node.url, timeout_s=5) as rpc:
        made = node_for(rpc, NETWORK, verify=False)
        assert isinstance(made, NeoNode)
        yield made


async def test_a_recorded_block(node: NeoNode) -> None:
    """A block as a node sent it arrives (unverified: it is of a time before the hashes of now)."""
    await node.check()
    head = await node.head()
    assert (head, await node.final()) == (7, 7)
    (block,) = await node.fetch([head])
    assert isinstance(block, BlockRows)
    assert block.number == 7
    assert await node.hashes([7]) == {7: block.block_hash}


async def test_is_stored_like_any_other(node: NeoNode, stored: Stored) -> None:
    """A Neo N3 block is committed with its cursor in the tables of all chains."""
    network = await ensure_network(stored.admin, "neo-n3")
    report = await ingest(fetch_range(node, first=7, last=7), dsn=stored.dsn, network=network)
    assert (report.blocks, report.refused) == (1, ())
    query = "SELECT covered::text FROM blockchain.chain_heads WHERE network_id = %s"
    assert await stored.value(query, network.id) == "{[7,8)}"


async def test_without_application_logs(node: NeoNode, played_node: PlayedNode) -> None:
    """A node without the plugin gives blocks without logs; a log that is missing ends the run."""
    del played_node.overrides["getapplicationlog"]
    (block,) = await node.fetch([7])
    assert isinstance(block, BlockRows)
    if block.transactions:
        assert block.logs is None

        def unknown(key: str) -> Any:
            raise Refused(-100, "Unknown transaction/blockhash")

        played_node.overrides["getapplicationlog"] = unknown
        with pytest.raises(MissingBlock, match="application log of block 7 is refused: Unknown"):
            await node.fetch([7])


async def test_a_missing_or_changed_block(node: NeoNode, played_node: PlayedNode) -> None:
    """A height that is not there ends the run; a block of another height is bad."""
    with pytest.raises(MissingBlock, match="block 8 is missing"):
        await node.fetch([8])
    other = recorded("getblockasync")
    played_node.overrides["getblock"] = lambda number, verbose: other
    (block,) = await node.fetch([6])
    assert isinstance(block, BadBlock)
    assert "asked for block 6" in block.message


async def test_a_block_that_does_not_match_its_hashes(node: NeoNode) -> None:
    """With verification a block whose content gives other hashes is bad, by its number."""
    strict = NeoNode(node.rpc, NETWORK)
    (block,) = await strict.fetch([7])
    assert isinstance(block, BadBlock)
    assert block.block == 7


async def test_a_node_of_another_network(node: NeoNode, played_node: PlayedNode) -> None:
    """A node of another network is refused."""
    played_node.overrides["getversion"] = lambda: {"protocol": {"network": 5}}
    with pytest.raises(ChainError, match="chain id 5, not 860833102"):
        await node.check()
