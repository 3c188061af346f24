"""Real blocks decode, verify and come back out of their rows; what was tampered with is refused."""

from __future__ import annotations

import copy
import gzip
import json
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import rlp as reference
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from tests.fixtures.shared_data import shared_data

from neolayer.chain import payloads, rlp
from neolayer.chain.evm import decode_block
from neolayer.chain.model import (
    BLOCK_COLUMNS,
    LOG_COLUMNS,
    TRANSACTION_COLUMNS,
    BlockRows,
    Network,
)
from neolayer.chain.networks import PRESETS
from neolayer.chain.sources.documents import holds
from neolayer.chain.sources.files import read_blocks
from neolayer.chain.trie import EMPTY_ROOT, keccak, ordered_root
from neolayer.errors import BadBlock, SourceError

ETHEREUM = PRESETS["ethereum"]
REAL = (
    *(("mainnet-contiguous", str(number)) for number in range(22431080, 22431088)),
    *(("mainnet-eras", name) for name in ("46147", "116525", "2641321", "12964999")),
    *(("mainnet-eras", name) for name in ("12965000", "19932810")),
)


def real(number: int = 22431084, folder: str = "mainnet-contiguous") -> dict[str, Any]:
    path = shared_data("data", "chain", folder, f"{number}.json")
    block: dict[str, Any] = json.loads(path.read_bytes())
    return block


def with_receipts(number: int = 19433902) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    folder = shared_data("data", "chain", "mainnet-with-receipts")
    block = json.loads((folder / f"block_{number}.json").read_bytes())["result"]
    receipts = json.loads((folder / f"receipts-{number}.json").read_bytes())["result"]
    return block, receipts


def decode(
    block: dict[str, Any],
    receipts: list[dict[str, Any]] | None = None,
    *,
    verify: bool = True,
    network: Network = ETHEREUM,
) -> BlockRows:
    given_receipts = None if receipts is None else json.dumps(receipts).encode()
    raw = json.dumps(block).encode()
    return decode_block(
        raw, network=network, receipts=given_receipts, verify=verify, origin="blocks.json"
    )


def named(columns: tuple[tuple[str, str], ...], row: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip((name for name, _ in columns), row, strict=True))


@pytest.mark.parametrize(("folder", "number"), REAL)
def test_every_real_block_verifies(folder: str, number: str) -> None:
    """Hashes, roots and header of real blocks of every fork and transaction type match."""
    block = real(int(number), folder)
    rows = decode(block)
    assert rows.number == int(block["number"], 16)
    assert len(rows.transactions) == len(block["transactions"])
    assert named(BLOCK_COLUMNS, rows.block)["verification"] == "transactions"


@pytest.mark.parametrize("number", [19433902, 19433903])
def test_real_receipts_verify_and_fill_the_rows(number: int) -> None:
    """With receipts the receiptsRoot matches, and each transaction has its outcome and logs."""
    block, receipts = with_receipts(number)
    rows = decode(block, receipts)
    assert named(BLOCK_COLUMNS, rows.block)["verification"] == "receipts"
    assert rows.logs is not None
    assert len(rows.logs) == sum(len(receipt["logs"]) for receipt in receipts)
    for row, receipt in zip(rows.transactions, receipts, strict=True):
        found = named(TRANSACTION_COLUMNS, row)
        assert found["gas_used"] == int(receipt["gasUsed"], 16)
        assert found["status"] == ("confirmed" if receipt["status"] == "0x1" else "failed")
    for row, log in zip(rows.logs, (log for r in receipts for log in r["logs"]), strict=True):
        found = named(LOG_COLUMNS, row)
        assert found["log_index"] == int(log["logIndex"], 16) - int(
            receipts[0]["logs"][0]["logIndex"], 16
        )
        assert found["data"] == log["data"]


@pytest.mark.parametrize("number", [22431083, 22431084])
def test_receipts_of_an_independent_source_have_our_root(number: int) -> None:
    """Receipts given as consensus bytes hash to the root of the block we decode (ordered_root)."""
    text = shared_data("data", "chain", "fork-pairs", f"{number}.yaml").read_text()
    contents = [line.split('"')[1] for line in text.splitlines() if "content_value" in line]
    receipts = _ssz_list(bytes.fromhex(contents[-1][2:]))
    assert "0x" + ordered_root(receipts).hex() == real(number)["receiptsRoot"]


def _ssz_list(data: bytes) -> list[bytes]:
    """The items of an SSZ list of byte lists: offsets first, then the items."""
    first = int.from_bytes(data[:4], "little")
    offsets = [int.from_bytes(data[at : at + 4], "little") for at in range(0, first, 4)]
    ends = [*offsets[1:], len(data)]
    return [data[start:end] for start, end in zip(offsets, ends, strict=True)]


@pytest.mark.parametrize(("folder", "number"), REAL)
def test_rows_alone_rebuild_the_transactions_root(folder: str, number: str) -> None:
    """Nothing that a transaction signed is lost on the way into its row."""
    rows = decode(real(int(number), folder))
    encoded = [_payload_of(named(TRANSACTION_COLUMNS, row)) for row in rows.transactions]
    root = named(BLOCK_COLUMNS, rows.block)["transactions_root"]
    assert "0x" + ordered_root(encoded).hex() == root


def _payload_of(row: dict[str, Any]) -> bytes:
    """The signed bytes, with the `rlp` library, from database columns only."""
    envelope = row["envelope"] or {}
    to = bytes.fromhex(row["to_address"][2:]) if row["to_address"] else b""
    head = [row["gas_limit"], to, row["value"], bytes.fromhex(row["input_data"][2:])]
    signature = [row["signature_v"], int(row["signature_r"], 16), int(row["signature_s"], 16)]
    kind = row["transaction_type"]
    if kind == 0:
        return reference.encode([row["nonce"], row["gas_price"], *head, *signature])
    access = [
        [_hex(entry["address"]), [_hex(key) for key in entry["storageKeys"]]]
        for entry in envelope.get("accessList", [])
    ]
    fees = [row["gas_price"]]
    if kind > 1:
        fees = [row["max_priority_fee_per_gas"], row["max_fee_per_gas"]]
    more: list[Any] = []
    if kind == 3:
        hashes = [_hex(each) for each in envelope["blobVersionedHashes"]]
        more = [row["max_fee_per_blob_gas"], hashes]
    if kind == 4:
        more = [[_authorization(each) for each in envelope["authorizationList"]]]
    fields = [ETHEREUM.chain_id, row["nonce"], *fees, *head, access, *more, *signature]
    return bytes([kind]) + reference.encode(fields)


@pytest.mark.parametrize(("folder", "number"), REAL)
def test_a_block_row_alone_rebuilds_the_blocks_hash(folder: str, number: str) -> None:
    """The columns and the header document hold all that a block's hash covers, of any fork."""
    row = named(BLOCK_COLUMNS, decode(real(int(number), folder)).block)
    more = row["header"]
    hashes = (row["parent_hash"], more["sha3Uncles"], row["miner"], row["state_root"])
    roots = (row["transactions_root"], row["receipts_root"], more["logsBloom"])
    numbers = (row["difficulty"], row["block_number"], row["gas_limit"], row["gas_used"])
    seal = (row["extra_data"], more["mixHash"], more["nonce"])
    later = (
        row["base_fee_per_gas"],
        *(reader(more[name]) for name, reader in _LATER.items() if name in more),
    )
    fields = [
        *(_hex(text) for text in (*hashes, *roots)),
        *(*numbers, int(row["block_timestamp"].timestamp())),
        *(_hex(text) for text in seal),
        *(value for value in later if value is not None),
    ]
    assert "0x" + keccak(reference.encode(fields)).hex() == row["block_hash"]


_LATER: dict[str, Callable[[str], Any]] = {
    "withdrawalsRoot": lambda text: _hex(text),
    "blobGasUsed": lambda text: int(text, 16),
    "excessBlobGas": lambda text: int(text, 16),
    "parentBeaconBlockRoot": lambda text: _hex(text),
    "requestsHash": lambda text: _hex(text),
}


def _authorization(entry: dict[str, str]) -> list[Any]:
    numbers = [int(entry[name], 16) for name in ("nonce", "yParity", "r", "s")]
    return [int(entry["chainId"], 16), _hex(entry["address"]), *numbers]


def _hex(text: str) -> bytes:
    return bytes.fromhex(text[2:])


Change = Callable[[dict[str, Any]], object]


def _edit(field: str, value: str, index: int = 3) -> Change:
    return lambda block: block["transactions"][index].update({field: value})


def _renumber(block: dict[str, Any]) -> None:
    for index, item in enumerate(block["transactions"]):
        item["transactionIndex"] = hex(index)


def _flip_input(block: dict[str, Any]) -> None:
    item = next(each for each in block["transactions"] if len(each["input"]) > 10)
    last = "0" if item["input"][-1] != "0" else "1"
    item["input"] = item["input"][:-1] + last


TAMPERED: dict[str, tuple[Change, str]] = {
    "one byte of calldata": (_flip_input, "does not hash to"),
    "value": (_edit("value", "0x1234567"), "transaction 3 does not hash to"),
    "nonce": (_edit("nonce", "0x7fffffff"), "transaction 3 does not hash to"),
    "receiver": (_edit("to", "0x" + "11" * 20), "transaction 3 does not hash to"),
    "signature": (_edit("s", "0x" + "22" * 32), "transaction 3 does not hash to"),
    "hash": (_edit("hash", "0x" + "33" * 32), "transaction 3 does not hash to"),
    "a missing transaction": (lambda b: b["transactions"].pop(5), "transaction 5 .* place"),
    "swapped transactions": (lambda b: b["transactions"].reverse(), "transaction 0 .* place"),
    "one missing, renumbered": (
        lambda b: (b["transactions"].pop(5), _renumber(b)),
        "transactionsRoot",
    ),
    "swapped, renumbered": (lambda b: (b["transactions"].reverse(), _renumber(b)), "actionsRoot"),
    "of another block": (_edit("blockHash", "0x" + "66" * 32), "transaction 3 .* another block"),
    "at another height": (_edit("blockNumber", "0x1"), "transaction 3 .* another block"),
    "a wrong root": (lambda b: b.update(transactionsRoot="0x" + "44" * 32), "transactionsRoot"),
    "timestamp": (lambda b: b.update(timestamp="0x681b3028"), "header"),
    "parent": (lambda b: b.update(parentHash="0x" + "55" * 32), "header"),
    "above 2^256-1": (_edit("value", "0x1" + "0" * 64), "2\\^256-1"),
    "negative": (_edit("value", "-0x1"), "not a quantity"),
    "underscore": (_edit("value", "0x1_0"), "not a quantity"),
    "no hex": (_edit("value", "0xzz"), "not a quantity"),
    "digits of another script": (_edit("value", "0x\u0661"), "not a quantity"),
    "signature no hex": (_edit("r", "0x" + "zz" * 32), "not hex"),
    "blank in calldata": (_edit("input", "0xab cd"), "not hex"),
    "short address": (_edit("to", "0x1234"), "20 bytes"),
    "nonce above bigint": (_edit("nonce", "0x8000000000000000"), "2\\^63-1|does not hash"),
    "unknown type": (_edit("type", "0x7e"), "type 0x7e is not known"),
    "no signature": (lambda b: b["transactions"][2].pop("r"), "--no-verify"),
    "far future": (lambda b: b.update(timestamp="0xffffffffff"), "2261"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_tampered_block_is_refused_by_name(what: str) -> None:
    """The error names the file, the block and what does not fit; there are no rows."""
    change, reason = TAMPERED[what]
    block = copy.deepcopy(real())
    change(block)
    with pytest.raises(BadBlock, match=reason) as caught:
        decode(block)
    assert caught.value.message.startswith("blocks.json: block 22431084: ")


def test_a_block_of_another_network_is_refused_even_on_trust() -> None:
    """A signed chain id that is not the network's is refused, verified or not."""
    for verify in (True, False):
        with pytest.raises(BadBlock, match="signed for chain 1, but network neox is chain 47763"):
            decode(real(), verify=verify, network=PRESETS["neox"])


RECEIPTS: dict[str, tuple[Callable[[list[dict[str, Any]]], object], str]] = {
    "none of many": (lambda r: r.clear(), "171 transactions but 0 receipts"),
    "one missing": (lambda r: r.pop(7), "171 transactions but 170 receipts"),
    "swapped": (lambda r: r.reverse(), "receipt 0 is of another transaction"),
    "gas": (lambda r: r[4].update(gasUsed="0x1"), "receipt 4: gasUsed"),
    "status": (lambda r: r[4].update(status="0x0"), "receiptsRoot"),
    "a log's data": (lambda r: r[0]["logs"][0].update(data="0x"), "receiptsRoot"),
    "a log left out": (lambda r: r[0]["logs"].pop(), "receiptsRoot"),
    "contract": (lambda r: r[3].update(contractAddress="0x" + "11" * 20), "contractAddress"),
}


@pytest.mark.parametrize("what", RECEIPTS)
def test_tampered_receipts_are_refused(what: str) -> None:
    """Receipts that do not belong, or do not hash to receiptsRoot, refuse the block."""
    change, reason = RECEIPTS[what]
    block, receipts = with_receipts()
    change(receipts)
    with pytest.raises(BadBlock, match=reason):
        decode(block, receipts)


def test_a_bloom_that_was_left_out_is_computed() -> None:
    """Receipts without logsBloom still verify: the bloom follows from the logs."""
    block, receipts = with_receipts()
    for receipt in receipts:
        del receipt["logsBloom"]
    assert decode(block, receipts).logs


def test_on_trust_blocks_without_signatures_are_taken() -> None:
    """--no-verify takes what cannot be verified, and the row says so."""
    block = real()
    for item in block["transactions"]:
        del item["r"], item["s"], item["v"]
    rows = decode(block, verify=False)
    assert named(BLOCK_COLUMNS, rows.block)["verification"] == "none"


MALFORMED = {
    "hash": "0x" + "zz" * 32,
    "input": "0xab cd",
    "r": "0x" + "zz" * 32,
    "s": "0x1" + "0" * 64,
    "yParity": "27",
    "value": "0x\u0661",
    "from": "0x12",
    "nonce": "0x8000000000000000",
    "gas": "0x8000000000000000",
    "maxFeePerGas": "-0x1",
    "transactionIndex": "0x0",
    "blockNumber": "0x1",
}


@pytest.mark.parametrize("field", MALFORMED)
def test_on_trust_is_still_well_formed(field: str) -> None:
    """Without verification a malformed field refuses the block all the same."""
    block = real()
    block["transactions"][3][field] = MALFORMED[field]
    with pytest.raises(BadBlock, match="transaction 3"):
        decode(block, verify=False)


@pytest.mark.parametrize("verify", [True, False])
def test_what_goes_into_json_columns_is_hex_too(verify: bool) -> None:
    """An access list or header field with text that no database takes refuses the block."""
    block = real()
    block["mixHash"] = "0x\u0000"
    with pytest.raises(BadBlock, match="is not hex"):
        decode(block, verify=verify)
    block = real()
    item = next(each for each in block["transactions"] if each.get("accessList"))
    item["accessList"][0]["storageKeys"] = ["0x" + "\u0000" * 64]
    with pytest.raises(BadBlock, match="is not hex"):
        decode(block, verify=verify)


def test_either_of_v_and_parity_is_enough_and_the_signed_one_is_stored() -> None:
    """Nodes give v, yParity or both; what the hash proves goes into the row, not the other."""
    expected = decode(real()).transactions
    for name, odd in (("v", None), ("yParity", None), ("v", "0x5")):
        block = real()
        for item in block["transactions"]:
            if item["type"] != "0x0":
                item[name] = odd
        assert decode(block).transactions == expected


def test_hex_is_stored_in_lower_case() -> None:
    """Addresses, hashes, calldata and signatures in capitals give the rows of the original."""
    block = real()
    loud = copy.deepcopy(block)
    for item in loud["transactions"]:
        for name in ("hash", "from", "to", "input", "r", "s", "blockHash"):
            item[name] = item[name] and "0x" + item[name][2:].upper()
    for verify in (True, False):
        assert decode(loud, verify=verify).transactions == decode(block).transactions


def test_another_indexers_rows_are_ours() -> None:
    """ethereum-etl's published rows of blocks 17173049-50 equal ours, column by column."""
    folder = shared_data("data", "chain", "etl-oracle")

    def lines(what: str) -> list[dict[str, Any]]:
        text = (folder / f"17173049_17173050_{what}.json").read_text()
        return [json.loads(line) for line in text.splitlines() if line.strip()]

    logs = lines("logs")
    for block in lines("blocks"):
        mined = [t for t in lines("transactions") if t["block_number"] == block["number"]]
        rows = decode(_block_json(block, mined), _receipts_json(mined, logs), verify=False)
        assert len(rows.transactions) == len(mined)
        for row, expected in zip(rows.transactions, mined, strict=True):
            found = named(TRANSACTION_COLUMNS, row)
            for ours, theirs in _SAME.items():
                assert found[ours] == expected[theirs], ours
            assert found["block_timestamp"].timestamp() == expected["block_timestamp"]
            assert (found["status"] == "confirmed") == (expected["receipt_status"] == 1)
        theirs = [log for log in logs if log["block_number"] == block["number"]]
        assert rows.logs is not None
        assert [
            (r["log_index"], r["transaction_hash"], r["address"], r["data"], r["topic0"])
            for r in (named(LOG_COLUMNS, row) for row in rows.logs)
        ] == [
            (
                log["log_index"],
                log["transaction_hash"],
                log["address"],
                log["data"],
                (log["topics"] or [None])[0],
            )
            for log in theirs
        ]


_SAME = {
    "transaction_hash": "hash",
    "nonce": "nonce",
    "transaction_index": "transaction_index",
    "from_address": "from_address",
    "to_address": "to_address",
    "value": "value",
    "gas_limit": "gas",
    "gas_price": "gas_price",
    "input_data": "input",
    "block_number": "block_number",
    "max_fee_per_gas": "max_fee_per_gas",
    "max_priority_fee_per_gas": "max_priority_fee_per_gas",
    "transaction_type": "transaction_type",
    "cumulative_gas_used": "receipt_cumulative_gas_used",
    "gas_used": "receipt_gas_used",
    "contract_address": "receipt_contract_address",
    "effective_gas_price": "receipt_effective_gas_price",
}


def _block_json(block: dict[str, Any], mined: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "number": hex(block["number"]),
        "hash": block["hash"],
        "parentHash": block["parent_hash"],
        "timestamp": hex(block["timestamp"]),
        "transactionsRoot": block["transactions_root"],
        "miner": block["miner"],
        "gasLimit": hex(block["gas_limit"]),
        "gasUsed": hex(block["gas_used"]),
        "transactions": [
            {
                "hash": item["hash"],
                "from": item["from_address"],
                "to": item["to_address"],
                "nonce": hex(item["nonce"]),
                "gas": hex(item["gas"]),
                "value": hex(item["value"]),
                "input": item["input"],
                "type": hex(item["transaction_type"]),
                "gasPrice": hex(item["gas_price"]),
                "maxFeePerGas": _optional(item["max_fee_per_gas"]),
                "maxPriorityFeePerGas": _optional(item["max_priority_fee_per_gas"]),
            }
            for item in mined
        ],
    }


def _receipts_json(mined: list[dict[str, Any]], logs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "transactionHash": item["hash"],
            "cumulativeGasUsed": hex(item["receipt_cumulative_gas_used"]),
            "gasUsed": hex(item["receipt_gas_used"]),
            "contractAddress": item["receipt_contract_address"],
            "effectiveGasPrice": hex(item["receipt_effective_gas_price"]),
            "status": hex(item["receipt_status"]),
            "logs": [log for log in logs if log["transaction_hash"] == item["hash"]],
        }
        for item in mined
    ]


def _optional(number: int | None) -> str | None:
    return None if number is None else hex(number)


nested = st.recursive(st.binary(max_size=80), lambda each: st.lists(each, max_size=6))


@given(nested)
def test_rlp_is_the_librarys(value: Any) -> None:
    """Our encoder agrees with the `rlp` library on any nesting of strings and lists."""

    def ours(item: Any) -> bytes:
        return rlp.string(item) if isinstance(item, bytes) else rlp.sequence(map(ours, item))

    assert ours(value) == reference.encode(value)


@given(st.integers(0, 2**256 - 1))
def test_rlp_of_quantities_is_the_librarys(number: int) -> None:
    """Quantities have no leading zeros, and zero is the empty string."""
    assert rlp.quantity(number) == reference.encode(number)


@given(st.lists(st.binary(min_size=1, max_size=64), max_size=300))
def test_the_root_is_that_of_a_trie_built_by_the_book(values: list[bytes]) -> None:
    """One insertion after the other into a plain trie gives the same root as our one pass."""
    trie: dict[str, bytes] = {reference.encode(n).hex(): value for n, value in enumerate(values)}
    expected = keccak(reference.encode(_book(trie))) if trie else EMPTY_ROOT
    assert ordered_root(values) == expected


@pytest.mark.parametrize("size", [1, *range(24, 34), 55, 56, 4090])
def test_the_root_holds_at_every_edge(size: int) -> None:
    """Nodes just below and above 32 bytes, and counts at which the keys grow, follow the book."""
    for count in (1, 2, 3, 16, 17, 127, 128, 129, 255, 256, 257):
        values = [bytes([n % 250 + 1]) * size for n in range(count)]
        trie = {reference.encode(n).hex(): value for n, value in enumerate(values)}
        assert ordered_root(values) == keccak(reference.encode(_book(trie))), count


def test_rlp_of_every_byte_is_the_librarys() -> None:
    """A byte below 0x80 is its own encoding, one above is not."""
    for byte in (bytes([n]) for n in range(256)):
        assert rlp.string(byte) == reference.encode(byte)


@pytest.mark.parametrize("size", [0, 55, 56, 255, 256, 4095, 4096, 65535, 65536, 1 << 24])
def test_rlp_of_every_length_is_the_librarys(size: int) -> None:
    """Lengths on both sides of each step, in the table and beyond it."""
    assert rlp.string(bytes(size)) == reference.encode(bytes(size))
    if size:
        assert rlp.sequence([rlp.string(bytes(size))]) == reference.encode([bytes(size)])


def _book(entries: dict[str, bytes]) -> Any:
    """The Yellow Paper's c(J, i), literally: dictionaries of remaining paths, no sorting."""
    if not entries:
        return b""
    if len(entries) == 1:
        path, value = next(iter(entries.items()))
        return [_compact(path, 2), value]
    paths = list(entries)
    shared = next(n for n in range(99) if len({p[n : n + 1] for p in paths}) > 1)
    if shared:
        below = {path[shared:]: value for path, value in entries.items()}
        return [_compact(paths[0][:shared], 0), _short(_book(below))]
    groups = (
        {p[1:]: v for p, v in entries.items() if p[0] == nibble} for nibble in "0123456789abcdef"
    )
    return [*(_short(_book(group)) for group in groups), b""]


def _short(node: Any) -> Any:
    encoded = reference.encode(node)
    return node if node == b"" or len(encoded) < 32 else keccak(encoded)


def _compact(path: str, flag: int) -> bytes:
    return bytes.fromhex(f"{flag + 1:x}{path}" if len(path) % 2 else f"{flag:x}0{path}")


def test_contract_addresses_follow_sender_and_nonce() -> None:
    """The address of a well-known creation: CryptoKitties' core by its deployer's nonce."""
    sender = "0xba52c75764d6f594735dc735be7f1830cdf58ddf"
    assert payloads.contract_address(sender, 3515) == "0x06012c8cf97bead5deae237070f9587f8e7a266d"


def blocks_of(*paths: Path, verify: bool = True) -> list[BlockRows | BadBlock]:
    return list(read_blocks(paths, network=ETHEREUM, verify=verify))


def test_a_folder_gives_its_blocks_with_their_receipts() -> None:
    """JSON-RPC responses in a folder: blocks find their receipts by hash, not by file name."""
    folder = shared_data("data", "chain", "mainnet-with-receipts")
    found = blocks_of(folder)
    assert [b.number for b in found if isinstance(b, BlockRows)] == [19433902, 19433903]
    assert all(isinstance(b, BlockRows) and b.logs for b in found)


@pytest.mark.parametrize("packing", ["plain", "gz", "zst"])
@pytest.mark.parametrize("shape", ["lines", "answers", "list", "batch", "pretty"])
def test_any_shape_and_packing_gives_the_same_rows(
    tmp_path: Path, shape: str, packing: str
) -> None:
    """One value or one a line, lists, answers and batches, packed or not: the rows are equal."""
    blocks = [real(22431082), real(22431084)]
    answers = [{"jsonrpc": "2.0", "id": n, "result": b} for n, b in enumerate(blocks)]
    content = {
        "lines": "\n".join(map(json.dumps, blocks)) + "\n",
        "answers": "\n".join(map(json.dumps, answers)),
        "list": json.dumps(blocks),
        "batch": json.dumps(answers),
        "pretty": json.dumps(blocks, indent=2),
    }[shape].encode()
    pack = {"plain": bytes, "gz": gzip.compress, "zst": zstandard.ZstdCompressor().compress}[
        packing
    ]
    (tmp_path / "blocks.json").write_bytes(pack(content))
    expected = [decode(block) for block in blocks]
    found = blocks_of(tmp_path)
    assert [b.transactions for b in found if isinstance(b, BlockRows)] == [
        b.transactions for b in expected
    ]


def test_receipts_may_stand_anywhere_in_the_set(tmp_path: Path) -> None:
    """Receipts one a line, shuffled over files and mixed with blocks, find their block."""
    block, receipts = with_receipts()
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, receipts[100:])) + "\n")
    mixed = [*receipts[:50][::-1], block, *receipts[50:100]]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, mixed)) + "\n")
    (found,) = blocks_of(tmp_path)
    assert isinstance(found, BlockRows)
    assert found.block[-1] == "receipts"


def test_a_bad_file_is_named_and_the_rest_is_unharmed(tmp_path: Path) -> None:
    """Cut short, not JSON, no block, null, error: each is one BadBlock in its place."""
    good = json.dumps(real())
    (tmp_path / "1-cut.json").write_text(good[: len(good) // 2])
    (tmp_path / "2-text.json").write_text("hello")
    (tmp_path / "3-other.json").write_text('{"name": "package", "version": 1}')
    (tmp_path / "4-null.json").write_text('{"jsonrpc": "2.0", "id": 1, "result": null}')
    error = {"jsonrpc": "2.0", "id": 1, "error": {"code": -32000, "message": "header not found"}}
    (tmp_path / "5-error.json").write_text(json.dumps(error))
    (tmp_path / "6-empty.json").write_text("")
    (tmp_path / "7-good.json").write_text(good)
    hashes_only = real() | {"transactions": [t["hash"] for t in real()["transactions"]]}
    (tmp_path / "8-hashes.json").write_text(json.dumps(hashes_only))
    *bad, kept, hashes = blocks_of(tmp_path)
    reasons = (
        "cut short",
        "not JSON",
        "neither",
        "null",
        r"header not found \(-32000\)",
        "not JSON",
    )
    assert len(bad) == len(reasons)
    for number, (item, reason) in enumerate(zip(bad, reasons, strict=True), start=1):
        assert isinstance(item, BadBlock)
        assert f"/{number}-" in item.message
        assert reason.replace("\\", "") in item.message
    assert isinstance(kept, BlockRows)
    assert isinstance(hashes, BadBlock)
    assert "hashes only" in hashes.message


@pytest.mark.parametrize("packing", ["gz", "zst"])
def test_a_packed_file_that_was_cut_is_an_error(tmp_path: Path, packing: str) -> None:
    """A packed file that ends early, even right after a line, is named; the rest is unharmed."""
    line = json.dumps(real()).encode() + b"\n"
    pack = {"gz": gzip.compress, "zst": zstandard.ZstdCompressor().compress}[packing]
    (tmp_path / f"cut.json.{packing}").write_bytes(pack(line * 3)[:-5])
    (tmp_path / "next.json").write_bytes(line)
    *_, bad, kept = blocks_of(tmp_path)
    assert isinstance(bad, BadBlock)
    assert f"cut.json.{packing}: damaged or cut short" in bad.message
    assert isinstance(kept, BlockRows)


def test_a_bad_line_harms_no_other(tmp_path: Path) -> None:
    """In a file of lines each line stands for itself, the first one too."""
    lines = [json.dumps(real(number)) for number in (22431082, 22431084)]
    (tmp_path / "a.jsonl").write_text("\n".join([lines[0][:99], *lines, "{}", lines[0]]))
    first, *kept, odd, last = blocks_of(tmp_path)
    assert isinstance(first, BadBlock)
    assert "a.jsonl:1: not JSON, or cut short" in first.message
    assert [b.number for b in (*kept, last) if isinstance(b, BlockRows)] == [
        22431082,
        22431084,
        22431082,
    ]
    assert isinstance(odd, BadBlock)
    assert "a.jsonl:4: neither a block nor a receipt" in odd.message


def test_memory_does_not_grow_with_the_input(tmp_path: Path) -> None:
    """Ten times the lines, receipts among them, need no more memory (Python's own count)."""
    block, receipts = with_receipts()
    text = "\n".join(map(json.dumps, [block, *receipts])) + "\n"
    peaks: list[int] = []
    for times in (2, 20):
        (tmp_path / "blocks.jsonl").write_text(text * times)
        tracemalloc.start()
        for item in read_blocks([tmp_path], network=ETHEREUM, verify=False):
            assert isinstance(item, BlockRows)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.1


def test_several_packed_frames_are_one_content(tmp_path: Path) -> None:
    """Zstandard frames and gzip members that were appended to each other are read on."""
    first, second = (json.dumps(real(number)).encode() + b"\n" for number in (22431082, 22431084))
    pack = zstandard.ZstdCompressor().compress
    (tmp_path / "a.jsonl.zst").write_bytes(pack(first) + pack(second))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(first) + gzip.compress(second))
    numbers = [b.number for b in blocks_of(tmp_path) if isinstance(b, BlockRows)]
    assert numbers == [22431082, 22431084] * 2


def test_words_are_found_across_pieces(tmp_path: Path) -> None:
    """Where a file is searched piece by piece, a word on the seam is found, and only in content."""
    path = tmp_path / "content"
    for before in (0, 1, (1 << 18) - 3, 1 << 18, (1 << 18) + 2, (3 << 18) - 1):
        path.write_bytes(b"x" * before + b"needle" + b"y" * 9)
        assert holds(path, b"needle")
        path.write_bytes(b"x" * before + b"needl" + b"y" * 9)
        assert not holds(path, b"needle")


@pytest.mark.parametrize("make", ["absent", "empty"])
def test_nothing_to_read_is_an_error(tmp_path: Path, make: str) -> None:
    """An absent path and a folder without blocks are named."""
    path = tmp_path / make
    if make == "empty":
        path.mkdir()
    with pytest.raises(SourceError, match=make):
        blocks_of(path)


JUNK = (
    None,
    True,
    -1,
    2**64,
    1.5,
    "",
    "0x",
    "0xg",
    "0x0x",
    "latest",
    "\ud800",
    [],
    ["0x1"],
    {},
    [[]],
)


@pytest.mark.parametrize("verify", [True, False])
def test_whatever_stands_in_a_field_no_other_error_comes_out(verify: bool) -> None:
    """Junk in any field of a block or its receipts: rows or one BadBlock, never something else."""
    block, receipts = _small()
    owners = [block, block["transactions"][3], receipts[3], receipts[3]["logs"][0]]
    for owner in owners:
        for field, before in list(owner.items()):
            for owner[field] in JUNK:
                with suppress(BadBlock):
                    decode(block, receipts, verify=verify)
            owner[field] = before


def _small() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The first transactions of a real block, with logs; not the whole, so not the roots."""
    block, receipts = with_receipts()
    used = receipts[3]["cumulativeGasUsed"]
    return block | {"transactions": block["transactions"][:4], "gasUsed": used}, receipts[:4]


@pytest.mark.parametrize("index", [*JUNK, "0x" + "f" * 64])
def test_a_receipt_with_a_junk_index_harms_only_its_block(tmp_path: Path, index: Any) -> None:
    """The place of a receipt among its block's is read before all else, and survives anything."""
    block, receipts = with_receipts()
    receipts[3]["transactionIndex"] = index
    (tmp_path / "a.json").write_text(json.dumps(receipts))
    (tmp_path / "b.jsonl").write_text(json.dumps(block) + "\n" + json.dumps(real()))
    *before, kept = blocks_of(tmp_path)
    assert any(isinstance(item, BadBlock) for item in before)
    assert isinstance(kept, BlockRows)


def test_neo_blocks_find_their_application_logs(tmp_path: Path) -> None:
    """On Neo N3 a transaction's application log is its receipt, wherever it stands."""
    cases = json.loads(shared_data("data", "chain", "neo", "RpcTestCases.json").read_bytes())
    answer = next(case["Response"] for case in cases if case["Name"] == "getblockasync")
    run = {"trigger": "Application", "vmstate": "FAULT", "gasconsumed": "9007990"}
    log = {"txid": answer["result"]["tx"][0]["hash"], "executions": [run]}
    (tmp_path / "block.json").write_text(json.dumps(answer))

    def found(network: str) -> BlockRows | BadBlock:
        (item,) = read_blocks([tmp_path], network=PRESETS[network], verify=False)
        return item

    bare = found("neo-n3")
    (tmp_path / "log.json").write_text(json.dumps({"id": 1, "jsonrpc": "2.0", "result": log}))
    full = found("neo-n3")
    assert isinstance(bare, BlockRows)
    assert isinstance(full, BlockRows)
    assert (bare.number, bare.logs, full.logs) == (7, None, [])
    assert named(TRANSACTION_COLUMNS, full.transactions[0])["status"] == "failed"
    other = found("ethereum")
    assert isinstance(other, BadBlock)
    assert "block.json: not a block with its transactions" in other.message


def test_an_evm_block_is_no_neo_block(tmp_path: Path) -> None:
    """A block of the other kind of chain is refused by what it is."""
    (tmp_path / "block.json").write_text(json.dumps(real()))
    (item,) = read_blocks([tmp_path], network=PRESETS["neo-n3"], verify=True)
    assert isinstance(item, BadBlock)
    assert "an EVM block, but the network is Neo N3" in item.message
