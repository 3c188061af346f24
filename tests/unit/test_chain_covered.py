"""In verified blocks only what a hash covers is stored: whatever else is said in a block or its
receipts, the block is refused or gives the rows of the genuine one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neolayer.chain import payloads, wire
from neolayer.chain.evm import decode_block
from neolayer.chain.model import (
    BLOCK_COLUMNS,
    CONTRACT_COLUMNS,
    LOG_COLUMNS,
    TRANSACTION_COLUMNS,
    BlockRows,
    Columns,
    Network,
)
from neolayer.chain.trie import keccak, ordered_root
from neolayer.errors import BadBlock

NETWORK = Network("made", 5)
Json = dict[str, Any]
SENDER, PEER, TOPIC = "0x" + "a1" * 20, "0x" + "b2" * 20, "0x" + "c3" * 32
# The second has a leading zero digit, as one signature in sixteen has: not its shortest spelling.
R, S = "0x" + "d4" * 32, "0x0" + "e5" * 31 + "f"
ACCESS = [{"address": PEER, "storageKeys": [TOPIC, "0x" + "0a" * 32]}]
LENT = {"chainId": "0x5", "address": PEER, "nonce": "0x7", "yParity": "0x1", "r": R, "s": S}
PRICED = {"gasPrice": "0x3b9aca01"}
CAPPED = {"maxFeePerGas": "0x77359400", "maxPriorityFeePerGas": "0xb", "gasPrice": "0x3b9aca0b"}
TYPED = {"chainId": "0x5", "accessList": ACCESS, "v": "0x1", "yParity": "0x1"}
KINDS: dict[str, Json] = {
    "legacy": {"type": "0x0", **PRICED, "v": "0x2d"},
    "legacy without a chain": {"type": "0x0", **PRICED, "v": "0x1b"},
    "access list": {"type": "0x1", **PRICED, **TYPED},
    "fee cap": {"type": "0x2", **CAPPED, **TYPED},
    "fee cap, no list": {"type": "0x2", **CAPPED, **TYPED, "accessList": [], "yParity": "0x0"},
    "blobs": {
        "type": "0x3",
        **CAPPED,
        **TYPED,
        "maxFeePerBlobGas": "0x9",
        "blobVersionedHashes": ["0x01" + "ab" * 31],
    },
    "code": {"type": "0x4", **CAPPED, **TYPED, "authorizationList": [LENT]},
    "creation": {"type": "0x2", **CAPPED, **TYPED, "to": None},
    "failed creation": {"type": "0x0", **PRICED, "v": "0x2e", "to": None},
}
FAILED = list(KINDS).index("failed creation")
HEADER: Json = {
    "number": "0x10",
    "parentHash": "0x" + "01" * 32,
    "sha3Uncles": "0x" + "02" * 32,
    "miner": PEER,
    "stateRoot": "0x" + "03" * 32,
    "logsBloom": "0x" + "00" * 256,
    "difficulty": "0x0",
    "gasLimit": "0x1c9c380",
    "timestamp": "0x67748580",
    "extraData": "0xfeed",
    "mixHash": "0x" + "04" * 32,
    "nonce": "0x" + "00" * 8,
    "size": "0x400",
    "baseFeePerGas": "0x3b9aca00",
    "withdrawalsRoot": "0x" + "05" * 32,
    "blobGasUsed": "0x20000",
    "excessBlobGas": "0x3000",
    "parentBeaconBlockRoot": "0x" + "06" * 32,
    "requestsHash": "0x" + "07" * 32,
    "hash": "0x",
    "transactionsRoot": "0x",
    "receiptsRoot": "0x",
}
LATER = HEADER.keys() & {"withdrawalsRoot", "blobGasUsed", "excessBlobGas"}
LATER |= {"parentBeaconBlockRoot", "requestsHash"}


@dataclass
class Given:
    """What a node sent."""

    block: Json
    receipts: list[Json] | None

    @cached_property
    def text(self) -> bytes:
        return msgspec.json.encode([self.block, self.receipts])

    def copied(self) -> Given:
        return Given(*msgspec.json.decode(self.text))

    @cached_property
    def own_rows(self) -> BlockRows:
        return self.rows()

    def rows(self) -> BlockRows:
        receipts = None if self.receipts is None else msgspec.json.encode(self.receipts)
        return decode_block(
            msgspec.json.encode(self.block),
            network=NETWORK,
            receipts=receipts,
            verify=True,
            origin="given",
        )


@cache
def make(*, with_receipts: bool = True, fork: str = "prague") -> Given:
    """A block with a transaction of every type, its hashes and roots right."""
    items = [_transaction(nonce, fields) for nonce, fields in enumerate(KINDS.values())]
    receipts = [_receipt(index, item) for index, item in enumerate(items)]
    header = {**HEADER, "gasUsed": receipts[-1]["cumulativeGasUsed"]}
    if fork == "london":
        header = {name: value for name, value in header.items() if name not in LATER}
    encoded = [payloads.transaction(msgspec.convert(item, wire.Transaction)) for item in items]
    outcomes = [payloads.receipt(msgspec.convert(each, wire.Receipt)) for each in receipts]
    header["transactionsRoot"] = _text(ordered_root(encoded))
    header["receiptsRoot"] = _text(ordered_root(outcomes))
    block = {**header, "transactions": items}
    block["hash"] = _text(keccak(payloads.header(msgspec.convert(block, wire.Block))))
    return Given(block, receipts if with_receipts else None)


def _transaction(nonce: int, fields: Json) -> Json:
    common = {"from": SENDER, "to": PEER, "nonce": hex(nonce), "gas": "0xc350", "value": "0x7b"}
    item = {**common, "input": "0xabcd", "r": R, "s": S, "hash": "", **fields}
    envelope = payloads.transaction(msgspec.convert(item, wire.Transaction))
    return {**item, "hash": _text(keccak(envelope)), "transactionIndex": hex(nonce)}


def _receipt(index: int, item: Json) -> Json:
    log = {"address": PEER, "topics": [TOPIC], "data": "0xfe", "logIndex": hex(index)}
    at = item["to"] is None and payloads.contract_address(SENDER, index)
    return {
        "type": item["type"],
        "transactionHash": item["hash"],
        "from": SENDER,
        "to": item["to"],
        "status": "0x0" if index == FAILED else "0x1",
        "gasUsed": "0x5208",
        "cumulativeGasUsed": hex(0x5208 * (index + 1)),
        "effectiveGasPrice": item["gasPrice"],
        "contractAddress": at or None,
        "logs": [] if index == FAILED else [log],
    }


def _text(data: bytes) -> str:
    return "0x" + data.hex()


@dataclass(frozen=True)
class Change:
    """Another value in a field of one part of the block: its header, a transaction, and so on."""

    part: str
    place: int
    field: str
    value: Any

    def apply(self, to: Given) -> None:
        owner = _owner(to, self.part, self.place)
        if owner is not None and self.value is _GONE:
            owner.pop(self.field, None)
        elif owner is not None:
            owner[self.field] = self.value


_GONE = object()


def _owner(given: Given, part: str, place: int) -> Json | None:
    receipts = given.receipts or [{}] * len(KINDS)
    if part == "block":
        return given.block
    if part == "transaction":
        return given.block["transactions"][place]
    if part == "receipt":
        return receipts[place]
    return next(iter(receipts[place].get("logs", ())), None)


FOREIGN: tuple[Any, ...] = (
    *(_GONE, None, "", "0x", "0x0", "0x1", "0x00", "0x05", "0x0x1", "0x1b", "0x2d", "0x2e", "zz"),
    *("0x3b9aca00", "0x" + "00" * 31 + "01", "0x" + "11" * 20, "0x" + "22" * 32, "0x" + "f" * 64),
    *([], [{}], ["0x01" + "ab" * 31], ["0xzz"], [LENT], ACCESS, 0, 7, {}, False),
    [{"address": "0xzz", "storageKeys": ["\0"]}],
    [LENT | {"r": "\0"}],
)


def respelled(value: Any) -> Iterator[Any]:
    """The same value in other words, as far as any reader takes them for the same."""
    if isinstance(value, str):
        yield "0x" + value[2:].upper()
        yield value.upper()
        yield "0x0" + value[2:]
        yield "0x" + value[2:].rjust(64, "0")
        yield hex(int(value, 16)) if value[2:] else "0x0"
        yield " " + value
    if isinstance(value, list):
        yield [*value, *value]
        for each in value:
            for other in respelled(each):
                yield [other]
    if isinstance(value, dict):
        yield {**value, "unknown": "0x1", "v": "0x0"}
        for name, before in value.items():
            yield {k: v for k, v in value.items() if k != name}
            for other in respelled(before):
                yield {**value, name: other}


def _names(kind: type[Any], *more: str) -> list[str]:
    return [*(each.encode_name for each in msgspec.structs.fields(kind)), *more]


FIELDS = {
    "block": [n for n in _names(wire.Block, "unknown", "uncles") if n != "transactions"],
    "transaction": _names(wire.Transaction, "unknown", "chainid", "y_parity"),
    "receipt": _names(wire.Receipt, "unknown", "blobGasPrice"),
    "log": _names(wire.Log, "unknown", "blockHash"),
}
PLACES = {"block": 1}


@cache
def changes(part: str, place: int, *, fork: str) -> list[Change]:
    genuine = make(fork=fork)
    owner = _owner(genuine, part, place) or {}
    return [
        Change(part, place, field, value)
        for field in FIELDS[part]
        for value in (*FOREIGN, *respelled(owner.get(field)))
    ]


# What the README says is taken as given: where it was changed, its column follows.
GIVEN = {
    ("block", "size"): ("size_bytes",),
    ("transaction", "from"): ("from_address", "contract_address"),
    ("transaction", "gasPrice"): ("gas_price",),
    ("receipt", "effectiveGasPrice"): ("effective_gas_price",),
}
CAPS = (2, 3, 4)  # types whose gasPrice is not signed


def visible(rows: BlockRows, made: list[Change]) -> Any:
    """All rows, without what was changed of what is taken as given."""
    free = {
        (change.part, change.place, column)
        for change in made
        for column in GIVEN.get((change.part, change.field), ())
    }
    items = [_named(TRANSACTION_COLUMNS, row) for row in rows.transactions]
    for index, item in enumerate(items):
        gone = {column for part, place, column in free if part != "block" and place == index}
        if item["transaction_type"] not in CAPS:
            gone.discard("gas_price")
        if index != FAILED:  # the address of a contract that stands binds its sender
            gone.discard("contract_address")
        for column in gone:
            del item[column]
    block = _named(BLOCK_COLUMNS, rows.block)
    if ("block", 0, "size_bytes") in free:
        del block["size_bytes"]
    logs = [_named(LOG_COLUMNS, row) for row in rows.logs or ()]
    contracts = [_named(CONTRACT_COLUMNS, row) for row in rows.contracts]
    place = (rows.number, rows.block_hash, rows.parent_hash, rows.timestamp)
    return place, block, items, logs, contracts


def _named(columns: Columns, row: tuple[Any, ...]) -> Json:
    return dict(zip((name for name, _ in columns), row, strict=True))


def refused_or_the_same(genuine: Given, made: list[Change]) -> bool:
    """Whether the block is refused; where it is not, its rows are the genuine one's."""
    told = genuine.copied()
    for change in made:
        change.apply(told)
    try:
        rows = told.rows()
    except BadBlock:
        return True
    assert visible(rows, made) == visible(genuine.own_rows, made)
    return False


@pytest.mark.parametrize("fork", ["prague", "london"])
def test_the_genuine_block_has_every_field_in_its_row(fork: str) -> None:
    """What the changes below are compared with is not empty."""
    rows = make(fork=fork).rows()
    filled = {
        name
        for row in rows.transactions
        for name, value in _named(TRANSACTION_COLUMNS, row).items()
        if value is not None
    }
    assert filled == {name for name, _ in TRANSACTION_COLUMNS}
    assert rows.block[-1] == "receipts"
    assert len(rows.logs or ()) == len(KINDS) - 1
    assert len(rows.contracts) == 1


@pytest.mark.parametrize("place", range(len(KINDS)), ids=KINDS)
def test_a_field_of_a_transaction(place: int) -> None:
    """Each field of each type, changed, added, left out or respelled."""
    genuine = make(with_receipts="creation" in [*KINDS][place])
    tried = changes("transaction", place, fork="prague")
    refused = [refused_or_the_same(genuine, [change]) for change in tried]
    assert any(refused) and not all(refused)


@pytest.mark.parametrize(("part", "place"), [("receipt", 2), ("receipt", FAILED), ("log", 3)])
def test_a_field_of_a_receipt(part: str, place: int) -> None:
    """The same of receipts and their logs."""
    for change in changes(part, place, fork="prague"):
        refused_or_the_same(make(), [change])


@pytest.mark.parametrize("fork", ["prague", "london"])
def test_a_field_of_a_header(fork: str) -> None:
    """The same of the header, with the fields of all forks and of an early one."""
    genuine = make(fork=fork)
    for change in changes("block", 0, fork=fork):
        refused_or_the_same(genuine, [change])


def test_a_spelling_of_the_type_lets_no_parity_in() -> None:
    """0x00 is type 0, whose signature's v is signed and its yParity is not."""
    for parity in ("0x0", "0x1", "0x5"):
        made = [Change("transaction", 0, "type", "0x00")]
        made += [Change("transaction", 0, "yParity", parity)]
        assert not refused_or_the_same(make(), made)


def test_a_header_field_does_not_stand_for_another() -> None:
    """The bytes of a field under the name of the next would give the same hash, and another row."""
    genuine = make(fork="london")
    fee = genuine.block["baseFeePerGas"]
    for other in sorted(LATER):
        moved = [Change("block", 0, "baseFeePerGas", None), Change("block", 0, other, fee)]
        assert refused_or_the_same(genuine, moved)


ALL = [
    ("prague", part, place)
    for part in ("block", "transaction", "receipt", "log")
    for place in range(PLACES.get(part, len(KINDS)))
]


@st.composite
def several(draw: st.DrawFn) -> list[Change]:
    places = draw(st.lists(st.sampled_from(ALL), min_size=2, max_size=4))
    return [draw(st.sampled_from(changes(part, place, fork=fork))) for fork, part, place in places]


@given(several())
def test_several_changes_at_once(made: list[Change]) -> None:
    """Nor do changes that cover for each other get through."""
    refused_or_the_same(make(), made)


def test_what_real_nodes_add_is_taken() -> None:
    """Fields of other types as nodes write them, filled or null, spoil nothing."""
    told = make().copied()
    for item, more in zip(told.block["transactions"], itertools.cycle(NODES)):
        item |= {name: value for name, value in more.items() if item.get(name) is None}
    rows, expected = told.rows(), make().rows()
    assert visible(rows, []) == visible(expected, [])


# Fields that a type does not have, beside those that it has: filled, empty, null or unheard of.
NODES: list[Json] = [
    {"maxFeePerGas": "0x3b9aca01", "maxPriorityFeePerGas": "0x3b9aca01", "yParity": "0x0"},
    {"accessList": [], "authorizationList": [], "blobVersionedHashes": []},
    {"accessList": None, "maxFeePerGas": None, "maxFeePerBlobGas": None, "yParity": None},
    {"maxFeePerBlobGas": "0x0", "standardV": "0x1", "publicKey": "0x04", "raw": "0x02"},
]
