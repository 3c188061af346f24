"""The bytes that EVM chains hash: a transaction, a receipt, a header.

Pure encoding from the wire types; `verify.py` compares. Sources: Yellow Paper 4.3 and 4.4,
EIP-155, 2718, 2930, 1559, 4844, 7702 (transactions), 658 and 2718 (receipts), 1559, 4895, 4844,
4788, 7685 (headers).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from neolayer.chain import rlp
from neolayer.chain.hexadecimal import (
    data,
    encoded_address,
    encoded_hash,
    encoded_quantity,
    encoded_word,
    fixed,
    quantity,
)
from neolayer.chain.trie import keccak
from neolayer.chain.wire import AccessTuple, Authorization, Block, Log, Receipt, Transaction

_ZERO_BLOOM = bytes(256)
# A legacy signature names its chain since EIP-155: v = 35 + 2 * chain id + parity.
EIP155 = 35


def transaction(item: Transaction) -> bytes:
    """The EIP-2718 envelope of a transaction: its keccak is its hash, the trie holds it.

    Raises ValueError where a field is absent or malformed, or the type is not known.
    """
    encode = _ENCODERS.get(item.kind) or _ENCODERS.get(hex(quantity(item.kind)))
    if encode is None:
        raise ValueError(f"type {item.kind} is not known, so its hash cannot be recomputed")
    return encode(item)


# One function a type, written out: this is where a verified ingest spends its time.


def _legacy(item: Transaction) -> bytes:
    return rlp.sequence(
        (
            encoded_quantity(item.nonce),
            encoded_quantity(item.gasPrice),
            *_call(item),
            encoded_quantity(item.v),
            encoded_word(item.r),
            encoded_word(item.s),
        )
    )


def _access_listed(item: Transaction) -> bytes:
    return b"\x01" + rlp.sequence(
        (
            encoded_quantity(item.chainId),
            encoded_quantity(item.nonce),
            encoded_quantity(item.gasPrice),
            *_call(item),
            access_list(item.accessList),
            *_signature(item),
        )
    )


def _dynamic_fee(item: Transaction) -> bytes:
    # Nine in ten transactions are of this type, so nothing is shared with the others here.
    return b"\x02" + rlp.sequence(
        (
            encoded_quantity(item.chainId),
            encoded_quantity(item.nonce),
            encoded_quantity(item.maxPriorityFeePerGas),
            encoded_quantity(item.maxFeePerGas),
            encoded_quantity(item.gas),
            rlp.EMPTY if item.to is None else encoded_address(item.to),
            encoded_quantity(item.value),
            rlp.string(data(item.input)),
            access_list(item.accessList) if item.accessList else rlp.EMPTY_LIST,
            encoded_quantity(item.v if item.yParity is None else item.yParity),
            encoded_word(item.r),
            encoded_word(item.s),
        )
    )


def _blobs(item: Transaction) -> bytes:
    return b"\x03" + rlp.sequence(
        (
            *_fees(item),
            *_call(item),
            access_list(item.accessList),
            encoded_quantity(item.maxFeePerBlobGas),
            blob_hashes(item.blobVersionedHashes),
            *_signature(item),
        )
    )


def _set_code(item: Transaction) -> bytes:
    return b"\x04" + rlp.sequence(
        (
            *_fees(item),
            *_call(item),
            access_list(item.accessList),
            authorizations(item.authorizationList),
            *_signature(item),
        )
    )


_ENCODERS = {
    "0x0": _legacy,
    "0x1": _access_listed,
    "0x2": _dynamic_fee,
    "0x3": _blobs,
    "0x4": _set_code,
}


def _fees(item: Transaction) -> tuple[bytes, bytes, bytes, bytes]:
    return (
        encoded_quantity(item.chainId),
        encoded_quantity(item.nonce),
        encoded_quantity(item.maxPriorityFeePerGas),
        encoded_quantity(item.maxFeePerGas),
    )


def _call(item: Transaction) -> tuple[bytes, bytes, bytes, bytes]:
    return (
        encoded_quantity(item.gas),
        rlp.EMPTY if item.to is None else encoded_address(item.to),
        encoded_quantity(item.value),
        rlp.string(data(item.input)),
    )


def _signature(item: Transaction) -> tuple[bytes, bytes, bytes]:
    parity = item.v if item.yParity is None else item.yParity
    return encoded_quantity(parity), encoded_word(item.r), encoded_word(item.s)


def is_typed(envelope: bytes) -> bool:
    """Whether an envelope begins with a type: a legacy one begins as a list."""
    return envelope[0] < 0x80


def signed_part(item: Transaction, envelope: bytes) -> bytes:
    """What the sender of a transaction signed: its envelope without the signature.

    In the place of a legacy signature that names its chain stand the chain id and two zeros.
    """
    typed = is_typed(envelope)
    v = item.v if item.yParity is None or not typed else item.yParity
    tail = encoded_quantity(v), encoded_word(item.r), encoded_word(item.s)
    size = envelope[typed] - 0xF7  # of the length that stands before a list above 55 bytes
    body = envelope[typed + 1 + max(size, 0) : -sum(map(len, tail))]
    if typed:
        return envelope[:1] + rlp.sequence((body,))
    named = quantity(v or "")
    if named < EIP155:
        return rlp.sequence((body,))
    return rlp.sequence((body, rlp.quantity((named - EIP155) // 2), rlp.EMPTY, rlp.EMPTY))


def access_list(entries: Sequence[AccessTuple] | None) -> bytes:
    """The RLP of an EIP-2930 access list."""
    if not entries:
        return rlp.EMPTY_LIST
    return rlp.sequence(
        rlp.sequence(
            (
                encoded_address(entry.address),
                rlp.sequence([encoded_hash(key) for key in entry.storageKeys]),
            )
        )
        for entry in entries
    )


def blob_hashes(entries: Sequence[str] | None) -> bytes:
    """The RLP of the hashes of an EIP-4844 transaction's blobs."""
    return rlp.sequence(map(encoded_hash, entries or ()))


def authorizations(entries: Sequence[Authorization] | None) -> bytes:
    """The RLP of an EIP-7702 authorization list."""
    return rlp.sequence(
        rlp.sequence(
            (
                encoded_quantity(entry.chainId),
                encoded_address(entry.address),
                encoded_quantity(entry.nonce),
                encoded_quantity(entry.v if entry.y_parity is None else entry.y_parity),
                encoded_word(entry.r),
                encoded_word(entry.s),
            )
        )
        for entry in entries or ()
    )


def receipt(item: Receipt) -> bytes:
    """The EIP-2718 envelope of a receipt, as the receipts trie holds it.

    Before Byzantium a receipt carries a state root in place of a status. A bloom that the node left
    out is computed from the logs; the root proves it either way.
    """
    outcome = (
        rlp.string(fixed(item.root, 32))
        if item.status is None and item.root is not None
        else encoded_quantity(item.status)
    )
    bloom = logs_bloom(item.logs) if item.logsBloom is None else fixed(item.logsBloom, 256)
    logs = rlp.sequence([_log(entry) for entry in item.logs])
    body = (outcome, encoded_quantity(item.cumulativeGasUsed), rlp.string(bloom), logs)
    kind = quantity(item.kind)
    return rlp.sequence(body) if kind == 0 else bytes((kind,)) + rlp.sequence(body)


def _log(entry: Log) -> bytes:
    topics = rlp.sequence(map(encoded_hash, entry.topics))
    return rlp.sequence((encoded_address(entry.address), topics, rlp.string(data(entry.data))))


def logs_bloom(logs: Sequence[Log]) -> bytes:
    """The 2,048-bit Bloom filter over the addresses and topics of logs (Yellow Paper 4.3.1)."""
    bits = 0
    for entry in logs:
        for value in (fixed(entry.address, 20), *(fixed(topic, 32) for topic in entry.topics)):
            digest = keccak(value)
            for at in (0, 2, 4):
                bits |= 1 << (int.from_bytes(digest[at : at + 2]) & 2047)
    return bits.to_bytes(256) if bits else _ZERO_BLOOM


def contract_address(sender: str, nonce: int) -> str:
    """Where a creation by `sender` at `nonce` puts its contract, lower-case."""
    digest = keccak(rlp.sequence((encoded_address(sender), rlp.quantity(nonce))))
    return "0x" + digest[12:].hex()


def header(block: Block) -> bytes:
    """The encoded header, whose keccak is the block's hash.

    Fields that a fork added stand in the order of the forks and end where the block's fork ends; a
    gap among them would let one field stand for another.
    """
    hashes = (block.parentHash, block.sha3Uncles, block.miner, block.stateRoot)
    roots = (block.transactionsRoot, block.receiptsRoot, block.logsBloom)
    numbers = (block.difficulty, block.number, block.gasLimit, block.gasUsed, block.timestamp)
    seal = (block.extraData, block.mixHash, block.nonce)
    later = (
        _optional_quantity(block.baseFeePerGas),
        _optional_data(block.withdrawalsRoot),
        _optional_quantity(block.blobGasUsed),
        _optional_quantity(block.excessBlobGas),
        _optional_data(block.parentBeaconBlockRoot),
        _optional_data(block.requestsHash),
    )
    return rlp.sequence(
        (
            *(_required(text) for text in (*hashes, *roots)),
            *(encoded_quantity(text) for text in numbers),
            *(_required(text) for text in seal),
            *_without_gaps(later),
        )
    )


def _without_gaps(fields: Sequence[bytes | None]) -> Iterator[bytes]:
    absent = False
    for field in fields:
        absent = absent or field is None
        if field is not None:
            if absent:
                raise ValueError("a header field is there, but not one that came before it")
            yield field


def _required(text: str | None) -> bytes:
    if text is None:
        raise ValueError("a header field is absent, so the block's hash cannot be recomputed")
    return rlp.string(data(text))


def _optional_quantity(text: str | None) -> bytes | None:
    return None if text is None else encoded_quantity(text)


def _optional_data(text: str | None) -> bytes | None:
    return None if text is None else rlp.string(data(text))
