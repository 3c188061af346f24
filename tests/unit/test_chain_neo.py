"""Neo N3 blocks: decoded, and judged by real chains (private networks' dumps, RPC test cases)."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from tests.fixtures.neo_dump import address_of, read_dump, transaction_from
from tests.fixtures.shared_data import shared_data

from neolayer.chain import neo_payloads as payloads
from neolayer.chain.model import (
    BLOCK_COLUMNS,
    CONTRACT_COLUMNS,
    LOG_COLUMNS,
    TRANSACTION_COLUMNS,
    BlockRows,
    Columns,
    Network,
    Row,
)
from neolayer.chain.neo import CONTRACT_MANAGEMENT, decode_block
from neolayer.chain.neo_wire import Transaction
from neolayer.chain.networks import PRESETS
from neolayer.errors import BadBlock, SourceError

NEO = PRESETS["neo-n3-testnet"]
Json = dict[str, Any]


def _decode(block: Any, logs: list[Any] | None = None, *, verify: bool = True) -> BlockRows:
    return decode_block(
        msgspec.json.encode(block),
        network=NEO,
        application_logs=None if logs is None else [msgspec.json.encode(log) for log in logs],
        verify=verify,
        origin="here",
    )


def _named(columns: Columns, row: Row) -> Json:
    return dict(zip((name for name, _ in columns), row, strict=True))


def _dump(name: str) -> list[Json]:
    return read_dump(shared_data("data", "chain", "neo", name))


def _case(name: str) -> Json:
    """A node's answer out of the RPC test cases."""
    path = shared_data("data", "chain", "neo", "RpcTestCases.json")
    cases = json.loads(path.read_text(encoding="utf-8"))
    return next(case["Response"] for case in cases if case["Name"] == name)


@pytest.fixture
def block() -> Json:
    """A real block with two transactions."""
    return _dump("chain50x2.acc")[3]


def _log(item: Json, *, vmstate: str = "HALT", notifications: tuple[Json, ...] = ()) -> Json:
    run = {
        "trigger": "Application",
        "vmstate": vmstate,
        "gasconsumed": item["sysfee"],
        "exception": None if vmstate == "HALT" else "at \0 instruction 7",
        "stack": [],
        "notifications": list(notifications),
    }
    return {"txid": item["hash"], "executions": [run]}


TRANSFER = {
    "contract": "0x668E0c1f9d7b70a99dd9e06eadd4c784d641afbc",
    "eventname": "Transfer",
    "state": {"type": "Array", "value": [{"type": "Any"}, {"type": "Integer", "value": "5"}]},
}


@pytest.mark.parametrize(("dump", "count"), [("chain50x2.acc", 50), ("testblocks.acc", 22)])
def test_every_block_of_real_chains_verifies(dump: str, count: int) -> None:
    """Each recomputed block hash is what the next block names as its parent; roots hold as well."""
    blocks = _dump(dump)
    rows = [_decode(block) for block in blocks]
    assert len(rows) == count
    assert [row.parent_hash for row in rows[1:]] == [row.block_hash for row in rows[:-1]]
    assert sum(len(row.transactions) for row in rows) == sum(len(block["tx"]) for block in blocks)
    assert {row.block[-1] for row in rows} == {"transactions"}


@pytest.mark.parametrize("name", ["getblockasync", "getrawtransactionasync"])
def test_transaction_hashes_of_the_rpc_test_cases_are_recomputed(name: str) -> None:
    """These hashes were computed by a Neo node, from the same JSON."""
    result = _case(name)["result"]
    for item in result.get("tx", [result]):
        typed = msgspec.json.decode(msgspec.json.encode(item), type=Transaction)
        assert payloads.shown(payloads.transaction(typed)) == item["hash"]


def test_a_block_that_contradicts_itself_is_taken_in_only_on_trust() -> None:
    """The RPC test case's block was edited by hand: its merkleroot is not its transaction's."""
    answer = _case("getblockasync")
    with pytest.raises(BadBlock, match=r"here: block 7: merkleroot is 0xe957.* gives 0x83d4"):
        _decode(answer)
    assert _decode(answer, verify=False).block[-1] == "none"


def test_the_values_of_a_block_stand_in_their_columns() -> None:
    """Every column of the RPC test case's block, against what the JSON says."""
    row = _named(BLOCK_COLUMNS, _decode(_case("getblockasync"), verify=False).block)
    header = row.pop("header")
    assert {name: value for name, value in row.items() if value is not None} == {
        "block_number": 7,
        "block_hash": "0x6d1556889c92249da88d2fb7729ae82fb2cc1b45dcd9030a40208b72a1d3cb83",
        "parent_hash": "0xaae8867e9086afaf06fd02cc538e88a69b801abd6f9d3ae39ae630e29d5b39e2",
        "block_timestamp": datetime(2020, 7, 16, 2, 42, 57, 561000, tzinfo=UTC),
        "miner": "NikvsLcNP1jWhrFPrfS3n4spEASgdNYTG2",
        "transaction_count": 1,
        "gas_used": 9007990,
        "size_bytes": 470,
        "transactions_root": "0xe95761f21c733ad53066786af24ee5d613b32bd5aae538df2d611492ec0cae82",
        "verification": "none",
    }
    assert header["primary"] == 1
    assert header["nonce"] == "FFFFFFFFFFFFFFFF"
    assert len(header["witnesses"]) == 1


def test_the_values_of_a_transaction_stand_in_their_columns() -> None:
    """And nothing of the JSON is lost: what has no column is in the envelope, as given."""
    answer = _case("getblockasync")
    rows = _decode(answer, verify=False)
    row = _named(TRANSACTION_COLUMNS, rows.transactions[0])
    given = answer["result"]["tx"][0]
    envelope = row.pop("envelope")
    assert {name: value for name, value in row.items() if value is not None} == {
        "transaction_hash": given["hash"],
        "from_address": "NikvsLcNP1jWhrFPrfS3n4spEASgdNYTG2",
        "value": 0,
        "gas_used": 9007990,
        "nonce": 631973574,
        "input_data": "0x" + base64.b64decode(given["script"]).hex(),
        "status": "confirmed",
        "block_number": 7,
        "block_timestamp": datetime(2020, 7, 16, 2, 42, 57, 561000, tzinfo=UTC),
        "transaction_index": 0,
    }
    columns = {"hash", "nonce", "sender", "sysfee", "script"}
    assert envelope == {name: given[name] for name in given.keys() - columns}
    assert rows.logs is None
    assert rows.contracts == []


def test_application_logs_tell_what_failed_and_what_was_said(block: Json) -> None:
    """FAULT is a failed transaction, whose notifications changed nothing and are no logs."""
    first, second = block["tx"]
    logs = [
        _log(second, notifications=(TRANSFER, TRANSFER)),
        _log(first, vmstate="FAULT", notifications=(TRANSFER,)),
    ]
    rows = _decode(block, logs)
    failed, fine = (_named(TRANSACTION_COLUMNS, row) for row in rows.transactions)
    assert (failed["status"], fine["status"]) == ("failed", "confirmed")
    assert failed["envelope"]["vmstate"] == "FAULT"
    assert failed["envelope"]["exception"] == "at \ufffd instruction 7"
    assert fine["envelope"]["gasconsumed"] == second["sysfee"]
    found = [_named(LOG_COLUMNS, row) for row in rows.logs or ()]
    assert [log["log_index"] for log in found] == [0, 1]
    assert found[0]["transaction_hash"] == second["hash"]
    assert found[0]["transaction_index"] == 1
    assert found[0]["address"] == "0x668e0c1f9d7b70a99dd9e06eadd4c784d641afbc"
    assert (found[0]["topic0"], found[0]["topic1"]) == ("Transfer", None)
    assert json.loads(found[0]["data"]) == TRANSFER["state"]


def test_logs_of_the_block_itself_belong_to_no_transaction(block: Json) -> None:
    """A real log of OnPersist and PostPersist is passed over, in its JSON-RPC answer or not."""
    answer = _case("getapplicationlogasync")
    rows = _decode(block, [answer, answer["result"], *map(_log, block["tx"])])
    assert rows.logs == []


def test_a_deployed_contract_is_found_in_what_contract_management_said(block: Json) -> None:
    """The event names the contract's hash in the order in which it is hashed, not as shown."""
    raw = bytes(range(20))
    value = [{"type": "ByteString", "value": base64.b64encode(raw).decode()}]
    said = {
        "contract": CONTRACT_MANAGEMENT,
        "eventname": "Deploy",
        "state": {"type": "Array", "value": value},
    }
    first, second = block["tx"]
    faulted = _log(second, vmstate="FAULT", notifications=(said,))
    (row,) = _decode(block, [_log(first, notifications=(said,)), faulted]).contracts
    found = _named(CONTRACT_COLUMNS, row)
    assert found["address"] == "0x" + raw[::-1].hex()
    assert found["deployed_by"] == first["sender"]
    assert found["deployment_transaction_hash"] == first["hash"]
    assert found["deployed_block_number"] == block["index"]


def test_a_missing_application_log_is_not_taken_for_success(block: Json) -> None:
    """Each transaction needs its own."""
    with pytest.raises(BadBlock, match=r"application log of transaction 0x\w+ is missing"):
        _decode(block, [_log(block["tx"][0])])


@pytest.mark.parametrize("change", ["BREAK", "HALT, BREAK", ""])
def test_an_unknown_state_of_the_machine_is_not_guessed_at(block: Json, change: str) -> None:
    """Neither success nor failure."""
    with pytest.raises(BadBlock, match="neither HALT nor FAULT"):
        _decode(block, [_log(item, vmstate=change) for item in block["tx"]])


def test_null_and_error_are_different_answers() -> None:
    """null: the node has no such block. An error: it did not say."""
    for absent in (None, {"jsonrpc": "2.0", "id": 1, "result": None}):
        with pytest.raises(BadBlock, match="here: the node had no such block"):
            _decode(absent)
    error = {"jsonrpc": "2.0", "id": 1, "error": {"code": -101, "message": "Unknown block"}}
    with pytest.raises(SourceError, match=r"here: .*error: Unknown block \(-101\)"):
        _decode(error)
    with pytest.raises(SourceError, match="Unknown transaction"):
        _decode(
            _case("getblockasync"),
            [{"error": {"code": -103, "message": "Unknown transaction"}}],
            verify=False,
        )


@pytest.mark.parametrize("tampering", ["nonce", "sysfee", "script", "signers", "scopes", "sender"])
def test_a_changed_transaction_is_refused(block: Json, tampering: str) -> None:
    """Anything that its hash covers; the message names the transaction."""
    item = block["tx"][1]
    other: Any = {
        "nonce": item["nonce"] ^ 1,
        "sysfee": str(int(item["sysfee"]) + 1),
        "script": base64.b64encode(b"other").decode(),
        "signers": [],
        "scopes": [{**item["signers"][0], "scopes": "Global"}],
        "sender": address_of(bytes(20)),
    }
    item["signers" if tampering == "scopes" else tampering] = other[tampering]
    number = block["index"]
    with pytest.raises(BadBlock, match=f"here: block {number}: transaction 1.*(hash|first signer)"):
        _decode(block)


@pytest.mark.parametrize(
    "tampering", ["version", "previousblockhash", "time", "nonce", "primary", "nextconsensus"]
)
def test_a_changed_header_is_refused(block: Json, tampering: str) -> None:
    """Every field of the header is in its hash."""
    other: Any = {
        "version": 1,
        "previousblockhash": "0x" + "11" * 32,
        "time": block["time"] + 1,
        "nonce": "0123456789ABCDEF",
        "primary": block["primary"] + 1,
        "nextconsensus": address_of(bytes(20)),
    }
    block[tampering] = other[tampering]
    with pytest.raises(BadBlock, match="header does not hash"):
        _decode(block)


def test_left_out_and_reordered_transactions_are_refused(block: Json) -> None:
    """The Merkle root covers which there are, and their order."""
    for tx in (block["tx"][:1], block["tx"][::-1], []):
        with pytest.raises(BadBlock, match="merkleroot"):
            _decode({**block, "tx": tx})


def test_a_repeated_transaction_is_refused(block: Json) -> None:
    """The tree repeats the last leaf of an odd row, so its root cannot tell [a, b, c] from
    [a, b, c, c]; nor may one transaction be stored twice."""
    hashes = [*(item["hash"] for item in block["tx"]), "0x" + "22" * 32]
    assert payloads.merkle_root(hashes) == payloads.merkle_root([*hashes, hashes[-1]])
    with pytest.raises(BadBlock, match="a transaction occurs twice"):
        _decode({**block, "tx": [*block["tx"], block["tx"][1]]})


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("nextconsensus", "NikvsLcNP1jWhrFPrfS3n4spEASgdNYTG3", "not an N3 address"),
        ("nextconsensus", "", "not an N3 address"),
        ("nextconsensus", address_of(bytes(20), version=0x17), "not an N3 address"),
        ("time", 9_214_646_400_000, "beyond the year 2261"),
        ("index", -1, "not in 0 to"),
        ("hash", "0x12", "not 32 bytes"),
        ("tx", ["0x" + "00" * 32], "not a verbose Neo N3 block"),
    ],
)
def test_malformed_values_are_bad_blocks(block: Json, field: str, value: Any, reason: str) -> None:
    """Also on trust: the database would refuse them, in the middle of somebody's batch."""
    with pytest.raises(BadBlock, match=reason):
        _decode({**block, field: value}, verify=False)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("sysfee", "-1", "not a fee"),
        ("sysfee", str(1 << 63), "2\\^63-1"),
        ("netfee", "0.5", "not a fee"),
        ("nonce", 1 << 32, "not in 0 to"),
        ("script", "&", "not base64"),
        ("sender", "0x" + "00" * 20, "not an N3 address"),
    ],
)
def test_malformed_transactions_are_bad_blocks(
    block: Json, field: str, value: Any, reason: str
) -> None:
    """As for blocks."""
    block["tx"][0][field] = value
    with pytest.raises(BadBlock, match=reason):
        _decode(block, verify=False)


def test_hex_and_noise_are_refused_with_the_way_out() -> None:
    """`getblock` without verbose gives hex; a proxy may give anything."""
    with pytest.raises(BadBlock, match="ask for the verbose form"):
        _decode(_case("getblockhexasync"))
    for noise in (b"<html>", b"", b"[1]", b"\xff"):
        with pytest.raises(BadBlock, match="here: not a JSON object"):
            decode_block(noise, network=NEO, application_logs=None, verify=True, origin="here")


def test_a_network_of_another_kind_is_refused(block: Json) -> None:
    """The block itself cannot tell its network; its kind it can."""
    with pytest.raises(BadBlock, match="ethereum is not a Neo N3 network"):
        decode_block(
            msgspec.json.encode(block),
            network=Network("ethereum", 1),
            application_logs=None,
            verify=False,
            origin="here",
        )


KEY = b"\x02" + bytes(range(32))
ACCOUNT = bytes(range(20))
RULES = (
    b"\x03"  # three rules
    b"\x01\x02\x02\x20\x00\x01"  # allow: called by entry and true
    + (b"\x00\x01\x03\x02\x18" + ACCOUNT + b"\x19" + KEY)  # deny: not (script hash or group)
    + (b"\x01\x03\x02\x28" + ACCOUNT + b"\x29" + KEY)  # allow: called by contract or by group
)


@pytest.mark.parametrize(
    ("signer", "attributes"),
    [
        (b"\x11\x02" + ACCOUNT + ACCOUNT, b"\x00"),
        (b"\x21\x01" + KEY, b"\x01\x01"),
        (b"\x40" + RULES, b"\x01\x20\x07\x00\x00\x00"),
        (b"\x71\x01" + ACCOUNT + b"\x01" + KEY + RULES, b"\x02\x21" + KEY[1:] + b"\x22\x03"),
        (b"\x00", b"\x01\x11\x09" + bytes(7) + b"\x00\xfd\x00\x01" + bytes(256)),
    ],
)
def test_rare_scopes_and_attributes_are_encoded_as_they_were(
    signer: bytes, attributes: bytes
) -> None:
    """There and back, in the protocol's words: no real transaction at hand has them."""
    body = bytes((0,)) + bytes(range(24)) + b"\x01" + ACCOUNT + signer + attributes + b"\x01\x40"
    item = transaction_from(body + b"\x00")
    typed = msgspec.json.decode(msgspec.json.encode(item), type=Transaction)
    assert payloads.transaction(typed) == body


def test_what_is_not_known_is_not_hashed(block: Json) -> None:
    """A later protocol's attribute is refused under verification and kept, as given, on trust."""
    block["tx"][0]["attributes"] = [{"type": "FromTheFuture", "seats": 4}]
    with pytest.raises(BadBlock, match="transaction 0: an attribute of type 'FromTheFuture'"):
        _decode(block)
    row = _named(TRANSACTION_COLUMNS, _decode(block, verify=False).transactions[0])
    assert row["envelope"]["attributes"] == [{"type": "FromTheFuture", "seats": 4}]
