"""Blocks around synthetic transactions, in the shape that a node's JSON-RPC gives them.

The later a rule came, the more it adds: these are blocks of the Prague fork, with all of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from neolayer.chain import payloads, rlp, wire
from neolayer.chain.synthetic_transactions import BASE_FEE, TOKENS, TRANSFER, Order, Signed
from neolayer.chain.trie import EMPTY_ROOT, keccak, ordered_root

Json = dict[str, Any]
GENESIS_TIME = 1_735_689_600  # 2025-01-01
SECONDS_PER_BLOCK = 12
_NO_UNCLES = keccak(rlp.EMPTY_LIST)
_NO_REQUESTS = "0xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # SHA-256 of ""


class Mined(NamedTuple):
    """A block and its receipts, each as a node's JSON-RPC would answer."""

    block: Json
    receipts: list[Json]


def assemble(content: list[Signed], parent: bytes, number: int, late: int) -> Mined:
    """A block of these transactions: outcomes first, then roots, then the hash over all.

    `late` is how many seconds after its slot it was made.
    """
    outcomes = list(_outcomes(content))
    typed = msgspec.convert(outcomes, list[wire.Receipt])
    bloom = 0
    for item in typed:
        bloom |= int(item.logsBloom or "0x0", 16)
    block: Json = _header(parent, number, late) | {
        "transactionsRoot": _text(ordered_root([signed.envelope for signed in content])),
        "receiptsRoot": _text(ordered_root([payloads.receipt(item) for item in typed])),
        "logsBloom": f"0x{bloom:0512x}",
        "gasUsed": outcomes[-1]["cumulativeGasUsed"] if outcomes else "0x0",
        "gasLimit": hex(max(36_000_000, 300_000 * len(content))),
        "transactions": [],
    }
    header = payloads.header(msgspec.convert(block, wire.Block))
    place = {"blockHash": _text(keccak(header)), "blockNumber": hex(number)}
    block["hash"] = place["blockHash"]
    block["size"] = hex(_size(header, content))
    places = [place | {"transactionIndex": hex(index)} for index in range(len(content))]
    block["transactions"] = [signed.json | at for signed, at in zip(content, places, strict=True)]
    return Mined(block, _placed(outcomes, places))


def _size(header: bytes, content: Iterable[Signed]) -> int:
    """The block's length as peers send it; it has no uncles and no withdrawals."""
    bodies = (one.envelope if one.order.kind == 0 else rlp.string(one.envelope) for one in content)
    return len(rlp.sequence((header, rlp.sequence(bodies), rlp.EMPTY_LIST, rlp.EMPTY_LIST)))


def _header(parent: bytes, number: int, late: int) -> Json:
    """The fields that no transaction decides. State is made up from the parent's hash."""
    seconds = GENESIS_TIME + number * SECONDS_PER_BLOCK + late
    made_up = {
        name: _text(keccak(parent + f"{name} {late}".encode()))
        for name in ("stateRoot", "mixHash", "parentBeaconBlockRoot")
    }
    return made_up | {
        "number": hex(number),
        "hash": _text(bytes(32)),
        "parentHash": _text(parent),
        "sha3Uncles": _text(_NO_UNCLES),
        "miner": _text(keccak(b"neolayer synthetic miner %d" % (number % 3))[12:]),
        "difficulty": "0x0",
        "timestamp": hex(seconds),
        "extraData": _text(b"synthetic"),
        "nonce": _text(bytes(8)),
        "baseFeePerGas": hex(BASE_FEE),
        "withdrawalsRoot": _text(EMPTY_ROOT),
        "blobGasUsed": "0x0",
        "excessBlobGas": "0x0",
        "requestsHash": _NO_REQUESTS,
        "uncles": [],
        "withdrawals": [],
    }


def _outcomes(content: Iterable[Signed]) -> Iterator[Json]:
    """Receipts that know nothing of their block yet."""
    total = 0
    for signed in content:
        order = signed.order
        total += order.gas_used
        logs = _logs(order)
        creator = signed.json["from"] if order.to is None else None
        yield {
            "type": signed.json["type"],
            "transactionHash": signed.hash,
            "from": signed.json["from"],
            "to": signed.json["to"],
            "status": "0x0" if order.failed else "0x1",
            "cumulativeGasUsed": hex(total),
            "gasUsed": hex(order.gas_used),
            "effectiveGasPrice": hex(order.effective_price),
            "contractAddress": creator and payloads.contract_address(creator, order.nonce),
            "logs": logs,
            "logsBloom": _text(payloads.logs_bloom(msgspec.convert(logs, list[wire.Log]))),
        }


def _logs(order: Order) -> list[Json]:
    """A token's transfer that did not fail says so."""
    if order.to not in TOKENS or order.failed:
        return []
    parties = (order.sender.address, order.data[16:36])
    topics = [_text(TRANSFER), *(_text(one.rjust(32, b"\0")) for one in parties)]
    return [{"address": _text(order.to), "topics": topics, "data": _text(order.data[36:])}]


def _placed(outcomes: list[Json], places: list[Json]) -> list[Json]:
    """The receipts and their logs, with their place in the block."""
    log_index = itertools.count()
    for outcome, place in zip(outcomes, places, strict=True):
        outcome |= place
        for log in outcome["logs"]:
            log |= place | {
                "transactionHash": outcome["transactionHash"],
                "logIndex": hex(next(log_index)),
                "removed": False,
            }
    return outcomes


def _text(data: bytes) -> str:
    return "0x" + data.hex()
