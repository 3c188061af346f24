"""The synthetic chain, judged by libraries that had no part in making it: eth-account and rlp."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import msgspec
import pytest
import rlp
import sha3
from bench.replay import header_payload, transaction_payload, trie_root
from eth_account import Account

from neolayer.chain.evm import decode_block
from neolayer.chain.networks import SYNTHETIC
from neolayer.chain.synthetic import SyntheticChain, make_chain, write_chain
from neolayer.chain.synthetic_blocks import Mined
from neolayer.errors import ChainError


def _keccak(data: bytes) -> bytes:
    return sha3.keccak_256(data).digest()


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text[2:])


def _hash(data: bytes) -> str:
    return "0x" + _keccak(data).hex()


@pytest.fixture(scope="module")
def chain() -> SyntheticChain:
    return make_chain(blocks=24, transactions_per_block=17, reorg_at=15, reorg_depth=4)


def _transactions(blocks: list[Mined]) -> list[dict[str, Any]]:
    return [entry for block, _ in blocks for entry in block["transactions"]]


def _pairs(blocks: list[Mined]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    receipts = [entry for _, found in blocks for entry in found]
    return list(zip(_transactions(blocks), receipts, strict=True))


def test_each_transaction_is_signed_by_its_sender_for_chain_1337(chain: SyntheticChain) -> None:
    """eth-account recovers `from` from the envelope that the rlp library encodes, for all types."""
    found = _transactions(chain.canonical)
    for entry in found:
        envelope = transaction_payload(entry)
        assert _hash(envelope) == entry["hash"]
        assert Account.recover_transaction(envelope).lower() == entry["from"]
        assert int(entry["chainId"], 16) == 1337
        if entry["type"] == "0x0":
            assert int(entry["v"], 16) in (35 + 2 * 1337, 36 + 2 * 1337)
    assert {entry["type"] for entry in found} == {"0x0", "0x1", "0x2", "0x4"}
    assert any(entry.get("accessList") for entry in found)


def test_an_authorization_is_signed_by_the_account_that_lends_its_address(
    chain: SyntheticChain,
) -> None:
    """Type 4: one authority signs keccak(0x05 || rlp(chain, code, nonce)) as EIP-7702 says."""
    authorities = set()
    for entry in _transactions(chain.canonical):
        for lent in entry.get("authorizationList", ()):
            message = rlp.encode([1337, _bytes(lent["address"]), int(lent["nonce"], 16)])
            vrs = [int(lent[name], 16) for name in ("yParity", "r", "s")]
            signer = Account._recover_hash(_keccak(b"\x05" + message), vrs=vrs)
            authorities.add(signer.lower())
    authority = Account.from_key(_keccak(b"neolayer synthetic account 1 40")).address
    assert authorities == {authority.lower()}
    assert not authorities & {entry["from"] for entry in _transactions(chain.canonical)}


@pytest.mark.parametrize("branch", ["first", "canonical"])
def test_roots_hashes_and_links_are_right(chain: SyntheticChain, branch: str) -> None:
    """Recomputed with the rlp library: both roots, the header's hash, parent links, numbers."""
    blocks = getattr(chain, branch)
    for (block, receipts), (parent, _) in zip(blocks[1:], blocks, strict=False):
        assert block["parentHash"] == parent["hash"]
        assert int(block["number"], 16) == int(parent["number"], 16) + 1
        assert int(block["timestamp"], 16) > int(parent["timestamp"], 16)
        payloads = [transaction_payload(entry) for entry in block["transactions"]]
        assert "0x" + trie_root(payloads).hex() == block["transactionsRoot"]
        outcomes = [_receipt_payload(entry) for entry in receipts]
        assert "0x" + trie_root(outcomes).hex() == block["receiptsRoot"]
        assert _hash(header_payload(block)) == block["hash"]
        assert int(block["size"], 16) == len(_whole(block, payloads))


def _receipt_payload(entry: dict[str, Any]) -> bytes:
    logs = [
        [_bytes(log["address"]), [_bytes(topic) for topic in log["topics"]], _bytes(log["data"])]
        for log in entry["logs"]
    ]
    numbers = [int(entry["status"], 16), int(entry["cumulativeGasUsed"], 16)]
    kind = int(entry["type"], 16)
    return bytes([kind] if kind else []) + rlp.encode([*numbers, _bytes(entry["logsBloom"]), logs])


def _whole(block: dict[str, Any], payloads: list[bytes]) -> bytes:
    bodies = [rlp.decode(one) if one[0] >= 0xC0 else one for one in payloads]
    return rlp.encode([rlp.decode(header_payload(block)), bodies, [], []])


def test_blooms_contain_every_logged_address_and_topic(chain: SyntheticChain) -> None:
    """And nothing else: a block's bloom is its receipts' together, a receipt's its logs'."""
    logged = 0
    for block, receipts in chain.canonical:
        together = 0
        for entry in receipts:
            expected = 0
            for log in entry["logs"]:
                for value in (log["address"], *log["topics"]):
                    digest = _keccak(_bytes(value))
                    for at in (0, 2, 4):
                        expected |= 1 << (int.from_bytes(digest[at : at + 2]) % 2048)
            assert int(entry["logsBloom"], 16) == expected
            together |= expected
            logged += len(entry["logs"])
        assert int(block["logsBloom"], 16) == together
    assert logged > 100


def test_contracts_appear_where_sender_and_nonce_put_them(chain: SyntheticChain) -> None:
    """keccak(rlp([sender, nonce]))[12:] for every creation, and nothing for other transactions."""
    created = 0
    for entry, receipt in _pairs(chain.canonical):
        if entry["to"] is None:
            place = rlp.encode([_bytes(entry["from"]), int(entry["nonce"], 16)])
            assert receipt["contractAddress"] == "0x" + _keccak(place)[12:].hex()
            created += 1
        else:
            assert receipt["contractAddress"] is None
    assert created > 5


def test_some_transactions_fail_and_then_log_nothing(chain: SyntheticChain) -> None:
    """A failed one pays for all its gas, as on a real chain."""
    pairs = _pairs(chain.canonical)
    failed = [(entry, receipt) for entry, receipt in pairs if receipt["status"] == "0x0"]
    assert 0 < len(failed) < len(pairs) / 10
    for entry, receipt in failed:
        assert receipt["logs"] == []
        assert receipt["gasUsed"] == entry["gas"]


@pytest.mark.parametrize("branch", ["first", "canonical"])
def test_each_sender_counts_its_nonces_without_gaps(chain: SyntheticChain, branch: str) -> None:
    """On both branches: no node would have mined them otherwise."""
    expected: dict[str, int] = {}
    for entry in _transactions(getattr(chain, branch)):
        assert int(entry["nonce"], 16) == expected.get(entry["from"], 0)
        expected[entry["from"]] = int(entry["nonce"], 16) + 1


def test_the_fork_outgrows_what_it_replaces(chain: SyntheticChain) -> None:
    """Block 15 is the first that differs; four blocks are lost; the end is block 24."""
    assert [int(block["number"], 16) for block, _ in chain.canonical] == list(range(1, 25))
    assert [int(block["number"], 16) for block, _ in chain.orphaned] == list(range(15, 19))
    assert chain.fork[0].block["parentHash"] == chain.orphaned[0].block["parentHash"]
    assert len(chain.fork) > len(chain.orphaned)
    assert not _hashes(chain.fork) & _hashes(chain.orphaned)


def _hashes(blocks: list[Mined]) -> set[str]:
    return {block["hash"] for block, _ in blocks}


def test_lost_transactions_meet_all_three_fates(chain: SyntheticChain) -> None:
    """Each is in the fork too, replaced there by one of the same sender and nonce, or nowhere."""
    lost = {entry["hash"]: entry for entry in _transactions(chain.orphaned)}
    kept = {entry["hash"]: entry for entry in _transactions(chain.canonical)}
    taken = {(entry["from"], entry["nonce"]) for entry in kept.values()}
    assert lost.keys() == {*chain.reincluded, *chain.replaced, *chain.dropped}
    assert kept.keys() >= {*chain.reincluded, *chain.replaced.values()}
    for old, new in chain.replaced.items():
        assert old not in kept
        assert [lost[old][name] for name in ("from", "nonce")] == [
            kept[new][name] for name in ("from", "nonce")
        ]
    assert not any((lost[one]["from"], lost[one]["nonce"]) in taken for one in chain.dropped)
    assert min(len(chain.reincluded), len(chain.replaced), len(chain.dropped)) > 0
    assert any(kept[one]["blockNumber"] != lost[one]["blockNumber"] for one in chain.reincluded)


def test_the_smallest_reorganisation_still_shows_all_three_fates() -> None:
    """One transaction a block and three blocks lost: one of each."""
    small = make_chain(blocks=6, transactions_per_block=1, reorg_at=3)
    assert (len(small.reincluded), len(small.replaced), len(small.dropped)) == (1, 1, 1)


def test_the_decoder_verifies_both_branches(chain: SyntheticChain) -> None:
    """What we make, we accept as we accept real blocks, receipts included."""
    logs = 0
    for block, receipts in (*chain.first, *chain.fork):
        rows = decode_block(
            msgspec.json.encode(block),
            network=SYNTHETIC,
            receipts=msgspec.json.encode(receipts),
            verify=True,
            origin="synthetic",
        )
        assert rows.block[-1] == "receipts"
        logs += len(rows.logs or ())
    assert logs > 100


def test_a_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    """Deterministic: keys, signatures, choices."""

    def made(seed: int) -> SyntheticChain:
        return make_chain(blocks=5, transactions_per_block=4, seed=seed, reorg_at=2, reorg_depth=2)

    assert made(7) == made(7)
    assert made(7).first[0].block["hash"] != made(8).first[0].block["hash"]
    assert not _senders(made(7)) & _senders(made(8))


def _senders(chain: SyntheticChain) -> set[str]:
    return {entry["from"] for entry in _transactions(chain.first)}


def test_blocks_without_transactions_are_right_too() -> None:
    """Empty roots, no logs, no gas."""
    for block, receipts in make_chain(blocks=3, transactions_per_block=0).first:
        assert receipts == []
        assert block["gasUsed"] == "0x0"
        assert block["transactionsRoot"] == "0x" + _keccak(b"\x80").hex()
        assert _hash(header_payload(block)) == block["hash"]


def test_files_hold_what_the_chain_holds(tmp_path: Path) -> None:
    """The first branch lies in the folder, the fork beside it: each folder is one chain."""
    small = make_chain(blocks=6, transactions_per_block=2, reorg_at=3)
    write_chain(tmp_path / "chain", small)
    for folder, blocks in (("chain", small.first), ("chain-fork", small.fork)):
        files = sorted((tmp_path / folder).iterdir())
        assert len(files) == 2 * len(blocks)
        read = [msgspec.json.decode(file.read_bytes()) for file in files]
        assert read[: len(blocks)] == [block for block, _ in blocks]
        assert read[len(blocks) :] == [receipts for _, receipts in blocks]


@pytest.mark.parametrize(("at", "depth"), [(0, 3), (3, 0), (4, 3), (30, 3)])
def test_a_fork_that_cannot_win_is_refused(at: int, depth: int) -> None:
    """The message names the numbers."""
    with pytest.raises(ChainError, match=rf"blocks {at} to 6 .* {depth} blocks"):
        make_chain(blocks=6, transactions_per_block=1, reorg_at=at, reorg_depth=depth)


def test_without_coincurve_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signing is in the extra `embedded`; the rest of the layer works without it."""
    importing = builtins.__import__

    def refuse(name: str, *rest: Any, **named: Any) -> Any:
        if name == "coincurve":
            raise ImportError(name)
        return importing(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ChainError) as caught:
        make_chain(blocks=1, transactions_per_block=1)
    assert "neolayer[embedded]" in (caught.value.hint or "")
