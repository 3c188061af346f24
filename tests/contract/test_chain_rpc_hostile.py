"""A node that answers what no node should: one sentence that names it, and bounded memory."""

from __future__ import annotations

import asyncio
import threading
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
import pytest_asyncio
import zstandard
from tests.fixtures.fix_rpc import PlayedNode, Refused, Reply, gzipped, packed, real_blocks
from tests.fixtures.patience import PATIENCE_S

from neolayer.chain.model import BlockRows
from neolayer.chain.networks import PRESETS
from neolayer.chain.pending import Pool, pending_rows
from neolayer.chain.sources import jsonrpc
from neolayer.chain.sources import rpc as rpc_source
from neolayer.chain.sources.jsonrpc import JsonRpc, open_rpc
from neolayer.chain.sources.neo_rpc import NeoNode
from neolayer.chain.sources.rpc import EvmNode, fetch_range
from neolayer.chain.wire import Transaction as Wire
from neolayer.errors import BadBlock, ChainError, SourceError

ETHEREUM, NEO = PRESETS["ethereum"], PRESETS["neo-n3"]
FIRST, LAST = 19433902, 19433903
MIB = 1 << 20


@pytest_asyncio.fixture
async def rpc(played_node: PlayedNode, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[JsonRpc]:
    monkeypatch.setattr(rpc_source, "PATIENCE_S", 0.2)
    monkeypatch.setattr(rpc_source, "PATIENCE_ATTEMPTS", 2)
    monkeypatch.setattr(jsonrpc, "ATTEMPTS", 2)
    played_node.serve(real_blocks())
    async with open_rpc(played_node.url, timeout_s=PATIENCE_S) as opened:
        yield opened


def deep(levels: int = 100_000) -> bytes:
    return b'{"a":' + b"[" * levels + b"]" * levels + b"}"


def said(error: BaseException, node: str, *words: str) -> None:
    """The error is one line with the node's address and these words."""
    assert isinstance(error, ChainError)
    assert "\n" not in error.message
    assert len(error.message) < 500
    assert error.message.startswith(node)
    for word in words:
        assert word in error.message


HUGE = "0x" + "f" * 6_000
NO_QUANTITIES = [
    123,
    "zz",
    HUGE,
    {},
    [],
    True,
    None,
    "0x",
    "-0x5",
    "0x-5",
    " 0x1",
    "latest",
    "0x_1",
]


@pytest.mark.parametrize("answer", NO_QUANTITIES, ids=repr)
@pytest.mark.parametrize(
    ("method", "verb"), [("eth_chainId", EvmNode.check), ("eth_blockNumber", EvmNode.head)]
)
async def test_a_number_that_is_none(
    played_node: PlayedNode, rpc: JsonRpc, method: str, verb: Callable[..., Any], answer: Any
) -> None:
    """A chain id or a head of the wrong type, sign or size is refused with node and method."""
    played_node.overrides[method] = lambda: answer
    with pytest.raises(ChainError) as caught:
        await verb(EvmNode(rpc, ETHEREUM))
    said(caught.value, played_node.url, method)


@pytest.mark.parametrize("answer", [{"number": None}, {"number": 7}, [], {}, "0x5", 5], ids=repr)
async def test_a_final_block_that_is_none(
    played_node: PlayedNode, rpc: JsonRpc, answer: Any
) -> None:
    """A "finalized" block without a readable number is refused with node and method."""
    played_node.overrides["eth_getBlockByNumber"] = lambda *_: answer
    with pytest.raises(SourceError) as caught:
        await EvmNode(rpc, ETHEREUM).final()
    said(caught.value, played_node.url, "eth_getBlockByNumber", "finalized")


NO_BLOCKS = [
    [],
    "x",
    7,
    {},
    {"hash": 7},
    {"hash": "0x" + "1" * 64, "number": None, "transactions": "x"},
    {"hash": "0x" + "1" * 64, "transactions": [7]},
]


@pytest.mark.parametrize("receipts", ["whole", "refused", "absent"])
@pytest.mark.parametrize("answer", NO_BLOCKS, ids=repr)
async def test_a_block_that_is_none(
    played_node: PlayedNode, rpc: JsonRpc, answer: Any, receipts: str
) -> None:
    """What is no block is a bad one of the height asked for, however receipts are asked for; the
    blocks beside it are unharmed."""

    def refuse(key: str) -> Any:
        if receipts == "refused" and len(key) == 66:
            raise Refused(-32602, "invalid argument 0")
        return played_node._eth_getBlockReceipts(key)

    played_node.overrides["eth_getBlockReceipts"] = refuse
    if receipts == "absent":
        del played_node.overrides["eth_getBlockReceipts"]
        played_node.absent_methods.add("eth_getBlockReceipts")
    played_node.overrides["eth_getBlockByNumber"] = lambda tag, full: (
        answer if int(tag, 16) == FIRST else played_node._eth_getBlockByNumber(tag, full)
    )
    played_node._eth_getTransactionReceipt = lambda key: next(  # type: ignore[method-assign]
        (r for r in played_node.receipts[played_node.blocks[LAST]["hash"]]
         if r["transactionHash"] == key), None
    )  # fmt: skip
    bad, good = await EvmNode(rpc, ETHEREUM).fetch([FIRST, LAST])
    assert isinstance(bad, BadBlock)
    said(bad, played_node.url, f"block {FIRST}", "eth_getBlockByNumber")
    assert isinstance(good, BlockRows)


async def test_a_block_without_its_number(played_node: PlayedNode, rpc: JsonRpc) -> None:
    """A block that does not say its number is bad, also where receipts are asked for by number."""
    block = {**played_node.blocks[FIRST]}
    del block["number"]
    played_node.blocks[FIRST] = block

    def refuse(key: str) -> Any:
        if len(key) == 66:
            raise Refused(-32602, "invalid argument 0")
        return []

    played_node.overrides["eth_getBlockReceipts"] = refuse
    (bad,) = await EvmNode(rpc, ETHEREUM).fetch([FIRST])
    assert isinstance(bad, BadBlock)
    said(bad, played_node.url, f"block {FIRST}", "number")


@pytest.mark.parametrize("answer", [[], "x", {}, {"hash": None}, {"hash": []}], ids=repr)
async def test_a_hash_that_is_none(played_node: PlayedNode, rpc: JsonRpc, answer: Any) -> None:
    """A header without a hash is refused with node and method."""
    played_node.overrides["eth_getBlockByNumber"] = lambda *_: answer
    with pytest.raises(SourceError) as caught:
        await EvmNode(rpc, ETHEREUM).hashes([FIRST])
    said(caught.value, played_node.url, "eth_getBlockByNumber")


@pytest.mark.parametrize("answer", ["x", 7, {"pending": []}, {"pending": {"a": 7}}, [[]]], ids=repr)
async def test_a_pool_that_is_none(played_node: PlayedNode, rpc: JsonRpc, answer: Any) -> None:
    """A pool that cannot be read is none: what waits is told by the next block, then by nobody."""
    entries = played_node.blocks[FIRST]["transactions"][:3]
    played_node.overrides["txpool_content"] = lambda: answer
    played_node.overrides["eth_getBlockByNumber"] = lambda *_: {"transactions": entries}
    pool = Pool(rpc, drop_after=timedelta(1))
    assert [each.hash for each in await pool._waiting()] == [tx["hash"] for tx in entries]
    played_node.overrides["eth_getBlockByNumber"] = lambda *_: answer
    assert await pool._waiting() == []
    assert played_node.calls["txpool_content"] == 1


@pytest.mark.parametrize(
    "flaw",
    [
        {"input": "0x\0"},
        {"input": "zz"},
        {"r": "0x" + "f" * 100},
        {"r": "\0"},
        {"s": "-0x1"},
        {"type": "0xffff"},
        {"type": "0x" + "f" * 60},
        {"value": "0x" + "f" * 70},
        {"from": "0x0"},
        {"nonce": HUGE},
    ],
    ids=repr,
)
def test_a_waiting_transaction_that_is_none(flaw: dict[str, str]) -> None:
    """What no column could hold is left out before it comes near the database."""
    ((block, _), *_) = real_blocks()
    entries = [msgspec.convert({**block["transactions"][0], **each}, Wire) for each in (flaw, {})]
    assert len(list(pending_rows(entries, seen_at=datetime.now(UTC)))) == 1


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("getversion", []),
        ("getversion", {"protocol": {"network": "x"}}),
        ("getversion", {"protocol": 7}),
        ("getblockcount", "7"),
        ("getblockcount", -3),
        ("getblockcount", {}),
        ("getblockcount", 1 << 80),
        ("getblockhash", 7),
        ("getblockhash", {}),
    ],
    ids=repr,
)
async def test_neo_answers_of_the_wrong_type(
    played_node: PlayedNode, rpc: JsonRpc, method: str, answer: Any
) -> None:
    """The same of a Neo N3 node: one sentence with node and method."""
    played_node.overrides[method] = lambda *_: answer
    node = NeoNode(rpc, NEO)
    verbs: dict[str, Callable[[], Any]] = {
        "getversion": node.check,
        "getblockcount": node.head,
        "getblockhash": lambda: node.hashes([1]),
    }
    with pytest.raises(ChainError) as caught:
        await verbs[method]()
    said(caught.value, played_node.url, method)


@pytest.mark.parametrize("answer", [[], "x", 7, {}, {"tx": 7}, {"tx": [7]}], ids=repr)
async def test_a_neo_block_that_is_none(played_node: PlayedNode, rpc: JsonRpc, answer: Any) -> None:
    """What is no Neo N3 block is a bad one of the height asked for."""
    played_node.overrides |= {"getblock": lambda *_: answer, "getapplicationlog": lambda key: {}}
    (bad,) = await NeoNode(rpc, NEO).fetch([7])
    assert isinstance(bad, BadBlock)
    said(bad, played_node.url, "block 7")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"7",
        b"nonsense",
        b'{"id": 1.5, "result": "0x1"}',
        b'{"id": 1, "error": {"code": "x"}}',
        b'{"id": 1, "error": "no"}',
        deep(),
        b"[" * 100_000,
        b'"\xff"',
    ],
    ids=lambda body: repr(body[:20]),
)
async def test_a_body_that_is_no_answer(played_node: PlayedNode, rpc: JsonRpc, body: bytes) -> None:
    """A body that is no JSON-RPC answer, or is nested without end, is refused with node and
    method after it was asked for again."""
    played_node.every_reply = packed("identity", body)
    with pytest.raises(SourceError) as caught:
        await EvmNode(rpc, ETHEREUM).head()
    said(caught.value, played_node.url, "eth_blockNumber")


NESTED = "nested here"


def nested(reply: Reply) -> None:
    """Wherever an answer holds the mark, a value of any depth stands in its place."""
    packed("identity", reply.body().replace(f'"{NESTED}"'.encode(), deep()))(reply)


@pytest.mark.parametrize("place", ["block", "receipts", "receipt"])
async def test_a_block_that_is_nested_without_end(
    played_node: PlayedNode, rpc: JsonRpc, place: str
) -> None:
    """A field that we pass over may hide any depth: one bad block, and those beside it are
    unharmed."""
    block = played_node.blocks[FIRST]
    receipts = played_node.receipts[block["hash"]]
    if place == "block":
        played_node.blocks[FIRST] = {**block, "unknown": NESTED}
    else:
        receipts[0] = {**receipts[0], "unknown": NESTED}
    if place == "receipt":
        played_node.absent_methods.add("eth_getBlockReceipts")
    played_node.every_reply = nested
    bad, good = await EvmNode(rpc, ETHEREUM).fetch([FIRST, LAST])
    assert isinstance(bad, BadBlock)
    said(bad, played_node.url, f"block {FIRST}", "receipts" if place != "block" else "eth_getBlock")
    assert "nested too deeply" in bad.message
    assert isinstance(good, BlockRows)


@pytest.mark.parametrize("place", ["getblock", "getapplicationlog"])
async def test_a_neo_block_that_is_nested_without_end(
    played_node: PlayedNode, rpc: JsonRpc, place: str
) -> None:
    """The same of a Neo N3 node."""
    played_node.every_reply = nested
    played_node.overrides |= {
        "getblock": lambda *_: {"tx": [{"hash": "0x" + "1" * 64}]},
        "getapplicationlog": lambda key: {},
        place: lambda *_: NESTED,
    }
    (bad,) = await NeoNode(rpc, NEO).fetch([7])
    assert isinstance(bad, BadBlock)
    said(bad, played_node.url, "block 7", "nested too deeply")


async def test_answers_that_are_nested_where_nothing_else_will_do(
    played_node: PlayedNode, rpc: JsonRpc
) -> None:
    """Hashes and the final height are needed, so there it is an error at once; a pool is not."""
    played_node.every_reply = nested
    played_node.overrides |= {
        "eth_getBlockByNumber": lambda *_: NESTED,
        "txpool_content": lambda: NESTED,
    }
    node = EvmNode(rpc, ETHEREUM)
    for verb in (node.final(), node.hashes([FIRST])):
        with pytest.raises(SourceError) as caught:
            await verb
        said(caught.value, played_node.url, "eth_getBlockByNumber", "nested too deeply")
    assert await Pool(rpc)._waiting() == []
    assert all(count <= 3 for count in played_node.calls.values())


async def test_one_answer_that_is_too_big(
    played_node: PlayedNode, rpc: JsonRpc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block whose answer is larger than we take is bad; those beside it are unharmed."""
    monkeypatch.setattr("neolayer.chain.sources.jsonrpc.MAX_RESPONSE_BYTES", 1 * MIB)
    played_node.blocks[FIRST] = {**played_node.blocks[FIRST], "unknown": "x" * MIB}
    bad, good = await EvmNode(rpc, ETHEREUM).fetch([FIRST, LAST])
    assert isinstance(bad, BadBlock)
    said(bad, played_node.url, f"block {FIRST}", "exceeds 1 MiB")
    assert isinstance(good, BlockRows)


async def test_blocks_of_another_chain(
    played_node: PlayedNode, rpc: JsonRpc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that names the right chain id but sends another chain's blocks is refused at the first
    of them, once, and is not asked again."""
    monkeypatch.setattr(rpc_source, "PATIENCE_S", 20)
    monkeypatch.setattr(rpc_source, "PATIENCE_ATTEMPTS", 6)
    played_node.chain_id = PRESETS["sepolia"].chain_id
    node = EvmNode(rpc, PRESETS["sepolia"])
    await node.check()
    with pytest.raises(SourceError) as caught:
        await node.fetch([FIRST, LAST])
    said(caught.value, played_node.url, f"block {FIRST}", "is signed for chain 1", "11155111")
    assert "another node" in (caught.value.hint or "")
    assert played_node.calls["eth_getBlockByNumber"] == 2


async def test_a_node_that_lies_each_time_is_not_asked_again_for_ever(
    played_node: PlayedNode, rpc: JsonRpc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bad blocks are asked for again so many times in all, not so many times each: a node cannot
    make a run wait for every block. Each is refused all the same."""
    monkeypatch.setattr(rpc_source, "DOUBTS", 3)
    monkeypatch.setattr(rpc_source, "DOUBT_EVERY_S", 1e9)
    played_node.overrides["eth_getBlockByNumber"] = lambda *_: {"hash": 7}
    node, heights = EvmNode(rpc, ETHEREUM), range(40)
    found = [block async for block in fetch_range(node, first=0, last=39)]
    assert [block.block for block in found if isinstance(block, BadBlock)] == [*heights]
    assert played_node.calls["eth_getBlockByNumber"] == 40 + 3


def test_doubts_come_back_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that lags now and then, for weeks, is asked again each time."""
    now = 1000.0
    monkeypatch.setattr(rpc_source, "monotonic", lambda: now)
    doubts = rpc_source.Doubts()
    assert sum(doubts.take() for _ in range(1000)) == rpc_source.DOUBTS
    now += 2 * rpc_source.DOUBT_EVERY_S
    assert [doubts.take() for _ in range(3)] == [True, True, False]


async def test_an_answer_that_drips(played_node: PlayedNode) -> None:
    """A byte now and then keeps no reader waiting beyond the time for the whole question."""
    served = threading.Event()

    def drip(reply: Reply) -> None:
        reply.pause_s, reply.stop = 0.1, served

    played_node.every_reply = drip
    try:
        async with asyncio.timeout(PATIENCE_S), open_rpc(played_node.url, timeout_s=0.5) as rpc:
            with pytest.raises(SourceError) as caught:
                await rpc.ask("eth_getBlockByNumber", "0x1", True)
    finally:
        served.set()
    said(caught.value, played_node.url, "eth_getBlockByNumber", "no whole answer within 0.5 s")


async def test_words_of_a_node_are_shown_as_text(played_node: PlayedNode, rpc: JsonRpc) -> None:
    """What a node puts into its errors cannot steer a terminal, nor fill it."""

    def refuse() -> Any:
        raise Refused(-32000, "\x1b[2J\x9b\u202ecome\n" + "x" * 10_000)

    played_node.overrides["eth_blockNumber"] = refuse
    with pytest.raises(SourceError) as caught:
        await EvmNode(rpc, ETHEREUM).head()
    said(caught.value, played_node.url, "eth_blockNumber", r"\x1b[2J\x9b\u202ecome\n")
    assert caught.value.message.isprintable()


def bomb(encoding: str, mib: int) -> bytes:
    """That many MiB of an answer, packed to next to nothing."""
    opening = b'{"jsonrpc": "2.0", "id": 1, "result": "'
    packer: Any
    if encoding == "zstd":
        packer = zstandard.ZstdCompressor(level=3).compressobj()
    else:
        packer = zlib.compressobj(9, zlib.DEFLATED, 31 if encoding == "gzip" else 15)
    pieces = [packer.compress(opening)]
    pieces += [packer.compress(b"0" * MIB) for _ in range(mib)]
    return b"".join((*pieces, packer.compress(b'"}'), packer.flush()))


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "deflate"])
async def test_a_packed_bomb(
    played_node: PlayedNode, rpc: JsonRpc, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small answer that unpacks to a large one is refused unopened, in one sentence."""
    content = bomb(encoding, 200)
    played_node.every_reply = packed(encoding, content)
    tracemalloc.start()
    try:
        with pytest.raises(SourceError) as caught:
            await EvmNode(rpc, ETHEREUM).head()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(content) < MIB
    assert peak < 8 * MIB
    said(caught.value, played_node.url, encoding)


async def test_nothing_packed_is_asked_for(played_node: PlayedNode, rpc: JsonRpc) -> None:
    """We ask for plain answers, and say so when a node packs them all the same."""
    await EvmNode(rpc, ETHEREUM).check()
    assert played_node.accepted == {"identity"}
    played_node.faults.append(gzipped)
    with pytest.raises(SourceError, match="gzip"):
        await EvmNode(rpc, ETHEREUM).head()


@pytest.mark.parametrize(
    "url",
    [
        "http://h:abc",
        "http://h/\x01",
        "http://[::1",
        "http://127.0.0.1:99999",
        "http://h:-1",
        "http://☃.com",
        "http://[v1.x]/",
        "http://user:s3cret@h:abc",
    ],
)
async def test_urls_that_cannot_be_read(url: str) -> None:
    """A malformed URL is one sentence, without what it may hide."""
    with pytest.raises(SourceError, match="not an http") as caught:
        async with open_rpc(url):
            pass
    assert caught.value.message.isprintable()
    assert "s3cret" not in caught.value.message


@pytest.mark.parametrize("host", ["a" * 70 + ".com", "a..b", ".", "x" * 300])
async def test_hosts_that_cannot_exist(host: str) -> None:
    """A host name that no resolver takes is one sentence too."""
    async with open_rpc(f"http://{host}", timeout_s=0.3) as rpc:
        with pytest.raises(SourceError) as caught:
            await rpc.ask("eth_blockNumber")
    said(caught.value, f"http://{host}"[:100])
