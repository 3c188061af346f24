-- tune --
-- lz4 halves the time that long calldata costs.
SELECT set_config('default_toast_compression', 'lz4', FALSE);

-- staging_blocks --
-- Rows as they come off the wire, without network and without any index.
CREATE TEMP TABLE staging_blocks (
    block_number bigint, block_hash text, parent_hash text, block_timestamp timestamptz,
    miner text, transaction_count int, gas_limit bigint, gas_used bigint,
    base_fee_per_gas numeric, difficulty numeric, size_bytes bigint, state_root text,
    transactions_root text, receipts_root text, extra_data text, header text
);

-- staging_transactions --
-- The same for transactions.
CREATE TEMP TABLE staging_transactions (
    transaction_hash text, from_address text, to_address text, value numeric, gas_price numeric,
    gas_limit bigint, nonce bigint, input_data text, block_number bigint,
    block_timestamp timestamptz, transaction_index int, transaction_type smallint,
    max_fee_per_gas numeric, max_priority_fee_per_gas numeric, max_fee_per_blob_gas numeric,
    signature_v numeric, signature_r text, signature_s text, envelope text
);

-- copy_blocks --
-- Binary, so that nothing is parsed twice.
COPY staging_blocks FROM STDIN (FORMAT BINARY);

-- copy_transactions --
-- Binary, so that nothing is parsed twice.
COPY staging_transactions FROM STDIN (FORMAT BINARY);

-- insert_blocks --
-- A block that is there already is left alone: safe to run twice.
INSERT INTO blockchain.blocks (
    network_id, block_number, block_hash, parent_hash, block_timestamp, miner, transaction_count,
    gas_limit, gas_used, base_fee_per_gas, difficulty, size_bytes, state_root, transactions_root,
    receipts_root, extra_data, header, verification
)
SELECT
    %(network_id)s, block_number, block_hash, parent_hash, block_timestamp, miner,
    transaction_count, gas_limit, gas_used, base_fee_per_gas, difficulty, size_bytes, state_root,
    transactions_root, receipts_root, extra_data, header::jsonb, 'none'
FROM staging_blocks
ON CONFLICT DO NOTHING;

-- insert_transactions --
-- A transaction that is there already is left alone: safe to run twice.
INSERT INTO blockchain.transactions (
    network_id, transaction_hash, from_address, to_address, value, gas_price, gas_limit, nonce,
    input_data, status, block_number, block_timestamp, transaction_index, transaction_type,
    max_fee_per_gas, max_priority_fee_per_gas, max_fee_per_blob_gas, signature_v, signature_r,
    signature_s, envelope
)
SELECT
    %(network_id)s, transaction_hash, from_address, to_address, value, gas_price, gas_limit,
    nonce, input_data, 'confirmed', block_number, block_timestamp, transaction_index,
    transaction_type, max_fee_per_gas, max_priority_fee_per_gas, max_fee_per_blob_gas,
    signature_v, signature_r, signature_s, envelope::jsonb
FROM staging_transactions
ON CONFLICT DO NOTHING;

-- empty_staging --
-- Ready for the next commit.
TRUNCATE staging_blocks, staging_transactions;
