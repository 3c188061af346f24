"""Blocks and receipts as EVM nodes write them (Ethereum JSON-RPC), typed.

No value refers back to another, so the garbage collector need not look at them (`gc=False`).
Quantities and data stay text here; `evm.py` reads each once. Fields we do not use are skipped by
the decoder, fields a fork added later are None before it.
"""

from __future__ import annotations

from typing import Any

import msgspec


class AccessTuple(msgspec.Struct, frozen=True, gc=False):
    """An entry of an EIP-2930 access list."""

    address: str
    storageKeys: list[str]


class Authorization(msgspec.Struct, frozen=True, gc=False, rename={"y_parity": "yParity"}):
    """An entry of an EIP-7702 authorization list."""

    chainId: str
    address: str
    nonce: str
    r: str
    s: str
    y_parity: str | None = None
    v: str | None = None


class Transaction(msgspec.Struct, frozen=True, gc=False, rename={"sender": "from", "kind": "type"}):
    """A mined transaction with its body. `kind` is its EIP-2718 type."""

    hash: str
    sender: str
    nonce: str
    gas: str
    value: str
    input: str
    to: str | None = None
    kind: str = "0x0"
    gasPrice: str | None = None
    maxFeePerGas: str | None = None
    maxPriorityFeePerGas: str | None = None
    maxFeePerBlobGas: str | None = None
    chainId: str | None = None
    accessList: list[AccessTuple] | None = None
    blobVersionedHashes: list[str] | None = None
    authorizationList: list[Authorization] | None = None
    v: str | None = None
    r: str | None = None
    s: str | None = None
    yParity: str | None = None
    blockHash: str | None = None
    blockNumber: str | None = None
    transactionIndex: str | None = None


class Block(msgspec.Struct, frozen=True, gc=False):
    """A block with full transactions."""

    number: str
    hash: str
    parentHash: str
    timestamp: str
    transactions: list[Transaction]
    transactionsRoot: str
    miner: str
    gasLimit: str
    gasUsed: str
    receiptsRoot: str | None = None
    stateRoot: str | None = None
    sha3Uncles: str | None = None
    logsBloom: str | None = None
    difficulty: str | None = None
    extraData: str | None = None
    mixHash: str | None = None
    nonce: str | None = None
    size: str | None = None
    baseFeePerGas: str | None = None
    withdrawalsRoot: str | None = None
    blobGasUsed: str | None = None
    excessBlobGas: str | None = None
    parentBeaconBlockRoot: str | None = None
    requestsHash: str | None = None


class Log(msgspec.Struct, frozen=True, gc=False):
    """A log of a receipt."""

    address: str
    topics: list[str]
    data: str
    logIndex: str | None = None
    removed: bool = False


class Receipt(msgspec.Struct, frozen=True, gc=False, rename={"kind": "type", "sender": "from"}):
    """What running a transaction came to."""

    transactionHash: str
    cumulativeGasUsed: str
    logs: list[Log]
    gasUsed: str
    blockHash: str | None = None
    sender: str | None = None
    to: str | None = None
    contractAddress: str | None = None
    effectiveGasPrice: str | None = None
    logsBloom: str | None = None
    status: str | None = None
    root: str | None = None
    kind: str = "0x0"


class RpcError(msgspec.Struct, frozen=True, gc=False):
    """The error a node answers with."""

    code: int = 0
    message: str = ""


class Answer(msgspec.Struct, frozen=True, gc=False):
    """A JSON-RPC answer; exactly one of `result` and `error` is set (`result` may be null)."""

    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: RpcError | msgspec.UnsetType | None = msgspec.UNSET
    id: Any = None


block_decoder = msgspec.json.Decoder(Block)
receipts_decoder = msgspec.json.Decoder(list[Receipt])
answer_decoder = msgspec.json.Decoder(Answer)
