"""Blocks from a node: a range of them, several batches in flight, in order.

The receipts of a block are asked for by its hash where the node allows that, because a provider
may route two calls to two nodes that disagree about a height. A node that has a block but not yet
all of its receipts is asked again for a while; what it says in the end must rebuild the block's
roots, or the block is bad.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Protocol, TypeVar

import msgspec
import stamina

from neolayer.chain import evm
from neolayer.chain.decoding import Decoder
from neolayer.chain.hexadecimal import height, quantity64
from neolayer.chain.model import BlockRows, Network
from neolayer.chain.sources.jsonrpc import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    Answer,
    Call,
    JsonRpc,
    Refusal,
    Unreadable,
)
from neolayer.errors import BadBlock, ChainError, ForeignBlock, SourceError

BLOCKS_PER_REQUEST = 10
REQUESTS_IN_FLIGHT = 4
# How often and how long a node that lags behind itself is asked again.
PATIENCE_ATTEMPTS = 6
PATIENCE_S = 20.0
# How many bad blocks in all it may offer again: so many at once, then one every so many seconds. A
# node that lies about each block must not make a run wait for each.
DOUBTS = 60
DOUBT_EVERY_S = 10.0


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
        """These blocks in order. Raises SourceError where one is missing for good, or shows that
        the node is of another network."""
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


class _Numbered(msgspec.Struct):
    number: str


class Doubts:
    """How often bad answers may still be asked for again; grows with time up to DOUBTS."""

    def __init__(self) -> None:
        self._left = float(DOUBTS)
        self._at = monotonic()

    def take(self) -> bool:
        """Whether there is one left; it is gone then."""
        now = monotonic()
        self._left = min(self._left + (now - self._at) / DOUBT_EVERY_S, DOUBTS)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


T = TypeVar("T")
# A block as it was asked for: its height, and what is needed to ask for its receipts.
_Asked = tuple[int, _Summary]

_summary = Decoder(_Summary)
_hashed = Decoder(_Hashed)
_numbered = Decoder(_Numbered)
_text = Decoder(str)
_BLOCK = "eth_getBlockByNumber"


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
        self._doubts = Doubts()

    @property
    def address(self) -> str:
        return self._rpc.address

    @property
    def rpc(self) -> JsonRpc:
        return self._rpc

    async def check(self) -> None:
        found = await self._number("eth_chainId", quantity64)
        if found != self._network.chain_id:
            raise other_network(self.address, found, self._network)

    async def head(self) -> int:
        return await self._number("eth_blockNumber", height)

    async def final(self) -> int | None:
        (answer,) = await self._rpc.ask_many([Call(_BLOCK, ("finalized", False))])
        if answer is None or isinstance(answer, Refusal):
            return None
        where = f"{self.address}: {_BLOCK} of the finalized block"
        return _read(height, typed(_numbered, answer, where).number, where)

    async def _number(self, method: str, read: Callable[[str], int]) -> int:
        where = f"{self.address}: {method}"
        return _read(read, typed(_text, await self._rpc.ask(method), where), where)

    async def hashes(self, numbers: Sequence[int]) -> dict[int, str]:
        calls = [Call(_BLOCK, (hex(number), False), number) for number in numbers]
        answers = zip(numbers, await self._rpc.ask_many(calls), strict=True)
        return {
            number: typed(_hashed, raw, f"{self.address}: {_BLOCK} of block {number}").hash
            for number, raw in answers
            if not (raw is None or isinstance(raw, Refusal))
        }

    async def fetch(self, numbers: Sequence[int]) -> list[BlockRows | BadBlock]:
        decoded = zip(numbers, await self._told(numbers), strict=True)
        return [
            item
            if isinstance(item, BlockRows)
            or (isinstance(item, BadBlock) and not self._doubts.take())
            else await self._again(number)
            for number, item in decoded
        ]

    def _is_worth_asking_again(self, exc: Exception) -> bool:
        return isinstance(exc, Lagging) or (isinstance(exc, BadBlock) and self._doubts.take())

    async def _told(self, numbers: Sequence[int]) -> list[BlockRows | BadBlock | Lagging]:
        """What the node says of these blocks when it is asked once."""
        calls = [Call(_BLOCK, (hex(number), True), number) for number in numbers]
        answers = dict(zip(numbers, await self._rpc.ask_many(calls), strict=True))
        asked = [(n, block) for n, raw in answers.items() if (block := _summarised(raw))]
        told = await self._receipts(asked)
        receipts = {number: answer for (number, _), answer in zip(asked, told, strict=True)}
        return await asyncio.to_thread(
            lambda: [self._decoded(n, raw, receipts.get(n)) for n, raw in answers.items()]
        )

    async def _again(self, number: int) -> BlockRows | BadBlock:
        """One block, asked for until the node's answers agree with each other."""
        try:
            async for attempt in stamina.retry_context(
                on=self._is_worth_asking_again,
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
        (outcome,) = await self._told([number])
        if isinstance(outcome, BlockRows):
            return outcome
        raise outcome

    def _decoded(
        self, number: int, raw: Answer, receipts: Answer
    ) -> BlockRows | BadBlock | Lagging:
        for what, answer in ((_BLOCK, raw), ("its receipts", receipts)):
            if isinstance(answer, Unreadable):
                return BadBlock(f"{what}: {answer.reason}", origin=self.address, block=number)
        if not isinstance(raw, bytes):
            return Lagging(f"block {number} is {absent(raw)}")
        try:
            parsed = evm.read_block(raw, self.address)
        except BadBlock as exc:
            return BadBlock(f"{_BLOCK}: {exc.reason}", origin=self.address, block=number)
        if not isinstance(receipts, bytes):
            return Lagging(f"the receipts of block {number} are {absent(receipts)}")
        try:
            block = evm.decode_block(
                parsed,
                network=self._network,
                receipts=receipts,
                verify=self._verify,
                senders=self._senders,
                origin=self.address,
            )
        except ForeignBlock as exc:
            raise SourceError(exc.message, hint=_OTHER_NODE) from exc
        except BadBlock as exc:
            return exc
        if block.number != number:
            reason = f"the node sent it when asked for block {number}"
            return BadBlock(reason, origin=self.address, block=block.number)
        return block

    async def _by_hash(self, blocks: Sequence[_Asked]) -> list[Answer]:
        calls = [Call("eth_getBlockReceipts", (block.hash,), number) for number, block in blocks]
        answers = await self._rpc.ask_many(calls) if calls else []
        return await self._or_else(blocks, answers, {INVALID_PARAMS}, self._by_number)

    async def _by_number(self, blocks: Sequence[_Asked]) -> list[Answer]:
        calls = [Call("eth_getBlockReceipts", (hex(number),), number) for number, _ in blocks]
        answers = await self._rpc.ask_many(calls) if calls else []
        return await self._or_else(blocks, answers, set(), self._one_by_one)

    async def _or_else(
        self, blocks: Sequence[_Asked], answers: list[Answer], codes: set[int], other: Any
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

    async def _one_by_one(self, blocks: Sequence[_Asked]) -> list[Answer]:
        """For nodes without eth_getBlockReceipts: every transaction's own."""
        return [await self._collected(number, block) for number, block in blocks]

    async def _collected(self, number: int, block: _Summary) -> Answer:
        try:
            hashes = [_hashed.decode(raw).hash for raw in block.transactions]
        except msgspec.DecodeError:
            hashes = []  # the block is bad, and says why when it is read
        if not hashes:
            return b"[]"
        calls = [Call("eth_getTransactionReceipt", (each,), number) for each in hashes]
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


def absent(answer: Answer) -> str:
    """What became of something that the node did not give."""
    if isinstance(answer, Refusal):
        return f"refused: {answer.message} ({answer.code})"
    return "missing at the node"


def _summarised(answer: Answer) -> _Summary | None:
    """What is needed to ask for the receipts; None where there is no block, or nothing like one."""
    if not isinstance(answer, bytes):
        return None
    try:
        return _summary.decode(answer)
    except msgspec.DecodeError:
        return None


def typed(decoder: Decoder[T], answer: bytes | Unreadable | None, where: str) -> T:
    """The answer's value. Raises SourceError that begins with `where` for null and other types."""
    if isinstance(answer, Unreadable):
        raise SourceError(f"{where}: {answer.reason}")
    if answer is None:
        raise SourceError(f"{where}: the node answers null where it must not")
    try:
        return decoder.decode(answer)
    except msgspec.DecodeError as exc:
        raise SourceError(f"{where}: the node's answer cannot be used: {exc}") from exc


def _read(read: Callable[[str], int], text: str, where: str) -> int:
    try:
        return read(text)
    except ValueError as exc:
        raise SourceError(f"{where}: {exc}") from exc


_OTHER_NODE = "point --rpc at another node or name another --network"


def other_network(address: str, found: int | None, network: Network) -> ChainError:
    """The error for a node that is not of the network."""
    return ChainError(
        f"{address} is a node of chain id {found}, not {network.chain_id} ({network.name})",
        hint=_OTHER_NODE,
    )
