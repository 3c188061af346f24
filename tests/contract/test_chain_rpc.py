"""Blocks from a node that behaves, and from one that does not: a real HTTP server plays it."""

from __future__ import annotations

import copy
import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.fixtures.fix_rpc import (
    Fault,
    PlayedNode,
    Refused,
    Reply,
    cut_short,
    first_left_out,
    http_status,
    not_now,
    real_blocks,
    reversed_order,
)
from tests.fixtures.patience import PATIENCE_S

from neolayer.chain.model import BlockRows, Network
from neolayer.chain.networks import PRESETS
from neolayer.chain.sources import jsonrpc
from neolayer.chain.sources import rpc as rpc_source
from neolayer.chain.sources.jsonrpc import Call, JsonRpc, Refusal, open_rpc
from neolayer.chain.sources.rpc import EvmNode, MissingBlock, fetch_range
from neolayer.errors import BadBlock, ChainError, SourceError

ETHEREUM: Network = PRESETS["ethereum"]
FIRST, LAST = 19433902, 19433903
TRANSACTIONS, LOGS = 343, 573


@pytest_asyncio.fixture
async def rpc(played_node: PlayedNode) -> AsyncIterator[JsonRpc]:
    played_node.serve(real_blocks())
    async with open_rpc(played_node.url, timeout_s=5) as opened:
        yield opened


@pytest.fixture
def node(rpc: JsonRpc, monkeypatch: pytest.MonkeyPatch) -> EvmNode:
    monkeypatch.setattr(rpc_source, "PATIENCE_S", 1.0)
    monkeypatch.setattr(rpc_source, "PATIENCE_ATTEMPTS", 3)
    return EvmNode(rpc, ETHEREUM)


def sums(blocks: list[BlockRows | BadBlock]) -> tuple[int, int]:
    rows = [block for block in blocks if isinstance(block, BlockRows)]
    assert len(rows) == len(blocks), blocks
    return sum(len(b.transactions) for b in rows), sum(len(b.logs or ()) for b in rows)


async def test_real_blocks(node: EvmNode) -> None:
    """Real blocks arrive in order with their logs, verified down to the receipts."""
    await node.check()
    assert (await node.head(), await node.final()) == (LAST, None)
    blocks = [block async for block in fetch_range(node, first=FIRST, last=LAST)]
    assert sums(blocks) == (TRANSACTIONS, LOGS)
    assert [block.block[-1] for block in blocks if isinstance(block, BlockRows)] == ["receipts"] * 2


@pytest.mark.parametrize(
    "fault", [http_status(503), http_status(429), cut_short, first_left_out, not_now]
)
async def test_what_was_not_answered_is_asked_again(
    played_node: PlayedNode, node: EvmNode, fault: Fault
) -> None:
    """5xx, 429, a body cut short, answers left out, "limit exceeded": asked again until told."""
    played_node.faults.extend([fault, fault])
    assert sums(await node.fetch([FIRST, LAST])) == (TRANSACTIONS, LOGS)
    played_node.faults.append(fault)
    assert await node.head() == LAST


@pytest.mark.parametrize("code", [-32005, -32002, 429])
@pytest.mark.parametrize("at", [FIRST, LAST])
async def test_a_node_that_never_has_time_is_told_in_its_own_words(
    played_node: PlayedNode, node: EvmNode, monkeypatch: pytest.MonkeyPatch, code: int, at: int
) -> None:
    """Where "not now" is all that a node says of one question of a batch, the error has its words,
    the method and the block, and not those of a question that was answered."""
    monkeypatch.setattr(jsonrpc, "ATTEMPTS", 2)

    def busy(key: str) -> object:
        if key == played_node.blocks[at]["hash"]:
            raise Refused(code, "daily quota reached")
        return played_node.receipts[key]

    played_node.overrides["eth_getBlockReceipts"] = busy
    with pytest.raises(SourceError) as caught:
        await node.fetch([FIRST, LAST])
    said = rf"http://\S+: eth_getBlockReceipts of block {at}: daily quota reached \({code}\)"
    assert re.fullmatch(said, caught.value.message)


def ids_as_text(reply: Reply) -> None:
    for answer in reply.answers:
        answer["id"] = str(answer["id"])


def ids_of_others(reply: Reply) -> None:
    for answer in reply.answers:
        answer["id"] += 1_000_000


@pytest.mark.parametrize("fault", [ids_as_text, ids_of_others])
async def test_answers_to_other_questions_are_none(
    played_node: PlayedNode, node: EvmNode, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    """A node that does not give our ids back is not believed, and told why."""
    monkeypatch.setattr(jsonrpc, "ATTEMPTS", 2)
    played_node.every_reply = fault
    with pytest.raises(SourceError) as caught:
        await node.fetch([FIRST, LAST])
    said = f"eth_getBlockByNumber of block {FIRST}: the node answers with ids that are not ours"
    assert caught.value.message == f"{node.address}: {said}"


async def test_answers_in_any_order(played_node: PlayedNode, node: EvmNode) -> None:
    """A batch's answers are matched by id, so their order means nothing."""
    played_node.every_reply = reversed_order
    blocks = await node.fetch([FIRST, LAST])
    assert [block.number for block in blocks if isinstance(block, BlockRows)] == [FIRST, LAST]
    hashes = await node.hashes([FIRST, LAST])
    assert hashes == {n: played_node.blocks[n]["hash"] for n in (FIRST, LAST)}


async def test_only_the_open_questions_are_asked_again(
    played_node: PlayedNode, rpc: JsonRpc
) -> None:
    """A retry repeats what was not answered and nothing else."""
    played_node.faults.append(first_left_out)
    await rpc.ask_many([Call("eth_chainId"), Call("eth_blockNumber"), Call("eth_blockNumber")])
    assert played_node.calls == {"eth_chainId": 2, "eth_blockNumber": 2}


async def test_null_empty_and_error_are_three_answers(
    played_node: PlayedNode, rpc: JsonRpc
) -> None:
    """`null`, `[]` and an error stay apart."""
    played_node.receipts["0x" + "00" * 32] = []
    calls = [
        Call("eth_getBlockReceipts", ("0x" + "00" * 32,)),
        Call("eth_getBlockReceipts", ("0x" + "11" * 32,)),
        Call("eth_nonsense"),
    ]
    answers = await rpc.ask_many(calls)
    assert answers[:2] == [b"[]", None]
    assert isinstance(answers[2], Refusal)
    assert answers[2].code == -32601


@pytest.mark.parametrize("given", [None, []])
async def test_receipts_that_are_not_there_yet(
    played_node: PlayedNode, node: EvmNode, given: list[object] | None
) -> None:
    """A node that has a block but null or no receipts of it is asked again until it has them."""
    block_hash = played_node.blocks[FIRST]["hash"]
    answers = [given, given, played_node.receipts[block_hash]]
    played_node.overrides["eth_getBlockReceipts"] = lambda key: (
        answers.pop(0) if key == block_hash else played_node.receipts[key]
    )
    assert sums(await node.fetch([FIRST, LAST])) == (TRANSACTIONS, LOGS)
    assert answers == []


async def test_empty_receipts_for_good_are_a_bad_block(
    played_node: PlayedNode, node: EvmNode
) -> None:
    """`[]` for a block with transactions is never taken for a block without logs."""
    played_node.receipts[played_node.blocks[FIRST]["hash"]] = []
    first, second = await node.fetch([FIRST, LAST])
    assert isinstance(first, BadBlock)
    assert f"block {FIRST}" in first.message
    assert isinstance(second, BlockRows)


async def test_null_receipts_for_good_end_the_run(played_node: PlayedNode, node: EvmNode) -> None:
    """Receipts that never come end the run with the block's number."""
    played_node.receipts[played_node.blocks[LAST]["hash"]] = None  # type: ignore[assignment]
    with pytest.raises(SourceError, match=f"receipts of block {LAST} are missing"):
        await node.fetch([FIRST, LAST])


async def test_a_missing_block_is_named(node: EvmNode) -> None:
    """A height the node does not have ends the run with its number."""
    with pytest.raises(MissingBlock, match=f"block {LAST + 1} is missing"):
        await node.fetch([LAST, LAST + 1])


async def test_a_tampered_block_is_named(played_node: PlayedNode, node: EvmNode) -> None:
    """One changed byte of a transaction is found, and only that block is bad."""
    changed = copy.deepcopy(played_node.blocks[LAST])
    changed["transactions"][3]["value"] = "0x1"
    played_node.blocks[LAST] = changed
    first, second = await node.fetch([FIRST, LAST])
    assert isinstance(first, BlockRows)
    assert isinstance(second, BadBlock)
    assert (second.block, second.origin) == (LAST, node.address)


async def test_a_block_of_another_height(played_node: PlayedNode, node: EvmNode) -> None:
    """A node that sends another block than asked for is not believed."""
    played_node.blocks[LAST] = played_node.blocks[FIRST]
    (block,) = await node.fetch([LAST])
    assert isinstance(block, BadBlock)
    assert f"asked for block {LAST}" in block.message


async def test_receipts_by_hash_else_by_number_else_one_by_one(
    played_node: PlayedNode, rpc: JsonRpc
) -> None:
    """The block's hash asks first; nodes that cannot are asked in the way they can."""

    def by_number_only(key: str) -> object:
        if len(key) == 66:
            raise Refused(-32602, "invalid argument 0: hex number > 64 bits")
        return played_node.receipts[played_node.blocks[int(key, 16)]["hash"]]

    played_node.overrides["eth_getBlockReceipts"] = by_number_only
    assert sums(await EvmNode(rpc, ETHEREUM).fetch([FIRST, LAST])) == (TRANSACTIONS, LOGS)
    del played_node.overrides["eth_getBlockReceipts"]
    played_node.absent_methods.add("eth_getBlockReceipts")
    assert sums(await EvmNode(rpc, ETHEREUM).fetch([FIRST, LAST])) == (TRANSACTIONS, LOGS)
    assert played_node.calls["eth_getTransactionReceipt"] == TRANSACTIONS


async def test_a_node_of_another_network(played_node: PlayedNode, node: EvmNode) -> None:
    """A node of another chain is refused before anything is taken from it."""
    played_node.chain_id = 17000
    with pytest.raises(ChainError, match="a node of chain id 17000, not 1"):
        await node.check()


async def test_a_node_that_is_silent(
    played_node: PlayedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retries end: with the address and the reason, and without what the URL may hide."""
    monkeypatch.setattr(jsonrpc, "ATTEMPTS", 2)
    played_node.every_reply = http_status(502)
    url = played_node.url.replace("//", "//user:s3cret@") + "/v3/k3y?token=t0ken"
    async with open_rpc(url, timeout_s=PATIENCE_S) as rpc:
        with pytest.raises(SourceError) as caught:
            await rpc.ask("eth_blockNumber")
    assert "HTTP 502" in caught.value.message
    assert not any(secret in caught.value.message for secret in ("s3cret", "k3y", "t0ken"))


@pytest.mark.parametrize("url", ["ftp://host/", "file:///etc/passwd", "localhost:8545", "http://"])
async def test_urls_that_are_none(url: str) -> None:
    """Only http and https are opened."""
    with pytest.raises(SourceError, match="not an http"):
        async with open_rpc(url):
            pass


async def test_an_answer_that_is_too_big(rpc: JsonRpc, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node cannot fill our memory."""
    monkeypatch.setattr("neolayer.chain.sources.jsonrpc.MAX_RESPONSE_BYTES", 1_000)
    with pytest.raises(SourceError, match="exceeds"):
        await rpc.ask("eth_getBlockByNumber", hex(FIRST), True)
