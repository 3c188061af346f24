"""A block of an EVM chain, from its JSON to rows.

Decoding is typed (msgspec), each value is read once, and with `verify` everything that commits to
the transactions is computed again: their hashes, transactionsRoot, receiptsRoot where receipts are
given, and the block's own hash. Senders are recovered from signatures only where asked for: that
costs more than all the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from neolayer.chain import senders as recovered
from neolayer.chain import verify as checks
from neolayer.chain.decoding import TooDeep
from neolayer.chain.evm_transactions import created_at, has_failed, transaction_rows
from neolayer.chain.hexadecimal import (
    address,
    canonical_data,
    hash32,
    height,
    optional_quantity,
    quantity,
    quantity64,
)
from neolayer.chain.model import BlockRows, Network, Row
from neolayer.chain.wire import Block, Receipt, block_decoder, receipts_decoder
from neolayer.errors import BadBlock, ForeignBlock

# From the epoch to where int64 nanoseconds end: what the database's checks allow.
_TIMES = range(0, 9_214_646_400)
Json = bytes | msgspec.Raw


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
        raise kind(str(exc), origin=origin, block=name_of(parsed)) from exc


def name_of(block: Block) -> int | str:
    """How errors call a block: its height, or its hash where that cannot be read."""
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
        transactions=transaction_rows(block, receipts, number, time, verified=verify),
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
        if item.to is None and not has_failed(receipt):
            at = created_at(item)
            created[at] = (at, address(item.sender), time, hash32(item.hash), number)
    return list(created.values())


def _optional_hash(text: str | None) -> str | None:
    return None if text is None else hash32(text)
