"""The chain's classes of data: where each lives and who holds a copy.

Chain data is public, so no class has a tenant. Columns stand here by name, because a copy must not
change its shape when a table does: a new column is added to the copy's migration and to this list.
"""

from __future__ import annotations

from datetime import timedelta

from neolayer.catalogue import CacheCopy, ClickHouseCopy, DataClass, MongoCopy, SearchCopy

_DATABASE = "neolayer"
_SEVEN_YEARS = timedelta(days=7 * 365)
_A_YEAR = timedelta(days=365)  # what analysis looks at

TRANSACTION_KEY = "transaction:{network_id}:{transaction_hash}"

_NETWORKS = (
    *("id", "name", "chain_id", "network_type", "rpc_endpoint", "ws_endpoint", "explorer_url"),
    *("is_testnet", "is_active", "finality_depth", "created_at", "updated_at"),
)
_BLOCKS = (
    *("network_id", "block_number", "block_hash", "parent_hash", "block_timestamp", "miner"),
    *("transaction_count", "gas_limit", "gas_used", "base_fee_per_gas", "difficulty"),
    *("size_bytes", "state_root", "transactions_root", "receipts_root", "extra_data", "header"),
    *("verification", "is_final", "created_at"),
)
_TRANSACTIONS = (
    *("id", "network_id", "transaction_hash", "from_address", "to_address", "value", "gas_price"),
    *("gas_limit", "gas_used", "nonce", "input_data", "status", "block_number"),
    *("block_timestamp", "confirmation_count", "created_at", "updated_at", "transaction_index"),
    *("transaction_type", "max_fee_per_gas", "max_priority_fee_per_gas", "max_fee_per_blob_gas"),
    *("effective_gas_price", "cumulative_gas_used", "contract_address", "signature_v"),
    *("signature_r", "signature_s", "envelope", "replaced_by"),
)
_LOGS = (
    *("network_id", "block_number", "log_index", "block_timestamp", "transaction_hash"),
    *("transaction_index", "address", "topic0", "topic1", "topic2", "topic3", "data"),
    "created_at",
)
_CONTRACTS = (
    *("id", "network_id", "address", "name", "symbol", "contract_type", "abi", "bytecode"),
    *("source_code", "compiler_version", "optimization_enabled", "verified", "deployed_by"),
    *("deployed_at", "created_at", "deployment_transaction_hash", "deployed_block_number"),
)
# What people ask about a contract. Its bytecode is not among it, and may be large.
_CONTRACT_METADATA = tuple(column for column in _CONTRACTS if column != "bytecode")

# What people look for: no addresses of nodes, no payloads.
_NETWORKS_SOUGHT = (
    *("id", "name", "chain_id", "network_type", "is_testnet", "is_active", "created_at"),
)
_BLOCKS_SOUGHT = (
    *("network_id", "block_number", "block_hash", "block_timestamp", "miner"),
    *("transaction_count", "is_final"),
)
_CONTRACTS_SOUGHT = (
    *("network_id", "address", "name", "symbol", "contract_type", "source_code"),
    *("compiler_version", "verified", "deployed_by", "deployed_at", "created_at"),
)

CLASSES: tuple[DataClass, ...] = (
    DataClass(
        "networks",
        _DATABASE,
        "blockchain.networks",
        copies=(
            ClickHouseCopy("networks", ("id",), _NETWORKS),
            SearchCopy("networks", ("id",), _NETWORKS_SOUGHT),
        ),
        known_by=("id", "name"),
    ),
    DataClass(
        "blocks",
        _DATABASE,
        "blockchain.blocks",
        copies=(
            ClickHouseCopy("blocks", ("network_id", "block_number"), _BLOCKS, keeps=_A_YEAR),
            SearchCopy("blocks", ("network_id", "block_number"), _BLOCKS_SOUGHT),
        ),
        retention=_SEVEN_YEARS,
        known_by=("block_number", "block_hash"),
    ),
    DataClass(
        "transactions",
        _DATABASE,
        "blockchain.transactions",
        copies=(
            ClickHouseCopy(
                "transactions", ("network_id", "transaction_hash"), _TRANSACTIONS, keeps=_A_YEAR
            ),
            CacheCopy(TRANSACTION_KEY, computed=("confirmation_count",)),
        ),
        retention=_SEVEN_YEARS,
        known_by=("transaction_hash",),
    ),
    DataClass(
        "logs",
        _DATABASE,
        "blockchain.logs",
        copies=(
            ClickHouseCopy(
                "logs", ("network_id", "block_number", "log_index"), _LOGS, keeps=_A_YEAR
            ),
        ),
        retention=_SEVEN_YEARS,
        known_by=("transaction_hash",),
    ),
    DataClass(
        "smart_contracts",
        _DATABASE,
        "blockchain.smart_contracts",
        copies=(
            ClickHouseCopy("smart_contracts", ("network_id", "address"), _CONTRACTS, keeps=_A_YEAR),
            MongoCopy(
                "contract_metadata",
                ("network_id", "address"),
                _CONTRACT_METADATA,
                names={"network_id": "network"},
            ),
            SearchCopy("smart_contracts", ("network_id", "address"), _CONTRACTS_SOUGHT),
        ),
        known_by=("address",),
    ),
)
