-- migrate:up
-- The chain as PostgreSQL has it, for questions that read millions of rows. One row a key and
-- version: the relay stamps each row with its commit position, the highest one wins under FINAL,
-- and a deleted row is one more version. Network first, because that is what questions name first.
-- The clock of one year runs from ingestion: a backfill of 2019 must not vanish as it arrives.
-- Every statement here may run twice: ClickHouse knows no transaction around them.

CREATE TABLE IF NOT EXISTS networks (
    id UUID,
    name LowCardinality(String),
    chain_id Int64,
    network_type LowCardinality(String),
    rpc_endpoint Nullable(String),
    ws_endpoint Nullable(String),
    explorer_url Nullable(String),
    is_testnet Bool,
    is_active Bool,
    finality_depth Int32,
    created_at DateTime64(6, 'UTC'),
    updated_at DateTime64(6, 'UTC'),
    _version UInt64,
    _deleted UInt8,
    ingested_at DateTime('UTC') DEFAULT now()
)
ENGINE = ReplacingMergeTree(_version, _deleted)
ORDER BY id;

-- Blocks by height.
CREATE TABLE IF NOT EXISTS blocks (
    network_id UUID,
    block_number Int64,
    block_hash String,
    parent_hash String,
    block_timestamp DateTime64(6, 'UTC'),
    miner Nullable(String),
    transaction_count Int32,
    gas_limit Nullable(Int64),
    gas_used Nullable(Int64),
    base_fee_per_gas Nullable(UInt256),
    difficulty Nullable(UInt256),
    size_bytes Nullable(Int64),
    state_root Nullable(String),
    transactions_root Nullable(String),
    receipts_root Nullable(String),
    extra_data Nullable(String),
    header Nullable(String) CODEC(ZSTD(3)),
    verification LowCardinality(String),
    is_final Bool,
    created_at DateTime64(6, 'UTC'),
    _version UInt64,
    _deleted UInt8,
    ingested_at DateTime('UTC') DEFAULT now()
)
ENGINE = ReplacingMergeTree(_version, _deleted)
ORDER BY (network_id, block_number)
TTL ingested_at + INTERVAL 1 YEAR;

-- Transactions by hash: their one identity while they wait, are mined, and are mined elsewhere.
-- Questions by time skip granules through the index on it.
CREATE TABLE IF NOT EXISTS transactions (
    id UUID,
    network_id UUID,
    transaction_hash String,
    from_address String,
    to_address Nullable(String),
    value UInt256,
    gas_price Nullable(UInt256),
    gas_limit Nullable(Int64),
    gas_used Nullable(Int64),
    nonce Nullable(Int64),
    input_data Nullable(String) CODEC(ZSTD(3)),
    status LowCardinality(String),
    block_number Nullable(Int64),
    block_timestamp DateTime64(6, 'UTC'),
    confirmation_count Nullable(Int32),
    created_at DateTime64(6, 'UTC'),
    updated_at DateTime64(6, 'UTC'),
    transaction_index Nullable(Int32),
    transaction_type Nullable(Int16),
    max_fee_per_gas Nullable(UInt256),
    max_priority_fee_per_gas Nullable(UInt256),
    max_fee_per_blob_gas Nullable(UInt256),
    effective_gas_price Nullable(UInt256),
    cumulative_gas_used Nullable(Int64),
    contract_address Nullable(String),
    signature_v Nullable(UInt256),
    signature_r Nullable(String),
    signature_s Nullable(String),
    envelope Nullable(String) CODEC(ZSTD(3)),
    replaced_by Nullable(String),
    _version UInt64,
    _deleted UInt8,
    ingested_at DateTime('UTC') DEFAULT now(),
    INDEX time_index block_timestamp TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(_version, _deleted)
ORDER BY (network_id, transaction_hash)
TTL ingested_at + INTERVAL 1 YEAR;

-- Logs in chain order.
CREATE TABLE IF NOT EXISTS logs (
    network_id UUID,
    block_number Int64,
    log_index Int32,
    block_timestamp DateTime64(6, 'UTC'),
    transaction_hash String,
    transaction_index Int32,
    address String,
    topic0 Nullable(String),
    topic1 Nullable(String),
    topic2 Nullable(String),
    topic3 Nullable(String),
    data Nullable(String) CODEC(ZSTD(3)),
    created_at DateTime64(6, 'UTC'),
    _version UInt64,
    _deleted UInt8,
    ingested_at DateTime('UTC') DEFAULT now()
)
ENGINE = ReplacingMergeTree(_version, _deleted)
ORDER BY (network_id, block_number, log_index)
TTL ingested_at + INTERVAL 1 YEAR;

-- Contracts by address.
CREATE TABLE IF NOT EXISTS smart_contracts (
    id UUID,
    network_id UUID,
    address String,
    name Nullable(String),
    symbol Nullable(String),
    contract_type LowCardinality(String),
    abi String CODEC(ZSTD(3)),
    bytecode Nullable(String) CODEC(ZSTD(3)),
    source_code Nullable(String) CODEC(ZSTD(3)),
    compiler_version Nullable(String),
    optimization_enabled Nullable(Bool),
    verified Bool,
    deployed_by Nullable(String),
    deployed_at Nullable(DateTime64(6, 'UTC')),
    created_at DateTime64(6, 'UTC'),
    deployment_transaction_hash Nullable(String),
    deployed_block_number Nullable(Int64),
    _version UInt64,
    _deleted UInt8,
    ingested_at DateTime('UTC') DEFAULT now()
)
ENGINE = ReplacingMergeTree(_version, _deleted)
ORDER BY (network_id, address)
TTL ingested_at + INTERVAL 1 YEAR;

-- How far the relay has come here; kept beside the data, so that both are lost or saved together.
CREATE TABLE IF NOT EXISTS relay_checkpoints (
    sink String,
    version UInt64,
    updated_at DateTime64(6, 'UTC') DEFAULT now64(6)
)
ENGINE = ReplacingMergeTree(version)
ORDER BY sink;

-- migrate:down
-- All of it can be copied again from PostgreSQL.
DROP TABLE IF EXISTS relay_checkpoints;
DROP TABLE IF EXISTS smart_contracts;
DROP TABLE IF EXISTS logs;
DROP TABLE IF EXISTS transactions;
DROP TABLE IF EXISTS blocks;
DROP TABLE IF EXISTS networks;
