"""What the chain room passes around: networks, and blocks as rows.

A block arrives here decoded and, unless asked otherwise, checked; what is left is rows in the order
of the columns below, ready for binary COPY. The store adds the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID

Columns = tuple[tuple[LiteralString, LiteralString], ...]
Row = tuple[Any, ...]

BLOCK_COLUMNS: Columns = (
    ("block_number", "int8"),
    ("block_hash", "varchar"),
    ("parent_hash", "varchar"),
    ("block_timestamp", "timestamptz"),
    ("miner", "varchar"),
    ("transaction_count", "int4"),
    ("gas_limit", "int8"),
    ("gas_used", "int8"),
    ("base_fee_per_gas", "numeric"),
    ("difficulty", "numeric"),
    ("size_bytes", "int8"),
    ("state_root", "varchar"),
    ("transactions_root", "varchar"),
    ("receipts_root", "varchar"),
    ("extra_data", "text"),
    ("header", "jsonb"),
    ("verification", "varchar"),
)
TRANSACTION_COLUMNS: Columns = (
    ("transaction_hash", "varchar"),
    ("from_address", "varchar"),
    ("to_address", "varchar"),
    ("value", "numeric"),
    ("gas_price", "numeric"),
    ("gas_limit", "int8"),
    ("gas_used", "int8"),
    ("nonce", "int8"),
    ("input_data", "text"),
    ("status", "varchar"),
    ("block_number", "int8"),
    ("block_timestamp", "timestamptz"),
    ("transaction_index", "int4"),
    ("transaction_type", "int2"),
    ("max_fee_per_gas", "numeric"),
    ("max_priority_fee_per_gas", "numeric"),
    ("max_fee_per_blob_gas", "numeric"),
    ("effective_gas_price", "numeric"),
    ("cumulative_gas_used", "int8"),
    ("contract_address", "varchar"),
    ("signature_v", "numeric"),
    ("signature_r", "varchar"),
    ("signature_s", "varchar"),
    ("envelope", "jsonb"),
)
LOG_COLUMNS: Columns = (
    ("block_number", "int8"),
    ("log_index", "int4"),
    ("block_timestamp", "timestamptz"),
    ("transaction_hash", "varchar"),
    ("transaction_index", "int4"),
    ("address", "varchar"),
    ("topic0", "varchar"),
    ("topic1", "varchar"),
    ("topic2", "varchar"),
    ("topic3", "varchar"),
    ("data", "text"),
)
CONTRACT_COLUMNS: Columns = (
    ("address", "varchar"),
    ("deployed_by", "varchar"),
    ("deployed_at", "timestamptz"),
    ("deployment_transaction_hash", "varchar"),
    ("deployed_block_number", "int8"),
)


@dataclass(frozen=True, slots=True)
class Network:
    """A chain. `kind` is `evm` or `neo-n3`; `chain_id` is N3's network magic there.

    `finality_depth`: a block this far below the head is final where the node does not say.
    `standard_header`: the block's hash is the keccak of Ethereum's header fields.
    """

    name: str
    chain_id: int
    kind: str = "evm"
    is_testnet: bool = False
    finality_depth: int = 64
    standard_header: bool = True
    id: UUID | None = None


@dataclass(frozen=True, slots=True)
class BlockRows:
    """One block, decoded: the values of BLOCK_COLUMNS, TRANSACTION_COLUMNS and so on, in order.

    `timestamp` is in Unix seconds. `logs` is None where no receipts came with the block, and empty
    where they came and held none. `origin` names the file or endpoint, for errors.
    """

    number: int
    block_hash: str
    parent_hash: str
    timestamp: int
    block: Row
    transactions: list[Row]
    logs: list[Row] | None
    contracts: list[Row]
    origin: str
