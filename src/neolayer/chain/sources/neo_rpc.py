"""Blocks from a Neo N3 node. They are final as they are made, so it never reorganises."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from neolayer.chain import neo
from neolayer.chain.decoding import Decoder
from neolayer.chain.model import BlockRows, Network
from neolayer.chain.senders import require_recovery
from neolayer.chain.sources.jsonrpc import (
    METHOD_NOT_FOUND,
    Answer,
    Call,
    JsonRpc,
    Refusal,
    Unreadable,
)
from neolayer.chain.sources.rpc import EvmNode, MissingBlock, absent, other_network, typed
from neolayer.errors import BadBlock, SourceError


class _Hashed(msgspec.Struct):
    hash: str


class _Summary(msgspec.Struct):
    tx: list[_Hashed] = []


class _Protocol(msgspec.Struct, frozen=True):
    network: int | None = None


class _Version(msgspec.Struct):
    protocol: _Protocol = _Protocol()


_summary = Decoder(_Summary)
_version = Decoder(_Version)
_integer = Decoder(int)
_text = Decoder(str)
# The index of a block is a 32-bit number.
_COUNTS = range(1, (1 << 32) + 1)


class NeoNode:
    """A node that speaks Neo N3's JSON-RPC; `sources.rpc.Node` says what each verb promises."""

    def __init__(self, rpc: JsonRpc, network: Network, *, verify: bool = True) -> None:
        self._rpc = rpc
        self._network = network
        self._verify = verify

    @property
    def address(self) -> str:
        return self._rpc.address

    @property
    def rpc(self) -> JsonRpc:
        return self._rpc

    async def check(self) -> None:
        answer = await self._rpc.ask("getversion")
        found = typed(_version, answer, f"{self.address}: getversion").protocol.network
        if found != self._network.chain_id:
            raise other_network(self.address, found, self._network)

    async def head(self) -> int:
        where = f"{self.address}: getblockcount"
        count = typed(_integer, await self._rpc.ask("getblockcount"), where)
        if count not in _COUNTS:
            raise SourceError(f"{where}: {count} is no number of blocks")
        return count - 1

    async def final(self) -> int | None:
        return await self.head()

    async def hashes(self, numbers: Sequence[int]) -> dict[int, str]:
        answers = await self._rpc.ask_many([Call("getblockhash", (n,), n) for n in numbers])
        pairs = zip(numbers, answers, strict=True)
        return {
            number: typed(_text, raw, f"{self.address}: getblockhash of block {number}")
            for number, raw in pairs
            if not (raw is None or isinstance(raw, Refusal))
        }

    async def fetch(self, numbers: Sequence[int]) -> list[BlockRows | BadBlock]:
        answers = await self._rpc.ask_many([Call("getblock", (n, True), n) for n in numbers])
        return [
            await self._block(number, answer)
            for number, answer in zip(numbers, answers, strict=True)
        ]

    async def _block(self, number: int, answer: Answer) -> BlockRows | BadBlock:
        if isinstance(answer, Unreadable):
            return BadBlock(f"getblock: {answer.reason}", origin=self.address, block=number)
        if not isinstance(answer, bytes):
            raise MissingBlock(f"{self.address}: block {number} is {absent(answer)}")
        try:
            logs = await self._logs(number, _summary.decode(answer))
            block = await asyncio.to_thread(
                neo.decode_block,
                answer,
                network=self._network,
                application_logs=logs,
                verify=self._verify,
                origin=self.address,
            )
        except BadBlock as exc:
            return BadBlock(exc.reason, origin=exc.origin, block=number)
        except msgspec.DecodeError as exc:
            return BadBlock(f"not a block: {exc}", origin=self.address, block=number)
        if block.number != number:
            reason = f"the node sent it when asked for block {number}"
            return BadBlock(reason, origin=self.address, block=block.number)
        return block

    async def _logs(self, number: int, block: _Summary) -> list[bytes] | None:
        """A log for each transaction; None where the node has no ApplicationLogs plugin."""
        if not block.tx:
            return []
        calls = [Call("getapplicationlog", (item.hash,), number) for item in block.tx]
        answers = await self._rpc.ask_many(calls)
        codes = {answer.code for answer in answers if isinstance(answer, Refusal)}
        if METHOD_NOT_FOUND in codes:
            return None
        for answer in answers:
            if isinstance(answer, Unreadable):
                raise BadBlock(f"an application log: {answer.reason}", origin=self.address)
            if not isinstance(answer, bytes):
                what = f"an application log of block {number} is {absent(answer)}"
                raise MissingBlock(f"{self.address}: {what}")
        return [answer for answer in answers if isinstance(answer, bytes)]


def node_for(
    rpc: JsonRpc, network: Network, *, verify: bool = True, senders: bool = False
) -> EvmNode | NeoNode:
    """The node behind an endpoint, by the kind of the network.

    Raises ChainError where `senders` are asked for and cannot be recovered.
    """
    if senders:
        require_recovery(network)
    if network.kind == "neo-n3":
        return NeoNode(rpc, network, verify=verify)
    return EvmNode(rpc, network, verify=verify, senders=senders)
