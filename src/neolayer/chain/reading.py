"""The verbs that read a chain. What they answer is right now: confirmations count from the head.

A network is named, not numbered, so that a caller can write what a person says:
`await transaction(connection, "ethereum", hash)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from psycopg.rows import class_row

from neolayer.engines.postgres.connections import Connection
from neolayer.engines.postgres.queries import load_queries

sql = load_queries(__name__, "reading.sql")


@dataclass(frozen=True, slots=True)
class Transaction:
    """A transaction as stored, with its confirmations as of now (0 while it is in no block)."""

    id: UUID
    network_id: UUID
    transaction_hash: str
    from_address: str
    to_address: str | None
    value: Decimal
    gas_price: Decimal | None
    gas_limit: int | None
    gas_used: int | None
    nonce: int | None
    input_data: str | None
    status: str
    block_number: int | None
    block_timestamp: datetime
    confirmation_count: int
    transaction_index: int | None
    transaction_type: int | None
    max_fee_per_gas: Decimal | None
    max_priority_fee_per_gas: Decimal | None
    max_fee_per_blob_gas: Decimal | None
    effective_gas_price: Decimal | None
    cumulative_gas_used: int | None
    contract_address: str | None
    signature_v: Decimal | None
    signature_r: str | None
    signature_s: str | None
    envelope: dict[str, Any] | None
    replaced_by: str | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Block:
    """A block's header as stored. `is_final` as of now; `confirmation_count` counts itself."""

    network_id: UUID
    block_number: int
    block_hash: str
    parent_hash: str
    block_timestamp: datetime
    miner: str | None
    transaction_count: int
    gas_limit: int | None
    gas_used: int | None
    base_fee_per_gas: Decimal | None
    size_bytes: int | None
    state_root: str | None
    transactions_root: str | None
    receipts_root: str | None
    verification: str
    is_final: bool
    confirmation_count: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """Which blocks of a network are stored. Ranges are (first, last), both included, ascending.

    `missing` lies between the lowest and the highest stored block.
    """

    network: str
    chain_id: int
    network_type: str
    head_number: int | None
    head_hash: str | None
    finalized_number: int | None
    covered: tuple[tuple[int, int], ...]
    missing: tuple[tuple[int, int], ...]


async def transaction(
    connection: Connection, network: str, transaction_hash: str
) -> Transaction | None:
    """The transaction of that hash, in whatever state it is, or None."""
    values = {"network": network, "transaction_hash": transaction_hash.lower()}
    async with connection.cursor(row_factory=class_row(Transaction)) as cursor:
        await cursor.execute(sql.transaction, values)
        return await cursor.fetchone()


async def block(connection: Connection, network: str, number: int) -> Block | None:
    """The block at that height, or None."""
    async with connection.cursor(row_factory=class_row(Block)) as cursor:
        await cursor.execute(sql.block, {"network": network, "number": number})
        return await cursor.fetchone()


async def network_coverage(connection: Connection) -> list[Coverage]:
    """Every network's coverage, by name; networks without a block have no head and no ranges."""
    cursor = await connection.execute(sql.coverage)
    return [
        Coverage(*fields, covered=_ranges(covered), missing=_ranges(missing))
        for *fields, covered, missing in await cursor.fetchall()
    ]


def _ranges(multirange: Any) -> tuple[tuple[int, int], ...]:
    return tuple((part.lower, part.upper - 1) for part in multirange or ())
