"""A block of an EVM chain, from its JSON to rows.

Decoding is typed (msgspec), each value is read once, and with `verify` everything that commits to
the transactions is computed again: their hashes, transactionsRoot, receiptsRoot where receipts are
given, and the block's own hash. Senders are recovered from signatures only where asked for: that
costs more than all the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import repeat
from typing import Any

import msgspec

from neolayer.chain import payloads
from neolayer.chain import senders as recovered
from neolayer.chain import verify as checks
from neolayer.chain.decoding import TooDeep
from neolayer.chain.hexadecimal import (
    address,
    canonical_data,
    encoded_word,
    hash32,
    height,
    optional_quantity,
    quantity,
    quantity64,
)
from neolayer.chain.model import BlockRows, Network, Row
from neolayer.chain.wire import Block, Receipt, Transaction, block_decoder, receipts_decoder
from neolayer.errors import BadBlock, ForeignBlock

# From the epoch to where int64 nanoseconds end: what the database's checks allow.
_TIMES = range(0, 9_214_646_400)
Json = bytes | msgspec.Raw
_CONFIRMED, _FAILED = "confirmed", "failed"


def decode_block(
    block: Json | Block,
    *,
    network: Network,
    receipts: Json | None,
    verify: bool,
    senders: bool = False,
    origin: str,
) -> BlockRows:
    """One block, as JSON or read by `wire.block_decoder`, and the JSON list of its receipts if any.

    Raises BadBlock naming `origin` and the block where anything is malformed, belongs to another
    network (ForeignBlock) or, with `verify`, does not match its hashes; then there are no rows at
    all. `senders` verifies too, and refuses a `from` that is not who signed; without coincurve it
    raises ChainError.
    """
    parsed = block if isinstance(block, Block) else read_block(block, origin)
    try:
        answers = None if receipts is None else _read_receipts(receipts)
        return _rows(
            parsed,
            answers,
            network=network,
            verify=verify or senders,
            senders=senders,
            origin=origin,
        )
    except ValueError as exc:
        kind = ForeignBlock if isinstance(exc, checks.SignedForAnother) else BadBlock
        raise kind(str(exc), origin=origin, block=_name(parsed)) from exc


def _name(block: Block) -> int | str:
    try:
        return quantity(block.number)
    except ValueError:
        return block.hash[:66]


def read_block(block: Json, origin: str) -> Block:
    """The fields of a JSON block as they stand, not yet looked at. Raises BadBlock."""
    try:
        return block_decoder.decode(block)
    except msgspec.ValidationError as exc:
        reason = str(exc)
        if "$.transactions[" in reason and "got `str`" in reason:
            reason = "has transaction hashes only; ask for full transactions"
        raise BadBlock(f"not a block with its transactions: {reason}", origin=origin) from exc
    except TooDeep as exc:
        raise BadBlock(str(exc), origin=origin) from exc
    except msgspec.DecodeError as exc:
        raise BadBlock(f"not JSON: {exc}", origin=origin) from exc


def _read_receipts(receipts: Json) -> list[Receipt]:
    try:
        return receipts_decoder.decode(receipts)
    except msgspec.DecodeError as exc:
        raise ValueError(f"not a list of receipts: {exc}") from exc


def _rows(
    block: Block,
    receipts: list[Receipt] | None,
    *,
    network: Network,
    verify: bool,
    senders: bool,
    origin: str,
) -> BlockRows:
    number, seconds = height(block.number), quantity64(block.timestamp)
    if seconds not in _TIMES:
        raise ValueError(f"timestamp {seconds} is beyond the year 2261")
    checks.belongs(block, network)
    if receipts is not None:
        checks.receipts_fit(block, receipts)
    if verify:
        envelopes = checks.roots(block, receipts, network)
        if senders:
            recovered.check(block, envelopes, network)
    time = datetime.fromtimestamp(seconds, UTC)
    level = "none" if not verify else "transactions" if receipts is None else "receipts"
    return BlockRows(
        number=number,
        block_hash=hash32(block.hash),
        parent_hash=hash32(block.parentHash),
        timestamp=seconds,
        block=_block_row(block, number, time, level),
        transactions=_transaction_rows(block, receipts, number, time, verified=verify),
        logs=None
        if receipts is None
        else _log_rows(block, receipts, number, time, verified=verify),
        contracts=[] if receipts is None else _contract_rows(block, receipts, number, time),
        origin=origin,
    )


def _block_row(block: Block, number: int, time: datetime, level: str) -> Row:
    return (
        number,
        hash32(block.hash),
        hash32(block.parentHash),
        time,
        address(block.miner),
        len(block.transactions),
        quantity64(block.gasLimit),
        quantity64(block.gasUsed),
        optional_quantity(block.baseFeePerGas),
        optional_quantity(block.difficulty),
        None if block.size is None else quantity64(block.size),
        _optional_hash(block.stateRoot),
        hash32(block.transactionsRoot),
        _optional_hash(block.receiptsRoot),
        None if block.extraData is None else canonical_data(block.extraData),
        _header(block),
        level,
    )


def _header(block: Block) -> dict[str, str]:
    """The header fields without a column of their own, so that the hash can be recomputed."""
    fields = {
        "nonce": block.nonce,
        "mixHash": block.mixHash,
        "sha3Uncles": block.sha3Uncles,
        "logsBloom": block.logsBloom,
        "withdrawalsRoot": block.withdrawalsRoot,
        "parentBeaconBlockRoot": block.parentBeaconBlockRoot,
        "requestsHash": block.requestsHash,
    }
    numbers = {"blobGasUsed": block.blobGasUsed, "excessBlobGas": block.excessBlobGas}
    return {
        **{name: canonical_data(text) for name, text in fields.items() if text is not None},
        **{name: hex(quantity(text)) for name, text in numbers.items() if text is not None},
    }


def _transaction_rows(
    block: Block,
    receipts: Sequence[Receipt] | None,
    number: int,
    time: datetime,
    *,
    verified: bool,
) -> list[Row]:
    # What hashed to the right value was read as hex already: only its case is open.
    to_hash, to_data = (str.lower, str.lower) if verified else (hash32, canonical_data)
    to_word = _read_word if verified else _word
    outcomes = repeat(_UNKNOWN) if receipts is None else map(_outcome, receipts)
    rows: list[Row] = []
    for index, (item, outcome) in enumerate(zip(block.transactions, outcomes, strict=False)):
        status, gas_used, effective_price, cumulative, contract = outcome
        try:
            row = (
                to_hash(item.hash),
                address(item.sender),
                None if item.to is None else address(item.to),
                quantity(item.value),
                optional_quantity(item.gasPrice),
                quantity64(item.gas),
                gas_used,
                quantity64(item.nonce),
                to_data(item.input),
                status,
                number,
                time,
                index,
                _kind(item.kind),
                optional_quantity(item.maxFeePerGas),
                optional_quantity(item.maxPriorityFeePerGas),
                optional_quantity(item.maxFeePerBlobGas),
                effective_price,
                cumulative,
                contract,
                optional_quantity(_signed_v(item)),
                to_word(item.r),
                to_word(item.s),
                _envelope(item, verified=verified),
            )
        except ValueError as exc:
            raise ValueError(f"transaction {index}: {exc}") from None
        rows.append(row)
    return rows


# What a receipt adds to a transaction: status, gas_used, effective_gas_price, cumulative_gas_used,
# contract_address.
_Outcome = tuple[str, int | None, int | None, int | None, str | None]
_UNKNOWN: _Outcome = (_CONFIRMED, None, None, None, None)


def _outcome(item: Receipt) -> _Outcome:
    return (
        _FAILED if item.status is not None and quantity(item.status) == 0 else _CONFIRMED,
        quantity64(item.gasUsed),
        optional_quantity(item.effectiveGasPrice),
        quantity64(item.cumulativeGasUsed),
        None if item.contractAddress is None else address(item.contractAddress),
    )


@lru_cache(128)
def _kind(text: str) -> int:
    kind = quantity(text)
    if kind > 0x7F:
        raise ValueError(f"type {text} is above 0x7f")
    return kind


def _signed_v(item: Transaction) -> str | None:
    """What stands in the signature, as `payloads.py` takes it: v, or a typed one's parity."""
    return item.v if item.yParity is None or item.kind == "0x0" else item.yParity


def _word(text: str | None) -> str | None:
    """Half a signature, as the node wrote it; absent in what is taken on trust."""
    if text is None:
        return None
    encoded_word(text)
    return text.lower()


def _read_word(text: str | None) -> str | None:
    return text and text.lower()


def _envelope(item: Transaction, *, verified: bool) -> dict[str, Any] | None:
    """What a typed transaction signs beyond the columns; None where there is nothing.

    The chain id is the network's, the parity of the signature is signature_v.
    """
    if not (item.accessList or item.blobVersionedHashes or item.authorizationList):
        return None
    if not verified:  # encoding is what reads the hex
        payloads.access_list(item.accessList)
        payloads.blob_hashes(item.blobVersionedHashes)
        payloads.authorizations(item.authorizationList)
    fields = {
        "accessList": item.accessList,
        "blobVersionedHashes": item.blobVersionedHashes,
        "authorizationList": item.authorizationList,
    }
    return {name: msgspec.to_builtins(value) for name, value in fields.items() if value}


def _log_rows(
    block: Block, receipts: Sequence[Receipt], number: int, time: datetime, *, verified: bool
) -> list[Row]:
    to_hash, to_data = (str.lower, str.lower) if verified else (hash32, canonical_data)
    rows: list[Row] = []
    for index, (item, receipt) in enumerate(zip(block.transactions, receipts, strict=True)):
        named = item.hash.lower()
        for log in receipt.logs:
            topics = tuple(map(to_hash, log.topics))
            if len(topics) > 4:
                raise ValueError(f"transaction {index}: a log has {len(topics)} topics")
            place = (number, len(rows), time, named, index, address(log.address))
            rows.append((*place, *topics, *_NO_TOPICS[len(topics) :], to_data(log.data)))
    return rows


_NO_TOPICS = (None, None, None, None)


def _contract_rows(
    block: Block, receipts: Sequence[Receipt], number: int, time: datetime
) -> list[Row]:
    """Contracts that a transaction created by itself and that stand."""
    created: dict[str, Row] = {}
    for item, receipt in zip(block.transactions, receipts, strict=True):
        if receipt.contractAddress is None or _outcome(receipt)[0] == _FAILED:
            continue
        at = address(receipt.contractAddress)
        created[at] = (at, address(item.sender), time, hash32(item.hash), number)
    return list(created.values())


def _optional_hash(text: str | None) -> str | None:
    return None if text is None else hash32(text)
