"""Blocks from a node: a range of them, several batches in flight, in order.

The receipts of a block are asked for by its hash where the node allows that, because a provider
may route two calls to two nodes that disagree about a height. A node that has a block but not yet
all of its receipts is asked again for a while; what it says in the end must rebuild the block's
roots, or the block is bad.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import Any, Protocol

import msgspec
import stamina

from neolayer.chain import evm
from neolayer.chain.model import BlockRows, Network
from neolayer.chain.sources.jsonrpc import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    Answer,
    Call,
    JsonRpc,
    Refusal,
)
from neolayer.errors import BadBlock, ChainError, SourceError

BLOCKS_PER_REQUEST = 10
REQUESTS_IN_FLIGHT = 4
# How often and how long a node that lags behind itself is asked again.
PATIENCE_ATTEMPTS = 6
PATIENCE_S = 20.0


class Node(Protocol):
    """What range ingest and following need of a node, whatever it speaks."""

    @property
    def address(self) -> str: ...

    async def check(self) -> None:
        """Raises ChainError where the node is of another network."""
        ...

    async def head(self) -> int:
        """The height of its highest block."""
        ...

    async def final(self) -> int | None:
        """The height it calls final, or None where it does not say."""
        ...

    async def hashes(self, numbers: Sequence[int]) -> dict[int, str]:
        """The hashes of these blocks; heights it does not have are left out."""
        ...

    async def fetch(self, numbers: Sequence[int]) -> list[BlockRows | BadBlock]:
        """These blocks in order. Raises SourceError where one is missing for good."""
        ...


class MissingBlock(SourceError):
    """The node does not have a block that it must have."""


class Lagging(Exception):
    """The node does not have yet what it should have; worth asking again."""


class _Summary(msgspec.Struct):
    hash: str
    transactions: list[msgspec.Raw] = []


class _Hashed(msgspec.Struct):
    hash: str


_summary = msgspec.json.Decoder(_Summary).decode
_hashed = msgspec.json.Decoder(_Hashed).decode
_text = msgspec.json.Decoder(str).decode


class EvmNode:
    """A node that speaks Ethereum's JSON-RPC: Ethereum, Neo X and their like.

    `senders` verifies too, and recovers every sender from its signature.
    """

    def __init__(
        self, rpc: JsonRpc, network: Network, *, verify: bool = True, senders: bool = False
    ) -> None:
        self._rpc = rpc
        self._network = network
        self._verify = verify
        self._senders = senders
        self._receipts = self._by_hash

    @property
    def address(self) -> str:
        return self._rpc.address

    @property
    def rpc(self) -> JsonRpc:
        return self._rpc

    async def check(self) -> None:
        answer = await self._rpc.ask("eth_chainId")
        found = int(_text(answer), 16) if answer else None
        if found != self._network.chain_id:
            raise other_network(self.address, found, self._network)

    async def head(self) -> int:
        return int(_text(_needed(await self._rpc.ask("eth_blockNumber"), self.address)), 16)

    async def final(self) -> int | None:
        call = Call("eth_getBlockByNumber", ("finalized", False))
        (answer,) = await self._rpc.ask_many([call])
        if not isinstance(answer, bytes):
            return None
        return int(msgspec.json.decode(answer)["number"], 16)

    async def hashes(self, numbers: Sequence[int]) -> dict[int, str]:
        calls = [Call("eth_getBlockByNumber", (hex(number), False)) for number in numbers]
        answers = zip(numbers, await self._rpc.ask_many(calls), strict=True)
        return {number: _hashed(raw).hash for number, raw in answers if isinstance(raw, bytes)}

    async def fetch(self, numbers: Sequence[int]) -> list[BlockRows | BadBlock]:
        calls = [Call("eth_getBlockByNumber", (hex(number), True)) for number in numbers]
        answers = await self._rpc.ask_many(calls)
        present = [answer for answer in answers if isinstance(answer, bytes)]
        receipts = iter(await self._receipts(present))
        found = [(raw, next(receipts) if isinstance(raw, bytes) else None) for raw in answers]
        decoded = await asyncio.to_thread(
            lambda: [self._decoded(n, *pair) for n, pair in zip(numbers, found, strict=True)]
        )
        return [
            item if isinstance(item, BlockRows) else await self._again(number)
            for number, item in zip(numbers, decoded, strict=True)
        ]

    async def _again(self, number: int) -> BlockRows | BadBlock:
        """One block, asked for until the node's answers agree with each other."""
        try:
            async for attempt in stamina.retry_context(
                on=(Lagging, BadBlock),
                attempts=PATIENCE_ATTEMPTS,
                timeout=PATIENCE_S,
                wait_initial=0.1,
                wait_max=2.0,
            ):
                with attempt:
                    return await self._once(number)
        except BadBlock as exc:
            return exc
        except Lagging as exc:
            raise MissingBlock(f"{self.address}: {exc}") from exc
        raise AssertionError("unreachable")

    async def _once(self, number: int) -> BlockRows:
        (raw,) = await self._rpc.ask_many([Call("eth_getBlockByNumber", (hex(number), True))])
        receipts = (await self._receipts([raw]))[0] if isinstance(raw, bytes) else None
        outcome = await asyncio.to_thread(self._decoded, number, raw, receipts)
        if isinstance(outcome, BlockRows):
            return outcome
        raise outcome

    def _decoded(
        self, number: int, raw: Answer, receipts: Answer
    ) -> BlockRows | BadBlock | Lagging:
        if not isinstance(raw, bytes):
            return Lagging(f"block {number} {_absent(raw)}")
        if not isinstance(receipts, bytes):
            return Lagging(f"the receipts of block {number} {_absent(receipts)}")
        try:
            block = evm.decode_block(
                raw,
                network=self._network,
                receipts=receipts,
                verify=self._verify,
                senders=self._senders,
                origin=self.address,
            )
        except BadBlock as exc:
            return exc
        if block.number != number:
            reason = f"the node sent it when asked for block {number}"
            return BadBlock(reason, origin=self.address, block=block.number)
        return block

    async def _by_hash(self, blocks: Sequence[bytes]) -> list[Answer]:
        calls = [Call("eth_getBlockReceipts", (_summary(raw).hash,)) for raw in blocks]
        answers = await self._rpc.ask_many(calls) if calls else []
        return await self._or_else(blocks, answers, {INVALID_PARAMS}, self._by_number)

    async def _by_number(self, blocks: Sequence[bytes]) -> list[Answer]:
        numbers = [msgspec.json.decode(raw)["number"] for raw in blocks]
        calls = [Call("eth_getBlockReceipts", (number,)) for number in numbers]
        answers = await self._rpc.ask_many(calls) if calls else []
        return await self._or_else(blocks, answers, set(), self._one_by_one)

    async def _or_else(
        self, blocks: Sequence[bytes], answers: list[Answer], codes: set[int], other: Any
    ) -> list[Answer]:
        """The answers, or those of the next way to ask, for good, where the node refuses this."""
        refused = {answer.code for answer in answers if isinstance(answer, Refusal)}
        if METHOD_NOT_FOUND in refused:
            self._receipts = self._one_by_one
        elif refused & codes:
            self._receipts = other
        else:
            return answers
        return await self._receipts(blocks)

    async def _one_by_one(self, blocks: Sequence[bytes]) -> list[Answer]:
        """For nodes without eth_getBlockReceipts: every transaction's own."""
        return [await self._collected(_summary(raw)) for raw in blocks]

    async def _collected(self, block: _Summary) -> Answer:
        hashes = [_hashed(raw).hash for raw in block.transactions]
        if not hashes:
            return b"[]"
        calls = [Call("eth_getTransactionReceipt", (each,)) for each in hashes]
        answers = await self._rpc.ask_many(calls)
        missing = next((each for each in answers if not isinstance(each, bytes)), b"")
        if missing != b"":
            return missing
        return b"[" + b",".join(each for each in answers if isinstance(each, bytes)) + b"]"


async def fetch_range(
    node: Node,
    *,
    first: int,
    last: int,
    blocks_per_request: int = BLOCKS_PER_REQUEST,
    in_flight: int = REQUESTS_IN_FLIGHT,
) -> AsyncGenerator[BlockRows | BadBlock]:
    """The blocks `first` to `last`, both included, in order; at most `in_flight` requests ahead."""
    starts = iter(range(first, last + 1, blocks_per_request))
    flying: deque[asyncio.Task[list[BlockRows | BadBlock]]] = deque()

    def launch() -> None:
        if (start := next(starts, None)) is not None:
            numbers = range(start, min(start + blocks_per_request, last + 1))
            flying.append(asyncio.create_task(node.fetch(numbers)))

    try:
        for _ in range(in_flight):
            launch()
        while flying:
            blocks = await flying.popleft()
            launch()
            for block in blocks:
                yield block
    finally:
        for task in flying:
            task.cancel()
        for task in flying:
            with suppress(asyncio.CancelledError, ChainError):
                await task


def _absent(answer: Answer) -> str:
    if isinstance(answer, Refusal):
        return f"is refused: {answer.message} ({answer.code})"
    return "is missing at the node"


def _needed(answer: bytes | None, address: str) -> bytes:
    if answer is None:
        raise SourceError(f"{address}: the node answers null where it must not")
    return answer


def other_network(address: str, found: int | None, network: Network) -> ChainError:
    """The error for a node that is not of the network."""
    return ChainError(
        f"{address} is a node of chain id {found}, not {network.chain_id} ({network.name})",
        hint="point --rpc at another node or name another --network",
    )
