"""Blocks from a Neo N3 node. They are final as they are made, so it never reorganises."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from neolayer.chain import neo
from neolayer.chain.model import BlockRows, Network
from neolayer.chain.senders import require_recovery
from neolayer.chain.sources.jsonrpc import METHOD_NOT_FOUND, Answer, Call, JsonRpc, Refusal
from neolayer.chain.sources.rpc import EvmNode, MissingBlock, other_network
from neolayer.errors import BadBlock, SourceError


class _Hashed(msgspec.Struct):
    hash: str


class _Summary(msgspec.Struct):
    tx: list[_Hashed] = []


class _Protocol(msgspec.Struct, frozen=True):
    network: int | None = None


class _Version(msgspec.Struct):
    protocol: _Protocol = _Protocol()


_summary = msgspec.json.Decoder(_Summary).decode
_version = msgspec.json.Decoder(_Version).decode
_integer = msgspec.json.Decoder(int).decode
_text = msgspec.json.Decoder(str).decode


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
        found = _version(await self._told("getversion")).protocol.network
        if found != self._network.chain_id:
            raise other_network(self.address, found, self._network)

    async def head(self) -> int:
        return _integer(await self._told("getblockcount")) - 1

    async def final(self) -> int | None:
        return await self.head()

    async def hashes(self, numbers: Sequence[int]) -> dict[int, str]:
        answers = await self._rpc.ask_many([Call("getblockhash", (n,)) for n in numbers])
        pairs = zip(numbers, answers, strict=True)
        return {number: _text(raw) for number, raw in pairs if isinstance(raw, bytes)}

    async def fetch(self, numbers: Sequence[int]) -> list[BlockRows | BadBlock]:
        answers = await self._rpc.ask_many([Call("getblock", (n, True)) for n in numbers])
        return [
            await self._block(number, answer)
            for number, answer in zip(numbers, answers, strict=True)
        ]

    async def _block(self, number: int, answer: Answer) -> BlockRows | BadBlock:
        if not isinstance(answer, bytes):
            raise MissingBlock(f"{self.address}: block {number} is missing at the node")
        try:
            logs = await self._logs(number, _summary(answer))
            block = await asyncio.to_thread(
                neo.decode_block,
                answer,
                network=self._network,
                application_logs=logs,
                verify=self._verify,
                origin=self.address,
            )
        except BadBlock as exc:
            return exc
        except msgspec.MsgspecError as exc:
            return BadBlock(f"not a block: {exc}", origin=self.address, block=number)
        if block.number != number:
            reason = f"the node sent it when asked for block {number}"
            return BadBlock(reason, origin=self.address, block=block.number)
        return block

    async def _logs(self, number: int, block: _Summary) -> list[bytes] | None:
        """A log for each transaction; None where the node has no ApplicationLogs plugin."""
        if not block.tx:
            return []
        calls = [Call("getapplicationlog", (item.hash,)) for item in block.tx]
        answers = await self._rpc.ask_many(calls)
        codes = {answer.code for answer in answers if isinstance(answer, Refusal)}
        if METHOD_NOT_FOUND in codes:
            return None
        logs = [answer for answer in answers if isinstance(answer, bytes)]
        if len(logs) < len(answers):
            raise MissingBlock(f"{self.address}: an application log of block {number} is missing")
        return logs

    async def _told(self, method: str) -> bytes:
        answer = await self._rpc.ask(method)
        if answer is None:
            raise SourceError(f"{self.address}: {method}: the node answers null")
        return answer


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
