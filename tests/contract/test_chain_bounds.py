"""Numbers that no column holds: the block that says them is refused by name, its neighbours are
stored."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.fixtures.fix_chain import Stored
from tests.fixtures.fix_rpc import PlayedNode
from tests.fixtures.neo_dump import read_dump
from tests.fixtures.shared_data import shared_data

from neolayer.chain import payloads, reading
from neolayer.chain.hexadecimal import HIGHEST
from neolayer.chain.ingest import ingest
from neolayer.chain.neo import decode_block as decode_neo
from neolayer.chain.networks import PRESETS
from neolayer.chain.sources.files import read_blocks
from neolayer.chain.sources.jsonrpc import open_rpc
from neolayer.chain.sources.rpc import EvmNode
from neolayer.chain.synthetic import make_chain
from neolayer.chain.trie import keccak
from neolayer.chain.wire import Block
from neolayer.errors import BadBlock, SourceError

MINED = make_chain(blocks=3, transactions_per_block=2).first
BIGINT, ABOVE, LAST_SECOND = 2**63 - 1, 2**63, 9_214_646_399
Change = Callable[[dict[str, Any]], object]


def numbered(height: int, **changes: str) -> dict[str, Any]:
    """The second block at another height, with the hash made right again."""
    block = copy.deepcopy(MINED[1].block) | {"number": hex(height)} | changes
    block["hash"] = "0x" + keccak(payloads.header(msgspec.convert(block, Block))).hex()
    for item in block["transactions"]:
        item |= {"blockNumber": block["number"], "blockHash": block["hash"]}
    return block


def in_folder(folder: Path, odd: dict[str, dict[str, Any]]) -> None:
    """The odd blocks between two good ones, none with receipts."""
    names = {"1": MINED[0].block, **{f"2-{name}": block for name, block in odd.items()}}
    for name, block in {**names, "3": MINED[2].block}.items():
        (folder / f"{name}.json").write_text(json.dumps(block))


ABSURD: dict[str, tuple[dict[str, Any], str]] = {
    "highest bigint": (numbered(BIGINT), "height is above 1099511627775"),
    "one below": (numbered(BIGINT - 1), "height is above"),
    "no bigint": (numbered(ABOVE), "height is above"),
    "largest word": (numbered(2**256 - 1), "height is above"),
    "one above the bound": (numbered(HIGHEST + 1), "height is above"),
    "after 2261": (numbered(2, timestamp=hex(LAST_SECOND + 1)), "2261"),
    "last second": (numbered(2, timestamp=hex(2**64 - 1)), "2\\^63-1"),
    "gas limit": (numbered(2, gasLimit=hex(ABOVE)), "2\\^63-1"),
    "gas used": (numbered(2, gasUsed=hex(ABOVE)), "2\\^63-1"),
    "size": (numbered(2, size=hex(ABOVE)), "2\\^63-1"),
    "difficulty": (numbered(2) | {"difficulty": hex(2**256)}, "2\\^256-1"),
    "base fee": (numbered(2) | {"baseFeePerGas": hex(2**256)}, "2\\^256-1"),
}


@pytest.mark.parametrize("verify", [True, False])
async def test_absurd_blocks_cost_their_neighbours_nothing(
    stored: Stored, tmp_path: Path, verify: bool
) -> None:
    """Each is one error that names file and block and no word of the database; the others of their
    commit are stored, and nothing counts as missing but what is."""
    in_folder(tmp_path, {name: odd for name, (odd, _) in ABSURD.items()})
    blocks = read_blocks([tmp_path], network=stored.network, verify=verify)
    report = await ingest(blocks, dsn=stored.dsn, network=stored.network)
    told = {Path(bad.origin).stem.removeprefix("2-"): bad for bad in report.refused}
    assert set(told) == set(ABSURD)
    for name, (odd, reason) in ABSURD.items():
        number = int(odd["number"], 16)
        expected = rf"{re.escape(str(tmp_path))}/2-{name}\.json: block {number}: .*{reason}"
        assert re.fullmatch(expected + ".*", told[name].message), told[name].message
        assert "postgres" not in told[name].message
    (coverage,) = await reading.network_coverage(stored.admin)
    assert (report.blocks, coverage.covered) == (2, ((1, 1), (3, 3)))


async def test_the_largest_numbers_that_are_taken_are_stored(
    stored: Stored, tmp_path: Path
) -> None:
    """What passes our bounds passes the database's: each at its largest in one block."""
    odd = numbered(HIGHEST, timestamp=hex(LAST_SECOND), gasLimit=hex(BIGINT), size=hex(BIGINT))
    odd |= {"difficulty": hex(2**256 - 1), "baseFeePerGas": hex(2**256 - 1), "gasUsed": hex(BIGINT)}
    for name in ("gas", "nonce"):
        odd["transactions"][0][name] = hex(BIGINT)
    for name in ("value", "gasPrice", "maxFeePerGas", "maxPriorityFeePerGas", "yParity", "r", "s"):
        odd["transactions"][0][name] = hex(2**256 - 1)
    in_folder(tmp_path, {"odd": odd})
    blocks = read_blocks([tmp_path], network=stored.network, verify=False)
    report = await ingest(blocks, dsn=stored.dsn, network=stored.network)
    assert (report.blocks, report.refused) == (3, ())
    assert await stored.value("SELECT max(block_number) FROM blockchain.blocks") == HIGHEST


@pytest.mark.parametrize("said", [HIGHEST + 1, BIGINT, ABOVE])
async def test_a_node_with_an_absurd_head(played_node: PlayedNode, said: int) -> None:
    """A head that no chain has is refused with node and method, before anything is asked for."""
    played_node.head = said
    async with open_rpc(played_node.url) as rpc:
        with pytest.raises(SourceError, match="eth_blockNumber: its height is above"):
            await EvmNode(rpc, PRESETS["ethereum"]).head()


NEO: dict[str, tuple[Change, str]] = {
    "index": (lambda b: b.update(index=1 << 32), "index 4294967296"),
    "size": (lambda b: b.update(size=10**30), "size 10+ is not"),
    "negative size": (lambda b: b.update(size=-1), "size -1 is not"),
    "version": (lambda b: b.update(version=-1), "version -1 is not|does not fit"),
    "primary": (lambda b: b.update(primary=1 << 64), "primary .* is not"),
    "a transaction's size": (lambda b: b["tx"][0].update(size=1 << 63), "size .* is not"),
    "valid until": (lambda b: b["tx"][0].update(validuntilblock=1 << 64), "validuntilblock"),
    "fees together": (
        lambda b: [item.update(sysfee=str(BIGINT)) for item in b["tx"]],
        "fee .* is not in 0 to",
    ),
}


@pytest.mark.parametrize("what", NEO)
def test_a_neo_block_with_an_absurd_number(what: str) -> None:
    """The same of a Neo N3 block, whose numbers are no text and so have any size."""
    change, reason = NEO[what]
    block = copy.deepcopy(read_dump(shared_data("data", "chain", "neo", "chain50x2.acc"))[3])
    change(block)
    with pytest.raises(BadBlock, match=reason):
        decode_neo(
            json.dumps(block).encode(),
            network=PRESETS["neo-n3"],
            application_logs=None,
            verify=False,
            origin="block.json",
        )
