"""The floor: what a competent engineer writes by hand for exactly this table, and no more.

msgspec decodes typed structs; binary COPY fills a staging table; one INSERT ... ON CONFLICT moves
it into the same tables, under the same indexes, checks and triggers as ours, so many blocks a
commit. The session's settings are ours too. One thread, one connection, nothing verified, no
reorganisation, no cursor, no resuming.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from bench.contenders.protocol import Job, serve
from neolayer.engines.postgres.queries import load_queries

sql = load_queries("bench.contenders", "floor.sql")

_BLOCK_TYPES = (
    *("int8", "text", "text", "timestamptz", "text", "int4", "int8", "int8", "numeric"),
    *("numeric", "int8", "text", "text", "text", "text", "text"),
)
_TRANSACTION_TYPES = (
    *("text", "text", "text", "numeric", "numeric", "int8", "int8", "text", "int8"),
    *("timestamptz", "int4", "int2", "numeric", "numeric", "numeric", "numeric", "text", "text"),
    "text",
)


class Transaction(msgspec.Struct, rename="camel", gc=False):
    hash: str
    from_address: str = msgspec.field(name="from")
    transaction_index: str
    input: str
    nonce: str
    value: str
    gas: str
    v: str
    r: str
    s: str
    to: str | None = None
    gas_price: str | None = None
    type: str = "0x0"
    max_fee_per_gas: str | None = None
    max_priority_fee_per_gas: str | None = None
    max_fee_per_blob_gas: str | None = None
    chain_id: str | None = None
    access_list: msgspec.Raw = msgspec.Raw(b"null")
    authorization_list: msgspec.Raw = msgspec.Raw(b"null")
    blob_versioned_hashes: msgspec.Raw = msgspec.Raw(b"null")


class Header(msgspec.Struct, rename="camel", gc=False, omit_defaults=True):
    """What has no column of its own."""

    sha3_uncles: str = msgspec.field(name="sha3Uncles")
    logs_bloom: str
    mix_hash: str
    nonce: str
    withdrawals_root: str | None = None
    blob_gas_used: str | None = None
    excess_blob_gas: str | None = None
    parent_beacon_block_root: str | None = None
    requests_hash: str | None = None


class Block(Header, rename="camel", gc=False, kw_only=True):
    number: str
    hash: str
    parent_hash: str
    timestamp: str
    miner: str
    gas_limit: str
    gas_used: str
    difficulty: str
    size: str
    state_root: str
    transactions_root: str
    receipts_root: str
    extra_data: str
    base_fee_per_gas: str | None = None
    transactions: list[Transaction]


_decode = msgspec.json.Decoder(Block).decode
_encode = msgspec.json.encode


def _number(text: str | None) -> int | None:
    return None if text is None else int(text, 16)


def decode(raw: bytes) -> tuple[tuple[Any, ...], list[tuple[Any, ...]]]:
    """A block's row and its transactions' rows."""
    block = _decode(raw)
    number = int(block.number, 16)
    instant = datetime.fromtimestamp(int(block.timestamp, 16), UTC)
    return _block_row(block, number, instant), [
        _transaction_row(entry, number, instant) for entry in block.transactions
    ]


def _block_row(block: Block, number: int, instant: datetime) -> tuple[Any, ...]:
    header = {name: getattr(block, name) for name in Header.__struct_fields__}
    return (
        *(number, block.hash, block.parent_hash, instant, block.miner, len(block.transactions)),
        *(_number(block.gas_limit), _number(block.gas_used), _number(block.base_fee_per_gas)),
        *(_number(block.difficulty), _number(block.size), block.state_root),
        *(block.transactions_root, block.receipts_root, block.extra_data),
        _encode(header).decode(),
    )


def _transaction_row(entry: Transaction, number: int, instant: datetime) -> tuple[Any, ...]:
    return (
        entry.hash,
        entry.from_address,
        entry.to,
        int(entry.value, 16),
        _number(entry.gas_price),
        int(entry.gas, 16),
        int(entry.nonce, 16),
        entry.input,
        number,
        instant,
        int(entry.transaction_index, 16),
        int(entry.type, 16),
        _number(entry.max_fee_per_gas),
        _number(entry.max_priority_fee_per_gas),
        _number(entry.max_fee_per_blob_gas),
        int(entry.v, 16),
        entry.r,
        entry.s,
        _envelope(entry),
    )


def _envelope(entry: Transaction) -> str:
    return (
        b'{"chainId":%s,"accessList":%s,"authorizationList":%s,"blobVersionedHashes":%s}'
        % (
            _encode(entry.chain_id),
            entry.access_list,
            entry.authorization_list,
            entry.blob_versioned_hashes,
        )
    ).decode()


def _copy(
    cursor: psycopg.Cursor[Any], query: str, types: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    with cursor.copy(query) as copy:
        copy.set_types(types)
        for row in rows:
            copy.write_row(row)


def _commit(connection: psycopg.Connection[Any], paths: Sequence[str], network_id: str) -> int:
    decoded = [decode(Path(path).read_bytes()) for path in paths]
    transactions = [row for _, rows in decoded for row in rows]
    with connection.transaction(), connection.cursor() as cursor:
        _copy(cursor, sql.copy_blocks, _BLOCK_TYPES, (block for block, _ in decoded))
        _copy(cursor, sql.copy_transactions, _TRANSACTION_TYPES, transactions)
        cursor.execute(sql.insert_blocks, {"network_id": network_id})
        cursor.execute(sql.insert_transactions, {"network_id": network_id})
        cursor.execute(sql.empty_staging)
    return len(transactions)


def run(job: Job) -> int:
    paths = job["paths"]
    if job.get("work") == "decode":
        return sum(len(decode(Path(path).read_bytes())[1]) for path in paths)
    size = job["blocks_per_commit"]
    with psycopg.connect(job["dsn"], autocommit=True) as connection:
        for query in (sql.tune, sql.staging_blocks, sql.staging_transactions):
            connection.execute(query)
        return sum(
            _commit(connection, paths[start : start + size], job["network_id"])
            for start in range(0, len(paths), size)
        )


if __name__ == "__main__":
    serve(run)
