"""Who signed a transaction: every real sender comes back, and a false one is refused."""

from __future__ import annotations

import builtins
import copy
import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
import rlp as reference
from coincurve import PrivateKey
from eth_account import Account
from tests.fixtures.shared_data import shared_data

from neolayer.chain import payloads, senders
from neolayer.chain.evm import decode_block
from neolayer.chain.model import BlockRows, Network
from neolayer.chain.networks import PRESETS, SYNTHETIC
from neolayer.chain.sources.files import read_blocks
from neolayer.chain.sources.jsonrpc import open_rpc
from neolayer.chain.sources.neo_rpc import node_for
from neolayer.chain.synthetic import SyntheticChain, make_chain
from neolayer.chain.trie import keccak, ordered_root
from neolayer.chain.wire import Block, Transaction, block_decoder
from neolayer.errors import BadBlock, ChainError

ETHEREUM = PRESETS["ethereum"]
REAL = (
    *(("mainnet-contiguous", f"{number}.json") for number in range(22431080, 22431088)),
    *(("mainnet-eras", f"{number}.json") for number in (46147, 116525, 2641321, 12964999)),
    *(("mainnet-eras", f"{number}.json") for number in (12965000, 19932810)),
    *(("mainnet-with-receipts", f"block_{number}.json") for number in (19433902, 19433903)),
)
Json = dict[str, Any]
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def real(folder: str, name: str) -> Json:
    content = json.loads(shared_data("data", "chain", folder, name).read_bytes())
    return content.get("result", content)


def real_with_receipts() -> tuple[Json, list[Json]]:
    receipts = real("mainnet-with-receipts", "receipts-19433902.json")
    return real("mainnet-with-receipts", "block_19433902.json"), receipts  # type: ignore[return-value]


def decode(
    block: Json,
    receipts: list[Json] | None = None,
    *,
    recover: bool = True,
    network: Network = ETHEREUM,
) -> BlockRows:
    return decode_block(
        json.dumps(block).encode(),
        network=network,
        receipts=None if receipts is None else json.dumps(receipts).encode(),
        verify=True,
        senders=recover,
        origin="blocks.json",
    )


def flipped(address: str, place: int = -1) -> str:
    """The address with another last digit, or another one."""
    digits = list(address)
    digits[place] = "0" if digits[place] != "0" else "1"
    return "".join(digits)


@cache
def read(folder: str, name: str) -> tuple[Block, list[bytes]]:
    block = block_decoder.decode(json.dumps(real(folder, name)))
    return block, [payloads.transaction(item) for item in block.transactions]


# Real blocks


@pytest.mark.parametrize(("folder", "name"), REAL)
def test_every_real_sender_is_recovered(folder: str, name: str) -> None:
    """The key that signed each transaction of a real block is that of its `from`."""
    block, envelopes = read(folder, name)
    low_s = int(block.number, 16) >= 1_150_000
    for item, envelope in zip(block.transactions, envelopes, strict=True):
        assert senders.sender(item, envelope, low_s=low_s) == item.sender
    assert len(decode(real(folder, name)).transactions) == len(envelopes)


def test_the_real_blocks_hold_every_kind_of_signature() -> None:
    """All types, legacy ones with and without a chain, and the high s of before Homestead."""
    items = [item for place in REAL for item in read(*place)[0].transactions]
    kinds = {item.kind for item in items}
    assert kinds == {"0x0", "0x1", "0x2", "0x3", "0x4"}
    assert {item.v for item in items if item.kind == "0x0"} == {"0x1b", "0x1c", "0x25", "0x26"}
    assert sum(int(item.s or "", 16) > ORDER // 2 for item in items) == 4
    assert len(items) == 2_181


@pytest.mark.parametrize(("folder", "name"), REAL)
def test_a_flipped_nibble_of_any_sender_is_refused(folder: str, name: str) -> None:
    """One digit of any one `from` is enough, wherever it stands."""
    block, envelopes = read(folder, name)
    for index, (item, envelope) in enumerate(zip(block.transactions, envelopes, strict=True)):
        false = msgspec.structs.replace(item, sender=flipped(item.sender, 2 + index % 40))
        alone = msgspec.structs.replace(block, transactions=[false])
        with pytest.raises(ValueError, match=f"from {false.sender}, but {item.sender} signed it"):
            senders.check(alone, [envelope], ETHEREUM)


@pytest.mark.parametrize(("folder", "name"), REAL)
def test_the_refusal_names_file_block_and_transaction(folder: str, name: str) -> None:
    """Asked for, one false `from` is one BadBlock; else it is the node's word and is taken."""
    block = real(folder, name)
    last = len(block["transactions"]) - 1
    item = block["transactions"][last]
    true, item["from"] = item["from"], flipped(item["from"])
    with pytest.raises(BadBlock) as caught:
        decode(block)
    place = f"blocks.json: block {int(block['number'], 16)}: transaction {last}"
    said = f"{place} says it is from {item['from']}, but {true} signed it"
    assert caught.value.message == said
    assert decode(block, recover=False).transactions[last][1] == item["from"]


def test_hex_in_capitals_is_the_same_sender() -> None:
    """Case is no contradiction; what is no address is named as that."""
    block = real("mainnet-contiguous", "22431084.json")
    expected = decode(block).transactions
    for item in block["transactions"]:
        item["from"] = "0x" + item["from"][2:].upper()
    assert decode(block).transactions == expected
    block["transactions"][3]["from"] = "0x12"
    with pytest.raises(BadBlock, match="transaction 3: '0x12' is not 20 bytes"):
        decode(block)


def test_of_a_refused_block_nothing_is_left_and_the_rest_is_unharmed(tmp_path: Path) -> None:
    """Files are read on after a false sender; senders that are recovered are verified too."""
    good, bad = (real("mainnet-contiguous", f"{n}.json") for n in (22431082, 22431084))
    bad["transactions"][7]["from"] = flipped(bad["transactions"][7]["from"])
    (tmp_path / "1-bad.json").write_text(json.dumps(bad))
    (tmp_path / "2-good.json").write_text(json.dumps(good))
    answer = {"jsonrpc": "2.0", "id": 1, "result": bad}
    (tmp_path / "3-answer.json").write_text(json.dumps(answer))
    found = list(read_blocks([tmp_path], network=ETHEREUM, verify=False, senders=True))
    first, kept, last = found
    for item, name in ((first, "1-bad.json"), (last, "3-answer.json")):
        assert isinstance(item, BadBlock)
        assert item.message.startswith(f"{tmp_path / name}: block 22431084: transaction 7 says")
    assert isinstance(kept, BlockRows)
    assert kept.block[-1] == "transactions"


# Made transactions

KEY = PrivateKey(b"\x46" * 32)  # of the example in EIP-155
SIGNER = "0x9d8a62f656a8d1615c1294fd71e9cfb3e4855a4f"
NEOX = PRESETS["neox"]


def in_block(*items: Json, number: int = 5_000_000) -> Json:
    """A block around transactions whose root is right; only its own hash is made up."""
    numbers = ("timestamp", "gasLimit", "gasUsed")
    encoded = [payloads.transaction(msgspec.convert(item, Transaction)) for item in items]
    return {
        **dict.fromkeys(numbers, "0x1"),
        "number": hex(number),
        "hash": "0x" + "11" * 32,
        "parentHash": "0x" + "22" * 32,
        "miner": "0x" + "33" * 20,
        "transactionsRoot": "0x" + ordered_root(encoded).hex(),
        "transactions": list(items),
    }


def made(network: Network, *items: Json, number: int = 5_000_000) -> BlockRows:
    """The block decoded, its senders recovered."""
    like = Network(network.name, network.chain_id, standard_header=False)
    return decode(in_block(*items, number=number), network=like)


def legacy(*, chain_id: int | None = None, twin: bool = False) -> Json:
    """The transaction of the example in EIP-155, signed as before it or for a chain.

    `twin`: with the other s that fits, in the upper half.
    """
    values = {"nonce": 9, "gasPrice": 20 * 10**9, "gas": 21_000}
    fields = [*values.values(), b"\x35" * 20, 10**18, b""]
    replay = [] if chain_id is None else [chain_id, 0, 0]
    digest = keccak(reference.encode([*fields, *replay]))
    signature = KEY.sign_recoverable(digest, hasher=None)
    r, s, parity = (
        int.from_bytes(signature[:32]),
        int.from_bytes(signature[32:64]),
        signature[64],
    )
    if twin:
        s, parity = ORDER - s, 1 - parity
    v = 27 + parity if chain_id is None else 35 + 2 * chain_id + parity
    texts = {name: hex(number) for name, number in (values | {"v": v, "r": r, "s": s}).items()}
    more = {"to": "0x" + "35" * 20, "value": hex(10**18), "input": "0x", "from": SIGNER}
    return hashed({**texts, **more, "type": "0x0"})


def hashed(item: Json, **changes: str) -> Json:
    """With some fields changed and the hash made right again."""
    changed = {**item, **changes, "hash": ""}
    encoded = payloads.transaction(msgspec.convert(changed, Transaction))
    return {**changed, "hash": "0x" + keccak(encoded).hex()}


def test_the_example_of_eip_155() -> None:
    """The standard's own numbers: signing data, signature and sender."""
    item = legacy(chain_id=1)
    assert item["v"] == "0x25"
    assert item["r"] == "0x28ef61340bd939bc2195fe537567866003e1a15d3c71ff63e1590620aa636276"
    read = msgspec.convert(item, Transaction)
    signed = payloads.signed_part(read, payloads.transaction(read))
    assert signed.hex() == (
        "ec098504a817c800825208943535353535353535353535353535353535353535880de0b6b3a764000080018080"
    )
    assert keccak(signed).hex().startswith("daf5a779ae972f972197303d7b574746")
    assert made(ETHEREUM, item).transactions[0][1] == SIGNER


def test_a_transaction_from_before_eip_155_signs_no_chain() -> None:
    """v of 27 or 28: valid in any block of any network, also today."""
    for network, number in ((ETHEREUM, 46_147), (ETHEREUM, 22_431_084), (NEOX, 1)):
        assert made(network, legacy(), number=number).transactions[0][1] == SIGNER


@pytest.mark.parametrize("kind", [0, 1, 2, 4])
@pytest.mark.parametrize("chain_id", [1, 47763, 2**40 + 1])
def test_what_another_library_signs_has_its_senders(kind: int, chain_id: int) -> None:
    """eth-account signs each type for small and large chain ids: we name the same sender."""
    order: Json = {"type": kind, "chainId": chain_id, "nonce": 7, "gas": 10**6, "value": 3}
    order |= {"to": "0x" + "35" * 20, "data": "0x" + "ab" * 300}
    order |= {"gasPrice": 9} if kind < 2 else {"maxFeePerGas": 9, "maxPriorityFeePerGas": 2}
    if kind:
        entry = {"address": "0x" + "44" * 20, "storageKeys": ["0x" + "55" * 32]}
        order["accessList"] = [entry]
    else:
        del order["type"]
    account = Account.from_key(KEY.secret)
    if kind == 4:
        lent = {"chainId": chain_id, "address": "0x" + "66" * 20, "nonce": 0}
        order["authorizationList"] = [account.sign_authorization(lent)]
    signed = account.sign_transaction(order)
    item = as_node_writes(order, signed)
    assert hashed(item) == item
    row = made(Network("made", chain_id), item).transactions[0]
    assert row[1] == account.address.lower() == SIGNER


def as_node_writes(order: Json, signed: Any) -> Json:
    numbers = {name: hex(value) for name, value in order.items() if isinstance(value, int)}
    item: Json = {"type": "0x0", **numbers, "from": SIGNER, "to": order["to"]}
    item |= {"input": order["data"], "hash": "0x" + signed.hash.hex()}
    item |= {name: hex(getattr(signed, name)) for name in ("v", "r", "s")}
    if "accessList" in order:
        item["accessList"] = order["accessList"]
    for lent in order.get("authorizationList", ()):
        fields = {name: hex(getattr(lent, name)) for name in ("nonce", "r", "s")}
        fields |= {"chainId": hex(lent.chain_id), "yParity": hex(lent.y_parity)}
        item["authorizationList"] = [{**fields, "address": "0x" + lent.address.hex()}]
    return item


@pytest.mark.parametrize("size", [0, 9, 120, 200, 300, 70_000])
@pytest.mark.parametrize("word", [1, 2, 4, 0x22 * 2**240])
def test_a_signature_nobody_made_has_a_sender_too(word: int, size: int) -> None:
    """Keyless deployments invent r and s, and short ones make short envelopes: another library
    names the same sender at every length of an envelope."""
    item = hashed(legacy(chain_id=1), r=hex(word), s=hex(word), input="0x" + "ab" * size)
    envelope = payloads.transaction(msgspec.convert(item, Transaction))
    signer = Account.recover_transaction("0x" + envelope.hex()).lower()
    assert made(ETHEREUM, {**item, "from": signer}).transactions[0][1] == signer


def test_a_high_s_ends_with_homestead() -> None:
    """Of the two signatures that fit, both hold before block 1,150,000 and one from there on."""
    for chain_id in (None, 1):
        twin = legacy(chain_id=chain_id, twin=True)
        assert made(ETHEREUM, twin, number=1_149_999).transactions[0][1] == SIGNER
        with pytest.raises(BadBlock, match=r"transaction 0: s .* upper half, which Homestead"):
            made(ETHEREUM, twin, number=1_150_000)
    with pytest.raises(BadBlock, match="upper half"):
        made(NEOX, legacy(twin=True), number=0)


IMPOSSIBLE = {
    "r is 0": ({"r": "0x0"}, "r or s"),
    "s is 0": ({"s": "0x0"}, "r or s"),
    "r is the order": ({"r": hex(ORDER)}, "r or s"),
    "s is the order": ({"s": hex(ORDER)}, "r or s"),
    "r is all ones": ({"r": "0x" + "ff" * 32}, "r or s"),
    "no signature, as a system's own": ({"v": "0x0", "r": "0x0", "s": "0x0"}, "r or s"),
    "no point has this r": ({"r": "0x5"}, "no key fits"),
    "v between the two ways": ({"v": "0x1d"}, "v of its signature is 29"),
    "v below both": ({"v": "0x1a"}, "v of its signature is 26"),
    "v as a typed one's": ({"v": "0x1"}, "v of its signature is 1,"),
    "another parity": ({"v": "0x26"}, "but 0x[0-9a-f]{40} signed it"),
    "no chain": ({"v": "0x1b"}, "but 0x[0-9a-f]{40} signed it"),
    "another value": ({"value": "0x1"}, "but 0x[0-9a-f]{40} signed it"),
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_a_signature_that_cannot_be_is_refused(what: str) -> None:
    """The hash is right, so only the signature tells: out of range, off the curve, of another."""
    changes, reason = IMPOSSIBLE[what]
    item = hashed(legacy(chain_id=1), **changes)
    with pytest.raises(BadBlock, match=f"block 5000000: transaction 1:? .*{reason}"):
        made(ETHEREUM, legacy(), item)


def typed() -> Json:
    """A real transaction of type 2, out of its place."""
    block = real("mainnet-contiguous", "22431084.json")
    item = next(each for each in block["transactions"] if each["type"] == "0x2")
    return {k: v for k, v in item.items() if k not in ("blockHash", "blockNumber")} | {
        "transactionIndex": "0x0"
    }


def test_a_typed_parity_is_0_or_1() -> None:
    """Whatever hashes: 27 is no parity of a typed transaction."""
    item = typed()
    item = hashed({**item, "v": "0x1b", "yParity": "0x1b"})
    with pytest.raises(BadBlock, match="transaction 0: the parity of its signature is 27"):
        made(ETHEREUM, item)


@pytest.mark.parametrize("way", [0, 27, 37])
def test_the_three_ways_in_which_nodes_write_v(way: int) -> None:
    """v beside yParity is the parity, or 27 or 35 and twice the chain id more; or is left out."""
    item = typed()
    parity = int(item["yParity"], 16)
    for changes in ({"v": hex(way + parity)}, {"yParity": None}, {"v": None}):
        assert made(ETHEREUM, {**item, **changes}).transactions[0][1] == item["from"]
    with pytest.raises(BadBlock, match="transaction 0: its v contradicts"):
        made(ETHEREUM, {**item, "v": hex(way + 1 - parity)})


def test_a_legacy_signature_that_says_two_things_is_refused() -> None:
    """yParity and chainId beside v must say what v says; 0 is how some nodes say nothing."""
    item = legacy(chain_id=1)
    for said in ({"yParity": "0x0", "chainId": "0x1"}, {"chainId": "0x0"}):
        assert made(ETHEREUM, {**item, **said}).transactions[0][1] == SIGNER
    for name, value in (("yParity", "0x1"), ("chainId", "0x5")):
        with pytest.raises(BadBlock, match=f"transaction 0: its {name} contradicts"):
            made(ETHEREUM, {**item, name: value})


def test_a_spelling_of_the_type_hides_no_chain() -> None:
    """0x00 is type 0: its v names the chain, and another network's is refused, asked for or not."""
    item = {**legacy(chain_id=1), "type": "0x00"}
    for recover in (True, False):
        with pytest.raises(BadBlock, match="signed for chain 1, but network neox is chain 47763"):
            decode(in_block(item), network=NEOX, recover=recover)


JUNK = (None, True, -1, 1.5, "", "0x", "0xg", "0x0x", "\ud800", [], {}, "0x" + "f" * 70)


@pytest.mark.parametrize("field", ["from", "v", "r", "s", "yParity", "chainId", "type"])
def test_whatever_stands_in_a_signature_no_other_error_comes_out(field: str) -> None:
    """Junk in what recovery reads gives rows or one BadBlock."""
    for original in (legacy(chain_id=1), typed()):
        for junk in JUNK:
            block = in_block(original)
            block["transactions"][0] = {**original, field: junk}
            like = Network("ethereum", 1, standard_header=False)
            try:
                decode(block, network=like)
            except BadBlock as bad:
                assert "blocks.json" in bad.message


# What binds a sender without its signature


@pytest.fixture(scope="module")
def chain() -> SyntheticChain:
    return make_chain(blocks=30, transactions_per_block=12, reorg_at=24)


def test_the_synthetic_chain_passes(chain: SyntheticChain) -> None:
    """All that we sign ourselves has its sender, on both branches, in every type."""
    kinds: set[str] = set()
    for mined in (*chain.first, *chain.fork):
        rows = decode(mined.block, mined.receipts, network=SYNTHETIC)
        assert len(rows.transactions) == len(mined.block["transactions"])
        kinds |= {item["type"] for item in mined.block["transactions"]}
    assert kinds == {"0x0", "0x1", "0x2", "0x4"}


def creations(chain: SyntheticChain) -> Iterator[tuple[Json, list[Json], int]]:
    """Copies of every block with a creation, its receipts, and the creation's place."""
    for mined in chain.first:
        for index, item in enumerate(mined.block["transactions"]):
            if item["to"] is None:
                yield copy.deepcopy(mined.block), copy.deepcopy(mined.receipts), index


def test_a_creations_address_binds_its_sender_by_default(chain: SyntheticChain) -> None:
    """A false `from`, in transaction and receipt, does not give the contract's address; leaving the
    address of a contract that stands out does not help."""
    tried = 0
    for block, receipts, index in creations(chain):
        decode(block, receipts, network=SYNTHETIC, recover=False)
        false = flipped(block["transactions"][index]["from"])
        block["transactions"][index]["from"] = receipts[index]["from"] = false
        with pytest.raises(BadBlock, match=f"receipt {index}: contractAddress is not what sender"):
            decode(block, receipts, network=SYNTHETIC, recover=False)
        if receipts[index]["status"] == "0x0":
            continue  # some nodes name no address where nothing was made
        receipts[index]["contractAddress"] = None
        with pytest.raises(BadBlock, match=f"receipt {index}: a creation without its contractAdd"):
            decode(block, receipts, network=SYNTHETIC, recover=False)
        tried += 1
    assert tried > 3


def _set(name: str, change: Callable[[Any], Any]) -> Callable[[Json], None]:
    return lambda owner: owner.update({name: change(owner[name])})


@pytest.mark.parametrize("name", ["from", "to"])
def test_a_receipt_names_the_parties_of_its_transaction(name: str) -> None:
    """Another sender or receiver is refused by default; left out, null or in capitals is not."""
    block, receipts = real_with_receipts()
    for fine in (lambda text: "0x" + text[2:].upper(), lambda text: None):
        harmless = copy.deepcopy(receipts)
        _set(name, fine)(harmless[4])
        assert decode(block, harmless, recover=False).logs
    absent = [{k: v for k, v in each.items() if k != name} for each in receipts]
    assert decode(block, absent, recover=False).logs
    _set(name, flipped)(receipts[4])
    with pytest.raises(BadBlock, match=f"receipt 4: {name} is not the transaction's"):
        decode(block, receipts, recover=False)


def test_a_false_sender_contradicts_its_receipt_by_default() -> None:
    """Where receipts name the sender, one of two must be false, and the block is refused."""
    block, receipts = real_with_receipts()
    _set("from", flipped)(block["transactions"][9])
    with pytest.raises(BadBlock, match="receipt 9: from is not the transaction's"):
        decode(block, receipts, recover=False)


def test_a_creations_receipt_names_no_receiver(chain: SyntheticChain) -> None:
    """`to` in the receipt of a creation is a contradiction."""
    block, receipts, index = next(creations(chain))
    receipts[index]["to"] = "0x" + "12" * 20
    with pytest.raises(BadBlock, match=f"receipt {index}: to is not"):
        decode(block, receipts, network=SYNTHETIC, recover=False)


# Where it cannot be done


async def test_on_neo_n3_the_hash_covers_the_sender(tmp_path: Path) -> None:
    """There is nothing to recover, which is said instead of claimed; files and node alike."""
    (tmp_path / "block.json").write_text("{}")
    network = PRESETS["neo-n3"]
    with pytest.raises(ChainError, match="EVM chains only, and network neo-n3 is none"):
        list(read_blocks([tmp_path], network=network, verify=True, senders=True))
    async with open_rpc("http://127.0.0.1:1") as rpc:
        with pytest.raises(ChainError, match="EVM chains only"):
            node_for(rpc, network, senders=True)


def test_without_coincurve_the_way_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence and the command to type, before any block is read."""
    importing = builtins.__import__

    def refuse(name: str, *rest: Any, **named: Any) -> Any:
        if name == "coincurve":
            raise ImportError(name)
        return importing(name, *rest, **named)

    senders.recovery.cache_clear()
    monkeypatch.setattr(builtins, "__import__", refuse)
    (tmp_path / "block.json").write_text("{}")
    with pytest.raises(ChainError, match="needs the package coincurve") as caught:
        list(read_blocks([tmp_path], network=ETHEREUM, verify=True, senders=True))
    assert caught.value.hint == "pip install 'neolayer[senders]'"
