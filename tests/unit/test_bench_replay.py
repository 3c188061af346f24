"""The synthetic chain that the benches ingest is a right one."""

from __future__ import annotations

from bench.replay import (
    BLOCKS_PER_COPY,
    header_payload,
    replayed_blocks,
    transaction_payload,
    trie_root,
)
from tests.fixtures.shared_data import shared_data


def _hash(payload: bytes) -> str:
    import sha3

    return "0x" + sha3.keccak_256(payload).hexdigest()


def test_every_hash_and_root_of_the_replayed_chain_holds() -> None:
    """The first copy is the real chain and proves the encoder; the second is linked to it."""
    shared_data("data", "chain", "mainnet-contiguous")
    hashes: set[str] = set()
    parent = None
    blocks = [*replayed_blocks(2)]
    for block in blocks:
        payloads = [transaction_payload(entry) for entry in block["transactions"]]
        assert [_hash(p) for p in payloads] == [entry["hash"] for entry in block["transactions"]]
        assert "0x" + trie_root(payloads).hex() == block["transactionsRoot"]
        assert _hash(header_payload(block)) == block["hash"]
        assert parent in (None, block["parentHash"])
        hashes.update(entry["hash"] for entry in block["transactions"])
        parent = block["hash"]
    assert len(blocks) == 2 * BLOCKS_PER_COPY
    assert len(hashes) == 2 * 997
