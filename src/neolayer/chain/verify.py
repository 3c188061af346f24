"""Is this block what it claims to be? Every check raises ValueError with the reason.

What is compared, in this order: the place and the chain id that each transaction names, the
receipts' fit, each transaction's hash, transactionsRoot, receiptsRoot, the block's own hash. The
block's hash covers the two roots and the roots cover the bodies, so nothing that the chain agreed
on can be changed unseen. What the columns of a verified block rest on:

- The block's hash: every column of a block but `size_bytes`, and `transaction_count`, which is
  counted. Where a network seals headers in a form of its own (`standard_header`) the header is the
  block's word, and the transactions and receipts are those that its roots name.
- A transaction's hash: what its type signs, signature and envelope included; nothing else that is
  said of it is stored. Its place and time are the block's.
- receiptsRoot: status, `cumulative_gas_used` and the logs, whose places are counted; `gas_used` is
  a difference. Without receipts a transaction is `confirmed`.
- A node's word: the sender (it follows from the signature, at more than the cost of all the rest:
  `senders.py`; that of a creation is bound by the address that its receipt names, which it must
  where it says that it did not fail),
  and with it `contract_address`, which is computed from it; the `gas_price` of a type with a fee
  cap, `effective_gas_price` and `size_bytes`.
"""

from __future__ import annotations

from collections.abc import Sequence

from neolayer.chain import payloads
from neolayer.chain.hexadecimal import quantity, quantity64
from neolayer.chain.model import Network
from neolayer.chain.trie import keccak, ordered_root
from neolayer.chain.wire import Block, Receipt, Transaction


class SignedForAnother(ValueError):
    """A transaction is signed for another network."""


def belongs(block: Block, network: Network) -> None:
    """Refuse transactions that name another block or place, or that sign for another network."""
    for index, item in enumerate(block.transactions):
        if not _is_of(item, block, index):
            raise ValueError(f"transaction {index} says that it belongs to another block or place")
        chain_id = _signed_chain_id(item)
        if chain_id is not None and chain_id != network.chain_id:
            raise SignedForAnother(
                f"transaction {index} is signed for chain {chain_id},"
                f" but network {network.name} is chain {network.chain_id}"
            )


def _is_of(item: Transaction, block: Block, index: int) -> bool:
    at, number, place = item.blockHash, item.blockNumber, item.transactionIndex
    return (
        (at is None or at == block.hash or at.lower() == block.hash.lower())
        and (number is None or number == block.number)
        and (place is None or quantity(place) == index)
    )


def _signed_chain_id(item: Transaction) -> int | None:
    if item.kind != "0x0" and quantity(item.kind) != 0:
        return None if item.chainId is None else quantity(item.chainId)
    v = 0 if item.v is None else quantity(item.v)
    return (v - payloads.EIP155) // 2 if v >= payloads.EIP155 else None


def receipts_fit(block: Block, receipts: Sequence[Receipt]) -> None:
    """One receipt a transaction, in its order, with gas that adds up to the block's."""
    if len(receipts) != len(block.transactions):
        raise ValueError(f"{len(block.transactions)} transactions but {len(receipts)} receipts")
    before = 0
    for index, (item, receipt) in enumerate(zip(block.transactions, receipts, strict=True)):
        if receipt.transactionHash.lower() != item.hash.lower():
            raise ValueError(f"receipt {index} is of another transaction")
        total = quantity64(receipt.cumulativeGasUsed)
        if total - before != quantity64(receipt.gasUsed):
            raise ValueError(f"receipt {index}: gasUsed does not fit cumulativeGasUsed")
        _parties_fit(index, item, receipt)
        _contract_fits(index, item, receipt)
        before = total
    if before != quantity64(block.gasUsed):
        raise ValueError(f"receipts used {before} gas, the block {quantity64(block.gasUsed)}")


def _parties_fit(index: int, item: Transaction, receipt: Receipt) -> None:
    """What a receipt says of sender and receiver; a node may leave either out."""
    pairs = (("from", receipt.sender, item.sender), ("to", receipt.to, item.to))
    for name, said, expected in pairs:
        if said is None or said == expected:
            continue
        if expected is None or said.lower() != expected.lower():
            raise ValueError(f"receipt {index}: {name} is not the transaction's")


def _contract_fits(index: int, item: Transaction, receipt: Receipt) -> None:
    if receipt.contractAddress is None:
        # Left out, it would leave the sender of a creation without any proof.
        if item.to is None and receipt.status is not None and quantity(receipt.status) == 1:
            raise ValueError(f"receipt {index}: a creation without its contractAddress")
        return
    expected = payloads.contract_address(item.sender, quantity64(item.nonce))
    if item.to is not None or receipt.contractAddress.lower() != expected:
        raise ValueError(f"receipt {index}: contractAddress is not what sender and nonce give")


def roots(block: Block, receipts: Sequence[Receipt] | None, network: Network) -> Sequence[bytes]:
    """Recompute and compare all hashes of a block; the envelopes of its transactions."""
    encoded: list[bytes] = []
    for index, item in enumerate(block.transactions):
        encoded.append(_checked_transaction(index, item))
    _same_root("transactionsRoot", block.transactionsRoot, ordered_root(encoded))
    if receipts is not None:
        outcomes = [payloads.receipt(item) for item in receipts]
        _same_root("receiptsRoot", block.receiptsRoot, ordered_root(outcomes))
    if network.standard_header and not _same(block.hash, keccak(payloads.header(block))):
        raise ValueError("the header does not hash to the block's hash")
    return encoded


def _checked_transaction(index: int, item: Transaction) -> bytes:
    if item.r is None or item.s is None:
        raise ValueError(
            f"transaction {index} has no signature, so nothing can be verified;"
            " to take it in on trust say --no-verify"
        )
    try:
        encoded = payloads.transaction(item)
    except ValueError as exc:
        raise ValueError(f"transaction {index}: {exc}") from None
    if not _same(item.hash, keccak(encoded)):
        raise ValueError(f"transaction {index} does not hash to {item.hash[:66]}")
    return encoded


def _same_root(name: str, given: str | None, computed: bytes) -> None:
    if given is None or not _same(given, computed):
        raise ValueError(f"{name} is {given and given[:66]}, the content gives 0x{computed.hex()}")


def _same(given: str, computed: bytes) -> bool:
    text = "0x" + computed.hex()
    return given == text or given.lower() == text
